"""What `fit` optimises with: optimiser, learning-rate schedule, precision, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from unetlib.config import PRECISIONS, TrainConfig, hint


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD (with Nesterov momentum) over the model's parameters.

    Weight decay pulls the convolutions' weights only: on biases and batch-norm gains it does
    nothing useful. In AdamW it is decoupled from the gradient (Loshchilov and Hutter,
    https://arxiv.org/abs/1711.05101), in Adam and SGD it is the L2 penalty's gradient.

    With `encoder_lr` the parameters of the network's `encoder` are groups of their own; the
    schedule multiplies a group's rate by its "lr_share".
    """
    parts: dict[tuple[float, float], list] = {}
    for name, p in model.named_parameters():
        share = config.encoder_lr if name.startswith("encoder.") else 1.0
        decay = config.weight_decay if p.ndim > 1 else 0.0
        if p.requires_grad:
            parts.setdefault((share, decay), []).append(p)
    groups = [
        {"params": params, "lr_share": share, "weight_decay": decay}
        for (share, decay), params in parts.items()
    ]
    devices = {p.device.type for p in model.parameters()}
    options = {"lr": config.lr, "fused": devices <= {"cpu", "cuda"}}  # one kernel for all weights
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(groups, momentum=config.momentum, nesterov=nesterov, **options)
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return make(groups, **options)


class Schedule:
    """The learning rate over time: `step()` after every step, `epoch_end(score)` after an epoch.

    The rate is lr · warm-up · decay. The warm-up rises linearly over the share `config.warmup` of
    all steps; the decay is, with t the steps since then and T all of them:

    - "constant": 1
    - "plateau": `gamma` to the number of times that the score (higher is better) has not risen
      for more than `patience` epochs
    - "step": `gamma` after every `step_epochs` epochs
    - "exponential": final_lr^(t/T)
    - "cosine": from 1 to final_lr along half a cosine (https://arxiv.org/abs/1608.03983)
    - "onecycle": a cosine from 1/25 up, and one down to nearly 0 (Smith and Topin,
      https://arxiv.org/abs/1708.07120, as in PyTorch's OneCycleLR; Adam's beta stays)
    """

    def __init__(self, optimizer, config: TrainConfig, steps_per_epoch: int):
        self.optimizer, self.config, self.steps_per_epoch = optimizer, config, steps_per_epoch
        self.total = config.epochs * steps_per_epoch
        share = config.warmup if config.warmup >= 0 else 0.1 * (config.schedule == "onecycle")
        self.warm = share * self.total
        self.steps, self.falls, self.bad_epochs, self.best = 0, 0, 0, -math.inf
        self._set()

    def step(self) -> None:
        self.steps += 1
        self._set()

    def epoch_end(self, score: float) -> None:
        if self.config.schedule != "plateau":
            return
        if self.best == -math.inf or score > self.best + 1e-4 * abs(self.best):
            self.best, self.bad_epochs = score, 0
        else:
            self.bad_epochs += 1
        if self.bad_epochs > self.config.patience:
            self.falls, self.bad_epochs = self.falls + 1, 0
            self._set()

    def factor(self) -> float:
        """The learning rate of the next step as a share of `config.lr`."""
        name, config, n = self.config.schedule, self.config, self.steps
        if name == "onecycle":
            peak = max(self.warm - 1, 0)  # the step with the highest rate
            if n <= peak and peak:
                return _cosine(1 / 25, 1, n / peak)
            return _cosine(1, 4e-6, min(1, (n - peak) / max(1, self.total - 1 - peak)))
        warm = min(1.0, (n + 1) / self.warm) if self.warm else 1.0
        t = max(0, n - self.warm) / max(1, self.total - self.warm)
        if name == "plateau":
            return warm * config.gamma**self.falls
        if name == "step":
            return warm * config.gamma ** (n // (config.step_epochs * self.steps_per_epoch))
        if name == "exponential":
            return warm * config.final_lr**t
        return warm * (_cosine(1, config.final_lr, t) if name == "cosine" else 1.0)

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in ("steps", "falls", "bad_epochs", "best")}

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._set()

    def _set(self) -> None:
        self.lr = self.config.lr * self.factor()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group.get("lr_share", 1.0)


def _cosine(start: float, end: float, t: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * t)) / 2


class Ema:
    """Exponential moving average of the weights: steadier, mostly a little better than the last.

    The decay warms up as (1 + n) / (10 + n), or early steps would be dominated by random weights.
    Batch-norm statistics are copied, not averaged.
    """

    def __init__(self, model: nn.Module, decay: float):
        def average(averaged: list, current: list, n: torch.Tensor) -> None:
            rate = 1 - min(decay, (1 + n.item()) / (10 + n.item()))
            torch._foreach_lerp_(averaged, current, rate)

        self.averaged = AveragedModel(model, multi_avg_fn=average)
        self.model: nn.Module = self.averaged.module

    def update(self, model: nn.Module) -> None:
        self.averaged.update_parameters(model)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that convolutions compute in; weights, losses and scores stay float32.

    "auto" takes bfloat16 where the hardware multiplies it natively (recent NVIDIA GPUs; CPUs with
    AVX512-BF16 or AMX), float16 on older NVIDIA GPUs, and float32 elsewhere.

    Raises:
        ValueError: an unknown name, or float16 away from CUDA, where gradients would underflow.
    """
    if name not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ValueError(f"precision is one of {known}, not {name!r}.{hint(name, PRECISIONS)}")
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
