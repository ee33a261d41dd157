"""One file in, one clean picture out: the only place that opens image files.

torch is imported where a tensor is made: checking and copying photos does without it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_PIXELS = 200_000_000
# Formats that are tried, in this order. Not Pillow's whole list: EPS would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "HEIF")
JPEGS = ("JPEG", "MPO")  # MPO: a JPEG with a second picture behind it, as many phones write
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """A file that cannot be used as an image or mask; the message names the file."""


@dataclass(frozen=True)
class Preprocess:
    """How a photo becomes network input: resize to `size` = (H, W), then (x / 255 - mean) / std."""

    size: tuple[int, int]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self):
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        object.__setattr__(self, "size", tuple(int(n) for n in size))
        object.__setattr__(self, "mean", tuple(float(x) for x in self.mean))
        object.__setattr__(self, "std", tuple(float(x) for x in self.std))
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size must be (H, W), both at least 1, got {self.size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std need 3 numbers each, std above 0")

    def to_dict(self) -> dict:
        """Plain lists and numbers, safe inside a checkpoint or JSON."""
        return {"size": list(self.size), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict) -> Preprocess:
        return cls(**values)


def load_image(source, max_side: int | None = None) -> Image.Image:
    """Any photo as an upright 8-bit RGB picture.

    `source`: path, open binary file, bytes, or a PIL image. The EXIF orientation is applied (TIFF,
    JPEG, WebP and PNG; an eXIf chunk behind the pixels of a PNG is ignored, as browsers do), CMYK,
    grey, palette and 16-bit pictures are converted (16-bit scaled, not clipped), of an animation
    the first frame is taken. Transparent areas are put on white, the page most cut-outs were
    made for. `max_side`: a JPEG is decoded at 1/2, 1/4 or 1/8 size as long as its longer side
    stays >= max_side; nothing is resized beyond that, and other formats come in full size.
    Raises ImageError (naming the file) for what is no image, is damaged or has more than
    MAX_PIXELS; that last check reads the header only, so a decompression bomb is never unpacked.
    """
    with opened(source) as image:
        if max_side and image.format in JPEGS and image is not source:
            longer = max(image.size)
            image.draft(None, tuple(max(1, n * max_side // longer) for n in image.size))
        image = upright(image)
        if image.mode == "F" or image.mode.startswith("I"):
            grey = np.rint(unit_range(np.asarray(image)) * 255).astype(np.uint8)
            return Image.fromarray(grey).convert("RGB")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB")
        return image.convert("RGB")


def load_cutout(source) -> np.ndarray:
    """A cut-out as it is stored: uint8 (H, W, 4), straight alpha, upright. A picture without any
    transparency is ImageError: it would be a rectangle."""
    with opened(source) as image:
        rgba = np.array(upright(image).convert("RGBA"))
        if rgba[..., 3].min() == 255:
            raise ImageError("it has no transparency: a cut-out needs an alpha channel")
        return rgba


def image_size(source) -> tuple[int, int]:
    """(width, height) after orientation, from the header alone. Raises ImageError."""
    with opened(source) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def whole_size(path: str | os.PathLike) -> tuple[int, int]:
    """`image_size`; a file whose end mark is missing is decoded to be sure that it is whole."""
    size = image_size(path)
    with open(path, "rb") as file:
        head = file.read(12)
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - 64))
        tail = file.read()
    if head[:2] == b"\xff\xd8":
        whole = b"\xff\xd9" in tail
    elif head[:4] == b"\x89PNG":
        whole = b"IEND" in tail
    elif head[:4] == b"RIFF":
        whole = length >= int.from_bytes(head[4:8], "little") + 8
    else:
        whole = head[:3] != b"GIF" or b"\x3b" in tail
    if not whole:
        load_image(path)
    return size


def fit_within(shape: tuple[int, ...], side: int) -> tuple[int, ...]:
    """`shape` in the same proportions, with its longer side at most `side`."""
    scale = min(1, side / max(shape))
    return tuple(max(1, round(n * scale)) for n in shape)


def resize(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W[, C]) array to `size` = (H, W): area average where it shrinks, linear where not."""
    h, w = array.shape[:2]
    small = (min(h, size[0]), min(w, size[1]))
    if small != (h, w):
        array = cv2.resize(array, small[::-1], interpolation=cv2.INTER_AREA)
    if small != tuple(size):
        array = cv2.resize(array, tuple(size)[::-1], interpolation=cv2.INTER_LINEAR)
    return array


def to_tensor(rgb: np.ndarray, preprocess: Preprocess, out=None) -> torch.Tensor:
    """uint8 (H, W, 3) photo -> float32 (3, *preprocess.size), resized where needed and normalised,
    in the tensor `out` if given: the one place where photos become network input, in training and
    in prediction alike."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"expected uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}")
    if out is None:
        import torch

        out = torch.empty((3, *preprocess.size))
    moments = zip(preprocess.mean, preprocess.std, strict=True)
    channels = cv2.split(resize(rgb, preprocess.size))  # 5x faster than (H, W, 3)
    for to, plane, (mean, std) in zip(out.numpy(), channels, moments, strict=True):
        np.multiply(plane, np.float32(1 / (255 * std)), out=to)
        to -= np.float32(mean / std)
    return out


def binarize(matte: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Soft matte -> bool mask of the same shape: at least `threshold` is foreground."""
    return np.asarray(matte) >= threshold


@contextmanager
def opened(source) -> Iterator[Image.Image]:
    """The picture with its header read and its size checked; no pixel is decoded yet.

    Whatever Pillow throws at damaged data, here or while the caller decodes, comes out as an
    ImageError that names the file.
    """
    name = str(getattr(source, "filename", "") or getattr(source, "name", "") or "the given image")
    file = source
    try:
        if isinstance(source, (str, os.PathLike)):
            name = str(source)
            file = open(source, "rb")  # noqa: SIM115 - closed below
        elif isinstance(source, (bytes, bytearray, memoryview)):
            file = io.BytesIO(source)
        image = source if isinstance(source, Image.Image) else _identify(file)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"{width} x {height} = {width * height:,} pixels, more than the limit of "
                f"{MAX_PIXELS:,}; make it smaller first"
            )
        yield image
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        missing = isinstance(error, OSError) and error.filename is not None
        reason = "cannot be read" if missing else "damaged or truncated image"
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"{name}: {reason} ({text})") from error
    finally:
        if file is not source:
            file.close()


def _identify(file) -> Image.Image:
    """Image.open() without its bomb check, which is a process-wide setting, warns from 90 million
    pixels on, and raises without saying the size. The plugins that it would ask are asked here."""
    file.seek(0)
    prefix = file.read(16)
    if not prefix:
        raise ImageError("the file is empty (0 bytes)")
    Image.init()
    for format in _FORMATS:
        factory, accept = Image.OPEN.get(format, (None, None))
        if factory and (not accept or accept(prefix) is True):
            file.seek(0)
            return factory(file, "")
    raise ImageError("not an image that can be read (JPEG, PNG, WebP, BMP, TIFF or GIF)")


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # Pillow turns TIFFs itself, size included
        return 1
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # getexif() would decode every pixel to look behind them
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # a broken EXIF block does not make the photo unusable
        return 1


def upright(image: Image.Image) -> Image.Image:
    image.load()
    turn = _TURN.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def unit_range(values: np.ndarray) -> np.ndarray:
    """Deep grey values to float32 [0, 1]: 16-bit by 65535, else by the smallest usual range."""
    if not np.isfinite(values).all():
        raise ImageError("it holds values that are not numbers (NaN or infinite)")
    usual = {"u": (65535,), "i": (255, 65535), "f": (1, 255)}[values.dtype.kind]
    top = next((top for top in usual if values.max(initial=0) <= top), values.max(initial=0))
    return np.clip(values.astype(np.float32) / top, 0, 1)
