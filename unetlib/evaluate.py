"""A predictor and a set of pairs in, tables out: a row per image, summaries, threshold sweeps.

A predictor here is a `Predictor`, or any function from a photo, uint8 (H, W, 3), to its mask,
float (H, W) in [0, 1] or bool: the simple methods in `baselines` are judged by the very same code.

Everything is measured at the photo's own size, after the prediction was brought back to it: this
is what a user gets. Images are read, scored and forgotten a few at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from unetlib.data import ImageError, Pair, binarize, load_pair
from unetlib.metrics import Counts, count, scores

if TYPE_CHECKING:
    import pandas as pd

BATCH_IMAGES, BATCH_PIXELS = 16, 8_000_000  # together in memory: so many photos, or so many pixels
COUNTS = ("tp", "fp", "fn", "tn")


class Example(NamedTuple):
    """One photo with its true matte and the prediction, all of the photo's own size (H, W)."""

    pair: Pair
    image: np.ndarray  # uint8 (H, W, 3)
    matte: np.ndarray  # float32 (H, W) in [0, 1]
    soft: np.ndarray  # float32 (H, W) in [0, 1]


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


def evaluate(predictor: Any, pairs: Iterable[Pair], threshold: float = 0.5) -> pd.DataFrame:
    """Score every image: a table with a row per image, in the order of the pairs.

    Columns: id, the scores of the mask `soft >= threshold` against `matte >= 0.5` (iou, dice,
    accuracy, precision, recall), mae (mean absolute difference of the soft mask and the matte),
    foreground_share (of the truth), width and height, the counts tp, fp, fn, tn, and tags
    (separated by spaces).
    """
    import pandas as pd

    _check_threshold(threshold)
    rows = []
    for pair, _, matte, soft in predictions(predictor, pairs):
        truth = binarize(matte)
        counts = count((soft >= threshold)[None], truth[None])
        rows.append(
            {"id": pair.id}
            | {name: value for name, value in scores(counts).items() if "pooled" not in name}
            | {"mae": float(np.abs(soft - matte).mean(dtype=np.float64))}
            | {"foreground_share": float(truth.mean())}
            | {"width": truth.shape[1], "height": truth.shape[0]}
            | {name: int(getattr(counts, name)) for name in COUNTS}
            | {"tags": " ".join(pair.tags)}
        )
    return pd.DataFrame(rows)


def summarize(table: pd.DataFrame) -> dict[str, float]:
    """The table of `evaluate` in one line: n, the means per image, and the pooled scores.

    Means weigh every photo alike; pooled_iou and pooled_dice weigh every pixel alike, so a large
    photo or a large object counts for more.
    """
    if table.empty:
        raise ValueError("the table has no rows: there is nothing to summarize")
    counts = Counts(*(torch.tensor(table[name].to_numpy()) for name in COUNTS))
    return {"n": len(table)} | scores(counts) | {"mae": float(table["mae"].mean())}


def by_tag(table: pd.DataFrame) -> pd.DataFrame:
    """Mean scores of the images that carry a tag, beside those that do not: a row per tag.

    Columns: tag, n, iou, dice, iou_without (NaN where every image carries the tag). The last row,
    "(all)", is the whole table.
    """
    import pandas as pd

    tagged = table["tags"].fillna("").str.split().apply(set)
    rows = []
    for tag in [*sorted(set().union(*tagged)), "(all)"]:
        inside = tagged.apply(lambda tags, tag=tag: tag == "(all)" or tag in tags).astype(bool)
        with_tag, without = table[inside], table[~inside]
        rows.append(
            {
                "tag": tag,
                "n": len(with_tag),
                "iou": with_tag["iou"].mean(),
                "dice": with_tag["dice"].mean(),
                "iou_without": without["iou"].mean(),
            }
        )
    return pd.DataFrame(rows)


def threshold_sweep(predictor: Any, pairs: Iterable[Pair], steps: int = 100) -> pd.DataFrame:
    """Scores at the thresholds 1/steps, 2/steps, … below 1, from one pass over the images.

    A histogram of an image's probabilities, one of its foreground and one of its background
    pixels, holds the counts at every threshold: the pixels right of it. Columns: threshold, iou,
    dice, precision, recall (means per image) and pooled_iou.
    """
    import pandas as pd

    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps}")
    thresholds = np.arange(1, steps, dtype=np.float64) / steps
    names = ("iou", "dice", "precision", "recall")
    sums, pooled, n = np.zeros((4, steps - 1)), np.zeros((4, steps - 1), np.int64), 0
    for _, _, matte, soft in predictions(predictor, pairs):
        counts = _counts_at(thresholds, soft, binarize(matte))
        sums += [getattr(counts, name)().numpy() for name in names]
        pooled += [getattr(counts, name).numpy() for name in COUNTS]
        n += 1
    total = Counts(*(torch.from_numpy(row) for row in pooled))
    columns = dict(zip(names, sums / n, strict=True))
    return pd.DataFrame({"threshold": thresholds, **columns, "pooled_iou": total.iou().numpy()})


def best_threshold(sweep: pd.DataFrame, by: str = "iou") -> float:
    """The threshold with the highest score; of several equal ones the one nearest to 0.5."""
    best = sweep.loc[sweep[by] == sweep[by].max(), "threshold"]
    return float(best.loc[(best - 0.5).abs().idxmin()])


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
        soft = np.asarray(soft, np.float32)
        if soft.shape != matte.shape:
            raise ValueError(
                f"{pair.id}: the prediction has shape {soft.shape}, the photo {matte.shape}"
            )
        if not (soft.min() >= 0 and soft.max() <= 1):  # also catches NaN
            raise ValueError(
                f"{pair.id}: predicted values from {soft.min():.4g} to {soft.max():.4g} where "
                "probabilities in [0, 1] are expected (are these logits?)"
            )
        yield Example(pair, image, matte, soft)


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"a threshold lies between 0 and 1, got {threshold!r}")
