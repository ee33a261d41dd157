"""fit(): the training loop. It is handed a model and loaders, and leaves checkpoints behind."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from unetlib import optim
from unetlib.checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from unetlib.data.images import Preprocess
from unetlib.device import choose_device
from unetlib.engine import Engine, TrainingError
from unetlib.losses import BCEDiceLoss

OnEpoch = Callable[[int, nn.Module, dict], None]
EMPTY_EPOCHS = 3  # epochs without a foreground pixel predicted before we say so


class TrainingWarning(UserWarning):
    """Training goes on, but something about it deserves a look."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults suit the course's synthetic set on a laptop.

    Raises ValueError for a value that makes no sense, naming it.
    """

    epochs: int = 12  # passes over the training set
    lr: float = 2e-3  # highest learning rate
    optimizer: str = "adamw"  # adam, adamw
    weight_decay: float = 1e-4  # pull of the weights towards 0
    schedule: str = "plateau"  # plateau, onecycle, constant
    patience: int = 3  # plateau: epochs without a better val IoU before the rate is halved
    early_stop: int = 0  # stop after so many epochs without a better val IoU; 0: never
    clip: float = 1.0  # longest gradient (L2 norm) that a step may follow; 0: any
    ema: float = 0.0  # decay of the weights' moving average, e.g. 0.99; 0: none
    precision: str = "auto"  # auto, float32, bfloat16, float16
    seed: int = 0  # dropout and the like; the loaders have their own

    def __post_init__(self):
        positive = {"epochs": self.epochs, "lr": self.lr, "patience": self.patience}
        for name, value in positive.items():
            if not value > 0:
                raise ValueError(f"{name} is greater than 0, not {value}")
        for name in ("weight_decay", "early_stop", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is at least 0, not {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is a decay in [0, 1), not {self.ema}")
        choices = {
            "optimizer": optim.OPTIMIZERS,
            "schedule": optim.SCHEDULES,
            "precision": optim.PRECISIONS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is one of {', '.join(known)}, not {getattr(self, name)!r}"
                )


@dataclass
class FitResult:
    """What a training left behind.

    Attributes:
        history: a dict per finished epoch: epoch, lr, train_loss and its terms, val_loss and its
            terms, val_iou, val_dice, val_accuracy (means over images), val_pooled_iou,
            val_foreground (share predicted), seconds, images_per_second.
        best_epoch: the epoch with the highest val IoU, or lowest training loss without a val set.
        best_path, last_path: checkpoints of that epoch and of the last one (None without out_dir).
        stopped: "finished", "early stop" or "interrupted".
    """

    history: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    best_path: Path | None = None
    last_path: Path | None = None
    stopped: str = "finished"

    @property
    def best(self) -> dict:
        """The history's row of the best epoch, {} before the first."""
        return next((row for row in self.history if row["epoch"] == self.best_epoch), {})


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators (weight initialisation, dropout)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def fit(
    model: nn.Module,
    train_loader: Iterable,
    val_loader: Iterable | None = None,
    config: TrainConfig | None = None,
    *,
    loss: nn.Module | None = None,
    out_dir: str | Path | None = None,
    init_from: str | Path | None = None,
    on_epoch: Iterable[OnEpoch] = (),
    device: str = "auto",
    preprocess: Preprocess | None = None,
    extra: dict | None = None,
    progress: bool = True,
) -> FitResult:
    """Train `model` and keep the best and the last weights.

    Args:
        model: from `build_model`; trained in place, on return it has the weights of the last
            epoch (their moving average where `config.ema` is on), in eval mode.
        train_loader, val_loader: yield (image (N, 3, H, W), mask (N, 1, H, W)); see `make_loaders`.
        config: a `TrainConfig`.
        loss: (logits, target) -> dict of terms with "loss"; BCE + Dice by default.
        out_dir: where best_model.pth and last_model.pth go; None keeps nothing.
        init_from: a checkpoint of the same model to start from (fine-tuning).
        on_epoch: called as f(epoch, model, row) after each epoch (timelapse frames, ...).
        device: "auto", "cpu", "cuda" or "mps".
        preprocess: what the checkpoint says about inputs; by default the training set's own.
        extra: further plain values for the checkpoint.
        progress: False silences the bar.

    Ctrl-C ends the training, not the program: what there is was saved and is returned.

    Raises:
        TrainingError: a loss that is no number, memory that does not suffice, an empty loader.
        CheckpointError: `init_from` does not fit, or a checkpoint cannot be written.
    """
    config = config or TrainConfig()
    loss = loss or BCEDiceLoss()
    preprocess = preprocess or getattr(getattr(train_loader, "dataset", None), "preprocess", None)
    if out_dir is not None and preprocess is None:
        raise ValueError("a checkpoint needs preprocess=..., since the loader's dataset has none")
    if len(train_loader) == 0:
        raise TrainingError("there is nothing to train on: the training loader yields no batch")
    if init_from:
        load_weights(model, load_checkpoint(init_from).model.state_dict(), init_from)
    seed_everything(config.seed)
    engine = Engine(model, config, loss, choose_device(device), len(train_loader))
    keeper = _Keeper(out_dir, preprocess, {**(extra or {}), "config": asdict(config)})
    result = keeper.result
    total = config.epochs * len(train_loader)
    live = sys.stderr.isatty()  # in a notebook's or a log's stream every refresh is kept: fewer
    bar = tqdm(total=total, disable=not progress, mininterval=0.2 if live else 3, unit="batch")
    epochs_empty = 0
    with bar:
        try:
            for epoch in range(1, config.epochs + 1):
                row = {"epoch": epoch, **engine.train_epoch(epoch, train_loader, bar)}
                if val_loader is not None:
                    row |= engine.validate(val_loader)
                engine.schedule.epoch_end(row.get("val_iou", -row["train_loss"]))
                keeper.keep(engine.eval_model, row)
                engine.best = result.best.get("val_iou", -1.0)
                for callback in on_epoch:
                    callback(epoch, engine.eval_model, row)
                epochs_empty = epochs_empty + 1 if _is_all_background(row) else 0
                if epochs_empty == EMPTY_EPOCHS:
                    warnings.warn(_all_background(row), TrainingWarning, stacklevel=2)
                if config.early_stop and epoch - result.best_epoch >= config.early_stop:
                    result.stopped = "early stop"
                    break
        except KeyboardInterrupt:
            result.stopped = "interrupted"
            keeper.keep_last(engine.eval_model, len(result.history))
    if engine.ema is not None:
        model.load_state_dict(engine.ema.model.state_dict())
    model.eval()
    return result


class _Keeper:
    """Writes the best and the last checkpoint and keeps the history."""

    def __init__(self, out_dir: str | Path | None, preprocess: Preprocess | None, extra: dict):
        self.out_dir = None if out_dir is None else Path(out_dir)
        self.preprocess, self.extra = preprocess, extra
        self.result = FitResult()
        self.best_score = float("-inf")

    def keep(self, model: nn.Module, row: dict) -> None:
        self.result.history.append(row)
        score = row.get("val_iou", -row["train_loss"])
        if score > self.best_score:
            self.best_score, self.result.best_epoch = score, row["epoch"]
            self.result.best_path = self._save("best_model.pth", model, row["epoch"])
        self.keep_last(model, row["epoch"])

    def keep_last(self, model: nn.Module, epoch: int) -> None:
        self.result.last_path = self._save("last_model.pth", model, epoch)

    def _save(self, name: str, model: nn.Module, epoch: int) -> Path | None:
        if self.out_dir is None:
            return None
        metrics = self.result.history[-1] if self.result.history else {}
        content = Checkpoint(
            model, self.preprocess, epoch, dict(metrics), list(self.result.history), self.extra
        )
        return save_checkpoint(self.out_dir / name, content)


def _is_all_background(row: dict) -> bool:
    return row.get("val_foreground") == 0 and row["val_foreground_true"] > 0


def _all_background(row: dict) -> str:
    return (
        f"for {EMPTY_EPOCHS} epochs the model has called every pixel of the validation set "
        f"background, while {row['val_foreground_true']:.1%} of them are foreground. If it does "
        "not recover: use loss='bce_dice' or 'dice', a smaller lr, or check that the masks are not "
        "inverted or empty."
    )
