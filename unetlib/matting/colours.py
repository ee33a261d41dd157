"""Foreground colours, backgrounds, and laying a cut-out over them."""

from contextlib import suppress

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageOps

from unetlib.matting.refine import MOST, enlarged, shrunk, tiles

COARSE, FINE = 16, 6  # pixels: radius of the first pass at its reduced size, and of the second


def check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a photo is uint8 (H, W, 3), this is {image.dtype} {image.shape}")


def estimate_foreground(
    image: np.ndarray, alpha: np.ndarray, background_kept: bool = True
) -> np.ndarray:
    """The foreground's own colours, uint8 (H, W, 3): what the photo would show at alpha 1.

    A pixel of the edge is a mixture, image = alpha * F + (1 - alpha) * B; used as it is it carries
    a fringe of the old background. F and B are blurred from where they are seen alone and F is
    corrected so that the mixture gives the photo again, twice, the second time with a small radius.

    `alpha`: float32 (H, W) in [0, 1], or uint8; where it is 0 or 1 the photo's colours are
    returned. Without `background_kept` nothing is known of what stood under alpha 0.
    M. Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021, with radii of 90 and 6.
    """
    check_image(image)
    one = np.float32(255 if alpha.dtype == np.uint8 else 1)
    wide = min(max(max(alpha.shape) // 8, 12), 90)
    scale = max(1.0, wide / COARSE, np.sqrt(alpha.size / MOST))
    # an average would mix in what stands under alpha 0
    how = cv2.INTER_AREA if background_kept else cv2.INTER_NEAREST
    mix, a = np.float32(shrunk(image, scale, how)), shrunk(alpha, scale, how) / one
    coarse = _fused(mix, a, mix, mix, max(1, round(wide / scale)), background_kept)
    result = image.copy()
    for rows, columns in tiles(alpha.shape):
        edge = (alpha[rows, columns] > 0) & (alpha[rows, columns] < one)
        if not edge.any():
            continue
        top, left = max(0, rows.start - FINE), max(0, columns.start - FINE)
        bottom, right = np.minimum(alpha.shape, (rows.stop + FINE, columns.stop + FINE))
        around = slice(top, bottom), slice(left, right)
        start = (enlarged(array, alpha.shape, around) for array in coarse)
        mix, a = np.float32(image[around]), alpha[around] / one
        found, _ = _fused(mix, a, *start, FINE, background_kept)
        found = found[rows.start - top :, columns.start - left :][: len(edge), : edge.shape[1]]
        cv2.copyTo(np.uint8(np.rint(found)), np.uint8(edge), result[rows, columns])
    return result


def _fused(mix, alpha, front, back, radius: int, background_kept: bool):
    """One pass: better estimates of the foreground's and the background's colours, float32."""
    a = alpha[..., None]
    shows = 1 - a if background_kept else (1 - a) ** 3 * (a > 0)  # most where an edge is thin
    size = (radius, radius)
    front = cv2.blur(front * a, size) / (cv2.blur(a, size)[..., None] + 1e-5)
    back = cv2.blur(back * shows, size) / (cv2.blur(shows, size)[..., None] + 1e-5)
    return np.clip(front + a * (mix - a * front - (1 - a) * back), 0, 255), back


def composite(rgba: np.ndarray, background=None) -> np.ndarray:
    """Lay a cut-out over a background.

    `background` is a colour (see `parse_color`) or an image, uint8 (h, w, 3), which is cropped to
    fit: the result is uint8 (H, W, 3). None keeps it transparent: a copy, uint8 (H, W, 4).
    """
    if rgba.dtype != np.uint8 or rgba.ndim != 3 or rgba.shape[2] != 4:
        raise ValueError(f"a cut-out is uint8 (H, W, 4), this is {rgba.dtype} {rgba.shape}")
    if background is None:
        return rgba.copy()
    if np.ndim(background) == 3:
        below = fit_cover(background, *rgba.shape[:2])
    else:
        below = np.broadcast_to(np.uint8(parse_color(background)), (*rgba.shape[:2], 3))
    result = np.empty(below.shape, np.uint8)
    for tile in tiles(below.shape, 512):
        a = rgba[tile][..., 3:] / np.float32(255)
        result[tile] = np.rint(a * rgba[tile][..., :3] + (1 - a) * below[tile])
    return result


def fit_cover(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale an image, its shape kept, until it covers (height, width), and crop the middle."""
    check_image(image)
    return np.asarray(ImageOps.fit(Image.fromarray(image), (width, height)))


def chequerboard(height: int, width: int, cell: int = 12) -> np.ndarray:
    """The grey and white board that shows transparency, uint8 (height, width, 3)."""
    y, x = np.ogrid[:height, :width]
    odd = (y // cell + x // cell) % 2 == 1
    return np.where(odd, 208, 250).astype(np.uint8)[..., None].repeat(3, axis=2)


def parse_color(color) -> tuple[int, int, int]:
    """A colour as people write it, or three numbers -> (red, green, blue), each 0…255."""
    text = (color if isinstance(color, str) else ",".join(map(str, np.ravel(color)))).strip()
    with suppress(ValueError):  # Pillow knows #hex, rgb(...) and CSS names, not "0,255,0"
        text = f"rgb({text})" if text[:1].isdigit() else text
        *rgb, alpha = ImageColor.getcolor(text, "RGBA")
        if alpha == 255 and max(rgb) <= 255:
            return tuple(rgb)
    raise ValueError(f"{color!r} is no opaque colour: write '#0a4678', '0,255,0' or 'white'")


def blurred(image: np.ndarray, alpha: np.ndarray, strength: float = 0.03) -> np.ndarray:
    """The photo's background out of focus, uint8 (H, W, 3): `composite` lays the cut-out on it.

    `strength`, above 0 to 0.5, is the standard deviation of the blur as a share of the longer side.
    Pixels count with 1 - alpha: the figure does not glow around its own edge.
    """
    check_image(image)
    if not 0 < strength <= 0.5:
        raise ValueError(f"blur strength {strength!r}: it is a share of the photo, above 0 to 0.5")
    scale = max(1.0, strength * max(image.shape) / 4)  # a blurred picture has no detail
    small = np.float32(shrunk(image, scale))
    shows = np.maximum(1 - shrunk(np.float32(alpha), scale), 1e-3)[..., None]
    sigma = max(0.1, strength * max(small.shape))
    both = np.dstack([small * shows, shows])
    both = cv2.GaussianBlur(both, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    result = np.rint(both[..., :3] / both[..., 3:]).clip(0, 255)
    return cv2.resize(np.uint8(result), image.shape[1::-1])


def greyed(image: np.ndarray) -> np.ndarray:
    """The photo without its colours (luma of Rec. 601), uint8 (H, W, 3)."""
    check_image(image)
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def mixed(image: np.ndarray, color, weight: float) -> np.ndarray:
    """The photo with a colour over it, uint8 (H, W, 3): weight * color + (1 - weight) * image."""
    check_image(image)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight {weight!r} of the colour: it is from 0 to 1")
    return cv2.addWeighted(image, 1 - weight, np.full_like(image, parse_color(color)), weight, 0)
