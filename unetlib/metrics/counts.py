"""Scores of binary masks: count the pixels once, then derive every score from the counts.

With foreground as "positive", each pixel of a prediction is one of

    tp  foreground, and predicted so        fp  background, but predicted foreground
    fn  foreground, but missed              tn  background, and predicted so

and every score here is a ratio of sums of these four numbers. Counts of several images can be
added before dividing ("pooled": every pixel weighs the same) or scored one by one and averaged
(every image weighs the same).

What 0/0 means: an **empty prediction on an empty mask is perfect and scores 1.0** in everything.
Any other 0/0 (the precision of an empty prediction that missed an object, the recall where there
was nothing to find but something was predicted) scores 0.0, so that a model is never rewarded for
it. IoU and Dice of a non-empty prediction on an empty mask are 0.0 by their formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

Mask = torch.Tensor | np.ndarray


@dataclass(frozen=True)
class Counts:
    """Pixels by kind, one entry per image: four int64 tensors of shape (N,) on the masks' device.

    The scores come back as float64 tensors (N,) on the CPU, each value in [0, 1].
    """

    tp: torch.Tensor
    fp: torch.Tensor
    fn: torch.Tensor
    tn: torch.Tensor

    def __len__(self) -> int:
        return len(self.tp)

    def iou(self) -> torch.Tensor:
        """Intersection over union (Jaccard), tp / (tp + fp + fn). Blind to true background."""
        return self._ratio(self.tp, self.tp + self.fp + self.fn)

    def dice(self) -> torch.Tensor:
        """Dice (F1), 2 tp / (2 tp + fp + fn) = 2 IoU / (1 + IoU): same order, kinder numbers."""
        return self._ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def accuracy(self) -> torch.Tensor:
        """Share of pixels that are right. High for "all background" where the object is small."""
        return self._ratio(self.tp + self.tn, self.tp + self.fp + self.fn + self.tn)

    def precision(self) -> torch.Tensor:
        """Share of the prediction that is foreground, tp / (tp + fp). Blind to what was missed."""
        return self._ratio(self.tp, self.tp + self.fp)

    def recall(self) -> torch.Tensor:
        """Share of the foreground that was found, tp / (tp + fn). Blind to what was made up."""
        return self._ratio(self.tp, self.tp + self.fn)

    def f_beta(self, beta2: float = 0.3) -> torch.Tensor:
        """(1 + beta2) tp / ((1 + beta2) tp + beta2 fn + fp), which weighs precision 1 / beta2 times
        as much as recall: 0.3 is the habit of saliency papers, 1 gives Dice."""
        found = (1 + beta2) * self.tp.cpu().double()
        rest = beta2 * self.fn.cpu().double() + self.fp.cpu().double()
        return self._ratio(found, found + rest)

    def pooled(self) -> Counts:
        """All counts added up, shape (1,): one big image, in which large objects weigh more."""
        return Counts(*(getattr(self, f.name).sum(0, keepdim=True) for f in fields(self)))

    @staticmethod
    def cat(parts: Sequence[Counts]) -> Counts:
        """The counts of several batches as those of one, in order."""
        if not parts:
            raise ValueError("Counts.cat needs the counts of at least one batch, got an empty list")
        return Counts(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Counts)))

    def _ratio(self, numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
        nothing = (self.tp + self.fp + self.fn == 0).cpu()  # empty prediction on an empty mask
        top, bottom = numerator.cpu().double(), denominator.cpu().double()  # MPS has no float64
        return torch.where(nothing, 1.0, top / bottom.clamp(min=1))  # 0/0 otherwise: 0


def count(prediction: Mask, target: Mask) -> Counts:
    """Compare two batches of binary masks, torch or NumPy, (N, H, W) or (N, 1, H, W), bool or 0/1.

    Raises ValueError for other values (probabilities, logits, 0/255 images) and for shapes that
    differ or lack the batch axis: the score of an unthresholded mask looks plausible and is wrong.
    """
    pred, true = _as_bool(prediction, "prediction"), _as_bool(target, "target")
    if pred.shape != true.shape:
        shapes = f"{tuple(pred.shape)} and {tuple(true.shape)}"
        raise ValueError(f"prediction and target differ in shape: {shapes}")
    if pred.ndim < 3:
        raise ValueError(
            f"expected masks (N, H, W), got {tuple(pred.shape)}; for one mask use mask[None]"
        )
    pred, true = pred.flatten(1), true.flatten(1)
    tp, predicted, actual = (pred & true).sum(1), pred.sum(1), true.sum(1)
    return Counts(tp, predicted - tp, actual - tp, pred.shape[1] - predicted - actual + tp)


def scores(counts: Counts) -> dict[str, float]:
    """Means per image of iou, dice, accuracy, precision, recall; and pooled_iou, pooled_dice."""
    if len(counts) == 0:
        raise ValueError("no images to score")
    names = ("iou", "dice", "accuracy", "precision", "recall")
    pooled = counts.pooled()
    return {name: getattr(counts, name)().mean().item() for name in names} | {
        "pooled_iou": pooled.iou().item(),
        "pooled_dice": pooled.dice().item(),
    }


def _as_bool(mask: Mask, name: str) -> torch.Tensor:
    if not isinstance(mask, torch.Tensor | np.ndarray):
        kind = type(mask).__name__
        raise TypeError(f"{name} must be a torch tensor or a NumPy array, got {kind}")
    if mask.dtype not in (torch.bool, np.bool_):
        if not ((mask == 0) | (mask == 1)).all():
            raise ValueError(
                f"{name} holds values other than 0 and 1 ({mask.dtype}, from "
                f"{mask.min().item():.4g} to {mask.max().item():.4g}): threshold it first, e.g. "
                "probability >= 0.5, torch.sigmoid(logits) >= 0.5, or image > 127 for 0/255"
            )
        mask = mask == 1
    return torch.from_numpy(np.ascontiguousarray(mask)) if isinstance(mask, np.ndarray) else mask
