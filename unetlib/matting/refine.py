"""Soft mask -> mask whose edge follows the photo's: float32 (H, W) in [0, 1], contour at 0.5."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import cv2
import numpy as np

from unetlib.errors import need

TILE = 192  # pixels: side of a tile
MIN_RADIUS = 3  # least radius at a reduced size, in pixels
MAX_AREA = 1e6  # pixels of a reduced size, and of what closed-form matting is asked to solve
NEAR = 0.02  # of the longer side: so far from the contour a mask may be uncertain


def for_tiles(shape: tuple[int, ...], work: Callable[[tuple[slice, slice]], None]) -> None:
    """Calls work((rows, columns)) for tiles that cover an array (H, W): most photos need work only
    at the edge. In as many threads as OpenCV has, where there are eight tiles for each."""
    corners = product(range(0, shape[0], TILE), range(0, shape[1], TILE))
    tiles = [np.s_[y : min(y + TILE, shape[0]), x : min(x + TILE, shape[1])] for y, x in corners]
    threads = max(1, min(cv2.getNumThreads(), len(tiles) // 8))
    with ThreadPoolExecutor(threads) as pool:  # which begins none before it is asked for
        list((pool.map if threads > 1 else map)(work, tiles))  # raises what they raise


def shrunk(array: np.ndarray, scale: float, method: int = cv2.INTER_AREA) -> np.ndarray:
    """The array `scale` times smaller."""
    size = [max(1, round(n / scale)) for n in array.shape[1::-1]]
    return cv2.resize(array, size, interpolation=method)


def enlarged(array: np.ndarray, shape: tuple[int, ...], tile: tuple[slice, slice]) -> np.ndarray:
    """One tile of the array at size `shape`, nearly as from `cv2.resize`."""
    top, left = tile[0].start, tile[1].start
    y, x = array.shape[0] / shape[0], array.shape[1] / shape[1]
    matrix = np.array([[x, 0, (left + 0.5) * x - 0.5], [0, y, (top + 0.5) * y - 0.5]])
    size, flags = (tile[1].stop - left, tile[0].stop - top), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(array, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def steeper(mask: np.ndarray, ends: float) -> np.ndarray:
    """The straight line through 0.5 that gives 0 at `ends` and 1 at 1 - `ends`, cut off there."""
    return np.clip((mask - np.float32(ends)) * np.float32(1 / (1 - 2 * ends)), 0, 1)


def without_fog(mask: np.ndarray) -> np.ndarray:
    """The mask, certain away from its contour: it fades to 0 outside and to 1 inside, from NEAR of
    the longer side to one and a half times as far. 0.1 over half a photo would be seen as fog."""
    on, reach = mask >= 0.5, NEAR * max(mask.shape)
    away = sum(cv2.distanceTransform(np.uint8(side), cv2.DIST_L2, 5) for side in (on, ~on))
    return on + (mask - on) * np.clip(3 - away * np.float32(2 / reach), 0, 1)


def guided(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Three guided filters, the radius halved and the mask made steeper after each.

    The radius follows the width of the mask's own edge. Each filter works at a reduced size, a
    megapixel at most, that leaves it a radius of 3 pixels. A mask finer than that is returned as it
    is, one without a contour is 0 or 1 everywhere.
    """
    least = max(1.0, np.sqrt(mask.size / MAX_AREA))
    image_small, mask_small = shrunk(image, least), shrunk(mask, least)
    on = mask_small >= 0.5
    crossings = sum(np.count_nonzero(np.diff(on, axis=axis)) for axis in (0, 1))
    if not crossings:
        return np.full_like(mask, on.any())
    width = np.count_nonzero((mask_small > 0.1) & (mask_small < 0.9)) / crossings * 4 / np.pi
    width = min(width, max(on.shape) / 24)
    radii = [r for r in (1.5 * width, 0.75 * width, 0.375 * width) if r >= 1]
    mask_small, lines = without_fog(mask_small), None
    for radius in radii:
        scale = max(1.0, radius / MIN_RADIUS)
        small, rough = shrunk(image_small, scale), shrunk(mask_small, scale)
        coarse, reach = rough, round(radius / scale)
        if lines is not None:
            coarse = apply_lines(cv2.resize(lines, small.shape[1::-1]), small)
            # No value that the mask does not have nearby: dark eyes are no background.
            near = np.ones((2 * max(1, round(width / 2 / scale)) + 1,) * 2, np.uint8)
            coarse = steeper(np.clip(coarse, cv2.erode(rough, near), cv2.dilate(rough, near)), 0.2)
        lines = guided_lines(small, coarse, reach)
    return whole_size(image, lines, coarse, 2 * reach, ends=0.1) if radii else mask


def guided_lines(image: np.ndarray, mask: np.ndarray, radius: int, eps: float = 1e-4) -> np.ndarray:
    """The straight lines from colour to mask that fit best in each window, float32 (H, W, 4).

    mask ≈ lines[..., 0:3] · image / 255 + lines[..., 3], averaged over windows of (2 * radius + 1)²
    pixels. He, Sun, Tang, "Guided Image Filtering", TPAMI 2013; at reduced size: He, Sun, "Fast
    Guided Filter", 2015, https://arxiv.org/abs/1505.00996.
    """

    def mean(values):
        return cv2.blur(values, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REFLECT)

    colours = np.float32(image) / 255
    m, c = mean(mask), mean(colours)
    products = (colours[..., None] * colours[..., None, :]).reshape(*mask.shape, 9)
    covariance = mean(products).reshape(*mask.shape, 3, 3) - c[..., None] * c[..., None, :]
    one, two, three = np.moveaxis(covariance + np.float32(eps) * np.eye(3, dtype=np.float32), 2, 0)
    cross_covariance = mean(colours * mask[..., None]) - c * m[..., None]
    # Cramer's rule: far faster than a solver for each pixel
    cofactors = np.stack([np.cross(two, three), np.cross(three, one), np.cross(one, two)], axis=2)
    determinant = np.einsum("hwc,hwc->hw", one, cofactors[..., 0, :])
    slopes = np.einsum("hwij,hwi->hwj", cofactors, cross_covariance) / determinant[..., None]
    return mean(np.dstack([slopes, m - np.einsum("hwc,hwc->hw", slopes, c)]))


def apply_lines(lines: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The mask that `guided_lines` of the same size give for a photo, float32 (H, W) in [0, 1]."""
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)  # and 255, for the constant of each line
    products = cv2.multiply(lines, colours, scale=1 / 255, dtype=cv2.CV_32F)
    return np.clip(cv2.transform(products, np.ones((1, 4), np.float32)), 0, 1)


def whole_size(image, lines, coarse, reach: int, ends: float = 0.0) -> np.ndarray:
    """Applies `lines` of a reduced size to the whole photo, and makes the mask steeper. Tiles where
    `coarse` is only 0 or only 1 within `reach` are filled with that value."""
    around = cv2.blur(coarse, (2 * reach + 5,) * 2)
    out = np.empty(image.shape[:2], np.float32)
    zoom = np.divide(out.shape, around.shape)

    def fill(tile: tuple[slice, slice]) -> None:
        corners = np.array([[side.start, side.stop] for side in tile]).T / zoom
        (top, left), (bottom, right) = corners.astype(int)
        near = around[top : bottom + 2, left : right + 2]
        if near.max() < 1e-4 or near.min() > 1 - 1e-4:
            out[tile] = near[0, 0] > 0.5
        else:
            out[tile] = steeper(apply_lines(enlarged(lines, out.shape, tile), image[tile]), ends)

    for_tiles(out.shape, fill)
    return out


def closed_form(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Closed-form matting of the band where the mask is uncertain (0.05 to 0.95), by pymatting.

    Levin, Lischinski, Weiss, "A Closed-Form Solution to Natural Image Matting", TPAMI 2008; at a
    megapixel at most, brought up by a guided filter. The mask is returned as it is where no
    foreground or no background is known, or no solution is found.
    """
    need("pymatting", extra="matting")
    from pymatting import estimate_alpha_cf

    scale = max(1.0, np.sqrt(mask.size / MAX_AREA))
    small, coarse = shrunk(image, scale), shrunk(mask, scale)
    trimap = np.select([coarse < 0.05, coarse > 0.95], [0.0, 1.0], 0.5)
    try:
        alpha = estimate_alpha_cf(small / 255.0, trimap)
    except ValueError:
        return mask
    alpha = np.float32(np.where(trimap == 0.5, alpha.clip(0, 1), trimap))
    if scale == 1:
        return alpha
    return whole_size(image, guided_lines(small, alpha, MIN_RADIUS), alpha, 2 * MIN_RADIUS)
