"""Soft mask -> alpha, both float32 (H, W) in [0, 1]."""

import cv2
import numpy as np

TILE = 128  # pixels: a few planes of it fit into a processor's cache
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


def tiles(height: int, width: int, side: int = TILE):
    """(rows, columns) slices that cover an array: most photos are worked on only at the edge."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield slice(top, min(top + side, height)), slice(left, min(left + side, width))


def inside(mask: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Where a mask reaches the threshold, bool (H, W)."""
    return mask >= np.float32(threshold)


def largest_part(mask: np.ndarray) -> np.ndarray:
    """Only the largest part of a mask's inside (>= 0.5, 8 neighbours), its soft edge with it."""
    on = inside(mask)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(on.view(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    kept = labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
    del labels  # 4 bytes a pixel
    return np.where(_nearer(kept, on & ~kept), mask, np.float32(0))


def without_holes(mask: np.ndarray) -> np.ndarray:
    """1 in every hole of a mask's inside (background that reaches no border, 4 neighbours)."""
    off = ~inside(mask)
    count, labels = cv2.connectedComponents(off.view(np.uint8), connectivity=4)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    open_air = off & np.isin(np.arange(count), border)[labels]
    del labels
    holes = off & ~open_air
    return np.where(_nearer(holes, open_air), np.float32(1), mask) if holes.any() else mask


def _nearer(these: np.ndarray, those: np.ndarray) -> np.ndarray:
    """Where the next pixel of `these` is no farther than that of `those`, all bool (H, W)."""
    a, b = (cv2.distanceTransform((~v).view(np.uint8), cv2.DIST_L2, 5) for v in (these, those))
    return a <= b


def grown(mask: np.ndarray, pixels: float) -> np.ndarray:
    """The mask grown by `pixels`, shrunk where negative: two steps of a pixel along the axes for
    each in all eight directions (6 % from a circle), and of the last one the fraction."""
    step = cv2.dilate if pixels > 0 else cv2.erode
    cross, square = (
        cv2.getStructuringElement(s, (3, 3)) for s in (cv2.MORPH_CROSS, cv2.MORPH_RECT)
    )
    whole = int(abs(pixels))
    for n in range(min(whole, max(mask.shape))):
        mask = step(mask, square if n % 3 == 1 else cross)
    part = abs(pixels) - whole
    if not part:
        return mask
    return cv2.addWeighted(mask, 1 - part, step(mask, square if whole % 3 == 1 else cross), part, 0)


def feathered(mask: np.ndarray, pixels: float) -> np.ndarray:
    """A Gaussian blur, two standard deviations of which are `pixels`, that moves no contour: what
    was at 0.5 or above stays there, what was below stays below."""
    soft = cv2.GaussianBlur(mask, (0, 0), pixels / 2, borderType=cv2.BORDER_REPLICATE)
    below = np.nextafter(np.float32(0.5), np.float32(0))
    return np.where(mask >= 0.5, np.clip(soft, 0.5, 1), np.clip(soft, 0, below))
