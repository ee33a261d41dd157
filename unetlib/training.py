"""fit(): the training loop. It is handed a model and loaders, and leaves checkpoints behind."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from unetlib.checkpoint import load_checkpoint, load_weights
from unetlib.config import TrainConfig
from unetlib.data.preprocess import Preprocess
from unetlib.distributed import Processes
from unetlib.engine import Engine, Progress
from unetlib.keeper import Keeper, State, identity
from unetlib.losses import build_loss
from unetlib.trouble import TrainingError

__all__ = ["FitResult", "TrainConfig", "TrainingError", "TrainingWarning", "fit"]

OnEpoch = Callable[[int, nn.Module, dict], None]
EMPTY_EPOCHS = 3  # epochs without a foreground pixel predicted before we say so


class TrainingWarning(UserWarning):
    """Training goes on, but something about it deserves a look."""


@dataclass(frozen=True)
class FitResult:
    """What a training left behind.

    Attributes:
        history: a dict per finished epoch: epoch, lr, train_loss and its terms, val_loss and its
            terms, val_iou, val_dice, val_accuracy (means over images), val_pooled_iou,
            val_foreground (share predicted). The same on every run with the same seed.
        timings: a dict per finished epoch: seconds, images_per_second, data_wait (share of the
            time spent waiting for data). These are never the same.
        best_epoch: the epoch with the highest val IoU, or lowest training loss without a val set.
        best_path, last_path: checkpoints of that epoch and of the last one (None without out_dir).
        stopped: "finished", "early stop" or "interrupted".
    """

    history: list[dict]
    timings: list[dict]
    best_epoch: int
    best_path: Path | None
    last_path: Path | None
    stopped: str

    @property
    def best(self) -> dict:
        """The history's row of the best epoch, {} before the first."""
        return next((row for row in self.history if row["epoch"] == self.best_epoch), {})

    @classmethod
    def load(cls, folder: str | Path) -> FitResult:
        """The result of the training that left its checkpoints in `folder`.

        Raises CheckpointError where there is none.
        """
        last, best = Path(folder) / "last_model.pth", Path(folder) / "best_model.pth"
        content = load_checkpoint(last)
        fitted = content.extra["fit"]
        paths = best if best.is_file() else None, last
        return cls(content.history, fitted["timings"], fitted["best_epoch"], *paths,
                   fitted["stopped"])  # fmt: skip


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
    resume: bool | str = False,
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
        resume: True goes on with the training in out_dir that was cut off, and refuses one with
            other settings; "auto" goes on where the settings agree and starts anew otherwise;
            False starts anew. On a CPU the end is then bit for bit that of an undisturbed run.
        on_epoch: called as f(epoch, model, row) after each epoch (timelapse frames, ...), in the
            first process only; row is the history's together with the timing's.
        device: "auto", "cpu", "cuda" or "mps".
        preprocess: what the checkpoint says about inputs; by default the training set's own.
        extra: further plain values for the checkpoint.
        progress: False silences the bar.

    Started by `accelerate launch`, `torchrun` or Accelerate's `notebook_launcher`, the processes
    train together, each on its share of every batch; batch_size is that of one process.

    Ctrl-C ends the training, not the program: what there is was saved and is returned.

    Raises:
        TrainingError: a loss that is no number, memory that does not suffice, an empty loader.
        CheckpointError: `init_from` does not fit, a checkpoint cannot be written, or `resume` found
            another training.
    """
    config = config or TrainConfig()
    loss = loss or build_loss("bce_dice")
    preprocess = preprocess or getattr(getattr(train_loader, "dataset", None), "preprocess", None)
    if out_dir is not None and preprocess is None:
        raise ValueError("a checkpoint needs preprocess=..., since the loader's dataset has none")
    processes = Processes(device)
    steps = processes.steps(train_loader)
    if steps == 0:
        raise TrainingError(
            "there is nothing to train on: the training loader yields no batch"
            + (f" for each of {processes.world} processes" if processes.world > 1 else "")
            + ". Take more photos or a smaller batch_size"
        )
    if init_from:
        load_weights(model, load_checkpoint(init_from).model.state_dict(), init_from)
    seed_everything(config.seed)
    whole = identity(model, config, loss, train_loader, processes.world)
    engine = Engine(model, config, loss, processes, steps)
    keeper = Keeper(out_dir if processes.is_main else None, engine, preprocess, extra, whole)
    state, resume = State(), {"yes": True, "no": False}.get(resume, resume)
    if resume and out_dir is not None:
        state, why_not = keeper.find(Path(out_dir), strict=resume is True)
        if why_not:
            warnings.warn(f"{why_not}. Starting anew.", TrainingWarning, stacklevel=2)
    bar = tqdm(
        total=config.epochs * steps,
        initial=(state.at.epoch - 1) * steps + state.at.batches,
        disable=not (progress and processes.is_main),
        # in a notebook's or a log's stream every refresh is kept: fewer
        mininterval=0.2 if sys.stderr.isatty() else 3,
        unit="batch",
    )
    with bar:
        try:
            while not (stopped := _ended(config, state)):
                epoch = state.at.epoch
                row, timing = engine.train_epoch(state, train_loader, bar, keeper.after_step)
                if val_loader is not None:
                    row |= engine.validate(val_loader)
                engine.schedule.epoch_end(row.get("val_iou", -row["train_loss"]))
                keeper.keep(state, row, timing)
                for callback in on_epoch if processes.is_main else ():
                    callback(epoch, engine.eval_model, row | timing)
                state.empty_epochs = state.empty_epochs + 1 if _is_all_background(row) else 0
                if state.empty_epochs == EMPTY_EPOCHS:
                    warnings.warn(_all_background(row), TrainingWarning, stacklevel=2)
                state.at = Progress(epoch + 1)
                keeper.save_state(state)
        except KeyboardInterrupt:
            stopped = "interrupted"
    paths = keeper.close(state, stopped)
    processes.unwrap(model)
    if engine.ema is not None:
        model.load_state_dict(engine.ema.model.state_dict())
    processes.leave()
    model.eval()
    return FitResult(state.history, state.timings, state.best_epoch, *paths, stopped)


def _ended(config: TrainConfig, state: State) -> str:
    """Why there is no further epoch; "" where there is."""
    if config.early_stop and state.at.epoch - 1 - state.best_epoch >= config.early_stop:
        return "early stop"
    return "finished" if state.at.epoch > config.epochs else ""


def _is_all_background(row: dict) -> bool:
    return row.get("val_foreground") == 0 and row["val_foreground_true"] > 0


def _all_background(row: dict) -> str:
    return (
        f"for {EMPTY_EPOCHS} epochs the model has called every pixel of the validation set "
        f"background, while {row['val_foreground_true']:.1%} of them are foreground. If it does "
        "not recover: use loss='bce_dice' or 'dice', a smaller lr, or check that the masks are not "
        "inverted or empty."
    )
