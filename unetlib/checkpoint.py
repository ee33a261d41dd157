"""A self-describing file: which network, its weights, how photos must be prepared for it.

The file is a dict of plain values and tensors, so that `torch.load(weights_only=True)` reads it:
nothing in it can run code.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from unetlib.data.preprocess import Preprocess
from unetlib.models import build_model
from unetlib.paths import whole
from unetlib.trouble import CheckpointError

FORMAT = "unetlib-checkpoint"
VERSION = 1


@dataclass
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        model: the network in eval mode, with its weights and its `spec` (name and arguments).
        preprocess: input size and normalisation that it was trained with.
        epoch: the epoch its weights are from, counted from 1 (0: untrained).
        metrics: scores on the validation set at that epoch, by name.
        history: a dict per epoch so far, see `training.fit`.
        extra: further plain values that the writer wanted kept (data source, configuration).
    """

    model: nn.Module
    preprocess: Preprocess
    epoch: int = 0
    metrics: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    extra: dict = field(default_factory=dict)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint so that `path` holds either the old file or the whole new one.

    It is written beside its target and moved over it when complete: a kill or a full disk in
    between leaves the earlier checkpoint untouched.

    Raises:
        CheckpointError: the model has no `spec` (not made by `build_model`), or writing failed.
    """
    path = Path(path)
    spec = getattr(checkpoint.model, "spec", None)
    if spec is None:
        raise CheckpointError(
            f"cannot save {path}: only a model from build_model(...) can be rebuilt from its file"
        )
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": spec,
        "state_dict": {k: v.detach().cpu() for k, v in checkpoint.model.state_dict().items()},
        "preprocess": checkpoint.preprocess.to_dict(),
        "epoch": checkpoint.epoch,
        "metrics": checkpoint.metrics,
        "history": checkpoint.history,
        "extra": checkpoint.extra,
    }
    write_file(path, content)
    return path


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint and rebuild its model, in eval mode on `device`.

    Raises:
        CheckpointError: no such file (says how to get one), a damaged file, one that carries
            code, one of another program, or weights that do not fit the model it names.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint at {path}. Train one first: run notebooks/03_train.ipynb, "
            "or `unetlib run` for the whole course."
        )
    content = read_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a unetlib checkpoint"
            + (": it looks like a bare state dict" if _is_state_dict(content) else "")
            + ". Checkpoints are written by notebooks/03_train.ipynb and unetlib.training.fit."
        )
    if content["version"] > VERSION:
        raise CheckpointError(
            f"{path} was written by a newer unetlib (file version {content['version']}, this one "
            f"reads up to {VERSION}): update unetlib"
        )
    try:
        model = build_model(content["model"]["name"], **content["model"]["args"])
        preprocess = Preprocess.from_dict(content["preprocess"])
        load_weights(model, content["state_dict"], path)
        return Checkpoint(
            model=model.eval().to(device),
            preprocess=preprocess,
            epoch=content["epoch"],
            metrics=content["metrics"],
            history=content["history"],
            extra=content["extra"],
        )
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error


def load_weights(model: nn.Module, state_dict: dict[str, torch.Tensor], source: str | Path) -> None:
    """Load weights that must fit exactly; otherwise say which keys and shapes do not.

    Raises:
        CheckpointError: names `source`, and the first few missing, unexpected or misshapen keys.
    """
    own = model.state_dict()
    misfits = [f"{key} is missing" for key in own.keys() - state_dict.keys()]
    misfits += [f"{key} is not in the model" for key in state_dict.keys() - own.keys()]
    misfits += [
        f"{key} is {tuple(state_dict[key].shape)}, the model's {tuple(own[key].shape)}"
        for key in own.keys() & state_dict.keys()
        if own[key].shape != state_dict[key].shape
    ]
    if misfits:
        shown = "; ".join(sorted(misfits)[:3])
        more = f"; and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        name = getattr(model, "spec", {}).get("name", type(model).__name__)
        raise CheckpointError(
            f"the weights in {source} are of another architecture than {name}: {shown}{more}"
        )
    model.load_state_dict(state_dict)


def write_file(path: Path, content: dict) -> None:
    """torch.save, whole or not at all. Raises CheckpointError with the reason."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part, part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise CheckpointError(
            f"could not write the checkpoint {path}: {error}. An earlier file there is unchanged; "
            "free some disk space or choose another outputs_dir."
        ) from error


def read_file(path: Path):
    """Plain values and tensors of a file. Raises CheckpointError: damaged, or carries code."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:  # torch.load does not look at the checksums
                    raise CheckpointError(f"{path} is damaged: a checksum in it is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        if any(sign in str(error) for sign in ("GLOBAL", "Unsupported class", "Can only build")):
            raise CheckpointError(
                f"{path} carries code or objects beside plain weights and was refused: loading it "
                "could run anything on this machine"
            ) from error
        raise CheckpointError(f"{path} is damaged or not a checkpoint") from error
    except (
        RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile
    ) as error:  # fmt: skip
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {first_line}") from error


def _is_state_dict(content) -> bool:
    return isinstance(content, dict) and any(torch.is_tensor(v) for v in content.values())
