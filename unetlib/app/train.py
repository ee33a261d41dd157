"""A whole training from its settings: `unetlib train`, which 03_train shows step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import yaml
from torch import nn

from unetlib.app.runs import keep_own, runs_dir
from unetlib.config import TrainOptions
from unetlib.data import make_loaders, open_source
from unetlib.data.pairs import Source
from unetlib.device import describe_device
from unetlib.distributed import Processes, launch, world_size
from unetlib.keeper import STATE_FILE
from unetlib.losses import build_loss
from unetlib.models import build_model, count_parameters
from unetlib.paths import find_input, resolve, write_whole
from unetlib.timelapse import Timelapse
from unetlib.tracking import Tracker
from unetlib.training import FitResult, fit, seed_everything

FOLLOWED = 4  # val photos in the timelapse and among the tracked pictures


def train(options: TrainOptions, echo: Callable[[str], None] = print) -> FitResult:
    """Train, and leave checkpoints/, timelapse/, tensorboard/ and train.yaml in outputs_dir.

    With `processes` above 1 it starts so many on this machine; under a launcher (`accelerate
    launch`, `torchrun`) it is one of those that were started. Raises what `check`, `open_source`
    and `fit` raise; best_model.pth is then still that of the earlier training.
    """
    out = check(options)
    if options.processes > 1 and world_size() == 1:
        return _launch(options)
    processes = Processes(options.device)
    echo = echo if processes.is_main else _silent
    seed_everything(options.seed)
    model = build_model(options.model, **options.model_args)
    if options.init_from:
        path = find_input(options.init_from)
        load_weights(model, load_checkpoint(path).model.state_dict(), path)
    with processes.main_first():  # who draws or decodes; the others find it done
        source = open_options(options)
        loaders = make_loaders(
            source, options.image_size, options.batch_size, options.augment, options.seed,
            options.workers, cache=options.cache,
        )  # fmt: skip
    loss = build_loss(options.loss)
    echo(source.describe())
    echo(f"{options.model}: {count_parameters(model):,} parameters")
    several = f", {processes.world} processes" if processes.world > 1 else ""
    echo(f"on {describe_device(processes.device)}{several}, into {out}")
    callbacks = []
    if processes.is_main:
        callbacks = _callbacks(options, out, model, loaders[1])
        whole = identity(model, options.train_config, loss, loaders[0], processes.world)
        if options.resume == "no" or not _goes_on(out / "checkpoints", whole):
            _keep_earlier(out / "checkpoints")
    result = fit(
        model,
        *loaders,
        options.train_config,
        loss=loss,
        out_dir=out / "checkpoints",
        resume=options.resume,
        on_epoch=callbacks,
        device=options.device,
        extra={"source": options.source, "image_size": options.image_size},
    )
    for callback in callbacks:
        if isinstance(callback, Tracker):
            callback.close(result.best if result.stopped != "interrupted" else {})
    if result.history:
        scores = f"val IoU {result.best['val_iou']:.3f}" if "val_iou" in result.best else "trained"
        echo(f"{scores} in epoch {result.best_epoch}: {result.best_path} ({result.stopped})")
    return result


def check(options: TrainOptions) -> Path:
    """Tries what can be known to fail before any photo is drawn or read; makes and returns the
    folder of the results.

    Raises:
        ValueError: no such model or loss, arguments or batches that the model does not take.
        OSError: files that are not there, or results that cannot be written.
    """
    build_loss(options.loss)
    size, batch = options.image_size, options.batch_size
    with torch.device("meta"):  # shapes only, no numbers: a moment for any size
        model = build_model(options.model, **options.model_args | {"pretrained": False})


def open_options(options: TrainOptions) -> Source:
    """The dataset that the settings name."""
    if options.source == "synthetic":
        drawing = {"count": options.count, "size": options.image_size}
        return open_source("synthetic", resolve(options.data_dir), seed=options.seed, **drawing)
    root = find_input(options.source_root) if options.source_root else None
    return open_source(options.source, root, seed=options.seed)


def followed(n_val: int, seed: int) -> list[int]:
    """The val photos that timelapse and tracking show, the same for the same seed."""
    chosen = np.random.default_rng(seed).choice(n_val, min(FOLLOWED, n_val), replace=False)
    return sorted(chosen.tolist())


def _callbacks(options: TrainOptions, out: Path, model: nn.Module, val_loader) -> list:
    if val_loader is None:
        return []
    dataset = val_loader.dataset
    indices = followed(len(dataset), options.seed)
    callbacks: list = []
    if options.timelapse:
        callbacks.append(Timelapse(dataset, indices, out / "timelapse"))
        callbacks[0](0, model)  # before it has learned anything
    if options.tracking != "none":
        folder = out / options.tracking
        callbacks.append(Tracker(options.tracking, folder, asdict(options), dataset, indices))
    return callbacks


def _make_room(out: Path, options: TrainOptions) -> None:
    """Checkpoints of an earlier, ended training are kept under their date."""
    checkpoints = out / "checkpoints"
    if options.resume == "yes" or (checkpoints / STATE_FILE).exists():
        return
    for name in ("best_model.pth", "last_model.pth"):
        keep_own(checkpoints / name, runs_dir())


def _silent(_text: str) -> None:
    """Only the first process talks."""
