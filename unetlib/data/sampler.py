"""In which order the photos of an epoch come, and which processes take which of them."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from unetlib.config import SAMPLINGS, hint
from unetlib.data.pairs import Pair

ALIKE = 0.25  # with "hard", this share of the weight goes to all alike: no photo is forgotten


class SeededSampler(Sampler):
    """Yields (epoch, index), so that workers know the epoch, even those that live on between
    epochs. The order depends on (seed, epoch) alone. Each pass counts as the next epoch, unless
    set_epoch says which one it is.

    With `weights` (n,) an epoch has n photos too, but each comes as often as its share of the
    weights says, rounded up or down: first as (epoch, index), then as (epoch, index, 1) and so on,
    so that it can be augmented anew. With `hard`, those come more often of which `learn` was told
    that they are difficult.

    Each of `world` processes draws the same order and takes `batch_size` photos in turn, so that
    their batches make up those of one process with `world` times the batch size. With `shuffle`,
    photos that do not fill a last batch are dropped (one process alone keeps its only batch);
    without, each is seen once, and ranks may differ in number.

    Attributes:
        epoch: the one of the next pass.
        start: batches that the next pass leaves out at its beginning, to go on where another one
            was cut off; 0 again as soon as that pass has begun.
        difficulty: what `learn` knows: (n,) numbers from 0, NaN where nothing is; None before.
    """

    def __init__(
        self,
        n: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        batch_size: int = 1,
        weights: np.ndarray | None = None,
        hard: bool = False,
    ):
        if not 0 <= rank < world:
            raise ValueError(f"rank is at least 0 and below world={world}, not {rank}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.n, self.seed, self.shuffle = n, seed, shuffle
        self.rank, self.world, self.batch_size = rank, world, batch_size
        self.epoch = self.start = 0
        self.weights = np.ones(n) if weights is None else np.asarray(weights, np.float64)
        if self.weights.shape != (n,) or not ((self.weights > 0) & (self.weights < np.inf)).all():
            raise ValueError(f"weights are {n} finite numbers above 0, not {weights}")
        self.hard, self.difficulty = hard, None

    def __len__(self) -> int:
        """Photos in a whole pass of this rank, whatever `start` is."""
        batches, rest = divmod(self.n, self.batch_size * self.world)
        if self.shuffle and (batches or self.world > 1):
            rest = 0
        own_rest = min(max(rest - self.rank * self.batch_size, 0), self.batch_size)
        return batches * self.batch_size + own_rest

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        first, self.start = self.start * self.batch_size, 0
        times: Counter = Counter()  # how often a photo came before, in whichever process
        keys = []
        for i in self._order(epoch).tolist():
            keys.append((epoch, i, times[i]) if times[i] else (epoch, i))
            times[i] += 1
        mine = np.arange(self.n) // self.batch_size % self.world == self.rank
        return (keys[place] for place in np.flatnonzero(mine)[first : len(self)])

    def batch_indices(self, epoch: int, step: int, batch_size: int) -> list[int]:
        """The photos of batch `step` (from 0) of `epoch` in this process."""
        first = (step * self.world + self.rank) * batch_size
        return self._order(epoch)[first : first + batch_size].tolist()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def learn(self, epoch: int, found: np.ndarray) -> np.ndarray:
        """Enters how difficult the photos of `epoch` were, those of all processes in their order;
        half of what was known stays. Returns the new `difficulty`, by which all orders go now."""
        order = self._order(epoch)[: len(found)]
        seen = np.bincount(order, minlength=self.n)
        new = np.bincount(order, found, self.n) / np.maximum(seen, 1)
        old = np.full(self.n, np.nan) if self.difficulty is None else self.difficulty
        mixed = np.where(np.isnan(old), new, (old + new) / 2)
        self.difficulty = np.where(seen > 0, mixed, old)
        return self.difficulty

    def _order(self, epoch: int) -> np.ndarray:
        order = np.arange(self.n)
        if not self.shuffle:
            return order
        draw, weights = np.random.default_rng((self.seed, epoch)), self.weights
        if self.difficulty is not None:
            weights = weights * harder(self.difficulty)
        if self.n and (weights != weights[0]).any():
            order = resample(weights, draw.random())
        draw.shuffle(order)
        return order


def resample(weights: np.ndarray, start: float) -> np.ndarray:
    """n of n indices, sorted, each as often as its expected number says, rounded up or down. So is
    the number of those that stand beside each other, as the photos of a source do.

    The weights lie end to end, and n points at equal distances, the first of which `start` in
    [0, 1) decides, fall on them: "systematic resampling", G. Kitagawa, "Monte Carlo Filter and
    Smoother", 1996, https://doi.org/10.2307/1390750. Drawn one by one they would scatter far more.
    """
    ends = np.cumsum(weights)  # one after the other: the same on every machine
    points = (start + np.arange(len(weights))) * (ends[-1] / len(weights))
    return np.minimum(np.searchsorted(ends, points, side="right"), len(weights) - 1)


@torch.no_grad()
def difficulty(output, target: torch.Tensor) -> torch.Tensor:
    """How far predictions are from their mattes: float32 (N,), from 0 (right) to 1.

    1 - IoU of probabilities and matte, for logits (N, 1, H, W) or the first of a dict of them. A
    hundredth of the pixels is added above and below the fraction line: where nothing is foreground,
    a faint shadow is not all wrong.
    """
    logits = next(iter(output.values())) if isinstance(output, dict) else output
    p, t = logits.float().sigmoid().flatten(1), target.flatten(1)
    both, extra = (p * t).sum(1), p.shape[1] / 100
    return 1 - (both + extra) / (p.sum(1) + t.sum(1) - both + extra)


def harder(difficulty: np.ndarray) -> np.ndarray:
    """Weights (n,) of mean 1 that rise with difficulty; where none is known, it is the mean.

    The error decides as in T. Schaul et al., "Prioritized Experience Replay",
    https://arxiv.org/abs/1511.05952; the loss is not corrected for the shift, which is wanted here
    as in A. Shrivastava et al., "Online Hard Example Mining", https://arxiv.org/abs/1604.03540.
    """
    mean = max(np.nanmean(difficulty), 1e-9)
    return ALIKE + (1 - ALIKE) * np.where(np.isnan(difficulty), mean, difficulty) / mean


def sampling_weights(
    pairs: Sequence[Pair], sampling: str, shares: Callable[[], np.ndarray]
) -> np.ndarray:
    """How often each pair is drawn beside the others, float64 (n,).

    "uniform" and "hard" go by Pair.weight. The others make classes come equally often, and
    Pair.weight decides within each: "source" those of a source, "tags" those with the same tags,
    "foreground" those in the same fifth of the range that the foreground's `shares` (n,) have. So
    the photos of a small class come again and again.
    """
    if sampling not in SAMPLINGS:
        known = ", ".join(SAMPLINGS)
        raise ValueError(
            f"no sampling '{sampling}': use one of {known}.{hint(sampling, SAMPLINGS)}"
        )
    weights = np.array([pair.weight for pair in pairs], np.float64)
    if sampling == "source":
        classes = [pair.source for pair in pairs]
    elif sampling == "tags":
        classes = [frozenset(pair.tags) for pair in pairs]
    elif sampling == "foreground":
        found = shares()
        classes = np.digitize(found, np.linspace(found.min(), found.max(), 6)[1:-1]).tolist()
    else:
        return weights
    totals: Counter = Counter()
    for one, weight in zip(classes, weights.tolist(), strict=True):
        totals[one] += weight
    return weights / [totals[one] for one in classes]


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
