"""What probabilities are worth, from histograms: counts at thresholds, precision and recall,
calibration. One image or a whole set: histograms are added up, the pixels can be forgotten.

A probability p goes to bin floor(5100 p). 5100 is the smallest number of steps that meets those of
1/100 (thresholds), 1/15 (reliability tables) and 1/255 (8-bit masks), so that all these are exact.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import numpy as np

GOLDEN = (math.sqrt(5) - 1) / 2
STEPS = 5100
EDGES = (np.arange(STEPS + 2, dtype=np.float64) / STEPS).astype(np.float32)
# Bins for logits: the exponent of float32 and 5 bits more of the smaller one of p and 1 - p, from
# 2^-24 (below is nothing but 0 for 1 - p) to 1/2. So each is 1.5 to 3 % wide, however small p is.
BITS = 18  # that the others are
FIRST = int(np.float32(2**-24).view(np.int32)) >> BITS
OCTAVES = (int(np.float32(0.5).view(np.int32)) >> BITS) - FIRST + 1
CHUNK = 1 << 16  # pixels at a time


@dataclass
class Histogram:
    """Pixels by their truth (0, 1) and probability.

    Attributes:
        pixels: int64 (2, 5101); the last column is a probability of exactly 1.
        total: the sum of the probabilities in each column, float64 (5101,).
        logits: int64 (2, 2 * OCTAVES): those with p < 1/2, then the others, by the smaller one of p
            and 1 - p, see OCTAVES.
    """

    pixels: np.ndarray = field(default_factory=lambda: np.zeros((2, STEPS + 1), np.int64))
    total: np.ndarray = field(default_factory=lambda: np.zeros(STEPS + 1))
    logits: np.ndarray = field(default_factory=lambda: np.zeros((2, 2 * OCTAVES), np.int64))

    @staticmethod
    def of(soft: np.ndarray, truth: np.ndarray) -> Histogram:
        """Of one image: `soft` float32 (H, W) in [0, 1], `truth` bool (H, W)."""
        result = Histogram()
        values, truth = np.asarray(soft, np.float32).ravel(), truth.ravel()
        for start in range(0, values.size, CHUNK):
            part, true = values[start : start + CHUNK], truth[start : start + CHUNK]
            bins = (part * np.float32(STEPS)).astype(np.intp)
            bins -= part < EDGES.take(bins)  # so that it is what comparing with the edges says,
            bins += part >= EDGES.take(bins + 1)  # whatever rounding does
            result.pixels += _by_truth(bins, true, STEPS + 1)
            result.total += np.bincount(bins, part, STEPS + 1)
            bits = np.minimum(part, 1 - part).view(np.int32) >> BITS
            octave = np.maximum(bits - FIRST, 0) + OCTAVES * (part >= 0.5)
            result.logits += _by_truth(octave, true, 2 * OCTAVES)
        return result

    def __iadd__(self, other: Histogram) -> Histogram:
        self.pixels += other.pixels
        self.total += other.total
        self.logits += other.logits
        return self

    def at_or_above(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives at the thresholds 0, 1/steps, ..., 1: int64 (steps + 1,) each.
        `steps` divides 5100."""
        fp, tp = self.pixels[:, ::-1].cumsum(axis=1)[:, ::-1][:, :: STEPS // steps]
        return tp, fp

    def coarse(self, steps: int) -> np.ndarray:
        """Pixels in bins of 1/steps, and those of exactly 1: int64 (2, steps + 1)."""
        return np.add.reduceat(self.pixels, np.arange(0, STEPS + 1, STEPS // steps), axis=1)

    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(precision, recall, threshold), a point per used bin, by falling threshold; empty where
        no pixel is foreground (recall is undefined) or there are none."""
        tp, fp = self.at_or_above(STEPS)
        used = np.flatnonzero(self.pixels.any(axis=0))[::-1] if tp[:1].any() else np.arange(0)
        tp, fp = tp[used], fp[used]
        return tp / np.maximum(tp + fp, 1), tp / max(1, tp.max(initial=0)), used / STEPS

    def average_precision(self) -> float:
        """Area under precision over recall, in steps: the mean precision, weighted by the recall
        that each threshold adds. NaN with a warning where no pixel is foreground."""
        precision, recall, _ = self.curve()
        if not len(recall):
            return _undefined("average precision", "foreground")
        return float(np.sum(precision * np.diff(recall, prepend=0)))

    def auc(self) -> float:
        """Area under the ROC curve: the chance that a foreground pixel has the higher probability
        of two, ties counting half. NaN with a warning where all pixels are of one class."""
        background, foreground = self.pixels.sum(axis=1).tolist()
        if not (background and foreground):
            return _undefined("AUC", "background" if foreground else "foreground")
        lower = self.pixels[0].cumsum() - self.pixels[0] / 2
        return float(self.pixels[1] / foreground @ (lower / background))

    def reliability(self, bins: int = 15) -> tuple[dict[str, np.ndarray], float]:
        """Do pixels with a probability of 0.8 turn out to be foreground 8 times in 10?

        Columns by name, a value per bin: low, high (its limits), pixels, share (of all pixels),
        confidence (mean probability), accuracy (share of foreground); the last two are NaN in an
        empty bin. Then the expected calibration error: the mean of |confidence - accuracy| over
        all pixels. A probability of 1 is in the last bin. `bins` that do not divide 5100 get limits
        that are rounded up to a step.

        C. Guo et al., On calibration of modern neural networks, ICML 2017,
        https://arxiv.org/abs/1706.04599
        """
        if not 1 <= bins <= STEPS:
            raise ValueError(f"bins must lie between 1 and {STEPS}, got {bins}")
        place = np.minimum(np.arange(STEPS + 1) * bins // STEPS, bins - 1)
        pixels, total, true = (
            np.bincount(place, values, bins)
            for values in (self.pixels.sum(axis=0), self.total, self.pixels[1])
        )
        everything = pixels.sum()
        if not everything:
            raise ValueError("no pixels: there is nothing to calibrate")
        with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
            confidence, accuracy = total / pixels, true / pixels
        table = {
            "low": np.arange(bins) / bins,
            "high": np.arange(1, bins + 1) / bins,
            "pixels": pixels.astype(np.int64),
            "share": pixels / everything,
            "confidence": confidence,
            "accuracy": accuracy,
        }
        return table, float(np.abs(total - true).sum() / everything)

    def temperature(self) -> float:
        """The T for which sigmoid(logit / T) has the least negative log-likelihood: above 1 where
        the model is too sure, below 1 where it is not sure enough. Searched from 0.01 to 100, which
        are the answers where the probabilities tell everything or nothing.
        NaN with a warning where all pixels are of one class. (Guo et al., ICML 2017)
        """
        if not self.logits.any(axis=1).all():
            return _undefined("temperature", "background" if self.logits[1].any() else "foreground")
        edges = (np.arange(FIRST, FIRST + OCTAVES + 1, dtype=np.int32) << BITS).view(np.float32)
        smaller = np.minimum((edges[:-1] + edges[1:]) / 2, 0.5).astype(np.float64)
        logit = np.log(smaller) - np.log1p(-smaller)
        logit = np.concatenate([logit, -logit])

        def loss(inverse: float) -> float:  # convex in 1/T
            missed = np.stack([np.logaddexp(0, logit * inverse), np.logaddexp(0, -logit * inverse)])
            return float(np.sum(self.logits * missed))

        low, high = 0.01, 100.0
        while high - low > 1e-6 * high:  # golden section
            a, b = high - (high - low) * GOLDEN, low + (high - low) * GOLDEN
            low, high = (low, b) if loss(a) <= loss(b) else (a, high)
        best = (low + high) / 2
        return 1 / best if loss(best) < loss(1.0) else 1.0


def _by_truth(bins: np.ndarray, truth: np.ndarray, length: int) -> np.ndarray:
    """int64 (2, length): how many of the background, and of the foreground, are in each bin."""
    return np.bincount(bins + length * truth, minlength=2 * length).reshape(2, length)


def _undefined(name: str, missing: str) -> float:
    warnings.warn(f"{name} is undefined: no pixel of the truth is {missing}", stacklevel=3)
    return math.nan
