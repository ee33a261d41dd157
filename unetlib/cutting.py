"""Photo -> soft mask -> cut-out -> over a background -> files: the whole way of one image."""

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms

from unetlib import matting
from unetlib.data.images import Photo, fit_within, open_photo, resize
from unetlib.matting.refine import shrunk
from unetlib.paths import find_input, write_atomic
from unetlib.predict import Predictor

OUTPUTS = ("mask_binary", "mask_soft", "foreground", "comparison")  # ends of the files' names

# What comes behind the figure: a picture, uint8 (h, w, 3), made to cover; or a function of cut-out
# and photo that makes one; None: nothing, it stays transparent.
Background = np.ndarray | Callable[[np.ndarray, np.ndarray], np.ndarray] | None


def over_background(rgba: np.ndarray, image: np.ndarray, background: Background) -> np.ndarray:
    """The cut-out of `image` over a background, uint8 (H, W, 3), or as it is, (H, W, 4)."""
    if background is None:
        return rgba
    return matting.composite(rgba, background(rgba, image) if callable(background) else background)


def read_background(text: str | Background, files: bool = True) -> Background:
    """Parses a background as users write it; the error lists the forms. `files=False` is for
    requests over a network: they may not read files of this machine. Raises ValueError."""
    if not isinstance(text, str | Path | None):
        return text
    text = str(text or "transparent").strip()
    word, _, share = text.lower().partition(":")
    color, _, weight = text.rpartition("@")
    with suppress(ValueError):
        if word == "transparent":
            return None
        if word in ("grey", "gray"):
            return lambda rgba, image: np.dstack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)] * 3)
        if word == "blur" and 0 < (sigma := float(share or 0.03)) <= 0.5:
            return lambda rgba, image: blurred(image, rgba[..., 3], sigma)
        if 0 <= (weight := float(weight) if color else 1.0) <= 1:
            rgb = matting.parse_color(color or text)
            return lambda rgba, image: mixed(image, rgb, weight)
    try:
        if not files:
            raise FileNotFoundError(text)
        return to_srgb(open_photo(find_input(text))).rgb
    except (FileNotFoundError, IsADirectoryError) as error:
        known = "transparent, grey, blur, 'blur:0.05' (0 to 0.5), a colour as '#0a4678', '0,255,0' "
        known += "or 'white', with a weight as 'white@0.7' (0 to 1), or a picture's file"
        raise ValueError(f"background {text!r} is not found: there are {known}") from error


def to_srgb(photo: Photo) -> Photo:
    """The photo in sRGB, to be laid over other pictures. A damaged profile is ignored."""
    with suppress(ImageCms.PyCMSError, OSError):
        if photo.icc:
            profiles = io.BytesIO(photo.icc), ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(Image.fromarray(photo.rgb), *profiles)
            return replace(photo, rgb=np.asarray(converted), icc=None)
    return photo


def blurred(image: np.ndarray, alpha: np.ndarray, strength: float = 0.03) -> np.ndarray:
    """The photo's background out of focus, uint8 (H, W, 3): `composite` lays the cut-out on it.

    `strength`, above 0 to 0.5, is the standard deviation of the blur as a share of the longer side.
    Pixels count with 1 - alpha, uint8 (H, W): the figure does not glow around its own edge.
    """
    scale = max(1.0, strength * max(image.shape) / 4)  # a blurred picture has no detail
    small, front = shrunk(image, scale), shrunk(alpha / np.float32(255), scale)
    weight = np.maximum(1 - front, 1e-3)
    both = np.dstack([small * weight[..., None], weight])
    sigma = strength * max(small.shape)
    both = cv2.GaussianBlur(both, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    result = np.rint(both[..., :3] / both[..., 3:]).clip(0, 255)
    return cv2.resize(np.uint8(result), image.shape[1::-1])


def mixed(image: np.ndarray, color: tuple[int, int, int], weight: float) -> np.ndarray:
    """The photo with a colour over it, uint8 (H, W, 3): weight * color + (1 - weight) * image."""
    return cv2.addWeighted(image, 1 - weight, np.full_like(image, color), weight, 0)


@dataclass(frozen=True, eq=False)
class Recipe:
    """How a photo becomes a picture: the arguments of `cut_out`; background: see `read_background`;
    crop: to the figure, with a margin of 2 %; size: working size, None: as trained. ValueError."""

    threshold: float = 0.5
    refine: str = "guided"
    largest: bool = False
    fill_holes: bool = False
    grow: float = 0.0
    feather: float = 0.0
    background: Background | str = None
    crop: bool = False
    size: Any = None

    def __post_init__(self):
        matting.check_edge(self.threshold, self.refine, self.grow, self.feather)
        object.__setattr__(self, "background", read_background(self.background))

    def edge(self) -> dict[str, Any]:
        """The keyword arguments of `cut_out`: what comes before the background."""
        return {one.name: getattr(self, one.name) for one in fields(self)[:6]}


@dataclass(frozen=True)
class Cut:
    """A photo that was cut out, its `cutout` and the `recipe` behind it; cropped where asked."""

    photo: Photo
    cutout: matting.CutOut
    recipe: Recipe

    @cached_property
    def picture(self) -> np.ndarray:
        """The result: uint8 (h, w, 4), or (h, w, 3) over a background."""
        return over_background(self.cutout.rgba, self.photo.rgb, self.recipe.background)

    @property
    def preview(self) -> np.ndarray:
        """The picture for the eye, uint8 (h, w, 3): a grey and white board shows transparency."""
        height, width, channels = self.picture.shape
        if channels == 3:
            return self.picture
        y, x = np.ogrid[:height, :width]
        cell = max(8, max(height, width) // 40)
        board = np.where((y // cell + x // cell) % 2, np.uint8(208), np.uint8(250))
        return matting.composite(self.picture, np.dstack([board] * 3))

    def output(self, kind: str) -> np.ndarray:
        """The array of one of OUTPUTS; of "comparison" photo, soft mask and result in a row."""
        if kind.startswith("mask"):
            return self.cutout.binary if kind == "mask_binary" else self.cutout.soft
        if kind == "foreground":
            return self.picture
        soft = np.rint(self.cutout.soft * 255).astype(np.uint8)
        row = np.hstack([self.photo.rgb, np.dstack([soft] * 3), self.preview])
        return resize(row, fit_within(row.shape[:2], 16_383))  # WebP has no more

    def encode(self, kind: str = "foreground", format: str = "png") -> bytes:
        """`output` as a file's bytes, with the colour profile of the photo."""
        return encode(self.output(kind), format, self.photo)

    def write(self, targets: dict[str, Path]) -> None:
        """Write kinds of OUTPUTS to files, whose suffix is the format, each whole or not at all."""
        for kind, path in targets.items():
            write_atomic(path, self.encode(kind, path.suffix[1:].lower()))

    def save(self, folder: str | Path, stem: str) -> list[Path]:
        """Write `<stem>_<kind>.png` for the first three of OUTPUTS; returns the paths."""
        files = {kind: Path(folder, f"{stem}_{kind}.png") for kind in OUTPUTS[:3]}
        self.write(files)
        return list(files.values())


def encode(array: np.ndarray, format: str = "png", photo: Photo | None = None) -> bytes:
    """A PNG, or a "webp" of quality 90 with masks and alpha without loss.

    `array`: uint8 (H, W), (H, W, 3) or (H, W, 4), or a float mask (H, W) in [0, 1]. Pictures get
    the colour profile of `photo`. Raises ValueError for what cannot be written."""
    if format not in ("png", "webp") or not array.size:
        raise ValueError(f"format {format!r}: cut-outs are png or webp, and not empty")
    if array.dtype != np.uint8:
        array = cv2.convertScaleAbs(array, alpha=255)  # without the large copies that NumPy makes
    icc = photo.icc if photo and array.ndim == 3 else None
    if format == "png":  # OpenCV writes it in half of Pillow's time
        codes = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
        array = cv2.cvtColor(array, codes[array.shape[2]]) if array.ndim == 3 else array
        profile = ([cv2.IMAGE_METADATA_ICCP], [np.frombuffer(icc, np.uint8)]) if icc else ([], [])
        options = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
        for metadata in (profile, ([], [])):  # libpng refuses a damaged profile
            done, code = cv2.imencodeWithMetadata(".png", array, *metadata, options)
            if done:
                return code.tobytes()
        raise ValueError(f"{array.shape[1]} x {array.shape[0]} pixels are too many for a PNG")
    file, options = io.BytesIO(), {"quality": 90, "method": 2, "lossless": array.ndim == 2}
    Image.fromarray(array).save(file, "WEBP", icc_profile=icc, **options)
    return file.getvalue()


def cut_photo(source: Any, predictor: Predictor, recipe: Recipe | None = None) -> Cut:
    """One photo, anything that `open_photo` takes, the whole way. Raises what its steps raise."""
    recipe, photo = recipe or Recipe(), open_photo(source)
    photo = photo if recipe.background is None else to_srgb(photo)  # as colours are written
    soft = predictor.predict(photo.rgb, recipe.size)
    cutout = matting.cut_out(photo.rgb, soft, own_alpha=photo.alpha, **recipe.edge())
    if recipe.crop and cutout.rgba[..., 3].any():
        x, y, w, h = cv2.boundingRect(cutout.rgba[..., 3].copy())
        margin = round(0.02 * max(w, h))
        frame = np.s_[max(0, y - margin) : y + h + margin, max(0, x - margin) : x + w + margin]
        photo = replace(photo, rgb=photo.rgb[frame])
        cutout = matting.CutOut(cutout.soft[frame], cutout.binary[frame], cutout.rgba[frame])
    return Cut(photo, cutout, recipe)


def remove_background(source: Any, predictor: Predictor, format: str = "png", **recipe) -> bytes:
    """A photo in, the bytes of its cut-out's file out. `recipe`: the fields of `Recipe`."""
    return cut_photo(source, predictor, Recipe(**recipe)).encode(format=format)
