"""Losses: (logits, target) -> a number to make smaller, and any weighted sum of them by name.

All take logits (N, 1, H, W) and a target of the same shape in [0, 1], soft mattes included, compute
in float32 and return a 0-d tensor, at least 0; a NaN in either makes it NaN.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unetlib.errors import unknown


def bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy, mean over all pixels."""
    return F.binary_cross_entropy_with_logits(*_float32(logits, target))


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Cross-entropy times |p − t|^gamma, mean over all pixels: what is nearly right counts little.

    Lin et al., ICCV 2017, https://arxiv.org/abs/1708.02002; |p − t| suits soft mattes as well.
    `alpha` in [0, 1] weighs the foreground, 1 − alpha the background; `gamma` is at least 0.
    """
    x, t = _float32(logits, target)
    cross_entropy = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    miss = (x.sigmoid() - t).abs().clamp(min=1e-37) ** gamma  # gamma < 1: infinite slope at 0
    return ((alpha * t + (1 - alpha) * (1 - t)) * miss * cross_entropy).mean()


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """Soft Dice loss, 1 − (2·Σpt + s) / (Σp + Σt + s), per image, then the mean: in [0, 1).

    Milletari et al., "V-Net", 3DV 2016, https://arxiv.org/abs/1606.04797, with plain sums. Without
    foreground, `smooth` (in pixels, above 0) keeps a gradient.
    """
    return tversky_loss(logits, target, 0.5, 0.5, smooth)


def tversky_loss(
    logits: Tensor, target: Tensor, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1.0
) -> Tensor:
    """Dice whose two errors cost differently, per image, then the mean: in [0, 1).

    1 − (tp + s/2) / (tp + alpha·fp + beta·fn + s/2) with tp = Σpt, fp = Σp(1 − t), fn = Σ(1 − p)t.
    All three numbers are above 0. Salehi et al., MLMI 2017, https://arxiv.org/abs/1706.05721.
    """
    x, t = (tensor.flatten(1) for tensor in _float32(logits, target))
    p = x.sigmoid()
    tp = (p * t).sum(1)
    errors = alpha * (p.sum(1) - tp) + beta * (t.sum(1) - tp)
    return (1 - (tp + smooth / 2) / (tp + errors + smooth / 2)).mean()


def lovasz_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Lovász hinge: a convex surrogate of 1 − IoU, per image, then the mean.

    Berman et al., CVPR 2018, https://arxiv.org/abs/1705.08790: in the order of their hinge errors,
    each pixel is charged for the IoU that is lost when it is wrong too. A soft target is cut at
    0.5; without foreground the highest logit alone is charged.
    """
    x, t = (tensor.flatten(1) for tensor in _float32(logits, target))
    truth = _binarized(t)
    errors, order = F.relu(1 - x * (2 * truth - 1)).sort(dim=1, descending=True)
    figure, size = truth.gather(1, order), truth.sum(1, keepdim=True)
    # what is left of intersection and union when the k worst pixels are all wrong
    intersection, union = size - figure.cumsum(1), size + (1 - figure).cumsum(1)
    # IoU lost at the k-th, missed or made up; IoU k minus IoU k − 1 would be mostly rounding
    charge = torch.where(figure > 0, 1 / union, intersection / (union * (union - 1)).clamp(min=1))
    charge[:, :1] += size == 0
    return (errors * charge).sum(1).mean()


def boundary_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Every error weighed by its distance from the true edge: mean of (p − t)·distance, in [0, 1].

    Kervadec et al., MIDL 2019, https://arxiv.org/abs/1812.07032, less the value of the perfect
    prediction. A soft target is cut at 0.5.
    """
    x, t = _float32(logits, target)
    return ((x.sigmoid() - _binarized(t)) * signed_distance(target)).mean()


def signed_distance(target: Tensor) -> Tensor:
    """Each pixel's distance from the edge of the mask (N, 1, H, W): float32, negative inside.

    In units of the image's diagonal; an empty mask is 1 and a full one -1 everywhere.
    """
    masks = (target >= 0.5).to("cpu", torch.uint8).numpy().reshape(-1, *target.shape[-2:])
    maps, exact = np.ones(masks.shape, np.float32), (cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    for mask, result in zip(masks, maps, strict=True):
        if mask.any() and not mask.all():
            pixels = sum(cv2.distanceTransform(side, *exact) for side in (mask, 1 - mask))
            result[:] = (pixels - 0.5) / math.hypot(*mask.shape)
    maps = np.where(masks, -maps, maps)
    return torch.from_numpy(maps).reshape(target.shape).to(target.device)


FUNCTIONS = (bce_loss, dice_loss, focal_loss, tversky_loss, lovasz_loss, boundary_loss)
LOSSES = {function.__name__.removesuffix("_loss"): function for function in FUNCTIONS}


def build_loss(spec: str) -> Callable[[Tensor | dict[str, Tensor], Tensor], dict[str, Tensor]]:
    """A loss by its name in LOSSES, or a weighted sum: "bce + 0.5*dice"; "bce_dice" is bce + dice.

    It returns {"loss": weighted sum, and each term by its name, before its weight}, 0-d tensors.
    For a dict of logit maps (U²-Net in training) "loss" is the sum over all maps, each map's own
    loss stands under its name, and the terms are the first map's.

    Raises ValueError for an unknown name, numbers out of range and text that cannot be read.
    """
    weights: dict[str, float] = {}
    for text in "".join(spec.split()).split("+"):
        factor, _, given = text.rpartition("*")
        for name in ("bce", "dice") if given == "bce_dice" else (given,):
            if name not in LOSSES:
                raise ValueError(unknown("loss", name, [*LOSSES, "bce_dice"]))
            if name in weights or not 0 < float(factor or 1) < math.inf:
                raise ValueError(f"{name} stands twice or has no finite weight above 0: {spec!r}")
            weights[name] = float(factor or 1)

    def loss(output: Tensor | dict[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        maps = output if isinstance(output, dict) else {"loss": output}
        terms = {key: {n: LOSSES[n](x, target) for n in weights} for key, x in maps.items()}
        sums = {key: sum(weights[n] * found[n] for n in weights) for key, found in terms.items()}
        return {"loss": sum(sums.values()), **sums, **next(iter(terms.values()))}

    loss.__name__ = " + ".join(f"{weight:g}*{name}" for name, weight in weights.items())
    return loss


def _float32(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if logits.shape != target.shape:  # broadcasting (N, 1, H, W) with (N, H, W) would be silent
        shapes = f"{tuple(logits.shape)} and {tuple(target.shape)}"
        raise ValueError(f"logits and target differ in shape: {shapes}")
    return logits.float(), target.float()


def _binarized(target: Tensor) -> Tensor:
    return (target >= 0.5) + 0 * target  # NaN >= 0.5 is False, and must not pass for background
