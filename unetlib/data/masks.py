"""Mask files of all kinds -> mattes, and pairs -> photo and matte: where masks are read."""

import numpy as np
from PIL import Image

from unetlib.data.images import (
    JPEGS,
    ImageError,
    fit_within,
    load_cutout,
    load_image,
    opened,
    resize,
    unit_range,
    upright,
)
from unetlib.data.pairs import Pair
from unetlib.matting import composite, estimate_foreground

MASK_KINDS = ("auto", "matte", "labels", "alpha", "trimap")


def load_pair(pair: Pair, max_side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A pair as it is to be seen: photo uint8 (H, W, 3) and matte float32 (H, W) in [0, 1], of the
    photo's size. A cut-out is laid over its background. `max_side`: see load_image; a pair never
    gets larger by it. Raises ImageError, naming the file."""
    if pair.background is None:
        photo = np.asarray(load_image(pair.image, max_side))
        if pair.mask is None:
            return photo, np.zeros(photo.shape[:2], np.float32)
        return photo, load_mask(pair.mask, photo.shape[:2], pair.mask_kind)
    rgba = load_cutout(pair.image)
    side = max_side or max(rgba.shape[:2])
    # cleaned at twice the size it is as good as at full size, and quick
    rgba = _at_most(clean_cutout(_at_most(rgba, 2 * side)), side)
    behind = np.asarray(load_image(pair.background, max(rgba.shape[:2])))
    return composite(rgba, behind), rgba[..., 3].astype(np.float32) / 255


def clean_cutout(rgba: np.ndarray) -> np.ndarray:
    """The cut-out, uint8 (H, W, 4), with the foreground's own colours in its soft edge: without the
    fringe of the background that it was cut from, which a network would learn to look for. Whether
    that is still there under alpha 0 makes no difference: see estimate_foreground."""
    alpha = rgba[..., 3]
    colours = np.ascontiguousarray(rgba[..., :3])
    cleaned = estimate_foreground(colours, alpha / np.float32(255), background_kept=False)
    return np.dstack([cleaned, alpha])


def _at_most(rgba: np.ndarray, max_side: int) -> np.ndarray:
    return resize_cutout(rgba, fit_within(rgba.shape[:2], max_side))


def resize_cutout(rgba: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`resize` for uint8 (H, W, 4) whose colours mean nothing under alpha 0."""
    if rgba.shape[:2] == tuple(size):
        return rgba
    alpha = rgba[..., 3:].astype(np.float32)
    weighted = resize(np.dstack([rgba[..., :3] * (alpha / 255), alpha]), size)
    colours = weighted[..., :3] * (255 / np.maximum(weighted[..., 3:], 1))
    return np.rint(np.dstack([np.minimum(colours, 255), weighted[..., 3]])).astype(np.uint8)


def load_mask(source, size=None, kind: str = "auto", dtype=np.float32) -> np.ndarray:
    """Any mask file as a float32 (H, W) matte: 0 = background, 1 = foreground, soft edges kept.

    kind "auto" reads what people have: 1-bit; grey 0..255 (but 0/1 only means labels, except in
    lossy JPEG); 16-bit; float; palette (its greys; in coloured palettes black, or index 0 where no
    black is used, is background, as is index 255, the VOC "void"); RGB (brightest channel); LA/RGBA
    and transparent palettes (the alpha, unless it is opaque everywhere: then the colours).
    "matte": the same, but 0/1 is not read as labels. "labels": every non-zero value is foreground.
    "alpha": the alpha, even if it is opaque everywhere (AISegment). "trimap": 1 is foreground, 2
    background and 3 the border between them, which counts half (Oxford-IIIT Pet).
    `size` (H, W): resized to it, averaging when shrinking. EXIF orientation as in load_image.
    `dtype` np.uint8: 0 to 255 instead, which takes less time. Raises ImageError, naming the file.
    """
    if kind not in MASK_KINDS:
        raise ValueError(f"mask kind '{kind}' is unknown: use one of {', '.join(MASK_KINDS)}")
    with opened(source) as image:
        mask = _mask_values(upright(image), kind, lossy=image.format in JPEGS)
    if dtype == np.uint8 and mask.dtype != np.uint8:
        mask = np.rint(mask * 255).astype(np.uint8)
    elif dtype != np.uint8 and mask.dtype == np.uint8:
        mask = mask.astype(np.float32) / 255
    return mask if size is None else resize(mask, size)


def _mask_values(image: Image.Image, kind: str, lossy: bool) -> np.ndarray:
    """uint8 0 to 255 where that holds all there is, else float32 [0, 1]."""
    if kind == "alpha":
        if not image.has_transparency_data:
            raise ImageError("it has no alpha channel, which should hold the mask")
        return np.asarray(image.convert("RGBA"))[..., 3]
    if kind == "trimap":
        values = np.asarray(image)
        if values.ndim != 2 or not np.isin(values, (1, 2, 3)).all():
            raise ImageError("a trimap holds the numbers 1, 2 and 3 only")
        return np.array([0, 255, 0, 128], np.uint8)[values]
    if image.mode == "P" and "transparency" not in image.info:
        values = np.asarray(image)
        used = np.unique(values)
        palette = np.zeros((256, 3), np.uint8)
        colours = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette[: len(colours)] = colours
        if kind == "labels" or np.ptp(palette[used].astype(int), axis=1).any():
            black = [i for i in used if not palette[i].any()]
            background = [0] if kind == "labels" or not black else black
            return ~np.isin(values, [*background, 255]) * np.uint8(255)
        values = palette[values][..., 0]
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        values = rgba[..., 3] if (rgba[..., 3] < 255).any() else rgba[..., :3].max(axis=-1)
    elif image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        values = np.asarray(image)
    else:
        values = np.asarray(image.convert("RGB")).max(axis=-1)
    zero_one = kind == "auto" and not lossy and values.max(initial=0) == 1
    if kind == "labels" or values.dtype == bool or (zero_one and values.dtype.kind != "f"):
        return (values != 0) * np.uint8(255)
    return values if values.dtype == np.uint8 else unit_range(values)
