"""One file in, one clean picture out: the only place that opens image files."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from PIL import Image, ImageCms

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
        rgb = to_rgb(upright(image))
        return rgb.copy() if rgb is source else rgb


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded picture of any mode as 8-bit RGB: deep grey scaled, transparency on white, CMYK by
    its colour profile if it has one that can be used."""
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.rint(unit_range(np.asarray(image)) * 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA") if image.mode != "RGBA" else image
        page = Image.new("RGB", image.size, "white")
        page.paste(image, mask=image.getchannel("A"))
        return page
    if image.mode == "CMYK" and (profile := image.info.get("icc_profile")):
        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            screen = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, given, screen, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError) as error:
            logging.getLogger(__name__).info("CMYK without its profile, %s", error)
    return image if image.mode == "RGB" else image.convert("RGB")


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
        return (height, width) if lies_on_its_side(image) else (width, height)


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


def binarize(matte: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Soft matte -> bool mask of the same shape: at least `threshold` is foreground."""
    return np.asarray(matte) >= threshold


@contextmanager
def opened(source) -> Iterator[Image.Image]:
    """The picture with its header read and its size checked; no pixel is decoded yet.

    Whatever Pillow throws at damaged data, here or while the caller decodes, comes out as an
    ImageError that names the file.
    """
    name = source_name(source) or "the given image"
    file = source
    try:
        if isinstance(source, (str, os.PathLike)):
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


def source_name(source) -> str:
    """The path of a file, however it is given; "" where there is none."""
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    return str(getattr(source, "filename", "") or getattr(source, "name", "") or "")


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


def lies_on_its_side(image: Image.Image) -> bool:
    """Whether turning it upright will exchange height and width."""
    return _orientation(image) >= 5


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
