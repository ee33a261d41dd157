"""What a training leaves on disk: its best and last checkpoint, and the state to go on from."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import nn

from unetlib.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    read_file,
    save_checkpoint,
    write_file,
)
from unetlib.config import TrainConfig
from unetlib.engine import Engine, Progress

STATE_FILE = "training_state.pth"
FORMAT = "unetlib-training-state"
SAVE_SECONDS = 600  # how much work within an epoch a kill may cost


@dataclass
class State:
    """How far a training is, beside the weights and the optimiser's state.

    Attributes:
        at: the epoch it stands in, and where.
        history, timings: a dict per finished epoch, see `FitResult`.
        best_epoch, best_score: of the best checkpoint so far.
        empty_epochs: epochs in a row without any foreground predicted.
        difficulty: of each photo, with sampling "hard": what the sampler drew this epoch by.
    """

    at: Progress = field(default_factory=lambda: Progress(1))
    history: list[dict] = field(default_factory=list)
    timings: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = float("-inf")
    empty_epochs: int = 0
    difficulty: list[float] | None = None


def identity(model: nn.Module, config: TrainConfig, loss: nn.Module, loader, world: int) -> dict:
    """What makes a training this one and no other: plain values by name.

    Two trainings with the same identity on the same machine do the same, step by step.
    """
    dataset = getattr(loader, "dataset", None)
    names = "\n".join(str(pair.id) for pair in getattr(dataset, "pairs", ()))
    digest = hashlib.sha256(names.encode(errors="surrogatepass")).hexdigest()[:12]
    spec = getattr(model, "spec", {"name": type(model).__name__})
    return {
        "model": str(spec),
        "number of photos": len(dataset) if hasattr(dataset, "__len__") else 0,
        "names of the photos": digest,
        "preprocessing": str(getattr(dataset, "preprocess", "")),
        "augmentation": str(getattr(dataset, "augment", "")),
        "seed of the data": str(getattr(dataset, "seed", "")),
        "batch size": getattr(loader, "batch_size", 0),
        **_sampling(getattr(loader, "sampler", None)),
        "processes": world,
        "loss": str(loss),
        **asdict(config),
    }


def _sampling(sampler) -> dict:
    """Nothing where all photos come equally often, as in states from before there was a choice."""
    weights, hard = getattr(sampler, "weights", None), getattr(sampler, "hard", False)
    if weights is None or not (hard or (weights != weights[0]).any()):
        return {}
    digest = hashlib.sha256((weights / weights.max()).tobytes()).hexdigest()[:12]
    return {"sampling": f"hard, weights {digest}" if hard else f"weights {digest}"}


class Keeper:
    """Writes best_model.pth, last_model.pth and the state into `folder` (None: keeps nothing)."""

    def __init__(self, folder, engine: Engine, preprocess, extra: dict | None, identity: dict):
        self.folder = None if folder is None else Path(folder)
        self.engine, self.preprocess, self.extra = engine, preprocess, extra or {}
        self.identity = identity
        self.saved_at = time.monotonic()
        self.ended = False  # before it began, and there is nothing to write

    def find(self, folder: Path, strict: bool) -> tuple[State, str]:
        """The state that the training in `folder` was cut off in, or a new one and why.

        The engine is put where it was. With `strict`, a training that had ended is taken up too
        (at its end), and another training or a damaged file is a CheckpointError.
        """
        try:
            if (folder / STATE_FILE).is_file():
                return self._load(folder / STATE_FILE), ""
            if strict and (folder / "last_model.pth").is_file():
                return self._load_ended(folder / "last_model.pth"), ""
        except CheckpointError as error:
            if strict:
                raise
            return State(), str(error)
        return State(), ""

    def _load(self, path: Path) -> State:
        content = read_file(path)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise CheckpointError(f"{path} is not the state of a training")
        self._compare(content["identity"], path)
        self.engine.load_state_dict(content["engine"])
        state = State(**content["state"])
        state.at = Progress(**content["state"]["at"])
        for name, value in state.at.sums.items():
            state.at.sums[name] = value.to(self.engine.device)
        return state

    def _load_ended(self, path: Path) -> State:
        last = load_checkpoint(path)
        fitted = last.extra.get("fit", {})
        if fitted.get("stopped") not in ("finished", "early stop"):
            return State()
        self._compare(last.extra["identity"], path)
        self.engine.eval_model.load_state_dict(last.model.state_dict())
        best, self.ended = fitted["best_epoch"], True
        return State(Progress(last.epoch + 1), last.history, fitted["timings"], best)

    def _compare(self, theirs: dict, path: Path) -> None:
        ours = self.identity
        found = [
            f"{name}: {theirs.get(name, 'nothing')} there, {ours.get(name, 'nothing')} here"
            for name in {**ours, **theirs}
            if theirs.get(name) != ours.get(name)
        ]
        if found:
            more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
            raise CheckpointError(
                f"the training that {path} belongs to is another one ({'; '.join(found[:3])}{more})"
                "; take another folder, or start anew (resume=False, --no-resume)"
            )

    def after_step(self, state: State) -> None:
        """Saves within long epochs too. (With several processes, the sums of the losses so far are
        then the first one's; weights and scores are not touched by that.)"""
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save_state(state)

    def save_state(self, state: State) -> None:
        """Raises CheckpointError where it cannot be written; the last state is then untouched."""
        if self.folder is not None:
            content = {"format": FORMAT, "identity": self.identity, "state": asdict(state)}
            write_file(self.folder / STATE_FILE, content | {"engine": self.engine.state_dict()})
        self.saved_at = time.monotonic()

    def keep(self, state: State, row: dict, timing: dict) -> None:
        """Enters the finished epoch into the history and writes the checkpoints."""
        state.history.append(row)
        state.timings.append(timing)
        score = row.get("val_iou", -row["train_loss"])
        if score > state.best_score:
            state.best_score, state.best_epoch = score, row["epoch"]
            self._save("best_model.pth", state, "")
        self._save("last_model.pth", state, "")

    def close(self, state: State, stopped: str) -> tuple[Path | None, Path | None]:
        """Writes the last checkpoint for good; returns the paths of the best and the last."""
        if self.folder is None:
            return None, None
        if not self.ended:
            self._save("last_model.pth", state, stopped)
        if stopped != "interrupted":
            (self.folder / STATE_FILE).unlink(missing_ok=True)
        best = self.folder / "best_model.pth" if state.best_epoch else None
        return best, self.folder / "last_model.pth"

    def _save(self, name: str, state: State, stopped: str) -> None:
        if self.folder is None:
            return
        fitted = {"timings": state.timings, "best_epoch": state.best_epoch, "stopped": stopped}
        extra = {**self.extra, "identity": self.identity, "fit": fitted}
        epoch, metrics = len(state.history), dict(state.history[-1]) if state.history else {}
        save_checkpoint(
            self.folder / name,
            Checkpoint(
                self.engine.eval_model,
                self.preprocess,
                epoch,
                metrics,
                list(state.history),
                extra | {"config": asdict(self.engine.config)},
            ),
        )
