"""Scores of predicted masks. Pixels are counted once, and every score is derived from the counts.

With foreground as "positive", a pixel is tp (found), fp (made up), fn (missed) or tn. An empty
prediction on an empty mask scores 1.0 in everything; any other 0/0 (the precision of an empty
prediction that missed an object) scores 0.0, so that a model is never rewarded for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

COUNTED = ("iou", "dice", "accuracy", "precision", "recall", "f_beta")  # they follow from COUNTS


class Counts(NamedTuple):
    """Pixels by kind, int64 arrays (N,), one entry per image. Scores are float64 (N,) in [0, 1]."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray

    def iou(self) -> np.ndarray:
        """Intersection over union (Jaccard). Blind to true background."""
        return self._ratio(self.tp, self.tp + self.fp + self.fn)

    def dice(self) -> np.ndarray:
        """Dice (F1), which is 2 IoU / (1 + IoU): the same order, kinder numbers."""
        return self.f_beta(1.0)

    def accuracy(self) -> np.ndarray:
        """Share of pixels that are right. High for "all background" where the object is small."""
        return self._ratio(self.tp + self.tn, sum(self))

    def precision(self) -> np.ndarray:
        """Share of the prediction that is foreground. Blind to what was missed."""
        return self._ratio(self.tp, self.tp + self.fp)

    def recall(self) -> np.ndarray:
        """Share of the foreground that was found. Blind to what was made up."""
        return self._ratio(self.tp, self.tp + self.fn)

    def f_beta(self, beta2: float = 0.3) -> np.ndarray:
        """F with beta² = `beta2`: 0.3 is the habit of saliency papers, 1 gives Dice."""
        found = (1 + beta2) * self.tp
        return self._ratio(found, found + beta2 * self.fn + self.fp)

    def _ratio(self, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        nothing = self.tp + self.fp + self.fn == 0  # an empty prediction on an empty mask
        return np.where(nothing, 1.0, numerator / np.maximum(denominator, 1))


COUNTS = Counts._fields


def count(prediction: Any, target: Any) -> Counts:
    """Compare two batches of binary masks, torch or NumPy, (N, H, W) or (N, 1, H, W), bool or 0/1.

    Raises ValueError for other values (probabilities, logits, 0/255 images) and for shapes that
    differ or lack the batch axis: the score of an unthresholded mask looks plausible and is wrong.
    """
    masks = []
    for name, mask in (("prediction", prediction), ("target", target)):
        mask = np.asarray(mask.detach().cpu().float() if hasattr(mask, "cpu") else mask)
        if not ((mask == 0) | (mask == 1)).all():
            values = f"values from {mask.min():.4g} to {mask.max():.4g}"
            raise ValueError(f"{name} holds {values}, not 0 and 1: threshold it, as in p >= 0.5")
        masks.append(mask == 1)
    pred, true = masks
    if pred.shape != true.shape or pred.ndim < 3:
        shapes = f"{pred.shape} and {true.shape}"
        raise ValueError(f"masks are (N, H, W) of one shape (of one: mask[None]), got {shapes}")
    axes = tuple(range(1, pred.ndim))
    kinds = (pred & true, pred & ~true, ~pred & true, ~pred & ~true)
    return Counts(*(kind.sum(axes) for kind in kinds))
