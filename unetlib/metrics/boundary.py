"""Scores of the edge: how well the outline of a mask is met, wherever most of its area lies.

Both look at pixels within a distance of an edge, counted as a king moves (the larger of the steps
right and down). It grows with the image, so that a photo scores alike at any size.
"""

from __future__ import annotations

import cv2
import numpy as np

BAND = 0.02  # of the image's diagonal


def band_width(shape: tuple[int, ...], share: float = BAND) -> int:
    """`share` of the diagonal of an image (H, W) in whole pixels, at least 1."""
    return max(1, round(share * float(np.hypot(*shape))))


def boundary_iou(mask: np.ndarray, truth: np.ndarray, share: float = BAND) -> float:
    """IoU of the inner rims of two bool masks (H, W): of their pixels within `band_width` of their
    own edge. The image's border is an edge too. Two empty masks: 1.0.

    B. Cheng et al., Boundary IoU, CVPR 2021, https://arxiv.org/abs/2103.16562
    """
    return _rims(mask, truth, band_width(truth.shape, share))["boundary_iou"]


def boundary_accuracy(mask: np.ndarray, truth: np.ndarray, share: float = BAND) -> float:
    """Share of right pixels among those within `band_width` of the true edge, on both sides of it.

    bool masks (H, W). The image's border is no edge here. Where the truth has no edge, being empty
    or full, only the very same mask is right: 1.0, any other 0.0.

    After the trimaps of P. Kohli et al., Robust higher order potentials for enforcing label
    consistency, IJCV 82, 2009, https://doi.org/10.1007/s11263-008-0202-0
    """
    return _band(mask, truth, band_width(truth.shape, share))["boundary_accuracy"]


def boundary_scores(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """boundary_iou, boundary_accuracy, and the pixels that they are ratios of: rim_both, rim_either
    (in both rims, in any), band_right, band (right ones near the true edge, and all there)."""
    width = band_width(truth.shape)
    return _rims(mask, truth, width) | _band(mask, truth, width)


def _rims(mask: np.ndarray, truth: np.ndarray, width: int) -> dict[str, float]:
    first, second = (whole & ~_eroded(whole, width, outside=0) for whole in (mask, truth))
    both, either = np.count_nonzero(first & second), np.count_nonzero(first | second)
    score = both / either if either else 1.0
    return {"boundary_iou": score, "rim_both": both, "rim_either": either}


def _band(mask: np.ndarray, truth: np.ndarray, width: int) -> dict[str, float]:
    near = ~(_eroded(truth, width, outside=1) | _eroded(~truth, width, outside=1))
    right, size = np.count_nonzero((mask == truth) & near), np.count_nonzero(near)
    if size == 0:  # no edge: as if it were one pixel, which is right or wrong
        right, size = int(np.array_equal(mask, truth)), 1
    return {"boundary_accuracy": right / size, "band_right": right, "band": size}


def _eroded(mask: np.ndarray, width: int, outside: int) -> np.ndarray:
    """Without the pixels within `width` of one that is not set; `outside`: what lies beyond."""
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    around = {"borderType": cv2.BORDER_CONSTANT, "borderValue": outside}
    return cv2.erode(mask.view(np.uint8), square, **around).view(bool)
