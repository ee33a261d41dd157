"""The command `unetlib train`: a whole training from its settings, as 03_train shows it."""

import logging
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import click
from click import BOOL, STRING, Choice, FloatRange, IntRange

from unetlib.app import Command, read_settings
from unetlib.app.run import keep_earlier
from unetlib.config import AUGMENTS, SAMPLINGS, TrainConfig, setting
from unetlib.paths import find_input, resolve, write_atomic

# what the earlier systems called them
OLD = {"source_root": "data_root", "image_size": "img_size", "init_from": "pretrained_checkpoint"}
TRACKERS = Choice(("tensorboard", "wandb", "none"))


@dataclass(frozen=True)
class TrainOptions(TrainConfig):
    """A whole training by names: the options of `unetlib train` and keys of its YAML file.

    Raises ValueError for a value that makes no sense, naming it.
    """

    source: str = setting("synthetic", STRING, "photos: synthetic, folder, 'coco + folder:a', ...")
    source_root: str = setting("", STRING, "folder with the photos; alone: the source folder")
    data_dir: str = setting("data", STRING, "where the synthetic photos are drawn into")
    outputs_dir: str = setting("outputs", STRING, "where checkpoints, timelapse and curves go")
    count: int = setting(800, IntRange(2), "how many synthetic photos, train and val together")
    val_fraction: float = setting(0.2, FloatRange(0, 0.99), "share held out for judging; 0: none")
    exclude: str = setting("", STRING, "ids of photos to leave out, with spaces between them")
    image_size: int = setting(96, IntRange(1), "height and width that all photos are resized to")
    batch_size: int = setting(8, IntRange(1), "photos in a batch (of each process)")
    augment: str = setting("light", AUGMENTS, "how much training photos are varied")
    sampling: str = setting("uniform", SAMPLINGS, "which photos come more often than others")
    workers: int = setting(-1, IntRange(-1), "processes that load photos; -1: as many as pay")
    model: str = setting("unet_small", STRING, "which network; an unknown name lists all")
    base: int = setting(0, IntRange(0), "U-Nets: channels of the first level; 0: the model's own")
    depth: int = setting(0, IntRange(0), "U-Nets: how often a photo is halved; 0: the model's own")
    pretrained: bool = setting(False, BOOL, "backbones: begin with ImageNet weights (a download)")
    loss: str = setting("bce_dice", STRING, "a loss or a weighted sum, e.g. bce + 0.5*dice")
    init_from: str = setting("", STRING, "begin with people, best or a checkpoint (of this model)")
    resume: bool = setting(True, BOOL, "go on with the same training where it was cut off")
    device: str = setting("auto", STRING, "what computes: auto, cpu, cuda, cuda:1 or mps")
    processes: int = setting(1, IntRange(1), "train with so many processes (not on Windows)")
    timelapse: bool = setting(True, BOOL, "after every epoch, keep pictures of val predictions")
    tracking: str = setting("tensorboard", TRACKERS, "who records the curves")


def read_options(file: Path) -> dict[str, str]:
    """The settings in a YAML file; the earlier systems' names are understood. Raises ValueError,
    which names the file, for what is no YAML, no such setting, a bad value, or none."""
    names = {f.name: f.name for f in fields(TrainOptions)} | {old: new for new, old in OLD.items()}
    found = {names[name]: value for name, value in read_settings(file, names).items()}
    try:
        TrainOptions(**found)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return found


def open_photos(network: Path, source: str | None = None, **changes):
    """Opens the photos of `source`, or else of the training that made `network` (its file, or the
    .pth beside an ONNX file), with the training's split. `changes` replace settings, unless they
    are None; a seed makes another split. ValueError says how to name other photos."""
    from unetlib.data.sources import open_settings
    from unetlib.pretrained import is_exported

    settings = asdict(TrainOptions(source=source or "synthetic"))
    try:
        with suppress(*(ValueError, OSError, ImportError) * bool(source)):
            from unetlib.checkpoint import load_checkpoint  # needs PyTorch

            path = network.with_suffix(".pth") if is_exported(network) else network
            trained = load_checkpoint(path).extra
            split = ("seed", "val_fraction") if changes.get("seed") is None else ()
            settings |= {k: v for k, v in trained.items() if not source or (v and k in split)}
        if settings["source"] == "synthetic" and not settings["source_root"]:  # not drawn anew
            settings |= {"source": "folder", "source_root": str(resolve(settings["data_dir"]))}
        settings |= {name: value for name, value in changes.items() if value is not None}
        return open_settings(**settings)
    except (ValueError, OSError) as error:
        advice = "" if source else ". --source SPEC says which photos to take"
        raise ValueError(f"{error}{advice}") from error


def _options(command):
    """Adds an option for each setting to a click command. One that is not given is None."""
    for f in reversed(fields(TrainOptions)):
        kind, text = f.metadata["kind"], f.metadata["help"]
        names = [f"--{name}".replace("_", "-") for name in filter(None, (f.name, OLD.get(f.name)))]
        if kind is BOOL:
            names = [f"{names[0]}/--no-{names[0][2:]}"]
        text += f" [default {f.default}]" if f.default != "" else ""
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
    settings: dict = read_options(find_input(config)) if config else {}
    settings |= {name: value for name, value in given.items() if value is not None}
    if "source_root" in settings and settings.get("source", "synthetic") == "synthetic":
        settings["source"] = "folder"  # synthetic photos have no such folder
    result = run_training(TrainOptions(**settings))
    sys.exit(130 if result.stopped == "interrupted" else 0)


def launch(o: TrainOptions) -> None:
    """`run_training` in `o.processes` forked processes that train together, before any CUDA call.
    Raises RuntimeError when one of them fails, which ends the others."""
    from accelerate import PartialState
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    PartialState._reset_state()  # of an earlier training in this process
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # tracebacks
    options = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "start_method": "fork"}
    try:
        elastic_launch(LaunchConfig(1, 1, o.processes, **options, max_restarts=0), run_training)(o)
    except SignalException as error:
        raise KeyboardInterrupt from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        cause = failure.message
        cause = cause["message"] if isinstance(cause, dict) else cause
        raise RuntimeError(f"process {rank} failed, which ended the training: {cause}") from error


def run_training(o: TrainOptions):
    """Train, and leave checkpoints/, timelapse/, tensorboard/ and train.yaml in outputs_dir.

    With `processes` above 1 it starts so many; under a launcher it is one of those started.
    Returns the FitResult. Raises what `build_model`, `open_settings` and `fit` raise.
    """
    import yaml
    from accelerate import PartialState

    from unetlib import pretrained, training
    from unetlib.data.dataset import make_loaders
    from unetlib.data.sources import absolute_spec, balance, open_settings
    from unetlib.losses import build_loss
    from unetlib.models import build_model, choose_device, count_parameters, describe_device
    from unetlib.timelapse import Timelapse

    out = resolve(o.outputs_dir)
    checkpoints = out / "checkpoints"
    # what can be wrong comes before the photos, which take time
    loss = build_loss(o.loss)
    init_from = o.init_from and str(pretrained.find(o.init_from, weights=True))
    training.seed_everything(o.seed)
    chosen = {name: getattr(o, name) for name in ("base", "depth", "pretrained")}
    model = build_model(o.model, **{name: value for name, value in chosen.items() if value})
    if o.processes > 1 and "WORLD_SIZE" not in os.environ:
        launch(o)
        return training.FitResult.load(checkpoints)
    state = PartialState(cpu=choose_device(o.device).type == "cpu")
    with state.main_process_first():  # who draws or downloads; the others find it done
        source = open_settings(**asdict(o))
    source = replace(source, train=balance(source.train, o.sampling))
    loaders = make_loaders(source, o.image_size, o.batch_size, o.augment, o.seed, o.workers)
    if state.is_main_process:
        click.echo(f"{source.describe()}\n{o.model}: {count_parameters(model):,} parameters")
        click.echo(f"on {state.num_processes} × {describe_device(state.device)}, into {out}")
    root = o.source_root and str(find_input(o.source_root))
    o = replace(o, source=absolute_spec(o.source), source_root=root, init_from=init_from)

    def keep_records(epoch: int, *_) -> None:
        if epoch == 0:
            return keep_earlier(checkpoints)
        settings = {name: value for name, value in asdict(o).items() if value != ""}
        write_atomic(out / "train.yaml", yaml.safe_dump(settings, sort_keys=False).encode())

    callbacks: list = [keep_records]
    if o.timelapse and loaders[1]:
        val = loaders[1].dataset
        followed = range(len(val))[:: -(-len(val) // 4)]  # 4 at most, from the whole set
        callbacks.append(Timelapse(val, followed, out / "timelapse"))
    result = training.fit(
        model,
        *loaders,
        TrainConfig(**{f.name: getattr(o, f.name) for f in fields(TrainConfig)}),
        loss=loss,
        out_dir=checkpoints,
        init_from=init_from,
        resume=o.resume,
        on_epoch=callbacks,
        device=o.device,
        extra=asdict(o),
        tracking=o.tracking,
    )
    if best := result.best_path and result.best:
        score = f"val IoU {best['val_iou']:.3f}" if "val_iou" in best else "trained"
        click.echo(f"{score} in epoch {best['epoch']}: {result.best_path} ({result.stopped})")
    return result
