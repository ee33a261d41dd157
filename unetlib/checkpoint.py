"""A self-describing file: which network, its weights, how photos must be prepared for it.

The file is a dict of plain values and tensors, so that `torch.load(weights_only=True)` reads it:
nothing in it can run code.
"""

import json
import os
import pickle
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from unetlib.data.preprocess import Preprocess
from unetlib.errors import CheckpointError
from unetlib.models import build_model
from unetlib.paths import atomic

PLAIN = ("epoch", "metrics", "history", "extra")


@dataclass
class Checkpoint:
    """A network and what is needed to use it."""

    model: nn.Module  # in eval mode, with its `spec` (name and arguments)
    preprocess: Preprocess
    epoch: int = 0  # of its weights, from 1; 0: untrained
    metrics: dict = field(default_factory=dict)  # on the validation set then
    history: list[dict] = field(default_factory=list)  # a dict per epoch, see `training.fit`
    extra: dict = field(default_factory=dict)  # plain values: data source, configuration


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint so that `path` holds either the old file or the whole new one.

    Raises CheckpointError: the model has no `spec` (not made by `build_model`), or writing failed.
    """
    model, path = checkpoint.model, Path(path)
    if not hasattr(model, "spec"):
        raise CheckpointError(f"cannot save {path}: its model was not made by build_model(...)")
    plain = {name: getattr(checkpoint, name) for name in PLAIN}
    # read_file takes no others: NumPy's numbers and tensors become Python's, all else text
    content = json.loads(json.dumps(plain, default=lambda v: getattr(v, "tolist", v.__str__)()))
    content |= {"format": "unetlib-checkpoint", "version": 1, "model": model.spec}
    content["state_dict"] = {name: value.cpu() for name, value in model.state_dict().items()}
    content["preprocess"] = asdict(checkpoint.preprocess)
    write_file(path, content)
    return path


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint and rebuild its model, in eval mode on `device`.

    Raises CheckpointError: no such file (says how to get one), a damaged file, one that carries
    code, one of another program, or weights that do not fit the model it names.
    """
    path = Path(path)
    if not path.is_file():
        advice = "train one with notebooks/03_train.ipynb or `unetlib run`"
        raise CheckpointError(f"there is no checkpoint at {path}: {advice}")
    content = read_file(path)
    if not isinstance(content, dict) or "model" not in content:
        found = "it looks like a bare state dict, or a file of another program"
        raise CheckpointError(f"{path} is not a unetlib checkpoint: {found}")
    try:
        model = build_model(content["model"]["name"], **content["model"]["args"])
        preprocess = Preprocess(**content["preprocess"])
        plain = {name: content[name] for name in PLAIN}
        weights = content["state_dict"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    load_weights(model, weights, path)
    return Checkpoint(model.eval().to(device), preprocess, **plain)


def load_weights(model: nn.Module, state_dict: dict[str, torch.Tensor], source: str | Path) -> None:
    """Load weights that must fit exactly.

    Raises CheckpointError: names `source`, and the first missing, unexpected or misshapen key.
    """
    try:
        model.load_state_dict(state_dict)
    except (RuntimeError, TypeError, AttributeError) as error:
        name = getattr(model, "spec", {}).get("name", type(model).__name__)
        details = " ".join(str(error).split()).partition("; ")[0][:300]
        text = f"{source} has weights of another architecture than {name}, see --model: {details}"
        raise CheckpointError(text) from error


def write_file(path: Path, content: dict) -> None:
    """torch.save, whole or not at all. Raises CheckpointError with the reason."""
    try:
        with atomic(path) as part, part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError, AttributeError, TypeError, pickle.PicklingError) as error:
        text = f"could not write the checkpoint {path}: {error}. An earlier file is unchanged"
        raise CheckpointError(text) from error


def read_file(path: Path):
    """Plain values and tensors of a file. Raises CheckpointError: damaged, or carries code."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
                if archive.testzip():
                    raise ValueError("a checksum in it is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = f"{path} is damaged, or carries code beside plain weights, and was refused"
        raise CheckpointError(text) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {first_line}") from error
