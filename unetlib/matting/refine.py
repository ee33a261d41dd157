"""Soft mask -> mask whose edge follows the photo's: float32 (H, W) in [0, 1], edge at 0.5."""

import cv2
import numpy as np

from unetlib.matting.alpha import inside, tiles

SAMPLES = 4  # least radius at a reduced size, in pixels
MOST = 1e6  # pixels of a reduced size, and of what closed-form matting is asked to solve
NEAR = 0.02  # of the longer side: so far from the contour a mask may be uncertain
REACH = 20  # pixels of what is certain that closed-form matting sees around the band


def edge_width(mask: np.ndarray) -> float:
    """How wide the uncertain band (0.1 to 0.9) is along the contour at 0.5, in pixels; 0: none."""
    step = max(1, int(np.sqrt(mask.size / MOST)))  # a part of a large mask tells
    mask = mask[::step, ::step]
    on = inside(mask)
    crossings = np.count_nonzero(on[1:] != on[:-1]) + np.count_nonzero(on[:, 1:] != on[:, :-1])
    band = np.count_nonzero((mask > 0.1) & (mask < 0.9))
    return step * 4 / np.pi * band / crossings if crossings else 0.0


def without_fog(mask: np.ndarray) -> np.ndarray:
    """The mask, certain away from its contour at 0.5: outside it fades to 0 and inside it rises to
    1, from NEAR of the longer side to one and a half times as far. A network is never quite sure,
    and 0.1 over half a photo is fog before a new background."""
    on, reach = inside(mask), NEAR * max(mask.shape)
    for side, end in ((~on, np.float32(0)), (on, np.float32(1))):
        away = cv2.distanceTransform(side.view(np.uint8), cv2.DIST_L2, 5)
        kept = np.clip(3 - away * np.float32(2 / reach), 0, 1)
        mask = np.where(side, end + (mask - end) * kept, mask)
    return mask


def guided(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Three guided filters, the radius halved and the mask made steeper after each.

    The radius follows the width of the mask's own edge: that fits any network and any size of
    photo. Each filter works at a reduced size that leaves it a radius of 4 pixels; only what the
    last found is applied to the photo itself, and only where the mask is uncertain. A mask finer
    than the reduced size (a megapixel at most) is returned as it is, one without a figure empty.
    """
    if not inside(mask).any():
        return np.zeros_like(mask)
    least = max(1.0, np.sqrt(mask.size / MOST))
    width = min(edge_width(mask), max(mask.shape) / 24)
    radii = [r for r in (1.5 * width, 0.75 * width, 0.375 * width) if r >= least]
    if not radii:
        return mask
    finest = max(least, radii[-1] / SAMPLES)
    arrays = [_shrunk(array, finest, mask.shape) for array in (image, mask)]
    arrays[1] = without_fog(arrays[1])
    lines = None
    for radius in radii:
        scale = max(least, radius / SAMPLES)
        small, rough = (_shrunk(array, scale, mask.shape) for array in arrays)
        coarse = rough
        if lines is not None:
            coarse = along(cv2.resize(lines, small.shape[1::-1]), small)
            # No value that the mask does not have nearby: dark eyes are no background.
            near = np.ones((2 * max(1, round(width / 2 / scale)) + 1,) * 2, np.uint8)
            coarse = np.clip(coarse, cv2.erode(rough, near), cv2.dilate(rough, near))
            coarse = _steeper(coarse, 0.2)
        reach = round(radius / scale)
        lines = guided_lines(small, coarse, reach)
    return _apply(image, lines, coarse, 2 * reach, ends=0.1)


def _steeper(mask: np.ndarray, ends: float) -> np.ndarray:
    """The straight line through 0.5 that gives 0 at `ends` and 1 at 1 - `ends`, cut off there."""
    factor = 1 / (1 - 2 * ends)
    steep = cv2.addWeighted(mask, factor, mask, 0, -ends * factor)
    return np.clip(steep, 0, 1, out=steep)


def _shrunk(array: np.ndarray, scale: float, shape: tuple[int, int]) -> np.ndarray:
    """The array at the size that a photo of `shape` has when it is made `scale` times smaller, by
    area averages; where each would be of many pixels, of every second or third of them."""
    skip = max(1, int(scale * max(array.shape[:2]) / max(shape) / 3))
    array = array[::skip, ::skip]
    size = max(1, round(shape[1] / scale)), max(1, round(shape[0] / scale))
    return cv2.resize(array, size, interpolation=cv2.INTER_AREA)


def guided_lines(image: np.ndarray, mask: np.ndarray, radius: int, eps: float = 1e-4) -> np.ndarray:
    """The straight lines from colour to mask that fit best in each window, float32 (H, W, 4).

    mask ≈ lines[..., 0:3] · image / 255 + lines[..., 3], averaged over the windows of (2 * radius +
    1)² pixels that a pixel is in. He, Sun, Tang, "Guided Image Filtering", TPAMI 2013; at reduced
    size: He, Sun, "Fast Guided Filter", 2015, https://arxiv.org/abs/1505.00996.
    """

    def mean(values):
        return cv2.blur(values, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REFLECT)

    red, green, blue = (np.float32(channel) / 255 for channel in cv2.split(image))
    m, r, g, b = (mean(values) for values in (mask, red, green, blue))
    vr, vg, vb = mean(red * mask) - r * m, mean(green * mask) - g * m, mean(blue * mask) - b * m
    rr, rg, rb = mean(red * red) - r * r + eps, mean(red * green) - r * g, mean(red * blue) - r * b
    gg, gb = mean(green * green) - g * g + eps, mean(green * blue) - g * b
    bb = mean(blue * blue) - b * b + eps
    # The inverse of the symmetric 3 x 3 matrix by its cofactors: far faster than solving each.
    irr, igg, ibb = gg * bb - gb * gb, rr * bb - rb * rb, rr * gg - rg * rg
    irg, irb, igb = gb * rb - rg * bb, rg * gb - gg * rb, rb * rg - rr * gb
    one = 1 / (irr * rr + irg * rg + irb * rb)
    x = (irr * vr + irg * vg + irb * vb) * one
    y = (irg * vr + igg * vg + igb * vb) * one
    z = (irb * vr + igb * vg + ibb * vb) * one
    return mean(cv2.merge([x, y, z, m - x * r - y * g - z * b]))


def along(lines: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The mask that `guided_lines` of the same size give for a photo, float32 (H, W) in [0, 1]."""
    x, y, z, rest = cv2.split(lines)
    for line, channel in zip((x, y, z), cv2.split(image), strict=True):
        rest += line * channel * np.float32(1 / 255)
    return np.clip(rest, 0, 1, out=rest)


def _apply(image, lines, coarse, reach, ends=0.0) -> np.ndarray:
    """Lines of a reduced size on the whole photo, made steeper; 0 and 1 are copied where nothing
    else is near."""
    shape, down = image.shape[:2], np.array(lines.shape[:2]) / image.shape[:2]
    kernel = np.ones((2 * reach + 5,) * 2, np.uint8)
    low, high = cv2.erode(coarse, kernel), cv2.dilate(coarse, kernel)
    out = np.empty(shape, np.float32)
    for tile in tiles(*shape):
        starts = [int(s.start * d) for s, d in zip(tile, down, strict=True)]
        near = tuple(
            slice(a, int(np.ceil(s.stop * d))) for a, s, d in zip(starts, tile, down, strict=True)
        )
        if low[near].min() == high[near].max() and low[near].flat[0] in (0, 1):
            out[tile] = low[near].flat[0]
            continue
        # What cv2.resize would give for this tile of the whole, cut out before it is enlarged.
        starts = [max(0, a - 2) for a in starts]
        cut = lines[starts[0] : near[0].stop + 2, starts[1] : near[1].stop + 2]
        y, x = ((s.start + 0.5) * d - 0.5 - a for s, d, a in zip(tile, down, starts, strict=True))
        matrix = np.array([[down[1], 0, x], [0, down[0], y]])
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = out[tile].shape[::-1]
        full = cv2.warpAffine(cut, matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
        out[tile] = _steeper(along(full, image[tile]), ends)
    return out


def closed_form(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Closed-form matting of the band where the mask is uncertain (0.05 to 0.95).

    Levin, Lischinski, Weiss, "A Closed-Form Solution to Natural Image Matting", TPAMI 2008, by
    pymatting, in the box around the band. More than a megapixel is solved at a reduced size and
    brought up by a guided filter. Returned as it is where foreground or background is not known
    anywhere, or where the solver gives up. Raises RuntimeError without pymatting.
    """
    try:
        from pymatting import estimate_alpha_cf
    except ImportError as error:
        raise RuntimeError(
            'refine="closed-form" needs the package pymatting: pip install "unetlib[matting]", or '
            'pip install -e ".[matting]" in a checkout'
        ) from error
    unknown = (mask >= 0.05) & (mask <= 0.95)
    x, y, w, h = cv2.boundingRect(unknown.view(np.uint8))
    if not w:
        return mask
    box = slice(max(0, y - REACH), y + h + REACH), slice(max(0, x - REACH), x + w + REACH)
    photo, rough = image[box], mask[box]
    shrink = min(1.0, np.sqrt(MOST / rough.size))
    size = max(1, round(rough.shape[1] * shrink)), max(1, round(rough.shape[0] * shrink))
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(rough, size, interpolation=cv2.INTER_AREA)
    trimap = np.where(coarse > 0.95, 1.0, np.where(coarse < 0.05, 0.0, 0.5))
    if not (trimap == 0).any() or not (trimap == 1).any():
        return mask
    try:
        alpha = estimate_alpha_cf(small / 255.0, trimap).astype(np.float32).clip(0, 1)
    except ValueError:  # what pymatting raises when it finds no solution
        return mask
    out = inside(mask).astype(np.float32)
    if shrink < 1:
        lines = guided_lines(small, alpha, SAMPLES)
        alpha = _apply(photo, lines, alpha, 2 * SAMPLES)
    out[box] = np.where(unknown[box], alpha, out[box])
    return out
