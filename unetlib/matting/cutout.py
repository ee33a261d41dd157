"""Photo and soft mask -> cut-out, at the photo's own size and in a bounded amount of memory."""

from dataclasses import dataclass

import cv2
import numpy as np

from unetlib.matting.alpha import (
    check_threshold,
    feathered,
    grown,
    inside,
    largest_part,
    soft_to_alpha,
    tiles,
    without_holes,
)
from unetlib.matting.colours import multilevel_colours
from unetlib.matting.compose import check_image
from unetlib.matting.refine import closed_form, guided

REFINEMENTS = ("guided", "closed-form", "none")


@dataclass(frozen=True)
class CutOut:
    """What `cut_out` returns, all of the photo's own size.

    soft: float32 (H, W) in [0, 1], the refined soft mask.
    binary: uint8 (H, W), 255 where soft >= threshold, else 0.
    rgba: uint8 (H, W, 4); its alpha is >= 128 exactly where binary is 255.
    """

    soft: np.ndarray
    binary: np.ndarray
    rgba: np.ndarray

    @property
    def foreground_share(self) -> float:
        """Share of the pixels that are foreground in the binary mask, 0…1."""
        return float(np.count_nonzero(self.binary)) / self.binary.size


def check_edge(threshold: float, refine: str, grow: float, feather: float) -> float:
    """The threshold as a float; ValueError for what `cut_out` cannot take."""
    if refine not in REFINEMENTS:
        raise ValueError(f"refine {refine!r}: there are {', '.join(REFINEMENTS)}")
    if not (0 <= feather < np.inf and np.isfinite(grow)):
        text = f"grow {grow!r}, feather {feather!r}"
        raise ValueError(f"{text}: widths in pixels, feather 0 or more")
    return check_threshold(threshold)


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
    """Photo and soft mask -> soft mask, binary mask and RGBA cut-out.

    What is asked for happens in this order:

    1. The mask is bent so that it crosses one half where `soft` crosses `threshold`.
    2. `refine`: "guided" makes its edge follow the photo's (fast), "closed-form" solves for it in
       the uncertain band (slow, needs pymatting), "none" leaves it.
    3. `largest`: only the largest connected part is kept, and its soft edge.
    4. `fill_holes`: background that does not reach the photo's border becomes solid.
    5. `grow`: the contour moves outwards by so many pixels, inwards if negative.
    6. `feather`: the edge becomes about so many pixels softer, around the same contour.
    7. `own_alpha`, uint8 (H, W): nothing is more opaque than the photo was itself.
    8. The bending is undone, which gives the soft mask returned; `soft_to_alpha` of it is the
       alpha. Where that is neither 0 nor 1 the foreground's own colours are estimated; under
       alpha 0 they are black.

    Raises ValueError for arrays of other kinds and for values out of range, RuntimeError where
    pymatting is asked for and missing.
    """
    check_image(image)
    soft = np.asarray(soft, dtype=np.float32)
    if soft.shape != image.shape[:2]:
        raise ValueError(f"the photo is {image.shape[:2]} (H, W), its soft mask is {soft.shape}")
    if soft.size and not (soft.min() >= 0 and soft.max() <= 1):  # written so that NaN fails too
        raise ValueError("a soft mask has values in 0…1; did logits come in without the sigmoid?")
    t = check_edge(threshold, refine, grow, feather)
    if own_alpha is not None and (own_alpha.dtype, own_alpha.shape) != (np.uint8, soft.shape):
        raise ValueError(
            f"own_alpha is uint8 {soft.shape}, this is {own_alpha.dtype} {own_alpha.shape}"
        )
    mask = soft if t == 0.5 else _in_tiles(lambda s: soft_to_alpha(s, t, haze=0), soft)
    changed = largest or fill_holes or grow or feather or refine != "none" or own_alpha is not None
    if refine == "guided":
        mask = guided(image, mask)
    elif refine == "closed-form":
        mask = closed_form(image, mask)
    mask = largest_part(mask) if largest else mask
    mask = without_holes(mask) if fill_holes else mask
    mask = grown(mask, grow) if grow else mask
    mask = feathered(mask, feather) if feather > 0.01 else mask
    if own_alpha is not None:
        mask = np.minimum(mask, own_alpha * np.float32(1 / 255))
    if changed:
        soft = mask if t == 0.5 else _in_tiles(lambda m: _unbent(m, t), mask)
    binary = inside(soft, t).view(np.uint8) * np.uint8(255)
    alpha = _alpha8(soft, binary, t)
    if own_alpha is not None:
        alpha = np.minimum(alpha, own_alpha)
    rgba = cv2.cvtColor(multilevel_colours(image, alpha), cv2.COLOR_RGB2RGBA)
    rgba[..., 3] = alpha
    return CutOut(soft, binary, rgba)


def _in_tiles(function, mask: np.ndarray) -> np.ndarray:
    """The function of a mask without arrays of the whole photo's size in between."""
    out = np.empty_like(mask)
    for tile in tiles(*mask.shape):
        out[tile] = function(mask[tile])
    return out


def _unbent(mask: np.ndarray, t: float) -> np.ndarray:
    """What `soft_to_alpha` without haze makes `mask` of."""
    upper, lower = np.float32(2 - 2 * t), np.float32(2 * t)
    return np.where(mask >= 0.5, np.float32(t) + (mask - np.float32(0.5)) * upper, mask * lower)


def _alpha8(soft: np.ndarray, binary: np.ndarray, t: float) -> np.ndarray:
    """Alpha in 0…255, >= 128 exactly where binary is 255; most tiles are all 0 or all 255."""
    alpha = np.empty(soft.shape, np.uint8)
    for tile in tiles(*soft.shape):
        ends = soft_to_alpha(np.array([soft[tile].min(), soft[tile].max()]), t)
        if ends[0] == ends[1] and ends[0] in (0, 1):
            alpha[tile] = 255 * ends[0]
            continue
        values = np.rint(soft_to_alpha(soft[tile], t) * 255)
        # One half is no whole number of 255ths: rounding must not decide which side a pixel is on.
        alpha[tile] = np.where(binary[tile], np.maximum(values, 128), np.minimum(values, 127))
    return alpha
