"""What `fit` optimises with: optimiser, learning-rate schedule, precision, averaged weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("plateau", "onecycle", "constant")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def build_optimizer(
    model: nn.Module, name: str, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Adam or AdamW over the model's parameters.

    Weight decay pulls the convolutions' weights only: on biases and batch-norm gains it does
    nothing useful (Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, for AdamW's decay).
    """
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in decayed)  # one kernel for all weights
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return make(groups, lr=lr, fused=fused)


class Schedule:
    """The learning rate over time: `step()` after every batch, `epoch_end(score)` after an epoch.

    "plateau" halves the rate when the score (higher is better) has not risen for `patience`
    epochs; "onecycle" warms up over the first tenth and decays to nearly zero (Smith and Topin,
    https://arxiv.org/abs/1708.07120); "constant" leaves it alone.
    """

    def __init__(self, optimizer, name: str, lr: float, total_steps: int, patience: int):
        self.optimizer = optimizer
        self.per_step: LRScheduler | None = None
        self.plateau: ReduceLROnPlateau | None = None
        if name == "onecycle":
            # momentum stays: cycling Adam's beta1 as well brought nothing here
            self.per_step = OneCycleLR(
                optimizer, lr, total_steps=total_steps, pct_start=0.1, cycle_momentum=False
            )
        elif name == "plateau":
            self.plateau = ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=patience)

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def step(self) -> None:
        if self.per_step is not None:
            self.per_step.step()

    def epoch_end(self, score: float) -> None:
        if self.plateau is not None:
            self.plateau.step(score)


class Ema:
    """Exponential moving average of the weights: steadier, mostly a little better than the last.

    The decay warms up as (1 + n) / (10 + n), or early steps would be dominated by random weights.
    Batch-norm statistics are copied, not averaged.
    """

    def __init__(self, model: nn.Module, decay: float):
        def average(averaged: list, current: list, n: torch.Tensor) -> None:
            rate = 1 - min(decay, (1 + n.item()) / (10 + n.item()))
            torch._foreach_lerp_(averaged, current, rate)

        self._averaged = AveragedModel(model, multi_avg_fn=average)
        self.model: nn.Module = self._averaged.module

    def update(self, model: nn.Module) -> None:
        self._averaged.update_parameters(model)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that convolutions compute in; weights, losses and scores stay float32.

    "auto" takes bfloat16 where the hardware multiplies it natively (recent NVIDIA GPUs; CPUs with
    AVX512-BF16 or AMX), float16 on older NVIDIA GPUs, and float32 elsewhere.

    Raises:
        ValueError: an unknown name, or float16 away from CUDA, where gradients would underflow.
    """
    if name not in PRECISIONS:
        raise ValueError(f"no precision is called {name!r}; there are {', '.join(PRECISIONS)}")
    if name == "float16" and device.type != "cuda":
        raise ValueError("float16 training needs an NVIDIA GPU; use bfloat16 or float32 here")
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (on others PyTorch emulates it, slowly)."""
    capabilities: Callable[[], dict] | None = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        found = capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # PyTorch before 2.10
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
