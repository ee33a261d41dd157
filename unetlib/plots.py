"""Arrays and tables in, matplotlib figures out, without pyplot: a cell shows one that ends it.

Photos are uint8 (H, W, 3), mattes and soft masks float (H, W) in [0, 1], binary masks bool or 0/1.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

# Okabe and Ito: people with any common colour vision can tell them apart
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
PINK, SKY, GREY = "#CC79A7", "#56B4E9", "#7F7F7F"
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "figure.facecolor": "white",
    "axes.prop_cycle": matplotlib.cycler(color=[BLUE, ORANGE, GREEN, PINK, SKY, GREY]),
}
styled = matplotlib.rc_context(STYLE)


class Picture(Figure):
    """A Figure that a notebook can show even where pyplot was never imported, in 256 colours: a
    third of the bytes, as notebooks are committed with their pictures."""

    def _repr_png_(self) -> bytes:
        full, small = io.BytesIO(), io.BytesIO()
        self.savefig(full, format="png", dpi=80)
        Image.open(full).convert("RGB").quantize(256).save(small, format="PNG", optimize=True)
        return small.getvalue()


@styled
def new_figure(
    rows: int = 1,
    columns: int = 1,
    size: tuple[float, float] = (6.0, 3.2),
    heights: Sequence[float] | None = None,
) -> tuple[Figure, np.ndarray]:
    """An empty figure in the course's style and its axes, an array of shape (rows, columns).

    `size` is (width, height) in inches; `heights` are the rows' shares of the height.
    """
    figure = Picture(figsize=size, dpi=80, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=heights)


def save_figure(figure: Figure, path: str | Path, dpi: int = 100) -> None:
    """Writes a figure (format by suffix), and makes its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)


def overlay(
    image: np.ndarray, mask: np.ndarray, colour: str = ORANGE, strength: float = 0.55
) -> np.ndarray:
    """The photo with the mask (binary or soft) laid over it in a colour: uint8 (H, W, 3)."""
    tint = np.array(matplotlib.colors.to_rgb(colour)) * 255
    weight = strength * np.asarray(mask, np.float32)[..., None]
    return np.rint(image * (1 - weight) + tint * weight).astype(np.uint8)


def error_map(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Two binary masks as one picture, uint8 (H, W, 3). White: found. Black: background. Orange:
    made up (false positive). Blue: missed (false negative)."""
    kinds = ["black", ORANGE, BLUE, "white"]
    colours = np.rint([np.multiply(matplotlib.colors.to_rgb(c), 255) for c in kinds])
    kind = 2 * (np.asarray(truth) > 0) + (np.asarray(prediction) > 0)
    return colours.astype(np.uint8)[kind]


@styled
def show_pairs(
    images: Sequence[np.ndarray],
    mattes: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    columns: int = 6,
) -> Figure:
    """Photos, at least one, with their mattes right below them, `columns` pairs to a row."""
    titles = titles or [""] * len(images)
    columns = min(columns, len(images))
    shapes = [max(map(_aspect, images[i : i + columns])) for i in range(0, len(images), columns)]
    heights = np.repeat(shapes, 2)
    size = (1.6 * columns, 1.6 * heights.sum() + 0.25 * len(shapes))
    figure, axes = new_figure(len(heights), columns, size, heights)
    for axis in axes.flat:
        axis.axis("off")
    for i, (image, matte, title) in enumerate(zip(images, mattes, titles, strict=True)):
        row, column = 2 * (i // columns), i % columns
        _draw(axes[row, column], image)
        axes[row, column].set_title(title, fontsize=8)
        _draw(axes[row + 1, column], matte)
    return figure


@styled
def show_cases(
    images: Sequence[np.ndarray],
    mattes: Sequence[np.ndarray],
    softs: Sequence[np.ndarray],
    titles: Sequence[str],
    threshold: float = 0.5,
) -> Figure:
    """A row per photo (at least one): photo, matte, soft prediction, errors at the threshold."""
    heights = [_aspect(image) for image in images]
    figure, axes = new_figure(len(images), 4, (7.4, 1.62 * sum(heights) + 0.4), heights)
    heads = ("photo", "truth", "soft prediction", "orange: made up\nblue: missed")
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head, fontsize=9)
    for row, image, matte, soft, title in zip(axes, images, mattes, softs, titles, strict=True):
        errors = error_map(np.asarray(matte) >= 0.5, np.asarray(soft) >= threshold)
        for axis, picture in zip(row, (image, matte, soft, errors), strict=True):
            _draw(axis, picture)
        row[0].axis("on")  # the title stands to the left of its row
        row[0].set(xticks=[], yticks=[])
        row[0].set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center", parse_math=False)
    return figure


@styled
def show_history(history: Sequence[Mapping[str, float]]) -> Figure:
    """Learning curves: losses on the left, validation scores on the right with the best epoch.

    `history` is a list with a dict per epoch, as `fit` returns it; what it lacks is not drawn.
    """
    if not history:
        raise ValueError("the history is empty: no epoch was trained")
    figure, axes = new_figure(1, 2, size=(8.6, 3.2))
    left, right = axes[0]
    curves = [(left, "train_loss", "training"), (left, "val_loss", "validation")]
    for axis, name, label in (*curves, (right, "val_iou", "IoU"), (right, "val_dice", "Dice")):
        rows = [(r["epoch"], r[name]) for r in history if r.get(name) is not None]
        if rows:
            axis.plot(*zip(*rows, strict=True), label=label, marker=".", markersize=5)
            axis.legend(loc="best" if axis is left else "lower right")
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    best = max(history, key=lambda r: r.get("val_iou") or 0.0)
    if best.get("val_iou") is not None:
        right.plot(best["epoch"], best["val_iou"], "o", color=BLUE, markersize=8)
        right.set_title(f"validation: best IoU {best['val_iou']:.3f}, epoch {best['epoch']}")
    left.set(title="loss", ylim=(0, None))
    right.set_ylim(0, 1)
    return figure


@styled
def show_bars(scores: Mapping[str, float], title: str = "", highlight: str = "") -> Figure:
    """Horizontal bars of scores in [0, 1] with their values, the one named `highlight` in blue."""
    figure, axes = new_figure(size=(6.0, 0.42 * len(scores) + 0.8))
    axis = axes[0, 0]
    colours = [BLUE if name == highlight else GREY for name in scores]
    bars = axis.barh(list(scores), list(scores.values()), color=colours, height=0.65)
    axis.bar_label(bars, fmt="%.2f", padding=3)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.08), title=title)
    axis.grid(axis="y", visible=False)
    return figure


@styled
def show_sweep(table: Any) -> Figure:
    """Scores and their best thresholds; `table` has columns threshold, iou, and perhaps dice."""
    figure, axes = new_figure()
    axis, found = axes[0, 0], []
    thresholds = np.asarray(table["threshold"])
    for name, label, colour in (("iou", "IoU", BLUE), ("dice", "Dice", ORANGE)):
        if name in table:
            points = list(zip(table[name], -abs(thresholds - 0.5), thresholds, strict=True))
            high, _, best = max(points)  # of several, the one nearest to 0.5
            axis.plot(thresholds, table[name], color=colour, label=label)
            axis.axvline(best, color=colour, linewidth=1, linestyle="--")
            axis.plot(best, high, "o", color=colour)
            found.append(f"best {label} {high:.3f} at threshold {best:.2f}")
    axis.set(xlabel="threshold", ylabel="mean per image", xlim=(0, 1), ylim=(0, 1))
    axis.set_title(", ".join(found))
    axis.legend(loc="lower center")
    return figure


@styled
def show_reliability(table: Any, ece: float) -> Figure:
    """Reliability diagram: of the pixels with a probability of 0.8, are 80 % foreground? Below it
    the share of pixels, on a logarithmic scale. `table` is that of `Histogram.reliability`."""
    figure, axes = new_figure(2, 1, (5.4, 5.0), heights=(3, 1))
    upper, lower = axes[:, 0]
    low, high, share = (np.asarray(table[name]) for name in ("low", "high", "share"))
    x, y = (np.asarray(table[name])[share > 0] for name in ("confidence", "accuracy"))
    upper.plot((0, 1), (0, 1), "--", color=GREY, linewidth=1, label="perfectly calibrated")
    upper.vlines(x, x, y, color=ORANGE, linewidth=5, alpha=0.6, label="off by")
    upper.plot(x, y, "o-", color=BLUE, markersize=4, label="this model")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of foreground", xticklabels=[])
    upper.set_title(f"expected calibration error {ece:.3f}")
    upper.legend(loc="upper left")
    lower.bar(low, share, high - low, align="edge", color=BLUE, edgecolor="white")
    lower.set(xlabel="predicted probability", ylabel="share of pixels", xlim=(0, 1), yscale="log")
    return figure


@styled
def show_intervals(summary: Any, title: str = "") -> Figure:
    """Scores in [0, 1] with their intervals, a line each, and as numbers. `summary` is a table with
    columns mean, low, high; its index are the names."""
    figure, axes = new_figure(size=(7.4, 0.3 * len(summary) + 0.8))
    axis, places = axes[0, 0], np.arange(len(summary))
    axis.hlines(places, summary["low"], summary["high"], color=BLUE, linewidth=5, alpha=0.45)
    axis.plot(summary["mean"], places, "o", color=BLUE, markersize=5)
    for place, (mean, low, high) in enumerate(summary[["mean", "low", "high"]].to_numpy()):
        axis.text(1.02, place, f"{mean:.3f}   ({low:.3f} to {high:.3f})", va="center", fontsize=9)
    axis.set_yticks(places, summary.index)
    axis.set(xlim=(0, 1), ylim=(len(summary) - 0.5, -0.5), title=title)
    return figure


def _draw(axis: Any, picture: np.ndarray) -> None:
    """A photo, or a mask in greys that always run from 0 to 1, without ticks."""
    picture = np.asarray(picture)
    greys = {"cmap": "gray", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
    axis.imshow(picture.astype(np.float32) if greys else picture, **greys)
    axis.axis("off")


def _aspect(picture: np.ndarray) -> float:
    return np.shape(picture)[0] / np.shape(picture)[1]


def show(pictures: Any, columns: int = 0) -> Any:
    """Pictures beside each other, 1,060 pixels wide, for a notebook cell: title -> picture, a list
    of (title, picture), or a list of pictures. A picture is uint8 (H, W, 3), or a mask (H, W) in
    [0, 1], whose white is 1. `columns`: in a row; 0: all, at most five."""
    from IPython.display import Image as Shown
    from PIL import ImageDraw, ImageFont

    named = list(pictures.items()) if isinstance(pictures, Mapping) else list(pictures)
    named = [one if isinstance(one, tuple) else ("", one) for one in named]
    columns = columns or min(5, len(named))
    width, font = 1060 // columns - 6, ImageFont.load_default(16)
    tiles = []
    for _, picture in named:
        array = np.asarray(picture)
        if array.dtype != np.uint8:
            array = np.rint(255 * np.clip(array.astype(np.float32), 0, 1)).astype(np.uint8)
        size = width, round(width * array.shape[0] / array.shape[1])
        shrinks = width < array.shape[1]
        how = Image.Resampling.LANCZOS if shrinks else Image.Resampling.NEAREST
        tiles.append(Image.fromarray(array).resize(size, how))
    rows = [range(i, min(i + columns, len(tiles))) for i in range(0, len(tiles), columns)]
    heads = [24 if any(named[i][0] for i in row) else 0 for row in rows]
    heights = [
        head + max(tiles[i].height for i in row) + 6 for head, row in zip(heads, rows, strict=True)
    ]
    sheet = Image.new("RGB", (columns * (width + 6), sum(heights)), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for row, head, height in zip(rows, heads, heights, strict=True):
        for k, i in enumerate(row):
            draw.text((k * (width + 6), top + 2), named[i][0], "black", font)
            sheet.paste(tiles[i], (k * (width + 6), top + head))
        top += height
    files = io.BytesIO(), io.BytesIO()
    sheet.save(files[0], "JPEG", quality=85)
    sheet.quantize(256).save(files[1], "PNG", optimize=True)
    smaller = min(files, key=lambda file: len(file.getvalue()))
    return Shown(smaller.getvalue())
