"""Image tensor -> logits: `build_model(name, **args)` makes any network by its name."""

import inspect
import re
from functools import partial

import torch
from torch import nn

from unetlib.errors import unknown
from unetlib.models.backbone import BackboneUNet, TorchvisionSegmenter
from unetlib.models.u2net import U2NETP, U2Net
from unetlib.models.unet import UNet, UNetDropout, UNetPooled

LITE = partial(BackboneUNet, decoder_widths=(192, 96, 64, 32))
MODELS = {
    "unet": UNet,
    "unet_transposed": partial(UNet, upsampling="transposed"),  # as in the paper
    "unet_dropout": UNetDropout,
    "unet_pooled": UNetPooled,
    "unet_small": partial(UNet, base=16),  # for laptops
    "unet_half": partial(UNet, base=32, depth=5, half=True),  # for a few hundred real photos
    "u2net": U2Net,
    "u2netp": partial(U2Net, **U2NETP),
    "unet_resnet18": partial(BackboneUNet, backbone="resnet18"),
    "unet_resnet34": partial(BackboneUNet, backbone="resnet34"),
    "unet_resnet50": partial(BackboneUNet, backbone="resnet50"),
    "unet_mobilenet_v3": partial(BackboneUNet, backbone="mobilenet_v3_large"),
    "unet_efficientnet_lite0": partial(LITE, backbone="efficientnet_lite0"),
    "unet_efficientnet_lite2": partial(LITE, backbone="efficientnet_lite2"),
    "deeplabv3": partial(TorchvisionSegmenter, architecture="deeplabv3"),
    "lraspp": partial(TorchvisionSegmenter, architecture="lraspp"),
}


def build_model(name: str, **args) -> nn.Module:
    """A freshly initialised network: `name` of `MODELS`, `args` of its class that differ from the
    named model's, such as `base=32`, `skips=False` or `pretrained=True`.

    Returns the module with `model.spec = {"name": ..., "args": ...}`, which is what a checkpoint
    needs to build it again. `pretrained` is not part of it: the checkpoint has its own weights.

    Raises ValueError for an unknown name or argument, RuntimeError or ImportError where pretrained
    weights are asked for and cannot be had.
    """
    if name not in MODELS:
        raise ValueError(unknown("model", name, MODELS))
    takes = inspect.signature(MODELS[name]).parameters
    if others := sorted(args.keys() - takes):
        raise ValueError(unknown(f"argument of {name}", others[0], takes))
    model = MODELS[name](**args)
    model.spec = {"name": name, "args": {k: v for k, v in args.items() if k != "pretrained"}}
    return model


def count_parameters(model: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def choose_device(device: "str | torch.device" = "auto") -> torch.device:
    """Turn "auto", "cpu", "cuda", "cuda:1" or "mps" into a torch.device that exists: one that was
    asked for and is not there is an error, never a slow fallback.

    "auto" takes the fastest there is. Raises RuntimeError for one that this machine lacks, and
    ValueError for a name that is no device.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    there = [*["cuda"] * bool(gpus), *["mps"] * torch.backends.mps.is_available(), "cpu"]
    name, found = str(device).strip().lower(), ", ".join([*there, *gpus])
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError(f"unknown device {name!r}: use one of auto, cpu, cuda, mps")
    if name not in ["auto", *there, *gpus]:
        raise RuntimeError(f"device {name!r} was asked for, but PyTorch finds only {found}")
    return torch.device(there[0] if name == "auto" else name)


def describe_device(device: torch.device) -> str:
    """A line for people: "cpu (8 threads)", "cuda:0 (NVIDIA T4)" or "mps"."""
    if device.type == "cuda":
        return f"cuda:{device.index or 0} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type
