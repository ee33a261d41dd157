"""Scores beyond the counts of one mask: threshold sweeps, boundary IoU, calibration, and bootstrap
confidence intervals."""

from typing import Any, NamedTuple

import cv2
import numpy as np

from unetlib.errors import need
from unetlib.metrics import Counts

BINS = 300  # columns of a histogram
THRESHOLDS = np.arange(1, 100) / 100
BOUNDARY = 0.02  # how wide it is, as a share of the image's diagonal


class Score(NamedTuple):
    label: str
    says: str


SCORES = {
    "iou": Score("IoU", "tp / (tp + fp + fn): what both masks share, of what either has"),
    "dice": Score("Dice", "2 tp / (2 tp + fp + fn), also F1: what they share, of their mean size"),
    "accuracy": Score("pixel accuracy", "(tp + tn) / all: the share of pixels that are right"),
    "precision": Score("precision", "tp / (tp + fp): how much of what was found is real"),
    "recall": Score("recall", "tp / (tp + fn): how much of what is real was found"),
    "f_beta": Score("F-beta", "1.3 P R / (0.3 P + R): precision counts for more (beta² = 0.3)"),
    "mae": Score("MAE", "mean absolute difference of the soft mask and the soft matte (0 is best)"),
    "boundary_iou": Score("boundary IoU", "IoU of the inner rims, 2 % of the diagonal wide"),
}
SALIENCY = {
    "s_measure": Score("S-measure", "likeness of object and regions (Fan et al., ICCV 2017)"),
    "e_measure": Score("E-measure", "agreement over 256 thresholds (Fan et al., IJCAI 2018)"),
    "weighted_f": Score("weighted F", "F1 of weighted errors (Margolin et al., CVPR 2014)"),
}


def curves(soft, truth, thresholds=THRESHOLDS) -> tuple[Counts, np.ndarray]:
    """Counts and boundary IoU of the masks soft >= threshold, each (T,), for rising thresholds.

    `soft`: float32 (H, W). `truth`: bool (H, W). Boundary IoU is the IoU of the inner rims, 2 % of
    the image's diagonal wide; the border of the image is an edge too; two empty masks have 1.0.
    B. Cheng et al., CVPR 2021, https://arxiv.org/abs/2103.16562
    """
    side = 2 * max(1, round(BOUNDARY * float(np.hypot(*truth.shape)))) + 1
    square = np.ones((side, side), np.uint8)

    def erode(levels: np.ndarray) -> np.ndarray:  # what is outside of the image counts as 0
        options = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
        return cv2.erode(np.ascontiguousarray(levels, np.uint8), square, **options)

    def above(levels: np.ndarray) -> np.ndarray:  # how many of them reach each threshold
        return np.bincount(levels, minlength=len(thresholds) + 1)[:0:-1].cumsum()[::-1]

    # how many of the thresholds each pixel reaches; where its surroundings do so too is no rim
    levels = np.searchsorted(np.float32(thresholds), soft, side="right")
    inner, rim = erode(levels), truth & (erode(truth) == 0)
    predicted, tp = above(levels.ravel()), above(levels[truth])
    both = above(levels[rim]) - above(inner[rim])
    either = predicted - above(inner.ravel()) + rim.sum() - both
    ious = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    positive = truth.sum()
    return Counts(tp, predicted - tp, positive - tp, truth.size - positive - predicted + tp), ious


def saliency_scores(soft: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The scores of SALIENCY of one image, as PySODMetrics computes them: `soft` float (H, W) in
    [0, 1], `truth` bool. NaN where it gives no score (S-measure of an object in a corner)."""
    need("py_sod_metrics", extra="saliency")
    import py_sod_metrics as sod

    measures = s, e, weighted = sod.Smeasure(), sod.Emeasure(), sod.WeightedFmeasure()
    with np.errstate(all="ignore"):
        for measure in measures:
            measure.step(soft.astype(np.float64), truth, normalize=False)
    values = np.array([s.sms[0], e.changeable_ems[0].mean(), weighted.weighted_fms[0]])
    return dict(zip(SALIENCY, np.where(values < 1.01, values, np.nan).tolist(), strict=True))


def histogram(soft: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The pixels of one image in 300 equal bins of their probability p: float64 (3, 300), count,
    the foreground count and the sum of p per bin. The histograms of several images add up.

    `soft`: float32 (H, W) in [0, 1]. `truth`: bool (H, W).
    """
    p = soft.ravel()
    index = np.minimum(p * BINS, BINS - 1).astype(np.int16)
    return np.stack([np.bincount(index, weights, BINS) for weights in (None, truth.ravel(), p)])


def reliability(pixels: np.ndarray, bins: int = 15) -> tuple[dict[str, np.ndarray], float]:
    """Do pixels with a probability of 0.8 turn out to be foreground 8 times in 10? `pixels` is a
    `histogram`; `bins` divides 300.

    Columns, a value per bin: low, high (its limits), share (of all pixels), confidence (mean
    probability), accuracy (share of foreground); these two are NaN in an empty bin. And the
    expected calibration error, the mean of |confidence - accuracy| over all pixels (C. Guo et al.,
    ICML 2017, https://arxiv.org/abs/1706.04599).
    """
    count, true, total = pixels.reshape(3, bins, -1).sum(axis=2)
    low = np.arange(bins) / bins
    table = {"low": low, "high": low + 1 / bins, "share": count / count.sum()}
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
        table |= {"confidence": total / count, "accuracy": true / count}
    return table, float(np.abs(total - true).sum() / count.sum())


def resampled_sums(values: Any, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Bootstrap resamples of a sum over images (Efron, 1979), for confidence intervals.

    `values`: (n, ...), a row per image; float64 (resamples, ...), the sums of as many rows, drawn
    with replacement. All columns see the same draws, so that ratios are those of pairs.
    """
    n, rng = len(values), np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), resamples) @ np.asarray(values, np.float64)


def paired(a: Any, b: Any) -> tuple[float, float, float, float]:
    """Is b better than a on the same images, or is it luck?

    `a`, `b`: a score for each image, in the same order. Returns the mean of b - a, its interval
    (low, high: 95 %), and the share of the resamples in which b is higher; a tie counts half.
    """
    gain = np.subtract(b, a, dtype=np.float64)
    sums = resampled_sums(gain)
    share = (sums > 0).mean() + 0.5 * (sums == 0).mean()
    low, high = np.quantile(sums, [0.025, 0.975]) / len(gain)
    return float(gain.mean()), float(low), float(high), float(share)
