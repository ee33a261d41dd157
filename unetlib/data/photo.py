"""A photo with what its cut-out has to carry on, and the files that cut-outs are written to."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from unetlib.data.images import lies_on_its_side, opened, source_name, to_rgb, upright
from unetlib.data.png import write_png

FORMATS = ("png", "webp")
WEBP_SIDE = 16383  # pixels: more do not fit into the format
INCH = 0.0254  # metres: a PNG counts pixels per metre


@dataclass(frozen=True)
class Photo:
    """A photo as it is looked at.

    rgb: uint8 (H, W, 3), upright; what is transparent shows white.
    alpha: uint8 (H, W), its own transparency, or None where all of it is opaque.
    icc: the colour profile of `rgb`, or None: sRGB.
    dpi: (x, y) pixels per inch, or None.
    name: the file's name, "" where there is none.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    name: str = ""


def open_photo(source: Any) -> Photo:
    """Anything that shows a photo: a path, an open file, bytes, a Pillow image, or a uint8 array of
    shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); see `load_image` for what becomes of it.

    Raises ImageError (names the file) for an unreadable file, ValueError for another array.
    """
    if isinstance(source, Photo):
        return source
    if isinstance(source, np.ndarray):
        source = _checked(source)
        if source.ndim == 3 and source.shape[2] == 3:
            return Photo(source)
        source = Image.fromarray(source)
    with opened(source) as image:
        info, mode, turned = dict(image.info), image.mode, lies_on_its_side(image)
        image = upright(image)
        alpha = None
        if image.has_transparency_data:
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
            alpha = None if alpha.min() == 255 else alpha
        rgb = np.asarray(to_rgb(image))
    return Photo(rgb, alpha, _rgb_profile(info, mode), _dpi(info, turned), source_name(source))


def read_photo(source: Any) -> np.ndarray:
    """The pixels of `open_photo`: uint8 (H, W, 3) RGB, upright."""
    return open_photo(source).rgb


def _checked(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8:
        raise ValueError(
            f"a photo as an array has uint8 values 0…255, this one is {array.dtype}: convert it "
            "first, e.g. (255 * image).round().astype('uint8') for values in 0…1"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ValueError(f"a photo is an array (H, W, 3), this one has the shape {array.shape}")
    return array


def _rgb_profile(info: dict, mode: str) -> bytes | None:
    """The colour profile, if it is one for RGB: the result is RGB, whatever the photo was."""
    profile = info.get("icc_profile")
    fits = bool(profile) and mode in ("RGB", "RGBA", "P", "PA") and profile[16:20] == b"RGB "
    return profile if fits else None


def _dpi(info: dict, turned: bool) -> tuple[float, float] | None:
    """The resolution, if it is one: Pillow says (1, 1) of a TIFF that has none."""
    dpi = info.get("dpi")
    if not dpi or len(dpi) != 2 or not all(1 < float(value) < 1e6 for value in dpi):
        return None
    x, y = map(float, dpi)
    return (y, x) if turned else (x, y)


def encode(
    array: np.ndarray,
    format: str = "png",
    photo: Photo | None = None,
    threads: int | None = None,
) -> bytes:
    """A picture file: "png", or "webp" (quality 90, masks and alpha without loss).

    `array`: uint8 (H, W), (H, W, 3) or (H, W, 4), or a float mask (H, W) in [0, 1]. Colour profile
    and resolution of `photo` are carried over. `threads`: for PNG, None for one per core. Raises
    ValueError for another format or shape, and for a side over 16383 pixels in WebP.
    """
    if array.dtype != np.uint8:
        array = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    if format not in FORMATS:
        raise ValueError(f"format {format!r}: cut-outs are written as {' or '.join(FORMATS)}")
    carried = photo if photo and array.ndim == 3 else Photo(array)
    if format == "png":
        return write_png(array, _chunks(carried), threads)
    if max(array.shape[:2]) > WEBP_SIDE:
        h, w = array.shape[:2]
        raise ValueError(f"{w}×{h} pixels: a WebP has at most {WEBP_SIDE} a side, take png")
    file = io.BytesIO()
    Image.fromarray(array).save(
        file, "WEBP", lossless=array.ndim == 2, quality=90, method=2, icc_profile=carried.icc or b""
    )
    return file.getvalue()


def _chunks(photo: Photo) -> list[tuple[bytes, bytes]]:
    """Colour profile and resolution of a photo as chunks of a PNG file."""
    chunks = []
    if photo.icc:
        chunks.append((b"iCCP", b"icc\0\0" + zlib.compress(photo.icc)))
    if photo.dpi:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(n / INCH) for n in photo.dpi), 1)))
    return chunks
