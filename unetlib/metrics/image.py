"""All scores of one image, in one go."""

from __future__ import annotations

import cv2
import numpy as np

from unetlib.metrics.boundary import boundary_scores
from unetlib.metrics.histogram import Histogram
from unetlib.metrics.saliency import s_measure, thresholded, weighted_f


def image_scores(
    soft: np.ndarray, matte: np.ndarray, threshold: float = 0.5
) -> tuple[dict[str, float], Histogram]:
    """The scores of one prediction that do not follow from tp, fp, fn and tn; those counts, the
    counts of the edge scores, and foreground_share (of the truth). And its pixels as a histogram.

    `soft`, `matte`: float32 (H, W) in [0, 1]. Masks are `soft >= threshold` and `matte >= 0.5`.
    """
    mask, truth = soft >= threshold, matte >= 0.5
    pixels = Histogram.of(soft, truth)
    tp, predicted, actual = (np.count_nonzero(a) for a in (mask & truth, mask, truth))
    row = {"tp": tp, "fp": predicted - tp, "fn": actual - tp}
    row |= {"tn": truth.size - predicted - actual + tp, "foreground_share": actual / truth.size}
    row["mae"] = cv2.norm(soft, matte, cv2.NORM_L1) / truth.size
    row |= boundary_scores(mask, truth)
    row |= thresholded(soft, truth, pixels.coarse(255))
    row |= {"s_measure": s_measure(soft, truth), "weighted_f": weighted_f(soft, truth)}
    return row, pixels
