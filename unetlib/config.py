"""The settings of a training run: names, defaults, help and limits, declared once.

No PyTorch here: the command line makes its options from these fields before it needs any.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from operator import ge, gt, lt

from unetlib.errors import hint

CACHES = ("auto", "memory", "none")
PRESETS = ("none", "light", "standard", "strong")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
EXPORTED = ("float32", "float16", "int8")  # precisions of an exported file
SAMPLINGS = ("uniform", "source", "tags", "foreground")
SCHEDULES = ("plateau", "step", "exponential", "cosine", "onecycle", "constant")
TESTS = {"at least": ge, "more than": gt, "less than": lt}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def setting(default, help: str, choices=None, low=None, above=None, below=None):
    """A dataclass field with a help text and limits (`low` is allowed, `above` and `below` not)."""
    limits = {"at least": low, "more than": above, "less than": below}
    return field(default=default, metadata={"help": help, "choices": choices, "limits": limits})


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults suit the course's synthetic set on a laptop.

    Raises ValueError for a value that makes no sense, naming it.
    """

    epochs: int = setting(6, "how often every training photo is seen", low=1)
    lr: float = setting(4e-3, "learning rate, the highest", above=0, below=float("inf"))
    encoder_lr: float = setting(1.0, "learning rate of the encoder as a share of lr", above=0)
    optimizer: str = setting("adamw", "what turns gradients into steps", ("adam", "adamw", "sgd"))
    weight_decay: float = setting(1e-2, "pull of all weights to 0", low=0)
    momentum: float = setting(0.9, "with sgd: share of the last step that is kept", low=0, below=1)
    schedule: str = setting("onecycle", "how the learning rate changes over time", SCHEDULES)
    warmup: float = setting(-1.0, "share of steps in which lr rises; -1: auto", low=-1, below=1)
    patience: int = setting(3, "with plateau: epochs without a better val IoU", low=1)
    step_epochs: int = setting(10, "with step: epochs between two falls of the rate", low=1)
    gamma: float = setting(0.5, "with plateau, step: factor of each fall", above=0, below=1)
    final_lr: float = setting(0.01, "with exponential, cosine: last lr / lr", above=0, below=1)
    early_stop: int = setting(0, "epochs without a better val IoU that end it; 0: never", low=0)
    clip: float = setting(1.0, "longest gradient (L2 norm); longer ones are cut; 0: none", low=0)
    accumulate: int = setting(1, "add up so many batches for each step of the optimizer", low=1)
    ema: float = setting(0.0, "decay of a moving average of the weights; 0: none", low=0, below=1)
    precision: str = setting("auto", "number type to compute in", PRECISIONS)
    compile: bool = setting(False, "faster steps on a GPU after a slow start (torch.compile)")
    seed: int = setting(0, "number that all random choices follow from", low=0, below=2**63)

    def __post_init__(self):
        for f in fields(self):
            value, kind, choices = getattr(self, f.name), type(f.default), f.metadata["choices"]
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise ValueError(f"{f.name} is {KINDS[kind]}, not {value!r}")
            if choices and value not in choices:
                near = hint(value, choices)
                raise ValueError(f"{f.name} is one of {', '.join(choices)}, not {value!r}.{near}")
            for words, limit in f.metadata["limits"].items():
                if limit is not None and not TESTS[words](value, limit):
                    raise ValueError(f"{f.name} is {words} {limit}, not {value}")
