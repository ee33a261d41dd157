"""Image tensor -> logits. `build_model(name, **args)` makes any network of the project by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from unetlib.models.backbone import BackboneUNet, TorchvisionSegmenter
from unetlib.models.blocks import DoubleConv, Up
from unetlib.models.classic import UNetDropout, UNetPooled
from unetlib.models.cost import checkpoint_activations, complexity, count_parameters
from unetlib.models.u2net import U2Net, load_official_u2net
from unetlib.models.unet import UNet

__all__ = [
    "MODELS", "DoubleConv", "UNet", "Up", "build_model", "checkpoint_activations", "complexity",
    "count_parameters", "load_official_u2net",
]  # fmt: skip


class Entry(NamedTuple):
    make: Callable[..., nn.Module]
    preset: dict  # arguments that make the class this model
    about: str  # for tables


FIXED = ("backbone", "architecture")  # what a name stands for is no argument
HALF = {"base": 32, "depth": 5, "half": True}
U2NETP = {"encoder": ((16, 64),) * 6, "decoder": ((16, 64),) * 5}
DEEPLAB, LRASPP = {"architecture": "deeplabv3"}, {"architecture": "lraspp"}
MOBILENET = {"backbone": "mobilenet_v3_large"}
LITE0 = {"backbone": "efficientnet_lite0", "decoder_widths": (192, 96, 64, 32)}
LITE2 = LITE0 | {"backbone": "efficientnet_lite2"}
MODELS = {
    "unet": Entry(UNet, {}, "U-Net, bilinear upsampling"),
    "unet_transposed": Entry(UNet, {"upsampling": "transposed"}, "U-Net as in the paper"),
    "unet_dropout": Entry(UNetDropout, {}, "U-Net with dropout on every level"),
    "unet_pooled": Entry(UNetPooled, {}, "portrait U-Net that pools first"),
    "unet_small": Entry(UNet, {"base": 16}, "U-Net for laptops"),
    "unet_half": Entry(UNet, HALF, "U-Net at half size, for a few hundred real photos"),
    "u2net": Entry(U2Net, {}, "U²-Net, a U of small Us"),
    "u2netp": Entry(U2Net, U2NETP, "U²-Net, its small form"),
    "unet_resnet18": Entry(BackboneUNet, {"backbone": "resnet18"}, "U-Net on a ResNet-18"),
    "unet_resnet34": Entry(BackboneUNet, {"backbone": "resnet34"}, "U-Net on a ResNet-34"),
    "unet_resnet50": Entry(BackboneUNet, {"backbone": "resnet50"}, "U-Net on a ResNet-50"),
    "unet_mobilenet_v3": Entry(BackboneUNet, MOBILENET, "U-Net on a MobileNetV3"),
    "unet_efficientnet_lite0": Entry(BackboneUNet, LITE0, "U-Net on an EfficientNet-Lite0"),
    "unet_efficientnet_lite2": Entry(BackboneUNet, LITE2, "U-Net on an EfficientNet-Lite2"),
    "deeplabv3": Entry(TorchvisionSegmenter, DEEPLAB, "DeepLabV3 on a MobileNetV3"),
    "lraspp": Entry(TorchvisionSegmenter, LRASPP, "LR-ASPP on a MobileNetV3"),
}


def build_model(name: str, **args) -> nn.Module:
    """A freshly initialised network.

    Args:
        name: a key of `MODELS`.
        **args: arguments of its class that differ from the named model's, such as
            `base=32`, `skips=False` or `pretrained=True`.

    Returns the module with `model.spec = {"name": ..., "args": ...}`, which is what a checkpoint
    needs to build it again. `pretrained` is not part of it: the checkpoint has its own weights.

    Raises:
        ValueError: an unknown name (the message lists the known ones) or an argument that the
            model does not take.
        RuntimeError: weights were asked for with `pretrained` and cannot be fetched.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(str(name), MODELS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no model is called {name!r}; there are {', '.join(MODELS)}.{hint}")
    make, preset, _ = MODELS[name]
    known = [key for key in inspect.signature(make).parameters if key not in FIXED]
    unknown = [key for key in args if key not in known]
    if unknown:
        raise ValueError(
            f"{name} takes no argument {', '.join(map(repr, unknown))}; it takes {', '.join(known)}"
        )
    model = make(**{**preset, **args})
    model.spec = {"name": name, "args": {k: v for k, v in args.items() if k != "pretrained"}}
    return model
