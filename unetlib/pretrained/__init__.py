"""Networks by name: those that come with the package, your own last one, and public ones.

`find("people")` gives a file. Public networks are downloaded on request only, once, and kept in
`cache_dir() / "networks"`; the environment variable UNETLIB_NETWORKS_URL names another server that
has their files.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unetlib.data.download import DownloadError, cache_dir, fetch
from unetlib.data.preprocess import Preprocess
from unetlib.paths import find_input, resolve, sha256
from unetlib.trouble import CheckpointError

SHIPPED = Path(__file__).parent
DEFAULT = "people"
SUFFIXES = (".pth", ".onnx")
_REMBG = "https://github.com/danielgatis/rembg/releases/download/v0.0.0"
_MODNET = "https://huggingface.co/Xenova/modnet/resolve/fa2fa546052fba4c08921230a26cc69a333fca12"


@dataclass(frozen=True)
class Network:
    """A network that has a name.

    Attributes:
        about, licence: a line each.
        file: of a shipped one, in this folder; of a public one, its name in the cache.
        size: side of its input, in pixels.
        iou: mean IoU on our held-out photos of people, see people.md (mean of its four sets); None:
            not measured.
        flip: whether it is averaged with its answer for the mirror image unless told otherwise.
        url, sha256, bytes: of a public one's file, otherwise empty.
        preprocess: of a public one. Its own files say it themselves.
        answer: what a public one gives: "probability", "range" (to be stretched to 0…1 in each
            photo) or "logits".
    """

    about: str
    licence: str
    file: str
    size: int
    iou: float | None = None
    flip: bool = False
    url: str = ""
    sha256: str = ""
    bytes: int = 0
    preprocess: Preprocess | None = None
    answer: str = "probability"

    @property
    def path(self) -> Path:
        return (cache_dir() / "networks" if self.url else SHIPPED) / self.file


def _rembg(file: str, released: str = "", **facts) -> Network:
    """A network whose file is among those that rembg releases."""
    return Network(file=file, url=f"{_REMBG}/{released or file}", **facts)


# Qin et al., https://arxiv.org/abs/2005.09007: a photo is divided by its brightest value, and the
# answer stretched to 0…1.
_U2NET = {
    "licence": "Apache-2.0",
    "size": 320,
    "preprocess": Preprocess(320, divide_by_max=True),
    "answer": "range",
}
# The checksums are those of the released files.
NETWORKS = {
    "people": Network("people", "MIT, see people.md", "people.onnx", 320, 0.921, flip=True),
    "people_unet": Network(
        "people, by the U-Net of 02_model (PyTorch)",
        "MIT, see people.md",
        "people_unet.pth",
        160,
        0.803,
    ),
    "u2netp": _rembg(
        "u2netp.onnx",
        about="whatever stands out, small",
        sha256="309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
        bytes=4_574_861,
        iou=0.875,
        **_U2NET,
    ),
    "u2net": _rembg(
        "u2net.onnx",
        about="whatever stands out",
        sha256="8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
        bytes=175_997_641,
        **_U2NET,
    ),
    "u2net_human_seg": _rembg(
        "u2net_human_seg.onnx",
        about="people",
        sha256="01eb6a29a5c4d8edb30b56adad9bb3a2a0535338e480724a213e0acfd2d1c73c",
        bytes=175_997_641,
        **_U2NET,
    ),
    "silueta": _rembg(
        "silueta.onnx",
        about="whatever stands out, U²-Net made smaller",
        sha256="75da6c8d2f8096ec743d071951be73b4a8bc7b3e51d9a6625d63644f90ffeedb",
        bytes=44_173_029,
        **_U2NET,
    ),
    "isnet-general-use": _rembg(  # Qin et al., https://arxiv.org/abs/2203.03041
        "isnet-general-use.onnx",
        about="whatever stands out, in fine detail",
        licence="Apache-2.0 (its photos, DIS5K: not for commerce)",
        size=1024,
        sha256="60920e99c45464f2ba57bee2ad08c919a52bbf852739e96947fbb4358c0d964a",
        bytes=178_648_008,
        preprocess=Preprocess(1024, (0.5, 0.5, 0.5), (1, 1, 1)),
        answer="range",
    ),
    "birefnet-general-lite": _rembg(  # Zheng et al., https://arxiv.org/abs/2401.03407
        "birefnet-general-lite.onnx",
        "BiRefNet-general-bb_swin_v1_tiny-epoch_232.onnx",
        about="whatever stands out, in the finest detail, slow",
        licence="MIT",
        size=1024,
        sha256="5600024376f572a557870a5eb0afb1e5961636bef4e1e22132025467d0f03333",
        bytes=224_005_088,
        preprocess=Preprocess(1024),
        answer="logits",
    ),
    "modnet": Network(  # Ke et al., https://arxiv.org/abs/2011.11961
        "portraits, with soft hair",
        "Apache-2.0",
        "modnet.onnx",
        512,
        url=f"{_MODNET}/onnx/model.onnx",
        sha256="07c308cf0fc7e6e8b2065a12ed7fc07e1de8febb7dc7839d7b7f15dd66584df9",
        bytes=25_888_640,
        preprocess=Preprocess(512, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), keep_shape=True),
    ),
}
HOW = (
    "Train one with notebooks/03_train.ipynb, `unetlib run` or `unetlib train` (`unetlib export` "
    "makes .onnx of .pth), or take people, the default"
)
OFFLINE = "Without a connection there are people, people_unet, best (your own) and files"


def find(name: str | os.PathLike) -> Path:
    """The file of a network: a name of NETWORKS, "best" (your own last training), or a file.

    A public network that is not here yet is downloaded, with a line on its licence.

    Raises:
        CheckpointError: no network has such a name (says which are near).
        FileNotFoundError: no such file, or no training of your own yet.
        DownloadError: the download failed; what arrived is kept, and the same call goes on.
    """
    text = os.fspath(name)
    if not text.strip():
        raise CheckpointError("the network's name is empty (a variable that is not set?)")
    if text in NETWORKS:
        return _here(text, NETWORKS[text])
    if text == "best":
        return _best()
    try:
        path = find_input(text)
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder: name a network, or a file (.pth, .onnx)")
        return path
    except FileNotFoundError as error:
        if Path(text).suffix.lower() in SUFFIXES or Path(text).name != text:
            raise FileNotFoundError(f"no network: {error}. {HOW}") from error
    names = [*NETWORKS, "best"]
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise CheckpointError(
        f"no network is called {text!r}, and there is no such file.{hint} There are "
        f"{', '.join(names)}, and files (.pth, .onnx); `unetlib networks` says more"
    )


def find_checkpoint(name: str | os.PathLike) -> Path:
    """The same for whoever needs weights of PyTorch, to fine-tune or to export: a .pth file.

    Raises CheckpointError also for a public network, which has none.
    """
    text = os.fspath(name)
    if text == "best":
        return _best(("best_model.pth",))
    if text in NETWORKS and not NETWORKS[text].url:
        return SHIPPED / f"{text}.pth"
    if text in NETWORKS:
        raise CheckpointError(
            f"{text!r} is a public network and has no checkpoint of PyTorch: take people, "
            "people_unet, best or a file (.pth)"
        )
    path = find(name)
    if path.suffix.lower() == ".onnx":
        raise CheckpointError(
            f"{path} is an exported network: give the checkpoint (.pth) that it was made of"
        )
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


def _here(name: str, network: Network) -> Path:
    path = network.path
    if path.is_file():
        return path
    if not network.url:
        raise CheckpointError(f"{path} is missing: install unetlib again. It belongs to {name!r}")
    server = os.environ.get("UNETLIB_NETWORKS_URL")
    url = f"{server.rstrip('/')}/{network.file}" if server else network.url
    print(
        f"{name}: {network.about}. {network.bytes / 1e6:.0f} MB from {url}. Licence: "
        f"{network.licence}",
        file=sys.stderr,
    )
    try:
        return fetch(url, path, network.sha256)
    except DownloadError as error:
        raise DownloadError(f"network {name!r}: {error}. {OFFLINE}") from error


def _best(names: Sequence[str] = ("best_model.onnx", "best_model.pth")) -> Path:
    """The newest of your own; of files of the same age the first."""
    paths = [resolve("outputs/checkpoints") / name for name in names]
    times = [path.stat().st_mtime_ns if path.is_file() else -1 for path in paths]
    if max(times) < 0:
        raise FileNotFoundError(f"no network of your own yet: there is no {paths[-1]}. {HOW}")
    return paths[times.index(max(times))]
