"""What a network costs, and how to pay with time instead of memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from types import MethodType
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode


class Complexity(NamedTuple):
    parameters: int  # trainable ones
    macs: int  # multiplications, each with an addition, for one image
    megabytes: float  # the parameters as float32, 1 MB = 10**6 bytes


def count_parameters(model: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def complexity(model: nn.Module, size: tuple[int, int] = (256, 256)) -> Complexity:
    """The cost of `model` in eval mode for one RGB image of `size` (H, W).

    Counts convolutions and matrix products by their shapes, without computing them.
    """
    twin = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(torch.empty(1, 3, *size, device="meta"))
    parameters = count_parameters(model)
    return Complexity(parameters, counter.get_total_flops() // 2, parameters * 4 / 1e6)


def checkpoint_activations(model: nn.Module) -> nn.Module:
    """Make `model` forget what its blocks compute and compute it again in the backward pass.

    Gradient checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016,
    https://arxiv.org/abs/1604.06174): one more forward pass per step, for activations that take
    about a third of the memory. Weights, gradients, running statistics and whatever happens in
    eval mode stay the same. Changes `model` in place and returns it. Not for `torch.compile`.
    """
    for block in _blocks(model):
        block.forward = MethodType(_forward, block)  # unlike a closure, it follows a deepcopy
    return model


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that are marked by a true attribute `recompute`."""
    for child in module.children():
        yield from [child] if getattr(child, "recompute", False) else _blocks(child)


def _forward(block: nn.Module, *args):
    plain = MethodType(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return plain(*args)
    contexts = lambda: (nullcontext(), _StatisticsKept(block))  # noqa: E731
    return checkpoint(plain, *args, use_reentrant=False, context_fn=contexts)


class _StatisticsKept:
    """While it is entered, batch norms normalise as in training but learn no statistics."""

    def __init__(self, block: nn.Module):
        norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
        self.before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]

    def __enter__(self):
        for norm, _, batches in self.before:
            norm.momentum, norm.num_batches_tracked = 0.0, batches.clone()

    def __exit__(self, *error):
        for norm, momentum, batches in self.before:
            norm.momentum, norm.num_batches_tracked = momentum, batches
