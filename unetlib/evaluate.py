"""A predictor and a set of pairs in, tables out: a row per image, summaries, threshold sweeps.

A predictor here is a `Predictor`, or any function from a photo, uint8 (H, W, 3), to its mask,
float (H, W) in [0, 1] or bool: the simple methods in `baselines` are judged by the very same code.
So are masks that another program wrote: `score_cases(read_predictions(folder, masks))`.

Everything is measured at the photo's own size, after the prediction was brought back to it: this
is what a user gets. One pass gives all scores. Images are read, scored and forgotten a few at a
time; what stays is a row of numbers for each.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from unetlib.data import ImageError, Pair, binarize, load_mask, load_pair
from unetlib.data.predicted import load_soft, match_predictions
from unetlib.data.sampler import cores
from unetlib.difficulty import DIFFICULTIES, difficulties
from unetlib.metrics import SCORES, Counts
from unetlib.metrics.histogram import Histogram
from unetlib.metrics.image import image_scores
from unetlib.summaries import (
    COUNTED,
    COUNTS,
    EDGE_COUNTS,
    Evaluation,
    Sweep,
    best_threshold,
    by_quartile,
    by_tag,
    summarize,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Evaluation", "best_threshold", "by_quartile", "by_tag", "summarize"]  # of summaries

BATCH_IMAGES, BATCH_PIXELS = 16, 8_000_000  # together in memory: so many photos, or so many pixels
MOST_THREADS = 8
STEPS = 100  # of the sweep


class Example(NamedTuple):
    """One photo with its true matte and the prediction, all of the photo's own size (H, W)."""

    pair: Pair
    image: np.ndarray  # uint8 (H, W, 3)
    matte: np.ndarray  # float32 (H, W) in [0, 1]
    soft: np.ndarray  # float32 (H, W) in [0, 1]


class Case(NamedTuple):
    """One photo to be scored; all arrays have its size (H, W)."""

    id: str
    soft: np.ndarray  # the prediction, float32 (H, W) in [0, 1]
    matte: np.ndarray  # the truth, float32 (H, W) in [0, 1]
    image: np.ndarray | None = None  # uint8 (H, W, 3); for the difficulties only
    tags: tuple[str, ...] = ()


def predictions(predictor: Any, pairs: Iterable[Pair]) -> Iterator[Example]:
    """Read and predict photos a few at a time, and hand them out one by one.

    A file that cannot be read is left out with a warning that names it; ValueError if that leaves
    nothing, or if a predictor returns a mask of another size or with values outside [0, 1].
    """
    waiting: list[tuple[Pair, np.ndarray, np.ndarray]] = []
    pixels = read = 0
    for pair in pairs:
        try:
            image, matte = load_pair(pair)
        except ImageError as error:
            warnings.warn(f"left out of the evaluation: {error}", stacklevel=2)
            continue
        waiting.append((pair, image, matte))
        pixels, read = pixels + matte.size, read + 1
        if len(waiting) >= BATCH_IMAGES or pixels >= BATCH_PIXELS:
            yield from _predict(predictor, waiting)
            waiting, pixels = [], 0
    yield from _predict(predictor, waiting)
    if not read:
        raise ValueError("nothing to evaluate: the set has no image that can be read")


def measure(
    predictor: Any, pairs: Iterable[Pair], threshold: float = 0.5, difficulty: bool = False
) -> Evaluation:
    """`score_cases` of what a predictor makes of pairs."""
    _check_threshold(threshold)
    found = predictions(predictor, pairs)
    cases = (Case(pair.id, soft, matte, image, pair.tags) for pair, image, matte, soft in found)
    return score_cases(cases, threshold, difficulty)


def evaluate(predictor: Any, pairs: Iterable[Pair], threshold: float = 0.5) -> pd.DataFrame:
    """Score every image: a table with a row per image, in the order of the pairs.

    Columns: id; the scores in SCORES, those of binary masks for `soft >= threshold` against
    `matte >= 0.5`, mae against the matte as it is; foreground_share (of the truth), width and
    height; tp, fp, fn, tn and the counts of EDGE_COUNTS; and tags (separated by spaces).
    """
    return measure(predictor, pairs, threshold).table


def score_cases(
    cases: Iterable[Case], threshold: float = 0.5, difficulty: bool = False
) -> Evaluation:
    """Everything about a stream of photos, in one pass. A core each works on a photo; results do
    not depend on how many there are. `difficulty` adds the columns DIFFICULTIES.

    Raises ValueError for a prediction of another size than its matte or outside [0, 1], for a
    missing photo where difficulties are wanted, and where there are no cases.
    """
    import pandas as pd

    _check_threshold(threshold)
    work = partial(_score, threshold=threshold, difficulty=difficulty)
    rows, histogram, sweep = [], Histogram(), Sweep(np.arange(1, STEPS) / STEPS)
    for row, pixels in _in_order(work, cases):
        rows.append(row)
        histogram += pixels
        tp, fp = (torch.from_numpy(found[1:-1].copy()) for found in pixels.at_or_above(STEPS))
        background, foreground = pixels.pixels.sum(axis=1).tolist()
        sweep.add(Counts(tp, fp, foreground - tp, background - fp))
    if not rows:
        raise ValueError("nothing to evaluate: there are no predictions")
    table = pd.DataFrame(rows)
    counts = Counts(*(torch.tensor(table[name].to_numpy()) for name in COUNTS))
    for name in COUNTED:
        table[name] = getattr(counts, name)().numpy()
    more = [*(DIFFICULTIES if difficulty else ()), "foreground_share", "width", "height"]
    table = table[["id", *SCORES, *more, *COUNTS, *EDGE_COUNTS, "tags"]]
    return Evaluation(table, sweep.table(), threshold, histogram)


def threshold_sweep(predictor: Any, pairs: Iterable[Pair], steps: int = STEPS) -> pd.DataFrame:
    """Scores at the thresholds 1/steps, 2/steps, … below 1, from one pass over the images.

    A histogram of an image's probabilities, one of its foreground and one of its background
    pixels, holds the counts at every threshold: the pixels right of it. Columns: threshold; iou,
    dice, precision, recall, f_beta (means per image); pooled_iou, pooled_dice, pooled_precision,
    pooled_recall.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps}")
    sweep = Sweep(np.arange(1, steps, dtype=np.float64) / steps)
    for _, _, matte, soft in predictions(predictor, pairs):
        sweep.add(_counts_at(sweep.thresholds, soft, binarize(matte)))
    return sweep.table()


def read_predictions(predictions: str | Path, masks: str | Path) -> Iterator[Case]:
    """Masks that were predicted elsewhere, as files, with the true ones: a case per true mask.

    Files of the same name belong together: see `match_predictions`, which checks all names and
    sizes before this returns, and for the errors. Grey values are probabilities.
    """
    found = match_predictions(Path(predictions), Path(masks))
    return (Case(id, load_soft(soft), load_mask(mask)) for id, (soft, mask) in found.items())


def _in_order(work: Callable, cases: Iterable[Case]) -> Iterator:
    """The result of `work` for each case, in their order. OpenCV and NumPy run beside each other,
    so that threads help."""
    threads = min(cores(), MOST_THREADS)
    if threads == 1:
        yield from map(work, cases)
        return
    with ThreadPoolExecutor(threads, "scores") as pool:
        waiting = deque()
        for case in cases:
            waiting.append(pool.submit(work, case))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _score(case: Case, threshold: float, difficulty: bool) -> tuple[dict, Histogram]:
    matte = _checked(f"{case.id}, its true matte", case.matte, np.shape(case.matte))
    row, pixels = image_scores(_checked(case.id, case.soft, matte.shape), matte, threshold)
    if difficulty:
        if case.image is None:
            raise ValueError(f"{case.id}: its difficulty needs the photo, and there is only a mask")
        row |= difficulties(case.image, matte)
    height, width = matte.shape
    more = {"id": case.id, "width": width, "height": height, "tags": " ".join(case.tags)}
    return row | more, pixels


def _counts_at(thresholds: np.ndarray, soft: np.ndarray, truth: np.ndarray) -> Counts:
    """Counts of one image with an entry per (ascending) threshold."""
    # float32 on both sides, so that a tie falls as in `soft >= threshold`
    passed = np.searchsorted(thresholds.astype(np.float32), soft.ravel(), side="right")
    truth = truth.ravel()
    right_of = []  # foreground, then all pixels, at or right of each threshold
    for values in (passed[truth], passed):
        histogram = np.bincount(values, minlength=len(thresholds) + 1)
        right_of.append(torch.from_numpy(histogram[::-1].cumsum()[::-1][1:].copy()))
    tp, predicted = right_of
    fp, fn = predicted - tp, int(truth.sum()) - tp
    return Counts(tp, fp, fn, truth.size - tp - fp - fn)


def _predict(predictor: Any, waiting: list[tuple[Pair, np.ndarray, np.ndarray]]):
    images = [image for _, image, _ in waiting]
    batch: Callable | None = getattr(predictor, "predict_batch", None)
    softs = batch(images) if batch else map(predictor, images)
    for (pair, image, matte), soft in zip(waiting, softs, strict=True):
        yield Example(pair, image, matte, _checked(pair.id, soft, matte.shape))


def _checked(id: str, soft: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    soft = np.asarray(soft, np.float32)
    if soft.shape != shape:
        raise ValueError(f"{id}: the prediction has shape {soft.shape}, the photo {shape}")
    if not (soft.min() >= 0 and soft.max() <= 1):  # also catches NaN
        raise ValueError(
            f"{id}: values from {soft.min():.4g} to {soft.max():.4g} where "
            "probabilities in [0, 1] are expected (are these logits, or 0 to 255?)"
        )
    return soft


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"a threshold lies between 0 and 1, got {threshold!r}")
