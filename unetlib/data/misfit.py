"""Masks that do not lie on the edges of their photo: shifted, mirrored, turned, of another photo.

A pair's score is the mean rank, among all pixels of the photo, of the colour gradients along the
mask's border: about 0.5 where it lies anywhere, 0.8 where it belongs, whatever the contrast.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from unetlib.data.images import resize

SIDE = 128
GOOD, _SURE = 0.62, 0.69  # less is suspicious; what fits instead has more
_GAIN, _GAIN_OTHER = 0.15, 0.2  # by which a changed mask, or another pair's, has to be better
_MOST = 200  # suspects that are compared with each other
_LEAST, _ENOUGH = 20, 250  # border pixels for a score, for a suspect: few fit better by chance


@dataclass
class Fit:
    """How well a mask fits: `score` 0..1, nan where it cannot be told. `better`: what makes it fit,
    such as "mirrored", with the score `best`. Only suspects, whose score is below GOOD, keep their
    `ranks`, uint8 (SIDE, SIDE), and the mask's `border`, bool (SIDE, SIDE) as packed bits."""

    score: float
    better: str = ""
    best: float = 0.0
    ranks: np.ndarray | None = None
    border: np.ndarray | None = None


def measure(photo: np.ndarray, matte: np.ndarray) -> Fit:
    """The fit of matte uint8 (H', W') on photo uint8 (H, W, 3). Too little border, a very soft
    one (its middle is nowhere exactly) and a photo of one colour have the score nan."""
    matte = resize(matte, (SIDE, SIDE))
    ranks, border = _ranks(photo), _border(matte)
    length, soft = border.sum(), ((matte > 32) & (matte < 224)).sum()
    if ranks is None or length < _LEAST or soft > 4 * length:
        return Fit(np.nan)
    score = float(ranks[border].mean() / 255)
    if score >= GOOD or length < _ENOUGH:
        return Fit(score)
    best, better = max((float(ranks[b].mean() / 255), how) for how, b in _changes(border))
    best, better = (best, better) if best > max(_SURE, score + _GAIN) else (0.0, "")
    return Fit(score, better, best, ranks, np.packbits(border))


def judge(fits: list[Fit], names: list[str]) -> tuple[float, dict[int, str]]:
    """The median score, nan for fewer than 12, and for each wrong pair (its index) `Fit.better` or
    "the mask of NAME fits it better". Below a median of 0.65 most masks of the set are wrong."""
    scores = np.array([fit.score for fit in fits], float)
    wrong = {i: fit.better for i, fit in enumerate(fits) if fit.better}
    suspects = [i for i in np.argsort(scores).tolist() if fits[i].ranks is not None][:_MOST]
    borders = np.array([np.unpackbits(fits[i].border) for i in suspects], np.float32)
    for i in suspects:
        others = borders @ (fits[i].ranks.ravel() / np.float32(255)) / borders.sum(1)
        if others.max() > max(_SURE, scores[i] + _GAIN_OTHER, fits[i].best):
            wrong[i] = f"the mask of {names[suspects[others.argmax()]]} fits it better"
    known = scores[~np.isnan(scores)]
    return (float(np.median(known)) if len(known) >= 12 else np.nan), wrong


def _ranks(photo: np.ndarray) -> np.ndarray | None:
    """uint8 (SIDE, SIDE), 255 for the strongest gradient; None for a photo without any."""
    small = resize(photo, (SIDE, SIDE)).astype(np.float32) / 255
    lab = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), (0, 0), 1)
    steep = sum((cv2.Sobel(lab, cv2.CV_32F, *axis) ** 2).sum(-1) for axis in ((1, 0), (0, 1)))
    if steep.max() < 1:
        return None
    levels = np.sort(steep, axis=None)[:: SIDE * SIDE // 256]
    twice = sum(np.searchsorted(levels, steep, side) for side in ("left", "right"))
    return np.minimum(twice // 2, 255).astype(np.uint8)  # plain areas share their middle rank


def _border(matte: np.ndarray) -> np.ndarray:
    """bool (SIDE, SIDE), without single hairs and what is next to the edge of the picture."""
    inside = cv2.medianBlur(matte, 5) // 128
    border = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    return np.pad(border[2:-2, 2:-2] > 0, 2)


def _changes(border: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for how, axis in (("mirrored", 1), ("upside down", 0), ("turned by 180°", (0, 1))):
        yield how, np.flip(border, axis)
    for side, quarters in (("left", 1), ("right", -1)):
        yield f"turned by 90° to the {side}", np.rot90(border, quarters)
    for percent in (5, 10, 15, 20):
        n = round(SIDE * percent / 100)
        for to, x, y in (("right", n, 0), ("left", -n, 0), ("bottom", 0, n), ("top", 0, -n)):
            moved = np.pad(border, SIDE)[SIDE - y : 2 * SIDE - y, SIDE - x : 2 * SIDE - x]
            if np.count_nonzero(moved) >= 0.6 * np.count_nonzero(border):
                yield f"moved by {percent} % to the {to}", moved
