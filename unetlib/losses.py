"""Losses: (logits, target) -> a dict of named terms, whose "loss" is what gets differentiated.

All take logits (N, 1, H, W) and a target of the same shape in [0, 1], soft mattes included, and
compute in float32 whatever the network's precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

LOSSES = {"bce": (1.0, 0.0), "dice": (0.0, 1.0), "bce_dice": (1.0, 1.0)}  # weights of BCE and Dice


def bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over all pixels: a 0-d tensor, at least 0.

    Sees every pixel alone, so a small figure counts little; its gradient never vanishes.
    """
    _check(logits, target)
    return F.binary_cross_entropy_with_logits(logits.float(), target.float())


def dice_loss(logits: torch.Tensor, target: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    """Soft Dice loss, 1 − (2·Σpt + s) / (Σp + Σt + s), per image, then the mean: in [0, 1).

    Milletari et al., "V-Net", 3DV 2016, https://arxiv.org/abs/1606.04797, with plain instead of
    squared sums. Computed per image, so that a small figure counts as much as a large one.

    `smooth` (in pixels) decides what happens without foreground: the overlap is zero whatever is
    predicted, and 1 − s / (Σp + s) still falls towards 0 as the prediction empties. With a
    smooth of 0 such an image would have no gradient at all.

    On a soft target t a prediction p = t has a loss a little above 0, since Σt² < Σt.
    """
    _check(logits, target)
    if smooth <= 0:
        raise ValueError(f"smooth is a positive number of pixels, not {smooth}")
    p = logits.float().sigmoid().flatten(1)
    t = target.float().flatten(1)
    overlap = (p * t).sum(1)
    return (1 - (2 * overlap + smooth) / (p.sum(1) + t.sum(1) + smooth)).mean()


class BCEDiceLoss(nn.Module):
    """Weighted sum of BCE and Dice: dense gradients from the one, the overlap from the other.

    Returns {"loss": weighted sum, "bce": ..., "dice": ...}: 0-d tensors, the terms before their
    weights; a term with weight 0 is left out.
    """

    def __init__(self, bce_weight: float = 1.0, dice_weight: float = 1.0, smooth: float = 1.0):
        super().__init__()
        if min(bce_weight, dice_weight) < 0 or bce_weight + dice_weight == 0:
            raise ValueError(
                f"the weights are at least 0 and not both 0, not {bce_weight} and {dice_weight}"
            )
        self.bce_weight, self.dice_weight, self.smooth = bce_weight, dice_weight, smooth

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        terms, loss = {}, 0.0
        if self.bce_weight:
            terms["bce"] = bce_loss(logits, target)
            loss = loss + self.bce_weight * terms["bce"]
        if self.dice_weight:
            terms["dice"] = dice_loss(logits, target, self.smooth)
            loss = loss + self.dice_weight * terms["dice"]
        return {"loss": loss, **terms}


def build_loss(name: str) -> BCEDiceLoss:
    """A loss by name: "bce", "dice" or "bce_dice" (equal weights).

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name not in LOSSES:
        raise ValueError(f"no loss is called {name!r}; there are {', '.join(LOSSES)}")
    return BCEDiceLoss(*LOSSES[name])


def _check(logits: torch.Tensor, target: torch.Tensor) -> None:
    if logits.shape != target.shape:  # broadcasting (N, 1, H, W) with (N, H, W) would be silent
        raise ValueError(
            f"logits and target differ in shape: {tuple(logits.shape)} and {tuple(target.shape)}"
        )
