"""Which device the work runs on; one that is not there is an error, never a slow fallback."""

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def available_devices() -> tuple[str, ...]:
    """Names of the devices of this machine, fastest first, e.g. ("cuda", "cpu")."""
    there = [
        ("cuda", torch.cuda.is_available()),
        ("mps", torch.backends.mps.is_available()),
        ("cpu", True),
    ]
    return tuple(name for name, present in there if present)


def choose_device(device: "str | torch.device" = "auto") -> torch.device:
    """Turn "auto", "cpu", "cuda", "cuda:1" or "mps" into a torch.device that exists.

    "auto" takes the fastest device there is. Raises RuntimeError when the one asked for is absent,
    saying what there is instead, and ValueError for a name that is no device.
    """
    name = str(device).strip().lower() or "auto"
    there = available_devices()
    if name == "auto":
        return torch.device(there[0])
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and not index.isdigit()):
        raise ValueError(f"unknown device {str(device)!r}: use one of {', '.join(DEVICES)}")
    if kind not in there:
        raise RuntimeError(
            f"device {str(device)!r} was asked for, but this machine has only: {', '.join(there)}. "
            f"Use device='auto' (takes {there[0]} here){_why_not(kind)}."
        )
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise RuntimeError(f"device {str(device)!r} was asked for, but the last GPU is cuda:{last}")
    return torch.device(name)


def _why_not(kind: str) -> str:
    if kind == "cuda" and torch.version.cuda is None:
        return (
            "; the installed PyTorch is a build without CUDA, see https://pytorch.org/get-started"
        )
    if kind == "cuda":
        return (
            "; PyTorch has CUDA support but finds no usable NVIDIA GPU or driver (try: nvidia-smi)"
        )
    return ""


def describe_device(device: torch.device) -> str:
    """A line for people: "cpu (8 threads)", "cuda:0 (NVIDIA T4)" or "mps"."""
    if device.type == "cuda":
        return f"cuda:{device.index or 0} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return device.type
