"""Pictures of an evaluation: how good, how sure, on which photos, and at what cost.

The tables are those of `Evaluation`, `by_quartile` and `compare`; whatever has the same columns
will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from unetlib.plots.figures import BLUE, GREY, ORANGE, STYLE, draw_picture, error_map, new_figure

LONGEST = 30  # characters of a name


@matplotlib.rc_context(STYLE)
def show_precision_recall(table: Any) -> Figure:
    """Precision against recall, with the points of five thresholds and lines of equal Dice.

    `table` has columns threshold, precision and recall, and perhaps pooled_precision and
    pooled_recall: all pixels of all photos as if of one.
    """
    figure, axes = new_figure(size=(6.0, 3.8))
    axis = axes[0, 0]
    thresholds = _column(table, "threshold")
    marked = [np.abs(thresholds - mark).argmin() for mark in (0.1, 0.3, 0.5, 0.7, 0.9)]
    lowest = 1.0
    for prefix, label, dash in (("", "mean of the photos", "-"), ("pooled_", "all pixels", "--")):
        if f"{prefix}precision" not in table:
            continue
        recall, precision = (_column(table, prefix + name) for name in ("recall", "precision"))
        (line,) = axis.plot(recall, precision, dash, label=label)
        axis.plot(recall[marked], precision[marked], "o", color=line.get_color(), markersize=5)
        lowest = min([lowest, *recall[marked], *precision[marked]])
        if not prefix:
            for i in marked:
                axis.annotate(
                    f"{thresholds[i]:.2g}", (recall[i], precision[i]), (-6, -6), fontsize=8,
                    textcoords="offset points", ha="right", va="top",
                )  # fmt: skip
    bottom = max(0.0, np.floor(10 * lowest - 0.5) / 10)
    for dice in (0.5, 0.7, 0.8, 0.9, 0.95):
        recall = np.linspace(dice / (2 - dice), 1, 50)
        axis.plot(recall, dice * recall / (2 * recall - dice), color="#C8C8C8", linewidth=1)
        if recall[0] > bottom:
            axis.text(1.005, recall[0], f"Dice {dice}", color=GREY, fontsize=8, va="center",
                      transform=axis.get_yaxis_transform())  # fmt: skip
    axis.set_title("numbers: the threshold")
    axis.set(xlabel="recall", ylabel="precision", xlim=(bottom, 1), ylim=(bottom, 1.005))
    axis.legend(loc="lower left")
    return figure


@matplotlib.rc_context(STYLE)
def show_reliability(table: Any, ece: float) -> Figure:
    """Reliability diagram: of the pixels with a probability of 0.8, are 80 % foreground?

    `table` has a row per bin: low, high, share (of all pixels), confidence (mean probability) and
    accuracy (share of foreground), NaN where a bin is empty. Below: the share of pixels, on a
    logarithmic scale, as most of them lie in the first and the last bin.
    """
    columns = ("low", "high", "share", "confidence", "accuracy")
    low, high, share, confidence, accuracy = (_column(table, name) for name in columns)
    figure, axes = new_figure(2, 1, (5.4, 5.0), heights=(3, 1))
    upper, lower = axes[:, 0]
    used = share > 0
    x, y = confidence[used], accuracy[used]
    upper.plot((0, 1), (0, 1), "--", color=GREY, linewidth=1, label="perfectly calibrated")
    upper.vlines(x, x, y, color=ORANGE, linewidth=5, alpha=0.6, label="off by")
    upper.plot(x, y, "o-", color=BLUE, markersize=4, label="this model")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of foreground", xticklabels=[])
    upper.set_title(f"expected calibration error {ece:.3f}")
    upper.legend(loc="upper left")
    lower.bar(low, share, high - low, align="edge", color=BLUE, edgecolor="white")
    lower.set(xlim=(0, 1), yscale="log", ylim=(min(1e-3, share[used].min() / 2), 1.5))
    lower.set(xlabel="predicted probability", ylabel="pixels")
    lower.yaxis.set_major_locator(LogLocator(100, numticks=4))
    lower.yaxis.set_minor_locator(NullLocator())
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    return figure


@matplotlib.rc_context(STYLE)
def show_intervals(
    summary: Any, labels: Mapping[str, str] | None = None, title: str = ""
) -> Figure:
    """Scores in [0, 1] with their intervals, a line each, and as numbers beside it.

    `summary` is a table with index score and columns mean, low, high (NaN: no interval); `labels`
    are the scores' names in words.
    """
    figure, axes = new_figure(size=(7.4, 0.3 * len(summary) + 0.8))
    axis, names = axes[0, 0], []
    for place, (name, row) in enumerate(summary.iterrows()):
        axis.plot((row["low"], row["high"]), (place, place), color=BLUE, linewidth=5, alpha=0.45)
        axis.plot(row["mean"], place, "o", color=BLUE, markersize=5)
        interval = f"   ({row['low']:.3f} to {row['high']:.3f})" if row["low"] == row["low"] else ""
        axis.text(1.02, place, f"{row['mean']:.3f}{interval}", va="center", fontsize=9)
        names.append(_short((labels or {}).get(name, name.replace("_", " "))))
    axis.set_yticks(range(len(names)), names)
    axis.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), title=title)
    return figure


@matplotlib.rc_context(STYLE)
def show_quartiles(tables: Mapping[str, Any], score: str = "iou", label: str = "IoU") -> Figure:
    """A score by quartile of each difficulty, a small picture each.

    `tables` are `by_quartile`'s by the name of the difficulty: a row per quartile, with columns
    quartile, n, low and high (of the difficulty), and the score's, its _low and _high. Dashed: the
    mean of all photos. The scale begins below the lowest interval.
    """
    if not tables:
        raise ValueError("no table to draw: give one by_quartile(...) or more, by name")
    columns = min(4, len(tables))
    rows = -(-len(tables) // columns)
    figure, axes = new_figure(rows, columns, (2.05 * columns + 0.4, 2.7 * rows))
    ends = [table[f"{score}_{end}"] for table in tables.values() for end in ("low", "high")]
    ends = np.concatenate([np.asarray(values, float) for values in ends])
    bottom, top = np.floor(10 * ends.min() - 0.2) / 10, np.ceil(10 * ends.max() + 0.2) / 10
    for axis in axes.flat[len(tables) :]:
        axis.axis("off")
    for axis, (name, table) in zip(axes.flat, tables.items(), strict=False):
        keys = ("quartile", score, f"{score}_low", f"{score}_high", "n", "low", "high")
        place, value, least, most, n, low, high = (_column(table, key) for key in keys)
        axis.vlines(place, least, most, color=BLUE, alpha=0.5, linewidth=5)
        axis.plot(place, value, "o", color=BLUE, markersize=6)
        axis.axhline(np.average(value, weights=n), color=ORANGE, linewidth=1.5, linestyle="--")
        texts = [f"{a:.2f} to\n{b:.2f}\n({k:.0f})" for a, b, k in zip(low, high, n, strict=True)]
        axis.set_xticks(place, texts, fontsize=7)
        axis.set(xlim=(0.4, 4.6), ylim=(max(0, bottom), top), title=name.replace("_", " "))
        axis.grid(axis="x", visible=False)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"mean {label}")
    figure.supxlabel("quarters of the photos, by how much they have of it (how many)", fontsize=9)
    return figure


@matplotlib.rc_context(STYLE)
def show_tradeoff(rows: Any, score: str = "iou", label: str = "mean IoU") -> Figure:
    """Quality against cost: a point per model, its interval, and an area that grows with its size.

    `rows` is a table with columns name, milliseconds (per photo), parameters, and the score's, its
    _low and _high; NaN where unknown. The names stand in a column beside the picture, so that they
    do not overlap however close the points are.
    """
    rows = rows.sort_values(score)
    names = (score, f"{score}_low", f"{score}_high", "milliseconds", "parameters")
    y, low, high, x, size = (_column(rows, name) for name in names)
    low, high = np.where(np.isnan(low), y, low), np.where(np.isnan(high), y, high)
    figure, axes = new_figure(size=(8.2, max(3.4, 0.3 * len(y) + 1.0)))
    axis = axes[0, 0]
    axis.vlines(x, low, high, color=BLUE, linewidth=2, alpha=0.6)
    share = np.nan_to_num(size) / max(1, np.nan_to_num(size).max())
    axis.scatter(x, y, 25 + 375 * share, color=BLUE, alpha=0.6, edgecolor="white", zorder=3)
    bottom, top = low.min() - 0.02, high.max() + 0.02
    axis.set(xlabel="milliseconds per photo", ylabel=label, ylim=(bottom, top))
    axis.set(xscale="log", xlim=(x.min() / 1.6, x.max() * 1.6))
    steps = (1, 2, 5) if x.max() < 300 * x.min() else (1,)  # LogLocator's crowd a short axis
    axis.xaxis.set_major_locator(FixedLocator([m * 10.0**k for k in range(-3, 8) for m in steps]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    gap = 1 / len(y)  # each name as near to its point's height as the others let it
    places = (y - bottom) / (top - bottom)
    for i in range(len(y)):
        places[i] = max(places[i], gap / 2 if i == 0 else places[i - 1] + gap * 0.9)
    for i in reversed(range(len(y))):
        places[i] = min(places[i], 1.0 if i == len(y) - 1 else places[i + 1] - gap * 0.9)
    for i, name in enumerate(rows["name"]):
        millions = f"{size[i] / 1e6:.0f}" if size[i] >= 1e7 else f"{size[i] / 1e6:.2g}"
        text = _short(name) + (f", {millions} M" if size[i] == size[i] else "")
        axis.annotate(
            text, (x[i], y[i]), (1.04, places[i]), textcoords="axes fraction", fontsize=9,
            va="center", arrowprops={"arrowstyle": "-", "color": "#BBBBBB", "relpos": (0, 0.5)},
        )  # fmt: skip
    axis.set_title("area and number: parameters in millions")
    return figure


@matplotlib.rc_context(STYLE)
def show_disagreement(
    image: np.ndarray,
    matte: np.ndarray,
    softs: Mapping[str, np.ndarray],
    thresholds: float | Mapping[str, float] = 0.5,
) -> Figure:
    """Where models differ: a photo, its truth, and the errors of each model, side by side.

    `softs` are soft masks by model, `thresholds` one for all or by model.
    """
    pictures = [("photo", image), ("truth", matte)]
    for name, soft in softs.items():
        at = thresholds[name] if isinstance(thresholds, Mapping) else thresholds
        errors = error_map(np.asarray(matte) >= 0.5, np.asarray(soft) >= at)
        pictures.append((_short(name, 24), errors))
    rows = -(-len(pictures) // 4)
    columns, shape = -(-len(pictures) // rows), np.clip(image.shape[0] / image.shape[1], 0.3, 3)
    figure, axes = new_figure(rows, columns, (2.1 * columns, (2.1 * shape + 0.3) * rows + 0.3))
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, picture) in zip(axes.flat, pictures, strict=False):
        draw_picture(axis, picture, name)
    figure.supxlabel("white: found, orange: made up, blue: missed", fontsize=9)
    return figure


def _column(table: Any, name: str) -> np.ndarray:
    return np.asarray(table[name], float)


def _short(name: str, longest: int = LONGEST) -> str:
    half = longest // 2 - 1
    name = name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"
    return name.replace("$", r"\$")  # which would begin a formula
