"""Soft mask -> cut-out: refined alpha, foreground colours, composite. NumPy in, NumPy out.

Images are uint8 (H, W, 3) RGB, soft masks and alphas float32 (H, W) in [0, 1], cut-outs uint8
(H, W, 4) RGBA with straight (not premultiplied) alpha.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from unetlib.matting.colours import (
    blurred,
    check_image,
    chequerboard,
    composite,
    estimate_foreground,
    fit_cover,
    greyed,
    mixed,
    parse_color,
)
from unetlib.matting.refine import closed_form, guided, steeper

__all__ = ["REFINEMENTS", "CutOut", "blurred", "check_edge", "chequerboard", "composite", "cut_out"]
__all__ += ["estimate_foreground", "fit_cover", "greyed", "mixed", "parse_color", "soft_to_alpha"]

REFINEMENTS = {"guided": guided, "closed-form": closed_form, "none": lambda image, mask: mask}
EPS = np.float32(1e-9)
HAZE = 0.04  # alpha below this becomes 0, above 1 - this becomes 1: a network is never quite sure


@dataclass(frozen=True)
class CutOut:
    """What `cut_out` returns, all of the photo's own size."""

    soft: np.ndarray  # float32 (H, W) in [0, 1], the refined soft mask
    binary: np.ndarray  # uint8 (H, W), 255 where soft >= threshold, else 0
    rgba: np.ndarray  # uint8 (H, W, 4); its alpha is >= 128 exactly where binary is 255

    @property
    def foreground_share(self) -> float:
        """Share of the pixels that are foreground in the binary mask, 0…1."""
        return np.count_nonzero(self.binary) / self.binary.size


def check_edge(
    threshold: float, refine: str = "none", grow: float = 0.0, feather: float = 0.0
) -> float:
    """The threshold as a float; ValueError for what `cut_out` cannot take."""
    if refine not in REFINEMENTS:
        raise ValueError(f"refine {refine!r}: there are {', '.join(REFINEMENTS)}")
    if not (0 <= feather < np.inf and np.isfinite(grow)):
        raise ValueError(f"grow {grow!r}, feather {feather!r}: widths in pixels, feather 0 or more")
    if not 0 <= float(threshold) <= 1:
        raise ValueError(f"threshold {threshold!r}: it is a probability, from 0 to 1")
    return float(threshold)


def soft_to_alpha(soft: np.ndarray, threshold: float = 0.5, haze: float = HAZE) -> np.ndarray:
    """Soft mask -> alpha, both float32 (H, W) in [0, 1]; rises with `soft`.

    Two straight pieces carry 0, threshold, 1 to 0, 0.5, 1; then the lowest and highest `haze` are
    cut away.
    """
    return steeper(_bent(soft, check_edge(threshold), 0.5), haze)


def _bent(mask: np.ndarray, point: float, value: float) -> np.ndarray:
    """The two straight pieces that carry 0, point, 1 to 0, value, 1."""
    point, value = np.float32(point), np.float32(value)
    below, above = value / max(point, EPS), (1 - value) / max(1 - point, EPS)
    return np.minimum(np.where(mask >= point, value + (mask - point) * above, mask * below), 1)


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
    7. `own_alpha`, uint8 (H, W): nothing is more opaque than the photo was itself.
    8. The bending is undone: that is the soft mask returned, and the alpha is its `soft_to_alpha`.
       The edge gets the foreground's own colours; what has alpha 0 is black.

    Raises ValueError for arrays of other kinds and for values out of range.
    """
    check_image(image)
    t = check_edge(threshold, refine, grow, feather)
    soft = np.asarray(soft, dtype=np.float32)
    if soft.shape != image.shape[:2]:
        raise ValueError(f"the photo is {image.shape[:2]} (H, W), its soft mask is {soft.shape}")
    if soft.size and not (soft.min() >= 0 and soft.max() <= 1):  # NaN fails too
        raise ValueError("a soft mask has values in 0…1; did logits come in without the sigmoid?")
    if own_alpha is not None and (own_alpha.dtype, own_alpha.shape) != (np.uint8, soft.shape):
        raise ValueError(
            f"own_alpha is {own_alpha.dtype} {own_alpha.shape}, not uint8 {soft.shape}"
        )
    mask = soft if t == 0.5 else _bent(soft, t, 0.5)
    mask = REFINEMENTS[refine](image, mask)
    mask = _largest_part(mask) if largest else mask
    mask = _without_holes(mask) if fill_holes else mask
    mask = _grown(mask, grow) if grow else mask
    mask = _feathered(mask, feather) if feather > 0.01 else mask
    if own_alpha is not None:
        mask = np.minimum(mask, own_alpha * np.float32(1 / 255))
    soft = mask if t == 0.5 else _bent(mask, 0.5, t)
    binary = np.uint8(soft >= np.float32(t)) * np.uint8(255)
    steep = 255 / (1 - 2 * HAZE)
    alpha = cv2.addWeighted(mask, steep, mask, 0, -steep * HAZE, dtype=cv2.CV_8U)
    alpha = np.clip(alpha, binary & 128, binary | 127)  # rounded, but on the same side of one half
    if own_alpha is not None:
        alpha = np.minimum(alpha, own_alpha)
    del mask  # of a photo of 100 megapixels it takes 400 MB
    rgba = cv2.cvtColor(estimate_foreground(image, alpha), cv2.COLOR_RGB2RGBA)
    rgba[..., 3] = alpha
    np.copyto(rgba, 0, where=(alpha == 0)[..., None])  # an index would take 16 bytes a pixel
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
