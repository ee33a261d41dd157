"""Networks by name: those that come with the package, your own last one, and public ones.

`find("people")` gives a file. Public networks are downloaded on request only, once, and kept in
`cache_dir() / "networks"`; the environment variable UNETLIB_NETWORKS_URL names another server that
has their files. All of them, with their licences, are in networks.json.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from unetlib.data.download import DownloadError, cache_dir, fetch
from unetlib.data.preprocess import Preprocess
from unetlib.errors import CheckpointError, hint
from unetlib.paths import find_input, resolve, sha256

SHIPPED = Path(__file__).parent
SUFFIXES = (".pth", ".onnx")
DEFAULT = "people"
HOW = "Train one with `unetlib train` or `unetlib run`, or take people, the default"


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
    preprocess: Preprocess | None = None  # of a public one; our own files say it themselves
    answer: str = "probability"  # or "range" (to be stretched to 0…1 in each photo), or "logits"
    paper: str = ""

    @property
    def path(self) -> Path:
        return (cache_dir() / "networks" if self.url else SHIPPED) / self.file


def _read(facts: dict) -> Network:
    how = facts.pop("preprocess", None)
    return Network(**facts, preprocess=Preprocess(**how) if how else None)


_FACTS = json.loads((SHIPPED / "networks.json").read_text(encoding="utf-8"))
NETWORKS = {name: _read(facts) for name, facts in _FACTS.items()}


def find(name: str | os.PathLike) -> Path:
    """The file of a network: a name of NETWORKS, "best" (your own last training), or a file.

    A public network that is not here yet is downloaded, with a line on its licence.

    Raises:
        CheckpointError: no network has such a name (says which are near).
        FileNotFoundError: no such file, or no training of your own yet.
        DownloadError: the download failed; what arrived is kept, and the same call goes on.
    """
    text = os.fspath(name)
    if text == "best":
        return _best("best_model.onnx", "best_model.pth")
    if text in NETWORKS:
        return _fetched(text, NETWORKS[text])
    try:
        path = find_input(text)
    except FileNotFoundError as error:
        if Path(text).suffix.lower() in SUFFIXES or Path(text).name != text:
            raise FileNotFoundError(f"no network: {error}. {HOW}") from error
        names = [*NETWORKS, "best"]
        raise CheckpointError(
            f"no network is called {text!r}.{hint(text, names)} There are {', '.join(names)}, and "
            "files (.pth, .onnx)"
        ) from error
    if path.is_dir():
        raise CheckpointError(f"network {text!r} is a folder: name a network, or a file")
    return path


def find_checkpoint(name: str | os.PathLike) -> Path:
    """The same for whoever needs weights of PyTorch, to fine-tune or to export: a .pth file.

    Raises CheckpointError also for a public network, which has none.
    """
    text = os.fspath(name)
    if text == "best":
        return _best("best_model.pth")
    if text in NETWORKS and NETWORKS[text].url:
        raise CheckpointError(f"{text!r} is a public network and has no checkpoint of PyTorch")
    path = SHIPPED / f"{text}.pth" if text in NETWORKS else find(name)
    if path.suffix.lower() == ".onnx":
        raise CheckpointError(f"{path} is an exported network: give the checkpoint it was made of")
    return path


def name_of(network: str | os.PathLike) -> str:
    """The name that is meant by itself or by the path of its file; "" for any other."""
    return next((name for name, one in NETWORKS.items() if network in (name, one.path)), "")


def recognise(path: Path) -> Network | None:
    """The public network whose file this is, by its content; None for any other."""
    bytes = path.stat().st_size
    alike = [network for network in NETWORKS.values() if network.url and network.bytes == bytes]
    digest = sha256(path) if alike else ""
    return next((network for network in alike if network.sha256 == digest), None)


def _fetched(name: str, network: Network) -> Path:
    if network.path.is_file():
        return network.path
    if not network.url:
        raise CheckpointError(f"{network.path} is missing: install unetlib again")
    server = os.environ.get("UNETLIB_NETWORKS_URL")
    url = f"{server.rstrip('/')}/{network.file}" if server else network.url
    facts = f"{network.bytes / 1e6:.0f} MB from {url}. Licence: {network.licence}"
    print(f"{name}: {network.about}. {facts}", file=sys.stderr)
    try:
        return fetch(url, network.path, network.sha256)
    except DownloadError as error:
        offline = "Without a connection there are people, people_unet, best and files"
        raise DownloadError(f"network {name!r}: {error}. {offline}") from error


def _best(*names: str) -> Path:
    """The newest of your own; of files of the same age the first."""
    paths = [resolve("outputs/checkpoints") / name for name in names]
    if here := [path for path in paths if path.is_file()]:
        return max(here, key=lambda path: path.stat().st_mtime_ns)
    raise FileNotFoundError(f"no network of your own yet: there is no {paths[-1]}. {HOW}")
