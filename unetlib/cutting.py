"""Photo -> soft mask -> cut-out -> picture and files: the whole way of one image.

file -> open_photo -> Predictor -> soft mask -> cut_out -> over a background -> encode
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unetlib.data.images import load_image
from unetlib.data.photo import Photo, encode, open_photo
from unetlib.matting import (
    CutOut,
    blurred,
    check_edge,
    chequerboard,
    composite,
    cut_out,
    fit_cover,
    greyed,
    mixed,
    parse_color,
)
from unetlib.paths import find_input, write_whole
from unetlib.predict import Predictor

# What is written for a photo: the end of the file's name -> what is in it.
OUTPUTS = {
    "mask_binary": "the binary mask",
    "mask_soft": "the soft mask",
    "foreground": "the cut-out",
    "comparison": "photo, soft mask and cut-out side by side",
}
FILES = ("mask_binary", "mask_soft", "foreground")  # of them, without being asked for
BACKGROUNDS = (
    "transparent, a colour ('#0a4678', '0,255,0', 'steelblue'), a colour over the old background "
    "('white@0.7'), 'blur' or 'blur:0.05' (share of the photo), 'grey', or a picture's file"
)


@dataclass(frozen=True)
class Background:
    """What comes behind the figure; `read_background` makes it from text.

    kind: "transparent", "color", "mix", "blur", "grey" or "image".
    color: (red, green, blue) of "color" and "mix". amount: weight of the colour, or of the blur.
    image: uint8 (h, w, 3) of "image", fitted to cover.
    """

    kind: str = "transparent"
    color: tuple[int, int, int] | None = None
    amount: float = 0.03
    image: np.ndarray | None = field(default=None, repr=False, compare=False)

    def lay(self, rgba: np.ndarray, image: np.ndarray) -> np.ndarray:
        """The cut-out of `image` over this background: uint8 (H, W, 3), or (H, W, 4) where that is
        transparent."""
        if self.kind == "transparent":
            return rgba
        return composite(rgba, self.behind(rgba, image))

    def behind(self, rgba: np.ndarray, image: np.ndarray) -> Any:
        """What `composite` takes: a colour or a picture of the photo's size."""
        if self.kind == "color":
            return self.color
        if self.kind == "mix":
            return mixed(image, self.color, self.amount)
        if self.kind == "blur":
            return blurred(image, rgba[..., 3].astype(np.float32) / 255, self.amount)
        if self.kind == "grey":
            return greyed(image)
        return fit_cover(self.image, *image.shape[:2])


def read_background(text: str | Background | None) -> Background:
    """A background as people write it, see `BACKGROUNDS`. Raises ValueError that lists the ways."""
    if isinstance(text, Background):
        return text
    text = (text or "").strip()
    word, _, amount = text.lower().partition(":")
    try:
        if text.lower() in ("", "transparent", "none"):
            return Background()
        if text.lower() in ("grey", "gray"):
            return Background("grey")
        if word == "blur":
            share = float(amount or 0.03)
            if not 0 < share <= 0.5:
                raise ValueError(f"a blur is a share of the photo, above 0 to 0.5, not {amount}")
            return Background("blur", amount=share)
        color, at, weight = text.rpartition("@")
        if at and not Path(text).expanduser().is_file():
            if not 0 <= float(weight) <= 1:
                raise ValueError(f"the weight of the colour is from 0 to 1, not {weight}")
            return Background("mix", parse_color(color), float(weight))
        if _is_file(text):
            return Background("image", image=np.asarray(load_image(find_input(text))))
        return Background("color", parse_color(text))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"background {text!r}: {error}. There are: {BACKGROUNDS}") from error


def _is_file(text: str) -> bool:
    """Whether a picture is meant: there is one, or it looks like a path to one."""
    try:
        return find_input(text).is_file()
    except OSError:
        return bool(Path(text).suffix and not text[0].isdigit()) or "/" in text or "\\" in text


@dataclass(frozen=True)
class Recipe:
    """How a photo becomes a picture: the arguments of `cut_out`, and what comes after it.

    background: see `read_background`. crop: to the figure, with a margin of 2 % of the longer side.
    size: working size, None: as trained. Raises ValueError for values out of their range.
    """

    threshold: float = 0.5
    refine: str = "guided"
    largest: bool = False
    fill_holes: bool = False
    grow: float = 0.0
    feather: float = 0.0
    background: Background | str | None = None
    crop: bool = False
    size: Any = None

    def __post_init__(self):
        check_edge(self.threshold, self.refine, self.grow, self.feather)
        object.__setattr__(self, "background", read_background(self.background))

    def edge(self) -> dict[str, Any]:
        """The keyword arguments of `cut_out`."""
        names = ("threshold", "refine", "largest", "fill_holes", "grow", "feather")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Cut:
    """A photo that was cut out: `photo`, its `cutout` (full size) and the `recipe` behind it."""

    photo: Photo
    cutout: CutOut
    recipe: Recipe

    @cached_property
    def frame(self) -> tuple[slice, slice]:
        """(rows, columns) that are kept: all of them, or those around the figure."""
        height, width = self.cutout.binary.shape
        alpha = self.cutout.rgba[..., 3]
        rows, cols = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
        if not self.recipe.crop or not len(rows):
            return slice(0, height), slice(0, width)
        margin = round(0.02 * max(rows[-1] - rows[0], cols[-1] - cols[0]))
        return tuple(slice(max(0, n[0] - margin), n[-1] + 1 + margin) for n in (rows, cols))

    @cached_property
    def picture(self) -> np.ndarray:
        """The result: uint8 (h, w, 4), or (h, w, 3) over a background; perhaps cropped."""
        return self.recipe.background.lay(self.cutout.rgba, self.photo.rgb)[self.frame]

    def output(self, kind: str) -> np.ndarray:
        """The array of one of OUTPUTS, in the frame of the picture."""
        if kind == "foreground":
            return self.picture
        if kind == "comparison":
            return comparison(self)
        return (self.cutout.binary if kind == "mask_binary" else self.cutout.soft)[self.frame]

    def encode(self, kind: str = "foreground", format: str = "png", threads=None) -> bytes:
        """`output` as a file's bytes, with the colour profile and resolution of the photo."""
        return encode(self.output(kind), format, self.photo, threads)

    def save(self, folder: str | Path, stem: str) -> list[Path]:
        """Write `<stem>_<kind>.png` for each kind of FILES; returns the paths.

        The folder is made where it is missing; a file is there whole or not at all.
        """
        if not stem or Path(stem).name != stem or "\\" in stem:
            raise ValueError(
                f"{stem!r} is no plain file name: give the photo's name without folders"
            )
        targets = {kind: Path(folder, f"{stem}_{kind}.png") for kind in FILES}
        self.write(targets)
        return list(targets.values())

    def write(self, targets: dict[str, Path], threads: int | None = None) -> None:
        """Write each kind of OUTPUTS to its file, whose suffix is the format."""
        for kind, path in targets.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, self.encode(kind, path.suffix[1:].lower(), threads))


def cut_photo(source: Any, predictor: Predictor, recipe: Recipe | None = None) -> Cut:
    """One photo, anything that `open_photo` takes, the whole way. Raises what its steps raise."""
    recipe = recipe or Recipe()
    photo = open_photo(source)
    soft = predictor.predict(photo.rgb, recipe.size)
    return Cut(photo, cut_out(photo.rgb, soft, own_alpha=photo.alpha, **recipe.edge()), recipe)


def remove_background(source: Any, predictor: Predictor, format: str = "png", **recipe) -> bytes:
    """A photo in, the bytes of its cut-out's file out. `recipe`: the fields of `Recipe`.

    remove_background(open("me.jpg", "rb").read(), Predictor("u2netp.onnx"), background="white")
    """
    return cut_photo(source, predictor, Recipe(**recipe)).encode(format=format)


def comparison(cut: Cut) -> np.ndarray:
    """Photo, soft mask and result side by side, uint8 (h, 3 * w, 3); transparency on a board."""
    soft = np.rint(cut.cutout.soft[cut.frame] * 255).astype(np.uint8)
    picture = cut.picture
    if picture.shape[2] == 4:
        cell = max(8, max(picture.shape[:2]) // 40)
        picture = composite(picture, chequerboard(*picture.shape[:2], cell))
    return np.hstack([cut.photo.rgb[cut.frame], np.dstack([soft] * 3), picture])
