"""The settings of a training: one declaration of names, defaults, help and limits for all users.

`TrainConfig` is what `fit` takes. `TrainOptions` adds the data, the model and the folders: the
parameters of 03_train, the options of `unetlib train` and the keys of its YAML file are its fields.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("plateau", "step", "exponential", "cosine", "onecycle", "constant")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
AUGMENTATIONS = ("none", "light", "standard", "strong")
SAMPLINGS = ("uniform", "source", "tags", "foreground", "hard")
CACHES = ("auto", "memory", "disk", "none")
TRACKERS = ("tensorboard", "wandb", "none")
# what the earlier systems called them
ALIASES = {
    "data_root": "source_root",
    "img_size": "image_size",
    "pretrained_checkpoint": "init_from",
}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _setting(default, help: str, choices=None, low=None, above=None, below=None):
    limits = {"choices": choices, "low": low, "above": above, "below": below}
    return field(default=default, metadata={"help": help, **limits})


def hint(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for an unknown name that is close to a known one, else ""."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults suit the course's synthetic set on a laptop.

    Raises ValueError for a value that makes no sense, naming it.
    """

    epochs: int = _setting(12, "how often every training photo is seen", low=1)
    lr: float = _setting(
        2e-3, "learning rate, how far a step goes; the highest of the schedule", above=0
    )
    encoder_lr: float = _setting(
        1.0, "learning rate of the encoder as a share of lr, e.g. 0.3 for a pretrained one", above=0
    )
    optimizer: str = _setting("adamw", "rule that turns gradients into steps", OPTIMIZERS)
    weight_decay: float = _setting(
        1e-4, "pull of all weights to 0: decoupled in adamw, an L2 penalty in adam and sgd", low=0
    )
    momentum: float = _setting(0.9, "with sgd: share of the last step that is kept", low=0, below=1)
    schedule: str = _setting("plateau", "how the learning rate changes over time", SCHEDULES)
    warmup: float = _setting(
        -1.0, "share of the training in which the rate rises; -1: 0.1 for onecycle, else 0",
        low=-1, below=1,
    )  # fmt: skip
    patience: int = _setting(
        3, "with plateau: epochs without a better val IoU before the rate falls", low=1
    )
    step_epochs: int = _setting(10, "with step: epochs between two falls of the rate", low=1)
    gamma: float = _setting(
        0.5, "with plateau or step: what each fall multiplies the rate by", above=0, below=1
    )
    final_lr: float = _setting(
        0.01, "with exponential or cosine: the rate at the end as a share of lr", above=0, below=1
    )
    early_stop: int = _setting(
        0, "stop after so many epochs without a better val IoU; 0: never", low=0
    )
    clip: float = _setting(
        1.0, "longer gradients (L2 norm) are cut to this length; 0: none are", low=0
    )
    accumulate: int = _setting(1, "add up so many batches for each step of the optimizer", low=1)
    ema: float = _setting(
        0.0, "keep a moving average of the weights with this decay, e.g. 0.99; 0: no",
        low=0, below=1,
    )  # fmt: skip
    precision: str = _setting("auto", "number type that the network computes in", PRECISIONS)
    compile: bool = _setting(False, "faster steps on a GPU after a slow start (torch.compile)")
    recompute: bool = _setting(False, "take less memory, a third slower (gradient checkpointing)")
    seed: int = _setting(
        0, "number that all random choices follow from: weights, order, split", low=0, below=2**63
    )

    def __post_init__(self):
        for f in fields(self):
            _check(f, getattr(self, f.name))
        if self.compile and self.recompute:
            raise ValueError("compile and recompute do not go together: torch.compile refuses")

    def to_dict(self) -> dict:
        """Plain values by name, for a checkpoint or YAML."""
        return asdict(self)


def _redefined(name: str, default):
    return field(default=default, metadata=TrainConfig.__dataclass_fields__[name].metadata)


@dataclass(frozen=True)
class TrainOptions(TrainConfig):
    """A whole training by names: which photos, which network, how, and where results go.

    Raises ValueError for a value that makes no sense, naming it.
    """

    source: str = _setting(
        "synthetic",
        "which photos: synthetic, folder (your own), pennfudan, coco, ... or several, as in "
        "'2*folder:photos + coco:~/coco'; an unknown name lists all",
    )
    source_root: str = _setting("", "folder with the photos; alone it means the source folder")
    data_dir: str = _setting("data", "where the synthetic photos are drawn into")
    outputs_dir: str = _setting("outputs", "where checkpoints, timelapse and curves go")
    count: int = _setting(800, "how many synthetic photos, train and val together", low=2)
    val_fraction: float = _setting(
        0.2, "share of the photos that is held out for judging; 0: none", low=0, below=1
    )
    exclude: str = _setting("", "ids of photos to leave out, with spaces between them")
    image_size: int = _setting(96, "height and width that all photos are resized to", low=1)
    batch_size: int = _setting(8, "photos in a batch (of each process)", low=1)
    augment: str = _setting("light", "how much training photos are varied", AUGMENTATIONS)
    sampling: str = _setting(
        "uniform", "which photos come more often: rare ones, or those it gets wrong", SAMPLINGS
    )
    cache: str = _setting("auto", "where decoded photos are kept", CACHES)
    cache_dir: str = _setting("", "folder for them, instead of the user's cache folder")
    workers: int = _setting(-1, "processes that load photos; -1: as many as pay", low=-1)
    model: str = _setting(
        "unet_small", "which network: unet_small, unet, u2netp, ...; an unknown name lists all"
    )
    base: int = _setting(0, "for U-Nets: channels of the first level; 0: the model's own", low=0)
    depth: int = _setting(0, "for U-Nets: how often a photo is halved; 0: the model's own", low=0)
    pretrained: bool = _setting(False, "for backbones: begin with ImageNet weights (a download)")
    loss: str = _setting("bce_dice", "a loss or a weighted sum of some, e.g. bce + 0.5*dice")
    init_from: str = _setting(
        "", "network whose weights to begin with (fine-tuning): people, best or a checkpoint"
    )
    resume: str = _setting(
        "auto",
        "go on with the training in outputs_dir (yes), begin anew (no), or go on if it was cut "
        "off and had the same settings (auto)",
        ("auto", "yes", "no"),
    )
    device: str = _setting("auto", "what computes: auto, cpu, cuda, cuda:1 or mps")
    processes: int = _setting(1, "train with so many processes, e.g. one for each GPU", low=1)
    timelapse: bool = _setting(True, "after every epoch, keep pictures of some val predictions")
    tracking: str = _setting("tensorboard", "who records the curves", TRACKERS)

    epochs: int = _redefined("epochs", 6)
    lr: float = _redefined("lr", 4e-3)
    schedule: str = _redefined("schedule", "onecycle")
    weight_decay: float = _redefined("weight_decay", 1e-2)

    @property
    def train_config(self) -> TrainConfig:
        """The part that `fit` takes."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)})

    @property
    def model_args(self) -> dict:
        """The arguments for `build_model`: those that were set."""
        names = ("base", "depth", "pretrained")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


def read_options(
    values: dict[str, Any], origin: str = "the options", base: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Settings by name, checked names and types, for `TrainOptions(**...)`.

    Understood are the earlier systems' names, `-` for `_`, and numbers that are texts (1e-3 is one
    in YAML). They win over the settings in `base`. A folder of photos without a source means the
    source "folder".

    Raises:
        ValueError: a name that is no setting (says which is near), or one given twice.
    """
    known = {f.name: type(f.default) for f in fields(TrainOptions)}
    found: dict[str, Any] = {}
    for given, value in values.items():
        name = str(given).replace("-", "_")
        name = ALIASES.get(name, name)
        if name not in known:
            raise ValueError(
                f"{origin}: there is no setting {given!r}.{hint(name, [*known, *ALIASES])} "
                f"There are {', '.join(known)}"
            )
        if name in found:
            raise ValueError(f"{origin}: {name} is given twice, once as {given}")
        if name == "resume" and isinstance(value, bool):  # YAML's yes and no are truth values
            value = "yes" if value else "no"
        if known[name] in (int, float) and isinstance(value, str):
            try:
                value = known[name](value)
            except ValueError:
                raise ValueError(
                    f"{origin}: {name} is {KINDS[known[name]]}, not {value!r}"
                ) from None
        found[name] = value
    base = base or {}
    if found.get("source_root") and base.get("source", "synthetic") == "synthetic":
        found.setdefault("source", "folder")  # synthetic photos have no such folder
    return base | found


def _check(f, value) -> None:
    kind, limits = type(f.default), f.metadata
    fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if not fits and not (kind is float and type(value) is int):
        raise ValueError(f"{f.name} is {KINDS[kind]}, not {value!r}")
    if limits["choices"] and value not in limits["choices"]:
        known = ", ".join(limits["choices"])
        near = hint(value, limits["choices"])
        raise ValueError(f"{f.name} is one of {known}, not {value!r}.{near}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{f.name} is a finite number, not {value}")
    bounds = {
        "low": ("at least", lambda limit: value >= limit),
        "above": ("greater than", lambda limit: value > limit),
        "below": ("less than", lambda limit: value < limit),
    }
    for name, (words, holds) in bounds.items():
        if limits[name] is not None and not holds(limits[name]):
            raise ValueError(f"{f.name} is {words} {limits[name]}, not {value}")
