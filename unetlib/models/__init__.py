"""Image tensor -> logits. `build_model(name, **args)` makes any network of the project by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable

from torch import nn

from unetlib.models.blocks import DoubleConv, Up
from unetlib.models.unet import UNet

__all__ = ["MODELS", "DoubleConv", "UNet", "Up", "build_model", "count_parameters"]

# name -> (class, arguments that make the class this model)
MODELS: dict[str, tuple[Callable[..., nn.Module], dict]] = {
    "unet": (UNet, {"base": 64, "upsampling": "bilinear"}),
    "unet_transposed": (UNet, {"base": 64, "upsampling": "transposed"}),
    "unet_small": (UNet, {"base": 16, "upsampling": "bilinear"}),
}


def build_model(name: str, **args) -> nn.Module:
    """A freshly initialised network.

    Args:
        name: a key of `MODELS`.
        **args: arguments of its class that differ from the named model's, such as
            `base=32` or `skips=False`.

    Returns the module with `model.spec = {"name": ..., "args": ...}`, which is what a checkpoint
    needs to build it again.

    Raises:
        ValueError: an unknown name (the message lists the known ones) or an argument that the
            model does not take.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(str(name), MODELS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no model is called {name!r}; there are {', '.join(MODELS)}.{hint}")
    make, preset = MODELS[name]
    known = inspect.signature(make).parameters
    unknown = [key for key in args if key not in known]
    if unknown:
        raise ValueError(
            f"{name} takes no argument {', '.join(map(repr, unknown))}; it takes {', '.join(known)}"
        )
    model = make(**{**preset, **args})
    model.spec = {"name": name, "args": dict(args)}
    return model


def count_parameters(model: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
