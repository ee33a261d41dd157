"""What goes wrong with networks and their training, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class CheckpointError(ValueError):
    """A network's file that cannot be read, written or used; the message names the file."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what to change."""


@contextmanager
def memory_advice(images: torch.Tensor) -> Iterator[None]:
    """Turns "out of memory" into advice that names the batch and the size."""
    import torch

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        full = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
            sign in str(error).lower() for sign in ("out of memory", "can't allocate memory")
        )
        if not full:
            raise
        batch, _, height, width = images.shape
        raise TrainingError(
            f"memory ran out at batch_size {batch} with images of {height}×{width}. Try batch_size "
            f"{max(1, batch // 2)} (with accumulate 2 it learns the same), image_size "
            f"{int(min(height, width) * 0.75) // 16 * 16}, recompute=True, or a smaller model such "
            f"as 'unet_small'. ({(str(error) or 'MemoryError').splitlines()[0]})"
        ) from error


def not_finite(
    epoch: int, step: int, loader, batch, lr: float, dtype: torch.dtype
) -> TrainingError:
    """The error for a loss that is no number: which file is to blame, or what to try."""
    import torch

    where = f"epoch {epoch}, batch {step + 1}"
    if broken := _broken_inputs(loader, epoch, step, batch):
        return TrainingError(
            f"the network was fed what is no number ({where}): {broken}. Repair or remove it. "
            "The best checkpoint so far is kept."
        )
    precision = "" if dtype == torch.float32 else ", precision='float32' to rule out rounding"
    return TrainingError(
        f"the loss is no longer a finite number ({where}, learning rate {lr:.2g}), though photos "
        f"and masks are. Try a learning rate of {lr / 10:.2g}{precision} and clip=1.0. "
        "The best checkpoint so far is kept."
    )


def _broken_inputs(loader, epoch: int, step: int, batch) -> str:
    """Which photo or mask of a batch holds NaN or infinity; "" where none does."""
    import torch

    dataset, sampler = getattr(loader, "dataset", None), getattr(loader, "sampler", None)
    pairs = [(f"image {i + 1} of the batch", *pair) for i, pair in enumerate(zip(*batch))]  # noqa: B905
    if hasattr(sampler, "batch_indices") and hasattr(dataset, "name"):
        chosen = sampler.batch_indices(epoch, step, loader.batch_size)
        pairs = [(dataset.name(index), *dataset[(epoch, index)]) for index in chosen]
    broken = [
        f"{kind} of {name}"
        for name, image, mask in pairs
        for kind, values in (("the pixels", image), ("the mask", mask))
        if not torch.isfinite(values).all()
    ]
    return "; ".join(broken[:3])
