"""One file in, one clean picture out: the only place that opens image files."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

MAX_PIXELS = 200_000_000  # of a picture; a server has a limit of its own
Image.MAX_IMAGE_PIXELS = None  # Pillow warns of what phones take today: `opened` refuses instead
# Not Pillow's whole list: EPS would start Ghostscript.
FORMATS = {"JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "HEIF"}
SUFFIXES = {end for end, format in Image.registered_extensions().items() if format in FORMATS}
SUFFIXES |= {".avif", ".heic", ".heif", ".hif"}
KNOWN = "JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, AVIF; HEIC after pip install pillow-heif"
with suppress(ImportError):  # photos of iPhones, where the user has installed it
    import pillow_heif

    pillow_heif.register_heif_opener()
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation: how Pillow transposes
MASK_KINDS = ("auto", "matte", "labels", "alpha", "trimap")


class ImageError(ValueError):
    """A file that cannot be used as an image or mask; the message names the file."""


class TooLarge(ImageError):
    """It has more pixels by its header than are allowed."""


@dataclass(frozen=True)
class Photo:
    """rgb: uint8 (H, W, 3), upright, transparent parts white. alpha: uint8 (H, W), None where it is
    opaque. icc: the colour profile of `rgb`, None for sRGB. frames: of how many pictures in the
    file it is the first."""

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    frames: int = 1


def load_image(source: Any, max_side: int | None = None) -> Image.Image:
    """Any photo (path, open binary file, bytes, PIL image) as an upright 8-bit RGB picture: turned
    as EXIF or XMP say, 16-bit scaled, transparent parts white, the first frame of many.

    `max_side`: a JPEG is decoded at 1/2, 1/4 or 1/8 size while its longer side stays >= max_side.
    Raises ImageError, naming the file, for what is damaged, no image, or over MAX_PIXELS by its
    header; OSError and MemoryError where that is no fault of the picture.
    """
    with opened(source) as image:
        if max_side and image is not source:
            image.draft(None, fit_within(image.size, max_side))  # JPEGs alone heed it
        picture = _rgb(upright(image))
        return picture.copy() if picture is source else picture


def open_photo(source: Any) -> Photo:
    """What `load_image` takes, or a uint8 array (H, W), (H, W, 3) or (H, W, 4). Raises what that
    raises, and ValueError for another array."""
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.shape[2:] not in ((), (3,), (4,)) or not source.size:
            raise ValueError(f"a photo is uint8 (H, W, 3), not {source.dtype} {source.shape}")
        if source.shape[2:] == (3,):
            return Photo(source)
        source = Image.fromarray(source)
    with opened(source) as image:
        icc = image.info.get("icc_profile") or b""
        icc = icc if image.mode in ("RGB", "RGBA", "P", "PA") and icc[16:20] == b"RGB " else None
        picture, alpha, frames = upright(image), None, 1
        if picture.has_transparency_data:
            alpha = np.asarray(picture.convert("RGBA"))[..., 3]
            alpha = alpha if alpha.min() < 255 else None
        rgb = np.asarray(_rgb(picture))
        if image.format != "MPO":  # phones add to a JPEG what makes it one: no other picture
            with suppress(Exception):  # of what is behind the first picture, nothing is needed
                frames = image.n_frames
        return Photo(rgb, alpha, icc, frames)


def image_size(source: Any) -> tuple[int, int]:
    """(width, height) after orientation, from the header alone. Raises what `load_image` raises."""
    with opened(source) as image:
        return image.size[::-1] if _orientation(image) in (5, 6, 7, 8) else image.size


def fit_within(shape: tuple[int, ...], side: int) -> tuple[int, ...]:
    """`shape` in the same proportions, with its longer side at most `side`."""
    return tuple(max(1, round(n * min(1, side / max(shape)))) for n in shape)


def resize(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W[, C]) array to `size` = (H, W): area average where it shrinks, linear where not."""
    small = min(array.shape[0], size[0]), min(array.shape[1], size[1])
    for shape, method in ((small, cv2.INTER_AREA), (tuple(size), cv2.INTER_LINEAR)):
        if array.shape[:2] != shape:
            array = cv2.resize(array, shape[::-1], interpolation=method)
    return array


def load_mask(source: Any, size: tuple[int, int] | None = None, kind: str = "auto") -> np.ndarray:
    """Any mask file as a float32 (H, W) matte: 0 = background, 1 = foreground, soft edges kept.

    kind "auto": 1-bit, grey, 16-bit, float; 0 and 1 only are labels (not in JPEGs); palette: its
    greys, of coloured ones black, or index 0 where no black is used, is background, as is index 255
    (VOC's "void"); RGB: its brightest channel; with alpha: the alpha, or the colours where that is
    opaque. "matte": the same, without labels. "labels": what is not 0 is foreground. "alpha": the
    alpha, also an opaque one. "trimap": 1 foreground, 2 background, 3 half (Oxford-IIIT Pet).
    `size` (H, W): resized, by averages where it shrinks. Raises what `load_image` raises.
    """
    if kind not in MASK_KINDS:
        raise ValueError(f"mask kind '{kind}' is unknown: use one of {', '.join(MASK_KINDS)}")
    with opened(source) as image:
        exact = kind == "auto" and image.format not in ("JPEG", "MPO")
        values = _mask_values(upright(image), kind)
        if kind == "labels" or (exact and values.dtype.kind in "ui" and values.max() == 1):
            values = values != 0
        if values.min() < -1e-5:  # a sigmoid may round to a bit beyond [0, 1]
            raise ImageError("it holds values below 0 (logits?): a mask has none")
        mask = _unit_range(values)
    return mask if size is None else resize(mask, size)


def _mask_values(image: Image.Image, kind: str) -> np.ndarray:
    """The mask values (H, W) of an image: its levels; bool for a palette of classes."""
    if kind == "trimap":
        values = np.asarray(image)
        if values.ndim != 2 or not np.isin(values, (1, 2, 3)).all():
            raise ImageError("a trimap holds the numbers 1, 2 and 3 only")
        return np.array([0, 255, 0, 128], np.uint8)[values]
    clear = image.has_transparency_data
    if kind == "alpha" and not clear:
        raise ImageError("it has no alpha channel, which should hold the mask")
    if not clear and (image.mode in ("1", "L", "F") or image.mode[0] == "I"):
        return np.asarray(image)
    rgba = np.asarray(image.convert("RGBA" if clear else "RGB"))
    if clear and (kind == "alpha" or rgba[..., 3].min() < 255):
        return rgba[..., 3]
    rgb = rgba[..., :3]
    if image.mode == "P" and np.ptp(rgb, axis=-1).any():
        index, black = np.asarray(image), ~rgb.any(axis=-1)
        background = index == 0 if kind == "labels" or not black.any() else black
        return ~background & (index != 255)
    return np.asarray(image) if kind == "labels" and image.mode == "P" else rgb.max(axis=-1)


@contextmanager
def opened(source: Any) -> Iterator[Image.Image]:
    """The picture with its header read and its size checked; no pixel is decoded yet.

    Pillow's errors for damaged data, also while the caller decodes, become an ImageError that names
    the file. System errors (permission, memory, no HEIC decoder) stay OSError or MemoryError."""
    name, file = getattr(source, "filename", "") or getattr(source, "name", ""), source
    if isinstance(source, (str, os.PathLike)):
        name, file = str(source), open(source, "rb")  # noqa: SIM115 - closed below
    elif isinstance(source, (bytes, bytearray, memoryview)):
        file = io.BytesIO(source)
    prefix = f"{name}: " if name else ""
    try:
        readable = FORMATS & Image.OPEN.keys()
        image = source if isinstance(source, Image.Image) else Image.open(file, formats=[*readable])
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width} x {image.height} pixels"
            raise TooLarge(f"{size} are more than {MAX_PIXELS / 1e6:g} megapixels")
        yield image
    except UnidentifiedImageError as error:
        again = getattr(file, "seekable", bool)() and file.seek(0) == 0  # no pipe
        heic = again and file.read(10)[4:] in (b"ftyphe", b"ftypmi", b"ftypms")  # heic, mif1, msf1
        if heic and "HEIF" not in Image.OPEN:
            raise OSError(f"{prefix}to read HEIC photos: pip install pillow-heif") from error
        raise ImageError(f"{prefix}not an image that can be read ({KNOWN})") from error
    except ImageError as error:
        raise type(error)(f"{prefix}{error}") from error
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        if getattr(error, "errno", None) is not None:
            raise
        try:  # decoders that get too little memory call the file damaged
            if isinstance(error, MemoryError):
                raise
            np.empty(4 * MAX_PIXELS, np.uint8)
        except MemoryError as full:
            raise MemoryError(f"{prefix}out of memory") from full
        damage = f"damaged or truncated image ({error or type(error).__name__})"
        raise ImageError(prefix + damage) from error
    finally:
        if file is not source:
            file.close()


def _orientation(image: Image.Image) -> int:
    """1 to 8, from what is known before a pixel is decoded. Pillow turns TIFFs itself."""
    with suppress(Exception):  # a broken EXIF block does not make the photo unusable
        if image.format != "TIFF":  # PNG's own getexif would decode it to look behind the pixels
            return Image.Image.getexif(image).get(0x0112, 1)
    return 1


def upright(image: Image.Image) -> Image.Image:
    """Rotated as EXIF says. ImageOps.exif_transpose also rewrites EXIF, and fails on bad blocks."""
    turn = TURNS.get(_orientation(image))
    image.load()
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    """A decoded picture of any mode in RGB, CMYK by its profile if it has one."""
    if image.mode[0] in "FI":
        image = Image.fromarray(np.rint(_unit_range(np.asarray(image)) * 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode == "CMYK" and (profile := image.info.get("icc_profile")):
        with suppress(ImageCms.PyCMSError, OSError):  # a profile that is none
            given, screen = io.BytesIO(profile), ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, given, screen, outputMode="RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # of a large one a copy is slow


def _unit_range(values: np.ndarray) -> np.ndarray:
    """Levels as float32 [0, 1]: 8-bit by 255, 16-bit by 65535, else by the least usual maximum."""
    if not np.isfinite(values).all():
        raise ImageError("it holds values that are not numbers (NaN or infinite)")
    top, unsigned = values.max(), values.dtype.kind == "u"
    usual = (np.iinfo(values.dtype).max,) if unsigned else (1, 255, 65535, top)
    return np.clip(np.float32(values) / next(np.float32(t) for t in usual if top <= t + 1e-5), 0, 1)
