"""The settings of a training run: names, defaults, limits and help, declared once.

No PyTorch here: the command line makes its options from these fields before it needs any.
"""

from dataclasses import dataclass, field, fields
from math import inf

from click import BOOL, BadParameter, Choice, FloatRange, IntRange, ParamType

AUGMENTS = Choice(("none", "light", "standard", "strong"))
PRECISIONS = Choice(("auto", "float32", "bfloat16", "float16"))
EXPORTED = ("float32", "float16", "int8")  # precisions of an exported file
OPTIMIZERS = Choice(("adam", "adamw", "sgd"))
SAMPLINGS = Choice(("uniform", "source", "tags", "foreground"))
SCHEDULES = Choice(("plateau", "step", "exponential", "cosine", "onecycle", "constant"))
POSITIVE, INSIDE = FloatRange(0, inf, True, True), FloatRange(0, 1, True, True)
SHARE = FloatRange(0, 1, max_open=True)


def setting(default, kind: ParamType, help: str):
    """A dataclass field with a type of click's, which has its limits, and a help text."""
    return field(default=default, metadata={"kind": kind, "help": help})


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults suit the course's synthetic set on a laptop.

    Raises ValueError for a value that makes no sense, naming it.
    """

    epochs: int = setting(4, IntRange(1), "how often every training photo is seen")
    lr: float = setting(4e-3, POSITIVE, "learning rate, the highest")
    encoder_lr: float = setting(1.0, POSITIVE, "learning rate of the encoder as a share of lr")
    optimizer: str = setting("adamw", OPTIMIZERS, "what turns gradients into steps")
    weight_decay: float = setting(1e-2, FloatRange(0), "pull of all weights to 0")
    momentum: float = setting(0.9, SHARE, "with sgd: share of the last step that is kept")
    schedule: str = setting("onecycle", SCHEDULES, "how the learning rate changes over time")
    warmup: float = setting(-1.0, FloatRange(-1, 0.99), "share of steps where lr rises; -1: auto")
    patience: int = setting(3, IntRange(1), "with plateau: epochs without a better val IoU")
    step_epochs: int = setting(10, IntRange(1), "with step: epochs between two falls of the rate")
    gamma: float = setting(0.5, INSIDE, "with plateau, step: factor of each fall")
    final_lr: float = setting(0.01, INSIDE, "with exponential, cosine: last lr / lr")
    early_stop: int = setting(0, IntRange(0), "epochs without a better val IoU to end it; 0: never")
    clip: float = setting(1.0, FloatRange(0), "longest gradient (L2 norm), longer are cut; 0: any")
    accumulate: int = setting(1, IntRange(1), "batches added up for each step of the optimizer")
    ema: float = setting(0.0, SHARE, "decay of a moving average of the weights; 0: none")
    precision: str = setting("auto", PRECISIONS, "number type to compute in")
    compile: bool = setting(False, BOOL, "faster steps on a GPU after a slow start (torch.compile)")
    seed: int = setting(0, IntRange(0, 2**32 - 1), "number that all random choices follow from")

    def __post_init__(self):
        for f in fields(self):
            try:
                value = f.metadata["kind"](str(getattr(self, f.name)))
            except BadParameter as error:
                raise ValueError(f"{f.name}: {error.message}") from error
            if value != value:
                raise ValueError(f"{f.name}: {value} is no number")
            object.__setattr__(self, f.name, value)
