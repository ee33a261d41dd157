"""Which device the work runs on; one that is not there is an error, never a slow fallback."""

import re

import torch


def choose_device(device: "str | torch.device" = "auto") -> torch.device:
    """Turn "auto", "cpu", "cuda", "cuda:1" or "mps" into a torch.device that exists.

    "auto" takes the fastest there is. Raises RuntimeError for one that this machine lacks, and
    ValueError for a name that is no device.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    there = [*["cuda"] * bool(gpus), *["mps"] * torch.backends.mps.is_available(), "cpu"]
    name = str(device).strip().lower()
    if name not in ("auto", "cpu", "cuda", "mps") and not re.fullmatch(r"cuda:\d+", name):
        raise ValueError(f"unknown device {name!r}: use one of auto, cpu, cuda, mps")
    if name != "auto" and name not in [*there, *gpus]:
        raise RuntimeError(
            f"device {name!r} was asked for, but PyTorch finds only {', '.join([*there, *gpus])}"
        )
    return torch.device(there[0] if name == "auto" else name)


def describe_device(device: torch.device) -> str:
    """A line for people: "cpu (8 threads)", "cuda:0 (NVIDIA T4)" or "mps"."""
    if device.type == "cuda":
        return f"cuda:{device.index or 0} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type
