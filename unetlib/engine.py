"""The moving parts of one training: what a step, an epoch and a validation do."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from unetlib import optim
from unetlib.data.sampler import difficulty
from unetlib.distributed import Processes
from unetlib.metrics import count
from unetlib.models import checkpoint_activations
from unetlib.trouble import memory_advice, not_finite

PARTS = ("model", "optimizer", "schedule", "scaler")  # what has a state in every training


@dataclass
class Progress:
    """How far an epoch is: its number, the batches done, photos seen, and sums of the losses;
    `lr` is the learning rate that it began with; `missed` has what the sampler shall learn: see
    `difficulty`, for each batch of all processes."""

    epoch: int
    lr: float = 0.0
    batches: int = 0
    images: int = 0
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    missed: list[torch.Tensor] = field(default_factory=list)


class Engine:
    """The moving parts of one training, and what an epoch does with them.

    Every random number of a step depends on (seed, epoch, step, rank) alone, so that a training
    that goes on from a saved state draws what it would have drawn.
    """

    def __init__(self, model, config, loss, processes: Processes, steps: int):
        self.config, self.loss, self.processes = config, loss, processes
        self.device = processes.device
        self.dtype = optim.choose_precision(config.precision, self.device)
        # NHWC is what the fast kernels of CPUs and tensor cores work on
        self.layout = torch.preserve_format if self.device.type == "mps" else torch.channels_last
        self.model = model.to(self.device, memory_format=self.layout)
        if config.recompute:
            checkpoint_activations(self.model)
        self.parallel = processes.wrap(self.model)  # what training calls
        self.stepped = torch.compile(self.parallel) if config.compile else self.parallel
        self.optimizer = optim.build_optimizer(self.model, config)
        self.schedule = optim.Schedule(self.optimizer, config, math.ceil(steps / config.accumulate))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.ema = optim.Ema(self.model, config.ema) if config.ema else None
        self.best = -1.0  # val IoU, for the progress bar
        self.learns = False  # whether the sampler wants to know how difficult photos are
        self.missed: torch.Tensor | None = None  # that of the last step

    @property
    def eval_model(self) -> nn.Module:
        """The weights that are judged and kept."""
        return (self.ema.model if self.ema else self.model).eval()

    def state_dict(self) -> dict:
        """Everything that the next step depends on."""
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        return parts | ({"ema": self.ema.averaged.state_dict()} if self.ema else {})

    def load_state_dict(self, state: dict) -> None:
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        if self.ema:
            self.ema.averaged.load_state_dict(state["ema"])

    def forward(self, model: nn.Module, batch):
        """Logits (or a dict of them, with deep supervision) and target, on the device."""
        image = batch[0].to(self.device, memory_format=self.layout, non_blocking=True)
        target = batch[1].to(self.device, non_blocking=True)
        reduced = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=reduced):
            return model(image), target

    def train_epoch(
        self, state, loader, bar: tqdm, after_step: Callable[[Any], None]
    ) -> tuple[dict, dict]:
        """The rest of the epoch that `state.at` stands in: the history's row, and what it took.

        Raises TrainingError for losses that are no numbers and for memory that does not suffice.
        """
        at: Progress = state.at
        self._seed(at.epoch)  # for loaders that draw from the global generators
        self.model.train()
        at.lr = at.lr or self.schedule.lr
        total, waited, first = self.processes.steps(loader), 0.0, at.images
        bad = torch.full((), -1, device=self.device)  # first batch whose loss is no number
        sampler = getattr(loader, "sampler", None)
        self.learns = getattr(sampler, "hard", False)
        if self.learns:  # as it was when the epoch began
            sampler.difficulty = state.difficulty and np.array(state.difficulty)
        start = time.perf_counter()
        batches = self._batches(at, loader, total)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            with memory_advice(batch[0]):
                terms = self.train_step(batch, at.epoch, at.batches, total)
            _add(at.sums, terms, len(batch[0]))
            if self.learns:
                at.missed.append(_of_all(self.missed, self.processes.world))
            bad = torch.where((bad < 0) & ~torch.isfinite(terms["loss"]), at.batches, bad)
            at.batches, at.images = at.batches + 1, at.images + len(batch[0])
            # asking a GPU for a number makes it wait, so there not at every step
            last = at.batches == total
            if (self.device.type != "cuda" or at.batches % 20 == 0 or last) and bad >= 0:
                raise not_finite(at.epoch, int(bad), loader, batch, at.lr, self.dtype)
            seconds = time.perf_counter() - start
            bar.set_postfix_str(self._postfix(at, at.images - first, seconds, waited), False)
            bar.update()
            if self.can_pause(at, loader):
                after_step(state)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        if self.learns:
            missed = torch.cat([values.cpu() for values in at.missed])
            state.difficulty = sampler.learn(at.epoch, missed.numpy()).tolist()
        seconds = max(time.perf_counter() - start, 1e-9)
        names = list(at.sums)
        *sums, images = self.processes.total([*(at.sums[n].item() for n in names), at.images])
        speed = (images - first * self.processes.world) / seconds
        timing = {"seconds": seconds, "images_per_second": speed, "data_wait": waited / seconds}
        row = {"epoch": at.epoch, "lr": at.lr}
        return row | _named("train", dict(zip(names, sums, strict=True)), images), timing

    def _batches(self, at: Progress, loader, total: int) -> Iterator:
        """The batches of this process from `at` on."""
        sampler = getattr(loader, "sampler", None)  # any iterable of batches will do as loader
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(at.epoch)
        if hasattr(sampler, "start"):
            sampler.start = at.batches
            return iter(self.processes.share(loader))
        return itertools.islice(self.processes.share(loader), at.batches, total)

    def can_pause(self, at: Progress, loader) -> bool:
        """Whether an epoch can be left here and taken up again without doing it all over."""
        sampler = getattr(loader, "sampler", None)
        return hasattr(sampler, "start") and at.batches % self.config.accumulate == 0

    def train_step(
        self, batch, epoch: int = 1, step: int = 0, total: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Forward, loss, backward and, where enough batches are added up, a step of the optimiser.

        `step` counts the batches of the epoch from 0, `total` is their number. Returns the
        detached loss terms.
        """
        self._seed(epoch, step, self.processes.rank)
        size, first = self.config.accumulate, step - step % self.config.accumulate
        group = size if total is None else min(size, total - first)  # the last may be smaller
        complete = step - first + 1 == group
        with self.processes.no_sync(self.parallel, not complete):
            output, target = self.forward(self.stepped, batch)
            terms = self.loss(output, target)
            self.scaler.scale(terms["loss"] / group).backward()
        if self.learns:
            self.missed = difficulty(output, target)
        if complete:
            if self.config.clip:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            self.schedule.step()
            if self.ema is not None:
                self.ema.update(self.model)
        return {name: term.detach() for name, term in terms.items()}

    @torch.inference_mode()
    def validate(self, loader) -> dict:
        """Loss and scores over the whole set, whoever of the processes saw which photo."""
        losses: dict[str, torch.Tensor] = {}
        scores = np.zeros(8)  # photos; sums of IoU, Dice, accuracy over photos; tp fp fn tn
        model = self.eval_model
        for batch in self.processes.share(loader):
            with memory_advice(batch[0]):
                logits, target = self.forward(model, batch)
            _add(losses, self.loss(logits, target), len(target))
            # a logit of 0 is a probability of 0.5
            c = count(logits > 0, target >= 0.5)
            means = [score.double().sum().item() for score in (c.iou(), c.dice(), c.accuracy())]
            scores += [len(c), *means, *(x.sum().item() for x in (c.tp, c.fp, c.fn, c.tn))]
        names = list(losses)
        totals = self.processes.total([*(losses[n].item() for n in names), *scores.tolist()])
        n, iou, dice, accuracy, tp, fp, fn, tn = totals[len(names) :]
        pixels = tp + fp + fn + tn
        return {
            **_named("val", dict(zip(names, totals, strict=False)), n),
            "val_iou": iou / n,
            "val_dice": dice / n,
            "val_accuracy": accuracy / n,
            "val_pooled_iou": tp / (tp + fp + fn) if tp + fp + fn else 1.0,
            "val_foreground": (tp + fp) / pixels,
            "val_foreground_true": (tp + fn) / pixels,
        }

    def _seed(self, *where: int) -> None:
        sequence = np.random.SeedSequence((self.config.seed, *where))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))

    def _postfix(self, at: Progress, images: int, seconds: float, waited: float) -> str:
        text = f"epoch {at.epoch}/{self.config.epochs}, loss {at.sums['loss'] / at.images:.3f}, "
        text += f"{images * self.processes.world / seconds:.1f} images/s, "
        text += f"waiting for data {waited / seconds:.0%}"
        return text + (f", best val IoU {self.best:.3f}" if self.best >= 0 else "")


def _of_all(values: torch.Tensor, world: int) -> torch.Tensor:
    """The values of all processes, one behind the other: in the order of the whole batch."""
    if world == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(world)]
    dist.all_gather(parts, values)
    return torch.cat(parts)


def _add(sums: dict[str, torch.Tensor], terms: dict[str, torch.Tensor], images: int) -> None:
    for name, term in terms.items():
        sums[name] = sums.get(name, 0.0) + term.float() * images


def _named(phase: str, sums: dict[str, float], images: float) -> dict[str, float]:
    """{"val_loss": ..., "val_bce_loss": ..., "val_dice_loss": ...}: val_dice is the score."""
    names = {name: name if name == "loss" else f"{name}_loss" for name in sums}
    return {f"{phase}_{names[name]}": value / images for name, value in sums.items()}
