"""Which device the work runs on; one that is not there is an error, never a slow fallback."""

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(device: "str | torch.device" = "auto") -> torch.device:
    """Turn "auto", "cpu", "cuda", "cuda:1" or "mps" into a torch.device that exists.

    "auto" takes the fastest there is. Raises RuntimeError for one that this machine lacks, and
    ValueError for a name that is no device.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    there = [*["cuda"] * cuda, *["mps"] * mps, "cpu"]
    name = str(device).strip().lower()
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and not index.isdigit()):
        raise ValueError(f"unknown device {name!r}: use one of {', '.join(DEVICES)}")
    if kind == "auto":
        return torch.device(there[0])
    if kind not in there:
        found = f"PyTorch finds only: {', '.join(there)} (see https://pytorch.org/get-started)"
        raise RuntimeError(f"device {name!r} was asked for, but {found}")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise RuntimeError(f"device {name!r} was asked for, but the last GPU is cuda:{last}")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """A line for people: "cpu (8 threads)", "cuda:0 (NVIDIA T4)" or "mps"."""
    if device.type == "cuda":
        return f"cuda:{device.index or 0} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return device.type
