"""A whole training from its settings: `unetlib train`, which 03_train shows step by step."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from unetlib import pretrained
from unetlib.app.runs import keep_own, runs_dir
from unetlib.checkpoint import CheckpointError, load_checkpoint, load_weights, read_file
from unetlib.config import TrainOptions
from unetlib.data import make_loaders, open_settings
from unetlib.data.sources import absolute_spec
from unetlib.device import describe_device
from unetlib.distributed import Processes, launch, world_size
from unetlib.keeper import STATE_FILE, identity
from unetlib.losses import build_loss
from unetlib.models import build_model, count_parameters
from unetlib.optim import choose_precision
from unetlib.paths import find_input, resolve, whole, write_whole
from unetlib.timelapse import Timelapse
from unetlib.tracking import Tracker
from unetlib.training import FitResult, fit, seed_everything

FOLLOWED = 4  # val photos in the timelapse and among the tracked pictures


def train(options: TrainOptions, echo: Callable[[str], None] = print) -> FitResult:
    """Train, and leave checkpoints/, timelapse/, tensorboard/ and train.yaml in outputs_dir.

    With `processes` above 1 it starts so many on this machine; under a launcher (`accelerate
    launch`, `torchrun`) it is one of those that were started. Raises what `check`, `open_settings`
    and `fit` raise. best_model.pth stays the earlier training's until this one has a better.
    """
    out = check(options)
    if options.processes > 1 and world_size() == 1:
        launch(train, (options,), options.processes)
        return FitResult.load(out / "checkpoints")
    processes = Processes(options.device)
    choose_precision(options.precision, processes.device)  # refuses what the device cannot
    echo = echo if processes.is_main else _silent
    loss = build_loss(options.loss)
    seed_everything(options.seed)
    model = build_model(options.model, **options.model_args)
    if options.init_from:
        path = pretrained.find_checkpoint(options.init_from)
        load_weights(model, load_checkpoint(path).model.state_dict(), path)
    with processes.main_first():  # who draws or decodes; the others find it done
        source = open_settings(
            options.source, options.source_root, options.data_dir, options.count,
            options.image_size, options.seed, options.val_fraction, options.exclude,
        )  # fmt: skip
        loaders = make_loaders(
            source, options.image_size, options.batch_size, options.augment, options.seed,
            options.workers, cache=options.cache, cache_dir=options.cache_dir or None,
            sampling=options.sampling,
        )  # fmt: skip
    echo(source.describe())
    echo(f"{options.model}: {count_parameters(model):,} parameters")
    several = f", {processes.world} processes" if processes.world > 1 else ""
    echo(f"on {describe_device(processes.device)}{several}, into {out}")
    callbacks = []
    if processes.is_main:
        own = identity(model, options.train_config, loss, loaders[0], processes.world)
        goes_on = _goes_on(out / "checkpoints", options.resume, own)
        callbacks = _callbacks(options, out, model, loaders[1], goes_on)
        if not goes_on:
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
    """Tries what can fail before any photo is drawn or read. Makes and returns the results' folder.

    Raises:
        ValueError: an unknown model or loss; arguments, a size or a batch that the model cannot
            take.
        OSError: a checkpoint that is not there, or results that cannot be written.
    """
    build_loss(options.loss)
    if options.init_from:
        pretrained.find_checkpoint(options.init_from)
    size, batch = options.image_size, options.batch_size
    arguments = {k: False if k == "pretrained" else v for k, v in options.model_args.items()}
    with torch.device("meta"):  # shapes without numbers: quick and small for any of them
        model = build_model(options.model, **arguments).train()
        try:
            model(torch.empty(batch, 3, size, size))
        except ValueError as error:
            raise ValueError(
                f"{options.model} cannot train on image_size {size} and batch_size {batch}: {error}"
            ) from error
    out = resolve(options.outputs_dir)
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out / "checkpoints").close()
    except OSError as error:
        raise OSError(f"outputs_dir {out} cannot be written to: {error}") from error
    return out


def followed(n_val: int, seed: int) -> list[int]:
    """The val photos that timelapse and tracking show, the same for the same seed."""
    chosen = np.random.default_rng(seed).choice(n_val, min(FOLLOWED, n_val), replace=False)
    return sorted(chosen.tolist())


def _callbacks(options: TrainOptions, out: Path, model: nn.Module, val, goes_on: bool) -> list:
    """What happens after every epoch. A training that goes on has its first frames already."""
    settings = asdict(options)
    # whoever reads the file may be in another folder
    with suppress(FileNotFoundError):  # left over from another source
        settings["source_root"] = options.source_root and str(find_input(options.source_root))
    if options.init_from:
        settings["init_from"] = str(pretrained.find_checkpoint(options.init_from))
    settings["source"] = absolute_spec(options.source)
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode()
    callbacks: list = [lambda *_: write_whole(out / "train.yaml", text)]
    dataset = val and val.dataset
    indices = followed(len(dataset), options.seed) if val else []
    if options.tracking != "none":
        folder = out / options.tracking
        callbacks.append(Tracker(options.tracking, folder, settings, dataset, indices))
    if options.timelapse and indices:
        callbacks.append(Timelapse(dataset, indices, out / "timelapse"))
        if not goes_on:
            callbacks[-1](0, model)  # before it has learned anything
    return callbacks


def _goes_on(checkpoints: Path, resume: str, own: dict) -> bool:
    """Whether `fit` will go on with the training that was there, or refuse to (`resume` "yes")."""
    if resume != "auto":
        return resume == "yes" and (checkpoints / "last_model.pth").is_file()
    try:
        return read_file(checkpoints / STATE_FILE)["identity"] == own
    except (CheckpointError, KeyError, TypeError):  # there is none, or it is damaged
        return False


def _keep_earlier(checkpoints: Path) -> None:
    """Copies of an earlier training's checkpoints under their date. They themselves stay until an
    epoch of the new one is done."""
    for name in ("best_model.pth", "last_model.pth"):
        if (checkpoints / name).is_file():
            with whole(checkpoints / name) as copy:
                shutil.copy2(checkpoints / name, copy)
                keep_own(checkpoints / name, runs_dir())


def _silent(_text: str) -> None:
    """Only the first process talks."""
