"""How sure is a mean? Draw as many images again, with replacement, many times, and see how far it
moves (Efron, Bootstrap methods, Annals of Statistics 7, 1979). Percentile intervals, seeded.

The interval is about the images: what another set of the same kind would give. It knows nothing
of other trainings of the same network, and with a handful of images it is too narrow.
"""

from __future__ import annotations

import numpy as np

CHUNK = 250_000  # drawn numbers in memory at a time


def resampled_sums(values: np.ndarray, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """The sums of `values` (n, k), a row per image, in every resample: float64 (resamples, k).

    All columns see the same draws, so that their differences and ratios are those of pairs.
    """
    values = np.asarray(values, np.float64)
    if len(values) == 0:
        raise ValueError("the bootstrap needs the values of at least one image, got none")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    n, rng = len(values), np.random.default_rng(seed)
    step = max(1, CHUNK // n)
    sums = []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        sums.append(times @ values)
    return np.concatenate(sums)


def limits(draws: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """The lowest and highest of the middle `confidence` of the draws (axis 0): (2, ...)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, such as 0.95, got {confidence!r}")
    return np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)


def interval(
    values, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The confidence interval (low, high) of the mean of `values`, one number per image.

    Of a single image, both are its value. Raises ValueError without any.
    """
    column = np.asarray(values, np.float64).reshape(-1, 1)
    means = resampled_sums(column, resamples, seed)[:, 0] / max(1, len(column))
    low, high = limits(means, confidence)
    return float(low), float(high)


def paired(
    a,
    b,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    higher_is_better: bool = True,
) -> tuple[float, float, float, float]:
    """Is b better than a on the same images, or is it luck?

    `a`, `b`: a score for each image, in the same order. Returns the mean of b - a, its interval
    (low, high), and the share of resamples in which b is better; a tie counts half, so that
    two equal models get 0.5. An interval without 0 is the usual sign of "not luck".
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"a paired comparison needs the scores of the same images, got {a.shape} and {b.shape}"
        )
    gain = b - a
    means = resampled_sums(gain[:, None], resamples, seed)[:, 0] / max(1, len(gain))
    low, high = limits(means, confidence)
    won = means > 0 if higher_is_better else means < 0
    share = won.mean() + 0.5 * (means == 0).mean()
    return float(gain.mean()), float(low), float(high), float(share)
