"""Soft mask -> alpha, both float32 (H, W) in [0, 1]."""

import numpy as np

HAZE = 0.04  # alpha below this becomes 0, above 1 - this becomes 1: a network is never quite sure


def check_threshold(threshold: float) -> float:
    """The threshold as a float; ValueError when it is not in 0…1."""
    if not 0 <= float(threshold) <= 1:
        raise ValueError(f"threshold {threshold!r}: it is a probability, from 0 to 1")
    return float(threshold)


def soft_to_alpha(soft: np.ndarray, threshold: float = 0.5, haze: float = HAZE) -> np.ndarray:
    """Soft mask -> alpha, both float32 (H, W) in [0, 1]; rises with `soft`.

    Two straight pieces carry 0, threshold, 1 to 0, 0.5, 1; then the lowest and highest `haze` are
    cut away, so that the far background is gone and the inside is solid.
    """
    t = check_threshold(threshold)
    below = 0.5 * soft / t if t > 0 else np.zeros_like(soft)
    above = 0.5 + 0.5 * (soft - t) / (1 - t) if t < 1 else np.ones_like(soft)
    alpha = np.where(soft >= np.float32(t), above, below)
    return np.clip((alpha - haze) / (1 - 2 * haze), 0, 1).astype(np.float32)
