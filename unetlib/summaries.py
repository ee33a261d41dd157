"""Tables in, tables out: what the scores of many images say together. See `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from unetlib.config import hint
from unetlib.metrics import SCORES, Counts, scores
from unetlib.metrics.bootstrap import interval, limits, resampled_sums
from unetlib.metrics.histogram import Histogram

if TYPE_CHECKING:
    import pandas as pd

COUNTS = ("tp", "fp", "fn", "tn")
EDGE_COUNTS = ("rim_both", "rim_either", "band_right", "band")  # see metrics.boundary
COUNTED = ("iou", "dice", "accuracy", "precision", "recall", "f_beta")  # they follow from COUNTS
SWEPT = ("iou", "dice", "precision", "recall", "f_beta")


@dataclass
class Evaluation:
    """What one pass over a set found out.

    Attributes:
        table: a row per image, see `evaluate.evaluate`; with difficulties, a column for each.
        sweep: a row per threshold, see `Sweep`.
        threshold: that of the binary masks in `table`.
        histogram: all pixels by probability and truth: average_precision(), auc(), curve().
    """

    table: pd.DataFrame
    sweep: pd.DataFrame
    threshold: float
    histogram: Histogram

    def summary(
        self, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
    ) -> pd.DataFrame:
        """Means and pooled scores with their bootstrap intervals: see `with_intervals`."""
        return with_intervals(self.table, confidence, resamples, seed)

    def calibration(self, bins: int = 15) -> tuple[pd.DataFrame, float]:
        """The reliability table and the expected calibration error: see Histogram.reliability."""
        import pandas as pd

        columns, error = self.histogram.reliability(bins)
        return pd.DataFrame(columns), error

    def temperature(self) -> float:
        """The T that calibrates sigmoid(logit / T) best: see Histogram.temperature."""
        return self.histogram.temperature()


class Sweep:
    """Adds up the counts of images at (ascending) thresholds, an image at a time."""

    def __init__(self, thresholds: np.ndarray):
        self.thresholds, self.n = thresholds, 0
        self.sums = np.zeros((len(SWEPT), len(thresholds)))
        self.pooled = np.zeros((len(COUNTS), len(thresholds)), np.int64)

    def add(self, counts: Counts) -> None:
        """`counts`: of one image, with an entry per threshold."""
        self.sums += [getattr(counts, name)().numpy() for name in SWEPT]
        self.pooled += [getattr(counts, name).numpy() for name in COUNTS]
        self.n += 1

    def table(self) -> pd.DataFrame:
        """A row per threshold: threshold, means per image, pooled scores."""
        import pandas as pd

        total = Counts(*(torch.from_numpy(row) for row in self.pooled))
        means = dict(zip(SWEPT, self.sums / self.n, strict=True))
        pooled = {f"pooled_{name}": getattr(total, name)().numpy() for name in SWEPT[:4]}
        return pd.DataFrame({"threshold": self.thresholds, **means, **pooled})


def summarize(table: pd.DataFrame) -> dict[str, float]:
    """The table of `evaluate` in one line: n, the means per image, and the pooled scores.

    Means weigh every photo alike; pooled_iou and pooled_dice weigh every pixel alike, so a large
    photo or a large object counts for more.
    """
    _check_rows(table)
    counts = Counts(*(torch.tensor(table[name].to_numpy()) for name in COUNTS))
    return {"n": len(table)} | scores(counts) | {"mae": float(table["mae"].mean())}


def with_intervals(
    table: pd.DataFrame, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Means of all scores, and pooled scores, with their bootstrap interval over the images.

    Index: score, the columns of the table that are in SCORES, then pooled_iou, pooled_dice,
    pooled_accuracy, pooled_precision, pooled_recall, pooled_f_beta, pooled_mae,
    pooled_boundary_iou and pooled_boundary_accuracy, in which every pixel weighs alike. Columns:
    mean (of a pooled score, its value), low, high. Of one image, low and high are the mean.
    """
    import pandas as pd

    _check_rows(table)
    names = [name for name in SCORES if name in table]
    pixels = (table["width"] * table["height"]).rename("pixels")
    wrong = (table["mae"] * pixels).rename("wrong")
    numbers = pd.concat([table[[*names, *COUNTS, *EDGE_COUNTS]], pixels, wrong], axis=1)
    numbers = numbers.to_numpy(np.float64)
    sums = np.vstack([numbers.sum(axis=0), resampled_sums(numbers, resamples, seed)])
    means, rest = np.split(sums, [len(names)], axis=1)
    found = dict(zip(names, means.T / len(table), strict=True))
    rim_both, rim_either, band_right, band, pixels, wrong = rest.T[4:]
    counts = Counts(*torch.from_numpy(np.ascontiguousarray(rest.T[:4])))
    found |= {f"pooled_{name}": getattr(counts, name)().numpy() for name in COUNTED}
    found["pooled_mae"] = wrong / pixels
    rims = rim_both / np.maximum(rim_either, 1)
    found["pooled_boundary_iou"] = np.where(rim_either > 0, rims, 1.0)  # all masks are empty
    found["pooled_boundary_accuracy"] = band_right / band
    values = np.stack(list(found.values()))
    low, high = limits(values[:, 1:].T, confidence)
    columns = {"mean": values[:, 0], "low": low, "high": high}
    return pd.DataFrame(columns, index=pd.Index(list(found), name="score"))


def by_tag(table: pd.DataFrame) -> pd.DataFrame:
    """Mean scores of the images that carry a tag, beside those that do not: a row per tag.

    Columns: tag, n, iou, iou_low and iou_high (its 95 % bootstrap interval), dice, iou_without (NaN
    where every image carries the tag). The last row, "(all)", is the whole table.
    """
    import pandas as pd

    tagged = table["tags"].fillna("").str.split().apply(set)
    rows = []
    for tag in [*sorted(set().union(*tagged)), "(all)"]:
        inside = tagged.apply(lambda tags, tag=tag: tag == "(all)" or tag in tags).astype(bool)
        with_tag, without = table[inside], table[~inside]
        low, high = interval(with_tag["iou"])
        rows.append(
            {
                "tag": tag,
                "n": len(with_tag),
                "iou": with_tag["iou"].mean(),
                "iou_low": low,
                "iou_high": high,
                "dice": with_tag["dice"].mean(),
                "iou_without": without["iou"].mean(),
            }
        )
    return pd.DataFrame(rows)


def by_quartile(
    table: pd.DataFrame,
    difficulty: str,
    scores: Sequence[str] = ("iou", "boundary_iou", "mae"),
) -> pd.DataFrame:
    """Mean scores from the easiest quarter of the images to the hardest: a row per quartile.

    `difficulty`: a column, such as one of DIFFICULTIES. Columns: quartile (1 to 4), n, low, high
    (the range of the difficulty), and of each score the mean, and _low and _high, the ends of its
    95 % bootstrap interval. Images of the same difficulty stay together, so that there can be fewer
    rows than four, and very small groups. Images without a value are left out.
    """
    for name in (difficulty, *scores):
        if name not in table:
            numbers = table.select_dtypes("number").columns
            raise ValueError(
                f"the table has no column {name!r}.{hint(name, numbers)} It has: "
                f"{', '.join(numbers)}"
            )
    table = table[table[difficulty].notna()]
    _check_rows(table)
    place = (table[difficulty].rank() - 0.5) / len(table)
    quartile = (place * 4).astype(int).rename("quartile") + 1
    groups = table.groupby(quartile)
    result = groups[difficulty].agg(n="size", low="min", high="max")
    for name in scores:
        ends = [interval(values) for _, values in groups[name]]
        result[name] = groups[name].mean()
        result[f"{name}_low"], result[f"{name}_high"] = np.transpose(ends)
    return result.reset_index()


def best_threshold(sweep: pd.DataFrame, by: str = "iou") -> float:
    """The threshold with the highest score; of several equal ones the one nearest to 0.5."""
    best = sweep.loc[sweep[by] == sweep[by].max(), "threshold"]
    return float(best.loc[(best - 0.5).abs().idxmin()])


def _check_rows(table: pd.DataFrame) -> None:
    if table.empty:
        raise ValueError("the table has no rows: there is nothing to summarize")
