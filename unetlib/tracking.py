"""Curves, sample predictions and settings for TensorBoard or Weights & Biases."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from unetlib.plots import overlay
from unetlib.predict import probabilities
from unetlib.timelapse import as_photo

BEST = ("val_iou", "val_dice")  # of the best epoch, beside the settings


class Tracker:
    """Called after every epoch as (epoch, model, row), like a timelapse.

    Args:
        kind: "tensorboard" or "wandb" (Weights & Biases; WANDB_MODE=offline needs no account).
        folder: where the records go.
        settings: the hyper-parameters, plain values by name.
        dataset, indices: the samples whose predictions are shown, as in `Timelapse`.

    Raises ImportError naming the extra where the package is missing, RuntimeError where Weights &
    Biases does not know who is there, ValueError for another kind.
    """

    def __init__(self, kind: str, folder: str | Path, settings: dict, dataset, indices: Sequence):
        if kind not in ("tensorboard", "wandb"):
            raise ValueError(f"tracking is tensorboard, wandb or none, not {kind!r}")
        self.kind, self.folder, self.settings, self.run = kind, Path(folder), settings, None
        _require(kind)
        self.samples = [dataset[int(i)] for i in indices]
        self.photos = [as_photo(image, dataset.preprocess) for image, _ in self.samples]

    def __call__(self, epoch: int, model: nn.Module, row: dict) -> None:
        if self.run is None:
            self.run = _begin(self.kind, self.folder, self.settings, epoch)
        values = {name: value for name, value in row.items() if name != "epoch"}
        shown = self._pictures(model)
        if self.kind == "wandb":
            import wandb

            pictures = {f"sample_{i:02d}": wandb.Image(p) for i, p in enumerate(shown)}
            self.run.log(values | pictures, step=epoch)
            return
        for name, value in values.items():
            group = name.partition("_")[0] if name.startswith(("train_", "val_")) else "training"
            self.run.add_scalar(f"{group}/{name.removeprefix(f'{group}_')}", value, epoch)
        for i, picture in enumerate(shown):
            self.run.add_image(f"sample_{i:02d}", picture, epoch, dataformats="HWC")
        self.run.flush()  # a kill costs nothing that was recorded

    def close(self, best: dict) -> None:
        """Enter the scores of the best epoch (the history's row, or {}), and end the record."""
        if self.run is None:
            return
        scores = {name: best[name] for name in BEST if name in best}
        if self.kind == "wandb":
            self.run.summary.update({f"best_{name}": value for name, value in scores.items()})
            self.run.finish()
            return
        for name, value in scores.items():
            self.run.add_scalar(f"best/{name}", value, best["epoch"])
        self.run.close()

    def _pictures(self, model: nn.Module) -> list[np.ndarray]:
        """[ photo | truth | prediction ] of every sample, uint8 (H, 3·W, 3)."""
        found = []
        for (image, mask), photo in zip(self.samples, self.photos, strict=True):
            soft = probabilities(model, image[None], next(model.parameters()).device)[0]
            parts = [photo, overlay(photo, mask[0].numpy()), overlay(photo, soft)]
            found.append(np.concatenate(parts, axis=1))
        return found


def _require(kind: str) -> None:
    try:
        package = importlib.import_module(kind)
    except ImportError as error:
        raise ImportError(
            f'tracking={kind!r} needs the package {kind}: pip install "unetlib[{kind}]", or '
            "tracking='none'"
        ) from error
    if kind == "wandb" and os.environ.get("WANDB_MODE", "online") == "online":
        try:
            package.login()  # now, not after the first epoch
        except package.Error as error:
            raise RuntimeError(
                f"tracking='wandb': {error} Or set WANDB_MODE=offline, which needs no account."
            ) from error


def _begin(kind: str, folder: Path, settings: dict, epoch: int):
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "wandb":
        import wandb

        return wandb.init(project="unetlib", dir=str(folder), config=settings)
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    if epoch == 1:  # another training's curves would be drawn into ours
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
    # of a training that goes on, what came after the state that it goes on from is not shown
    writer = SummaryWriter(str(folder), purge_step=epoch)
    experiment, start, _ = hparams(settings, {f"best/{name}": 0 for name in BEST})
    for summary in (experiment, start):
        writer.file_writer.add_summary(summary)
    return writer
