"""Soft mask -> cut-out: refined alpha, foreground colours, composite. NumPy in, NumPy out.

Images are uint8 (H, W, 3) RGB, soft masks and alphas float32 (H, W) in [0, 1], cut-outs uint8
(H, W, 4) RGBA with straight (not premultiplied) alpha.
"""

from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageOps

from unetlib.matting.refine import MAX_AREA, closed_form, enlarged, for_tiles, guided, shrunk

REFINEMENTS = {"guided": guided, "closed-form": closed_form, "none": lambda image, mask: mask}
HAZE = 0.04  # alpha below this becomes 0, above 1 - this becomes 1: a network is never quite sure
ROUNDING = 1e-5  # ONNX Runtime's sigmoid gives up to 1.0000002
COARSE, FINE = 16, 6  # pixels: radius of the first pass at its reduced size, and of the second


@dataclass(frozen=True)
class CutOut:
    """What `cut_out` returns, all of the photo's own size."""

    soft: np.ndarray  # float32 (H, W) in [0, 1], the refined soft mask
    binary: np.ndarray  # uint8 (H, W), 255 where soft >= threshold, else 0
    rgba: np.ndarray  # uint8 (H, W, 4); its alpha is >= 128 exactly where binary is 255


def check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a photo is uint8 (H, W, 3), this is {image.dtype} {image.shape}")


def check_edge(threshold: float, refine="none", grow=0.0, feather=0.0) -> np.float32:
    """The threshold as a float32; ValueError for what `cut_out` cannot take."""
    if refine not in REFINEMENTS:
        raise ValueError(f"refine {refine!r}: there are {', '.join(REFINEMENTS)}")
    if not (0 <= feather < np.inf and np.isfinite(grow)):
        raise ValueError(f"grow {grow!r}, feather {feather!r}: widths in pixels, feather 0 or more")
    if not 0 <= float(threshold) <= 1:
        raise ValueError(f"threshold {threshold!r}: it is a probability, from 0 to 1")
    return np.float32(threshold)


def bent(mask: np.ndarray, point: float, value: float) -> np.ndarray:
    """The two straight pieces that carry 0, point, 1 to 0, value, 1."""
    end = np.nextafter(1, 2)  # just above 1: also where `point` is 1 it gives `value`
    return np.interp(mask, (0, point, end), (0, value, 1)).astype(np.float32)


def cut_out(
    image: np.ndarray,
    soft: np.ndarray,
    threshold: float = 0.5,
    *,
    refine: str = "guided",
    largest: bool = False,
    fill_holes: bool = False,
    grow: float = 0.0,
    feather: float = 0.0,
    own_alpha: np.ndarray | None = None,
) -> CutOut:
    """Photo and soft mask -> soft mask, binary mask and RGBA cut-out. In this order:

    1. The mask is bent so that it crosses one half where `soft` crosses `threshold`.
    2. `refine`: "guided" makes its edge follow the photo's (fast), "closed-form" solves for it
       (slow, needs pymatting), "none" leaves it.
    3. `largest` keeps the largest connected part only, with its soft edge.
    4. `fill_holes` makes background solid that does not reach the photo's border.
    5. `grow` moves the contour outwards by so many pixels, inwards if negative.
    6. `feather` makes the edge about so many pixels softer, around the same contour.
    7. `own_alpha`, uint8 (H, W), of a photo that `image` shows on white: nothing is more opaque.
    8. The bending is undone: that is the soft mask returned. The alpha is the bent mask without its
       lowest and highest 4 % (HAZE). The edge gets the foreground's own colours; what has alpha 0
       is black.

    `soft` may leave [0, 1] by 1e-5. Raises ValueError for other arrays and values out of range.
    """
    check_image(image)
    t = check_edge(threshold, refine, grow, feather)
    soft = np.ascontiguousarray(soft, dtype=np.float32)
    if soft.shape != image.shape[:2]:
        raise ValueError(f"the photo is {image.shape[:2]} (H, W), its soft mask is {soft.shape}")
    if (a := own_alpha) is not None and (a.dtype, a.shape) != (np.uint8, soft.shape):
        raise ValueError(f"own_alpha is {a.dtype} {a.shape}, not uint8 {soft.shape}")
    low, high = soft.min(), soft.max()
    if not -ROUNDING <= low <= high <= 1 + ROUNDING:  # NaN fails too
        raise ValueError("a soft mask has values in 0…1; did logits come in without the sigmoid?")
    soft = soft if 0 <= low <= high <= 1 else np.clip(soft, 0, 1)  # a copy only where one is needed
    mask = soft if t == 0.5 else bent(soft, t, 0.5)
    mask = REFINEMENTS[refine](image, mask)
    mask = _largest_part(mask) if largest else mask
    mask = _without_holes(mask) if fill_holes else mask
    mask = _grown(mask, grow) if grow else mask
    mask = _feathered(mask, min(feather, max(mask.shape))) if feather > 0.01 else mask
    if own_alpha is not None:
        faded = mask > own_alpha * np.float32(1 / 255)
        mask = np.minimum(mask, own_alpha * np.float32(1 / 255))
    soft = mask if t == 0.5 else bent(mask, 0.5, t)
    binary = np.uint8(soft >= t) * np.uint8(255)
    steep = 255 / (1 - 2 * HAZE)
    alpha = cv2.addWeighted(mask, steep, mask, 0, -steep * HAZE, dtype=cv2.CV_8U)
    alpha = cv2.min(cv2.max(alpha, binary & 128), binary | 127)  # rounded, but on the same side
    if own_alpha is not None:
        alpha = np.minimum(alpha, own_alpha)
    del mask  # of a photo of 100 megapixels it takes 400 MB
    colours = estimate_foreground(image, alpha)
    if own_alpha is not None:  # the photo lies on white, without which it has its own colours
        share = np.maximum(own_alpha[faded], 1)[:, None] / np.float32(255)
        colours[faded] = np.rint(255 - (255 - image[faded]) / share).clip(0, 255)
        colours[alpha == 0] = 0
    rgba = cv2.cvtColor(colours, cv2.COLOR_RGB2RGBA)
    cv2.insertChannel(alpha, rgba, 3)
    return CutOut(soft, binary, rgba)


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """Only the largest part of a mask's inside (>= 0.5, 8 neighbours), its soft edge with it."""
    on = mask >= 0.5
    # every pixel has the number of the part that is nearest
    parts = cv2.distanceTransformWithLabels(np.uint8(~on), cv2.DIST_L2, 5)[1]
    return np.where(parts == np.argmax(np.bincount(parts[on], minlength=1)), mask, np.float32(0))


def _without_holes(mask: np.ndarray) -> np.ndarray:
    """1 in every hole of a mask's inside (background that reaches no border, 4 neighbours)."""
    off = np.pad(np.uint8(mask < 0.5), 1, constant_values=1)
    cv2.floodFill(off, None, (0, 0), 2)
    off = off[1:-1, 1:-1]  # 1 in the holes, 2 outside
    away = (cv2.distanceTransform(np.uint8(off != part), cv2.DIST_L2, 5) for part in (1, 2))
    return np.where(np.less(*away), np.float32(1), mask) if (off == 1).any() else mask


def _grown(mask: np.ndarray, pixels: float) -> np.ndarray:
    """The mask grown by `pixels`, shrunk where negative: within 6 % of a circle."""
    step = cv2.dilate if pixels > 0 else cv2.erode
    pixels = min(abs(pixels), max(mask.shape))
    for n in range(int(np.ceil(pixels))):
        shape = cv2.MORPH_RECT if n % 3 == 1 else cv2.MORPH_CROSS
        moved, part = step(mask, cv2.getStructuringElement(shape, (3, 3))), min(1.0, pixels - n)
        mask = cv2.addWeighted(mask, 1 - part, moved, part, 0)
    return mask


def _feathered(mask: np.ndarray, pixels: float) -> np.ndarray:
    """A Gaussian blur, two standard deviations of which are `pixels`; the contour stays."""
    soft = cv2.GaussianBlur(mask, (0, 0), pixels / 2, borderType=cv2.BORDER_REPLICATE)
    below = np.nextafter(np.float32(0.5), np.float32(0))
    return np.where(mask >= 0.5, np.clip(soft, 0.5, 1), np.clip(soft, 0, below))


def estimate_foreground(image: np.ndarray, alpha: np.ndarray, background_kept=True) -> np.ndarray:
    """The foreground's own colours, uint8 (H, W, 3): what the photo would show at alpha 1.

    A pixel of the edge is a mixture, image = alpha * F + (1 - alpha) * B; used as it is it carries
    a fringe of the old background. F and B are blurred from where they are seen alone and F is
    corrected so that the mixture gives the photo again, twice, the second time with a small radius.

    `alpha`: float32 (H, W) in [0, 1], or uint8; where it is 1 the photo's colours are returned, and
    black where it is 0. Without `background_kept` nothing is known of what stood under alpha 0.
    M. Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021, with radii of 90 and 6.
    """
    check_image(image)
    opaque = np.float32(255 if alpha.dtype == np.uint8 else 1)
    wide = min(max(max(alpha.shape) // 8, 12), 90)
    scale = max(np.ceil(wide / COARSE), np.sqrt(alpha.size / MAX_AREA))  # whole: four times as fast
    # an average would mix in what stands under alpha 0
    method = cv2.INTER_AREA if background_kept else cv2.INTER_NEAREST
    mix, a = np.float32(shrunk(image, scale, method)), shrunk(alpha, scale, method) / opaque
    coarse = _blur_fusion(mix, a, mix, mix, max(1, round(wide / scale)), background_kept)
    result = cv2.copyTo(image, np.uint8(alpha > 0))

    def fill(tile: tuple[slice, slice]) -> None:
        rows, columns = tile
        edge = (alpha[tile] > 0) & (alpha[tile] < opaque)
        if not edge.any():
            return
        top, left = max(0, rows.start - FINE), max(0, columns.start - FINE)
        bottom, right = np.minimum(alpha.shape, (rows.stop + FINE, columns.stop + FINE))
        around = np.s_[top:bottom, left:right]
        start = (enlarged(array, alpha.shape, around) for array in coarse)
        mix, a = np.float32(image[around]), alpha[around] / opaque
        found, _ = _blur_fusion(mix, a, *start, FINE, background_kept)
        found = found[rows.start - top :, columns.start - left :][: len(edge), : edge.shape[1]]
        cv2.copyTo(np.uint8(np.rint(found)), np.uint8(edge), result[tile])

    for_tiles(alpha.shape, fill)
    return result


def _blur_fusion(mix, alpha, front, back, radius: int, background_kept: bool):
    """One pass: better estimates of the foreground's and the background's colours, float32."""
    a = cv2.merge([alpha] * 3)  # twice as fast as broadcasting
    weight = 1 - a if background_kept else (1 - a) ** 3 * (a > 0)  # most where an edge is thin
    size = (radius, radius)
    front = cv2.blur(front * a, size) / (cv2.blur(a, size) + 1e-5)
    back = cv2.blur(back * weight, size) / (cv2.blur(weight, size) + 1e-5)
    return np.clip(front + a * (mix - a * front - (1 - a) * back), 0, 255), back


def composite(rgba: np.ndarray, background) -> np.ndarray:
    """Lay a cut-out over a background, uint8 (H, W, 3): a colour (see `parse_color`) or an image,
    uint8 (h, w, 3), which is cropped to fit."""
    if rgba.dtype != np.uint8 or rgba.ndim != 3 or rgba.shape[2] != 4:
        raise ValueError(f"a cut-out is uint8 (H, W, 4), this is {rgba.dtype} {rgba.shape}")
    front = Image.fromarray(rgba)
    if np.ndim(background) == 3:
        below = Image.fromarray(fit_cover(background, *rgba.shape[:2]))
    else:
        below = Image.new("RGB", front.size, parse_color(background))
    below.paste(front, mask=front)
    return np.array(below)


def fit_cover(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale an image, its shape kept, until it covers (height, width), and crop the middle."""
    check_image(image)
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(ImageOps.fit(Image.fromarray(image), (width, height)))


def parse_color(color) -> tuple[int, int, int]:
    """A colour as people write it, or three numbers -> (red, green, blue), each 0…255."""
    text = (color if isinstance(color, str) else ",".join(map(str, np.ravel(color)))).strip()
    with suppress(ValueError):  # Pillow knows #hex, rgb(...) and CSS names, not "0,255,0"
        text = f"rgb({text})" if text[:1].isdigit() else text
        *rgb, alpha = ImageColor.getcolor(text, "RGBA")
        if alpha == 255 and max(rgb) <= 255:
            return tuple(rgb)
    raise ValueError(f"{color!r} is no opaque colour: write '#0a4678', '0,255,0' or 'white'")
