"""The moving parts of one training: what a step, an epoch and a validation do."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from tqdm import tqdm

from unetlib import optim
from unetlib.metrics import Counts, count


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what to change."""


class Engine:
    """The moving parts of one training, and what an epoch does with them."""

    def __init__(self, model, config, loss, device: torch.device, steps: int):
        self.device, self.loss, self.clip = device, loss, config.clip
        self.dtype = optim.choose_precision(config.precision, device)
        # NHWC is what the fast kernels of CPUs and tensor cores work on
        self.layout = torch.preserve_format if device.type == "mps" else torch.channels_last
        self.model = model.to(device, memory_format=self.layout)
        self.optimizer = optim.build_optimizer(
            model, config.optimizer, config.lr, config.weight_decay
        )
        self.schedule = optim.Schedule(
            self.optimizer, config.schedule, config.lr, config.epochs * steps, config.patience
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.ema = optim.Ema(model, config.ema) if config.ema else None
        self.epochs = config.epochs
        self.best = -1.0  # val IoU, for the progress bar

    @property
    def eval_model(self) -> nn.Module:
        """The weights that are judged and kept."""
        return (self.ema.model if self.ema else self.model).eval()

    def forward(self, model: nn.Module, batch) -> tuple[torch.Tensor, torch.Tensor]:
        image = batch[0].to(self.device, memory_format=self.layout, non_blocking=True)
        target = batch[1].to(self.device, non_blocking=True)
        reduced = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=reduced):
            return model(image), target

    def train_epoch(self, epoch: int, loader, bar: tqdm) -> dict:
        sampler = getattr(loader, "sampler", None)  # any iterable of batches will do as loader
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        self.model.train()
        start, lr, images = time.perf_counter(), self.schedule.lr, 0
        sums: dict[str, torch.Tensor] = {}
        for step, batch in enumerate(loader):
            with _memory_advice(batch[0]):
                terms = self.train_step(batch)
            _add(sums, terms, len(batch[0]))
            images += len(batch[0])
            # asking a GPU for a number makes it wait, so there not at every step
            if (self.device.type != "cuda" or step % 20 == 0) and not torch.isfinite(sums["loss"]):
                raise TrainingError(_not_finite(epoch, step, lr, self.dtype))
            text = _postfix(epoch, self.epochs, sums, images, self.best)
            bar.set_postfix_str(text, refresh=False)
            bar.update()
        seconds = time.perf_counter() - start
        means = _named("train", sums, images)
        if not math.isfinite(means["train_loss"]):
            raise TrainingError(_not_finite(epoch, step, lr, self.dtype))
        speed = {"seconds": seconds, "images_per_second": images / seconds}
        return {"lr": lr, **means, **speed}

    def train_step(self, batch) -> dict[str, torch.Tensor]:
        """Forward, loss, backward, one step of the optimiser; returns the detached loss terms."""
        logits, target = self.forward(self.model, batch)
        terms = self.loss(logits, target)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(terms["loss"]).backward()
        if self.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update(self.model)
        return {name: term.detach() for name, term in terms.items()}

    @torch.inference_mode()
    def validate(self, loader) -> dict:
        sums: dict[str, torch.Tensor] = {}
        parts: list[Counts] = []
        model = self.eval_model
        for batch in loader:
            with _memory_advice(batch[0]):
                logits, target = self.forward(model, batch)
            _add(sums, self.loss(logits, target), len(target))
            # a logit of 0 is a probability of 0.5
            parts.append(count(logits > 0, target >= 0.5))
        counts = Counts.cat(parts)
        pooled = counts.pooled()
        pixels = sum((pooled.tp, pooled.fp, pooled.fn, pooled.tn)).item()
        return {
            **_named("val", sums, len(counts)),
            "val_iou": counts.iou().mean().item(),
            "val_dice": counts.dice().mean().item(),
            "val_accuracy": counts.accuracy().mean().item(),
            "val_pooled_iou": pooled.iou().item(),
            "val_foreground": (pooled.tp + pooled.fp).item() / pixels,
            "val_foreground_true": (pooled.tp + pooled.fn).item() / pixels,
        }


def _add(sums: dict[str, torch.Tensor], terms: dict[str, torch.Tensor], images: int) -> None:
    for name, term in terms.items():
        sums[name] = sums.get(name, 0.0) + term.float() * images


def _named(phase: str, sums: dict[str, torch.Tensor], images: int) -> dict[str, float]:
    """{"val_loss": ..., "val_bce_loss": ..., "val_dice_loss": ...}: val_dice is the score."""
    names = {name: name if name == "loss" else f"{name}_loss" for name in sums}
    return {f"{phase}_{names[name]}": value.item() / images for name, value in sums.items()}


def _postfix(epoch: int, epochs: int, sums: dict, images: int, best: float) -> str:
    text = f"epoch {epoch}/{epochs}, loss {sums['loss'].item() / images:.3f}"
    return text + (f", best val IoU {best:.3f}" if best >= 0 else "")


def _not_finite(epoch: int, step: int, lr: float, dtype: torch.dtype) -> str:
    precision = "" if dtype == torch.float32 else ", precision='float32' to rule out rounding,"
    return (
        f"the loss is no longer a finite number (epoch {epoch}, batch {step + 1}, learning rate "
        f"{lr:.2g}). Try a learning rate of {lr / 10:.2g}{precision} and clip=1.0; and look for "
        "broken photos or masks in the set. The best checkpoint so far is kept."
    )


@contextmanager
def _memory_advice(images: torch.Tensor) -> Iterator[None]:
    """Turns "out of memory" into advice that names the batch and the size."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        full = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
            sign in str(error).lower() for sign in ("out of memory", "can't allocate memory")
        )
        if not full:
            raise
        batch, _, height, width = images.shape
        raise TrainingError(
            f"memory ran out at batch_size {batch} with images of {height}×{width}. Try batch_size "
            f"{max(1, batch // 2)}, image_size {int(min(height, width) * 0.75) // 16 * 16}, or a "
            f"smaller model such as 'unet_small'. ({(str(error) or 'MemoryError').splitlines()[0]})"
        ) from error
