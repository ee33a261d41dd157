"""Losses: (logits, target) -> a number to make smaller, and any weighted sum of them by name.

All take logits (N, 1, H, W) and a target of the same shape in [0, 1], soft mattes included, compute
in float32 whatever the network's precision, and return a 0-d float32 tensor, at least 0. A NaN in
either makes the loss NaN.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy, mean over all pixels.

    Sees every pixel alone, so a small figure counts little; its gradient never vanishes.
    """
    return F.binary_cross_entropy_with_logits(*_float32(logits, target))


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Cross-entropy times |p − t|^gamma, mean over all pixels: what is nearly right counts little.

    Lin et al., "Focal loss for dense object detection", ICCV 2017,
    https://arxiv.org/abs/1708.02002, whose 1 − p_t is |p − t| for a mask of zeros and ones; written
    so (Li et al., https://arxiv.org/abs/2006.04388) it is least at p = t for a soft matte as well.

    `alpha` in [0, 1] weighs the foreground and 1 − alpha the background; `gamma` is at least 0.
    """
    if not 0 <= alpha <= 1 or not gamma >= 0:
        raise ValueError(f"alpha is in [0, 1] and gamma at least 0, not {alpha} and {gamma}")
    x, t = _float32(logits, target)
    cross_entropy = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    miss = (x.sigmoid() - t).abs().clamp(min=1e-37) ** gamma  # gamma < 1: infinite slope at 0
    return ((alpha * t + (1 - alpha) * (1 - t)) * miss * cross_entropy).mean()


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """Soft Dice loss, 1 − (2·Σpt + s) / (Σp + Σt + s), per image, then the mean: in [0, 1).

    Milletari et al., "V-Net", 3DV 2016, https://arxiv.org/abs/1606.04797, with plain instead of
    squared sums. Computed per image, so that a small figure counts as much as a large one.

    `smooth` (in pixels) decides what happens without foreground: the overlap is zero whatever is
    predicted, and 1 − s / (Σp + s) still falls towards 0 as the prediction empties. With a
    smooth of 0 such an image would have no gradient at all.

    On a soft target t a prediction p = t has a loss a little above 0, since Σt² < Σt.
    """
    return tversky_loss(logits, target, 0.5, 0.5, smooth)


def tversky_loss(
    logits: Tensor, target: Tensor, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1.0
) -> Tensor:
    """Dice whose two errors cost differently, per image, then the mean: in [0, 1).

    1 − (tp + s/2) / (tp + alpha·fp + beta·fn + s/2) with tp = Σpt, fp = Σp(1 − t), fn = Σ(1 − p)t.
    Salehi et al., MLMI 2017, https://arxiv.org/abs/1706.05721. A beta above alpha makes missed
    foreground the dearer error; with both 0.5 this is `dice_loss` of the same smooth.
    """
    for name, value in {"alpha": alpha, "beta": beta, "smooth": smooth}.items():
        if not value > 0:
            raise ValueError(f"{name} is greater than 0, not {value}")
    x, t = (tensor.flatten(1) for tensor in _float32(logits, target))
    p = x.sigmoid()
    tp = (p * t).sum(1)
    errors = alpha * (p.sum(1) - tp) + beta * (t.sum(1) - tp)
    return (1 - (tp + smooth / 2) / (tp + errors + smooth / 2)).mean()


def lovasz_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Lovász hinge: a convex surrogate of 1 − IoU, per image, then the mean.

    Berman et al., CVPR 2018, https://arxiv.org/abs/1705.08790. Pixels are ranked by how far they
    are from being right with a margin of 1, and each is charged for the IoU that is lost when it
    joins those ranked above it. It sees ranks and margins instead of probabilities: where every
    logit is ±1 its value is twice 1 − IoU, and a logit beyond its margin has no gradient.

    A soft target is cut at 0.5. Without foreground the first false pixel costs the whole IoU, so
    the highest logit alone is charged.
    """
    x, t = (tensor.flatten(1) for tensor in _float32(logits, target))
    truth = _cut(t)
    errors, order = F.relu(1 - x * (2 * truth - 1)).sort(dim=1, descending=True)
    figure = truth.gather(1, order)
    size = truth.sum(1, keepdim=True)
    # what is left of intersection and union when the k worst pixels are all wrong
    left, union = size - figure.cumsum(1), size + (1 - figure).cumsum(1)
    # IoU lost at the k-th, missed or made up; IoU k minus IoU k − 1 would be mostly rounding
    charge = torch.where(figure > 0, 1 / union, left / (union * (union - 1)).clamp(min=1))
    charge[:, :1] += size == 0
    return (errors * charge).sum(1).mean()


def boundary_loss(logits: Tensor, target: Tensor, distance: Tensor | None = None) -> Tensor:
    """Every error weighed by its distance from the true edge: mean of (p − t)·distance, in [0, 1].

    Kervadec et al., MIDL 2019, https://arxiv.org/abs/1812.07032. The paper's loss is the mean of
    p·distance; the value of the perfect prediction, subtracted here, changes no gradient and puts
    the minimum at 0. It is small where an error hugs the edge, so it joins another loss.

    A soft target is cut at 0.5. `distance`: signed_distance(target), where it is known already.
    """
    x, t = _float32(logits, target)
    distance = signed_distance(target) if distance is None else distance
    return ((x.sigmoid() - _cut(t)) * distance).mean()


def signed_distance(target: Tensor) -> Tensor:
    """Each pixel's distance from the edge of the mask (N, 1, H, W): float32, negative inside.

    To the nearest pixel of the other side, less half a pixel, in units of the image's diagonal. A
    mask without an edge is taken to have it a whole diagonal away: empty 1, full -1 everywhere.
    """
    import cv2

    def to_edge(side: np.ndarray) -> np.ndarray:  # 0 outside of that side
        if side.all():  # no edge in sight
            return np.ones(side.shape, np.float32)
        pixels = cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return (pixels - 0.5).clip(0) / np.float32(math.hypot(*side.shape))

    masks = (target >= 0.5).to("cpu", torch.uint8).numpy().reshape(-1, *target.shape[-2:])
    maps = np.stack([to_edge(1 - mask) - to_edge(mask) for mask in masks])
    return torch.from_numpy(maps).reshape(target.shape).to(target.device)


LOSSES = {
    "bce": bce_loss,
    "dice": dice_loss,
    "focal": focal_loss,
    "tversky": tversky_loss,
    "lovasz": lovasz_loss,
    "boundary": boundary_loss,
}


class MixedLoss(nn.Module):
    """Weighted sum of losses; `build_loss` makes one.

    Returns {"loss": weighted sum, "bce" and so on: each term before its weight}, 0-d tensors. The
    output may be a dict of logit maps (deep supervision, U²-Net in training): then "loss" is the
    sum over all maps, each map's own loss stands under its name, the terms are the first map's.
    """

    def __init__(self, terms: list[tuple[str, float, dict[str, float]]]):
        """`terms`: (name in LOSSES, weight, arguments) each."""
        super().__init__()
        self.weights = {name: weight for name, weight, _ in terms}
        self.losses = {name: partial(LOSSES[name], **arguments) for name, _, arguments in terms}

    def extra_repr(self) -> str:
        return f"{self.weights}, {[term.keywords for term in self.losses.values()]}"

    def forward(self, output: Tensor | dict[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        maps = output if isinstance(output, dict) else {"": output}
        losses = dict(self.losses)
        if "boundary" in losses:  # once for all maps: it is computed on the CPU
            losses["boundary"] = partial(losses["boundary"], distance=signed_distance(target))
        terms = [{name: f(x, target) for name, f in losses.items()} for x in maps.values()]
        sums = [sum(self.weights[name] * value for name, value in row.items()) for row in terms]
        named = dict(zip(maps, sums, strict=True)) if isinstance(output, dict) else {}
        return {"loss": sum(sums), **named, **terms[0]}


def build_loss(spec: str) -> MixedLoss:
    """A loss by its name in LOSSES, or a weighted sum of several.

    "dice", "bce + dice" (also called "bce_dice"), "0.5*bce + 2*tversky(alpha=0.2, beta=0.8)".

    Raises:
        ValueError: an unknown name or argument (the message lists the known ones), a name given
            twice, a weight that is not a positive number, or text that cannot be read.
    """
    try:
        terms = _read(ast.parse(" ".join(spec.split()), mode="eval").body)
    except SyntaxError:
        example = "bce + 0.5*tversky(alpha=0.3, beta=0.7)"
        raise ValueError(f"cannot read the loss {spec!r}; write it like {example!r}") from None
    if len({name for name, _, _ in terms}) < len(terms):
        raise ValueError(f"a name stands twice in the loss {spec!r}")
    loss = MixedLoss(terms)
    loss(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))  # refuses arguments out of their range
    return loss


def _read(node: ast.AST) -> list[tuple[str, float, dict[str, float]]]:
    """The terms in a spec's syntax tree, which is only read, never run."""
    match node:
        case ast.BinOp(left, ast.Add(), right):
            return _read(left) + _read(right)
        case ast.BinOp(left, ast.Mult(), right):
            factor = _number(left, "a weight")
            if factor == 0:
                raise ValueError("a weight is greater than 0, not 0")
            return [(name, factor * weight, arguments) for name, weight, arguments in _read(right)]
        case ast.Name("bce_dice"):
            return [("bce", 1.0, {}), ("dice", 1.0, {})]
        case ast.Name(name):
            return [(name, 1.0, _arguments(name, []))]
        case ast.Call(ast.Name(name), [], keywords) if name != "bce_dice":
            return [(name, 1.0, _arguments(name, keywords))]
    raise SyntaxError


def _arguments(name: str, keywords: list[ast.keyword]) -> dict[str, float]:
    if name not in LOSSES:
        names = [*LOSSES, "bce_dice"]
        near = difflib.get_close_matches(name, names, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no loss is called {name!r}; there are {', '.join(names)}.{hint}")
    parameters = inspect.signature(LOSSES[name]).parameters.values()
    known = [p.name for p in parameters if isinstance(p.default, float)]
    given = [keyword.arg for keyword in keywords]
    if not set(given) <= set(known) or len(given) > len(set(given)):
        takes = f"{', '.join(known)}, each once" if known else "no arguments"
        raise ValueError(f"the loss {name} takes {takes}, not {', '.join(map(str, given))}")
    return {key.arg: _number(key.value, f"{key.arg} of {name}") for key in keywords}


def _number(node: ast.AST, what: str) -> float:
    value = node.value if isinstance(node, ast.Constant) else None  # -1 is no constant
    if type(value) not in (int, float) or math.isinf(value):
        raise ValueError(f"{what} is a number, at least 0, not {ast.unparse(node)}")
    return float(value)


def _float32(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if logits.shape != target.shape:  # broadcasting (N, 1, H, W) with (N, H, W) would be silent
        raise ValueError(
            f"logits and target differ in shape: {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    return logits.float(), target.float()


def _cut(target: Tensor) -> Tensor:
    return (target >= 0.5) + 0 * target  # NaN >= 0.5 is False, and must not pass for background
