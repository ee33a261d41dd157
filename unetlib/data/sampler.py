"""In which order the photos of an epoch come, and which processes take which of them."""

import os
import sys
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class SeededSampler(Sampler):
    """Yields (epoch, index), so that workers know the epoch, even those that live on between
    epochs. The order depends on (seed, epoch) alone. Each pass counts as the next epoch, unless
    set_epoch says which one it is.

    Each of `world` processes draws the same order and takes `batch_size` photos in turn, so that
    their batches make up those of one process with `world` times the batch size. With `shuffle`,
    photos that do not fill a last batch are dropped (one process alone keeps its only batch);
    without, each is seen once, and ranks may differ in number.

    Attributes:
        epoch: the one of the next pass.
        start: batches that the next pass leaves out at its beginning, to go on where another one
            was cut off; 0 again as soon as that pass has begun.
    """

    def __init__(
        self,
        n: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        batch_size: int = 1,
    ):
        if not 0 <= rank < world:
            raise ValueError(f"rank is at least 0 and below world={world}, not {rank}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.n, self.seed, self.shuffle = n, seed, shuffle
        self.rank, self.world, self.batch_size = rank, world, batch_size
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Photos in a whole pass of this rank, whatever `start` is."""
        batches, rest = divmod(self.n, self.batch_size * self.world)
        if self.shuffle and (batches or self.world > 1):
            rest = 0
        own_rest = min(max(rest - self.rank * self.batch_size, 0), self.batch_size)
        return batches * self.batch_size + own_rest

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        first, self.start = self.start * self.batch_size, 0
        mine = np.arange(self.n) // self.batch_size % self.world == self.rank
        order = self._order(epoch)[mine][first : len(self)]
        return ((epoch, int(i)) for i in order)

    def batch_indices(self, epoch: int, step: int, batch_size: int) -> list[int]:
        """The photos of batch `step` (from 0) of `epoch` in this process."""
        first = (step * self.world + self.rank) * batch_size
        return self._order(epoch)[first : first + batch_size].tolist()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _order(self, epoch: int) -> np.ndarray:
        order = np.arange(self.n)
        if self.shuffle:
            np.random.default_rng((self.seed, epoch)).shuffle(order)
        return order


def cores() -> int:
    """Those that this process may use, where the system tells (Linux)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers(device_type: str = "cpu", n: int = 0, cached: bool = True) -> int:
    """How many loader processes pay. None on Windows and in notebooks on macOS, where starting
    them costs more than they bring and needs a `__main__` guard; none where a CPU does the training
    too and pictures come from memory: they would only compete for the same cores."""
    in_notebook = "ipykernel" in sys.modules
    if sys.platform == "win32" or (sys.platform == "darwin" and in_notebook):
        return 0
    if (cached and device_type == "cpu") or n < 32:
        return 0
    return 0 if cores() == 1 else min(cores(), 8)
