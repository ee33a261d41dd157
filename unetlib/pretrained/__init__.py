"""Networks by name: those that come with the package, your own last one, and public ones.

`find("people")` gives a file. Public networks are downloaded on request only, once, and kept in
`cache_dir() / "networks"`; the environment variable UNETLIB_NETWORKS_URL names another server that
has their files. All of them, with their licences, are in networks.json.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from unetlib.errors import CheckpointError, unknown
from unetlib.paths import cache_dir, fetch, find_input, resolve

SHIPPED = Path(__file__).parent


@dataclass(frozen=True)
class Network:
    """A network that has a name."""

    about: str
    licence: str
    file: str  # of a shipped one, in this folder; of a public one, its name in the cache
    size: int  # side of its input, in pixels
    iou: float | None = None  # mean on held-out photos of people, see people.md; None: not measured
    flip: bool = False  # averaged with its answer for the mirror image unless told otherwise
    url: str = ""  # of a public one's file
    sha256: str = ""
    bytes: int = 0
    preprocess: dict | None = None  # of a public one, for Preprocess; our own files say it
    answer: str = "probability"  # or "range" (to be stretched to 0…1 in each photo), or "logits"
    paper: str = ""

    @property
    def path(self) -> Path:
        return (cache_dir() / "networks" if self.url else SHIPPED) / self.file

    def fetched(self) -> Path:
        """Its file; a public one that is missing or incomplete is downloaded first."""
        path = self.path
        if not self.url or (path.is_file() and path.stat().st_size == self.bytes):
            return path
        server = os.environ.get("UNETLIB_NETWORKS_URL")
        url = f"{server.rstrip('/')}/{self.file}" if server else self.url
        facts = f"{self.about}. {self.bytes / 1e6:.0f} MB from {url}. Licence: {self.licence}"
        print(f"{self.file}: {facts}", file=sys.stderr)
        return fetch(url, path, self.sha256)


_FACTS = json.loads((SHIPPED / "networks.json").read_text(encoding="utf-8"))
NETWORKS = {name: Network(**facts) for name, facts in _FACTS.items()}


def find(name: str | os.PathLike, weights: bool = False) -> Path:
    """The file of a network: a name of NETWORKS, "best" (your own last training), or a file.

    A missing public network is downloaded, and its licence is printed. `weights`: return the .pth
    file (PyTorch), for fine-tuning and export.

    Raises FileNotFoundError for an unknown name, a missing file, or "best" before any training;
    CheckpointError for a folder, or if there is no .pth file for `weights`; DownloadError.
    """
    text = os.fspath(name)
    if text == "best":
        files = ["best_model.pth"] if weights else ["best_model.onnx", "best_model.pth"]
        paths = [resolve("outputs/checkpoints") / file for file in files]
        if here := [path for path in paths if path.is_file()]:
            return max(here, key=lambda path: path.stat().st_mtime_ns)
        advice = "Train one with `unetlib train` or `unetlib run`, or take people, the default"
        raise FileNotFoundError(f"no network of your own yet: there is no {paths[-1]}. {advice}")
    if network := NETWORKS.get(text):
        if weights and network.url:
            raise CheckpointError(f"{text!r} is a public network and has no checkpoint of PyTorch")
        return network.path.with_suffix(".pth") if weights else network.fetched()
    try:
        path = find_input(text)
    except FileNotFoundError as error:
        known = unknown("network", text, [*NETWORKS, "best"])
        raise FileNotFoundError(f"{known}, and files (.pth, .onnx): {error}") from error
    if path.is_dir():
        raise CheckpointError(f"network {text!r} is a folder: name a network, or a file")
    if weights and is_exported(path):
        raise CheckpointError(f"{path} is an exported network: give the checkpoint it was made of")
    return path


def is_exported(path: Path) -> bool:
    """Whether a network's file is ONNX, not PyTorch's: its content tells, whatever its name.
    Raises CheckpointError for a web page, which is what a failed download leaves."""
    with open(path, "rb") as file:
        start = file.read(64)
    if start.lstrip()[:1] == b"<":
        raise CheckpointError(f"{path} is a web page, no network: download the file itself again")
    return start[:1] == b"\x08" or (path.suffix.lower() == ".onnx" and start[:2] != b"PK")


def name_of(network: str | os.PathLike) -> str:
    """The name that is meant by itself or by the path of its file; "" for any other."""
    return next((n for n, one in NETWORKS.items() if str(network) in (n, str(one.path))), "")
