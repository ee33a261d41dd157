"""The command `unetlib train`: a whole training from its settings, as 03_train shows it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import click

from unetlib.app import Command
from unetlib.config import CACHES, PRESETS, SAMPLINGS, TrainConfig, setting
from unetlib.errors import hint
from unetlib.paths import find_input, resolve, whole, write_whole

# what the earlier systems called them
OLD = {"source_root": "data_root", "image_size": "img_size", "init_from": "pretrained_checkpoint"}
RESUME, TRACKERS = ("auto", "yes", "no"), ("tensorboard", "wandb", "none")


@dataclass(frozen=True)
class TrainOptions(TrainConfig):
    """A whole training by names: the options of `unetlib train` and keys of its YAML file.

    Raises ValueError for a value that makes no sense, naming it.
    """

    source: str = setting("synthetic", "which photos: synthetic, folder, 'coco + folder:a', ...")
    source_root: str = setting("", "folder with the photos; alone it means the source folder")
    data_dir: str = setting("data", "where the synthetic photos are drawn into")
    outputs_dir: str = setting("outputs", "where checkpoints, timelapse and curves go")
    count: int = setting(800, "how many synthetic photos, train and val together", low=2)
    val_fraction: float = setting(0.2, "share held out for judging; 0: none", low=0, below=1)
    exclude: str = setting("", "ids of photos to leave out, with spaces between them")
    image_size: int = setting(96, "height and width that all photos are resized to", low=1)
    batch_size: int = setting(8, "photos in a batch (of each process)", low=1)
    augment: str = setting("light", "how much training photos are varied", PRESETS)
    sampling: str = setting("uniform", "which photos come more often than others", SAMPLINGS)
    cache: str = setting("auto", "where decoded photos are kept", CACHES)
    workers: int = setting(-1, "processes that load photos; -1: as many as pay", low=-1)
    model: str = setting("unet_small", "which network; an unknown name lists all")
    base: int = setting(0, "for U-Nets: channels of the first level; 0: the model's own", low=0)
    depth: int = setting(0, "for U-Nets: how often a photo is halved; 0: the model's own", low=0)
    pretrained: bool = setting(False, "for backbones: begin with ImageNet weights (a download)")
    loss: str = setting("bce_dice", "a loss or a weighted sum of some, e.g. bce + 0.5*dice")
    init_from: str = setting("", "network to fine-tune: people, best or a checkpoint")
    resume: str = setting("auto", "go on with what was cut off; --no-resume: anew", RESUME)
    device: str = setting("auto", "what computes: auto, cpu, cuda, cuda:1 or mps")
    processes: int = setting(1, "train with so many processes, e.g. one for each GPU", low=1)
    timelapse: bool = setting(True, "after every epoch, keep pictures of some val predictions")
    tracking: str = setting("tensorboard", "who records the curves", TRACKERS)


def read_options(values: dict, origin: str = "the options") -> dict[str, Any]:
    """Settings by name for `TrainOptions(**...)`.

    Understood are the earlier systems' names, `-` for `_`, and numbers that are texts (1e-3 is one
    in YAML). Raises ValueError for a name that is no setting, or one given twice or without value.
    """
    kinds, found = {f.name: type(f.default) for f in fields(TrainOptions)}, {}
    aliases = {old: name for name, old in OLD.items()}
    for given, value in values.items():
        name = str(given).replace("-", "_")
        name = aliases.get(name, name)
        if name not in kinds:
            near = hint(name, [*kinds, *aliases])
            raise ValueError(f"{origin}: no setting {given!r}.{near} There are {', '.join(kinds)}")
        if name in found:
            raise ValueError(f"{origin}: {name} is given twice, once as {given}")
        if value is None or not str(value).strip():
            raise ValueError(f"{origin}: {given} is empty (a variable that is not set?)")
        if name == "resume" and isinstance(value, bool):  # YAML's yes and no are truth values
            value = "yes" if value else "no"
        if kinds[name] in (int, float) and isinstance(value, str):
            with suppress(ValueError):  # TrainOptions says what it should be
                value = kinds[name](value)
        found[name] = value
    return found


def _options(command):
    """Adds an option for each setting to a click command. One that is not given is None."""
    how = {f.name for f in fields(TrainConfig)}  # listed behind what and where
    for f in sorted(reversed(fields(TrainOptions)), key=lambda f: f.name not in how):
        names = [f.name, OLD[f.name]] if f.name in OLD else [f.name]
        names = [f"--{name.replace('_', '-')}" for name in names]
        kind, choices = type(f.default), f.metadata["choices"]
        if kind is bool or f.name == "resume":
            kind, choices, names = bool, None, [f"{names[0]}/--no-{names[0][2:]}"]
        facts = [", ".join(choices)] if choices else []
        facts += [f"default {f.default}"] if f.default != "" else []
        text = f.metadata["help"] + (f" [{'; '.join(facts)}]" if facts else "")
        command = click.option(*names, f.name, type=kind, default=None, help=text)(command)
    return command


@click.command(cls=Command, short_help="Train one network on synthetic photos or your own.")
@click.option("--config", metavar="FILE", help="YAML file with any of these settings.")
@_options
def train(config, **given) -> None:
    """Train one network, as notebook 03 does, into OUTPUTS_DIR/checkpoints.

    \b
    unetlib train                       A first try, on synthetic photos.
    unetlib train --data-root photos    Your own: photos/images, photos/masks.

    Every option is also a key of the YAML file; options win over it. A training that was cut off
    goes on when the same command is given again. OUTPUTS_DIR/train.yaml keeps the settings.
    """
    import yaml

    settings = {}
    if config is not None:
        file = find_input(config)
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is no YAML file: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{file} should hold lines like `epochs: 20`, not {content!r:.60}")
        settings = read_options(content, str(file))
    settings |= read_options({k: value for k, value in given.items() if value is not None})
    if "source_root" in settings and settings.get("source", "synthetic") == "synthetic":
        settings["source"] = "folder"  # synthetic photos have no such folder
    result = run_training(TrainOptions(**settings), click.echo)
    sys.exit(130 if result.stopped == "interrupted" else 0)


def run_training(options: TrainOptions, echo: Callable[[str], None] = print):
    """Train, and leave checkpoints/, timelapse/, tensorboard/ and train.yaml in outputs_dir.

    With `processes` above 1 it starts so many; under a launcher it is one of those started.
    Returns the FitResult. Raises what `build_model`, `open_settings` and `fit` raise.
    """
    import numpy as np
    import yaml
    from accelerate import PartialState

    from unetlib import pretrained, training
    from unetlib.data.dataset import make_loaders
    from unetlib.data.sources import absolute_spec, open_settings
    from unetlib.device import choose_device, describe_device
    from unetlib.losses import build_loss
    from unetlib.models import build_model, count_parameters
    from unetlib.timelapse import Timelapse

    o, out = options, resolve(options.outputs_dir)
    checkpoints = out / "checkpoints"
    # what can be wrong comes before the photos, which take time
    loss = build_loss(o.loss)
    init_from = o.init_from and str(pretrained.find(o.init_from, weights=True))
    training.seed_everything(o.seed)
    arguments = {"base": o.base, "depth": o.depth, "pretrained": o.pretrained}
    model = build_model(o.model, **{name: value for name, value in arguments.items() if value})
    checkpoints.mkdir(parents=True, exist_ok=True)
    if o.processes > 1 and "WORLD_SIZE" not in os.environ:
        training.launch(run_training, (o,), o.processes)
        return training.FitResult.load(checkpoints)
    device = choose_device(o.device)
    state = PartialState(cpu=device.type == "cpu")
    where = (o.source, o.source_root, o.data_dir, o.count, o.image_size, o.seed)
    with state.main_process_first():  # who draws or downloads; the others find it done
        source = open_settings(*where, o.val_fraction, o.exclude)
    how = (o.image_size, o.batch_size, o.augment, o.seed, o.workers, o.cache, o.sampling)
    loaders = make_loaders(source, *how)
    if state.is_main_process:
        echo(f"{source.describe()}\n{o.model}: {count_parameters(model):,} parameters")
        echo(f"on {state.num_processes} × {describe_device(state.device)}, into {out}")

    def keep_records(epoch: int, *_) -> None:
        # before the first epoch an earlier training's checkpoints are copied under their date
        for path in list(checkpoints.glob("????_model.pth")) if epoch == 0 else ():
            date = datetime.fromtimestamp(path.stat().st_mtime)
            with whole(path.with_name(f"{path.stem}-{date:%Y%m%d-%H%M%S}.pth")) as copy:
                shutil.copy2(path, copy)
        root = o.source_root and str(find_input(o.source_root))
        places = {"source": absolute_spec(o.source), "source_root": root}  # from any folder
        settings = asdict(o) | {"init_from": init_from} | places
        text = yaml.safe_dump({k: v for k, v in settings.items() if v != ""}, sort_keys=False)
        if epoch > 0:
            write_whole(out / "train.yaml", text.encode())

    callbacks: list = [keep_records]
    if o.timelapse and loaders[1]:
        val, rng = loaders[1].dataset, np.random.default_rng(o.seed)
        followed = sorted(rng.choice(len(val), min(4, len(val)), replace=False).tolist())
        callbacks.append(Timelapse(val, followed, out / "timelapse"))
    result = training.fit(
        model,
        *loaders,
        TrainConfig(**{f.name: getattr(o, f.name) for f in fields(TrainConfig)}),
        loss=loss,
        out_dir=checkpoints,
        init_from=init_from or None,
        resume=o.resume,
        on_epoch=callbacks,
        device=o.device,
        extra=asdict(o),
        tracking=o.tracking,
    )
    if result.best_path:
        scores = f"val IoU {result.best['val_iou']:.3f}" if "val_iou" in result.best else "trained"
        echo(f"{scores} in epoch {result.best['epoch']}: {result.best_path} ({result.stopped})")
    return result
