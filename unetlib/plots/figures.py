"""Arrays and tables in, matplotlib figures out: the pictures of the notebooks and of the report.

Figures are made without pyplot, so there is no current figure, nothing to close, and no window on
a server; a notebook shows one that ends a cell. Photos are uint8 (H, W, 3), mattes and soft masks
float (H, W) in [0, 1], binary masks bool or 0/1. The colours are those of Okabe and Ito, which
people with any common colour vision can tell apart.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

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
LABELS = {
    "train_loss": "training",
    "val_loss": "validation",
    "val_iou": "IoU",
    "val_dice": "Dice",
}


class Picture(Figure):
    """A Figure that a notebook can show even where pyplot was never imported.

    It is shown in 256 colours, a third of the bytes: notebooks are committed with their pictures.
    """

    def _repr_png_(self) -> bytes:
        full, small = io.BytesIO(), io.BytesIO()
        self.savefig(full, format="png", dpi=80)
        Image.open(full).convert("RGB").quantize(256).save(small, format="PNG", optimize=True)
        return small.getvalue()


@matplotlib.rc_context(STYLE)
def new_figure(
    rows: int = 1,
    columns: int = 1,
    size: tuple[float, float] = (6.0, 3.2),
    heights: Sequence[float] | None = None,
):
    """An empty figure in the course's style and its axes, an array of shape (rows, columns).

    `size` is (width, height) in inches; `heights` are the rows' shares of the height.
    """
    figure = Picture(figsize=size, dpi=80, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=heights)


def save_figure(figure: Figure, path: str | Path, dpi: int = 100) -> Path:
    """Write a figure (format by suffix) and make its folder; a kill never leaves half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(part, dpi=dpi, format=path.suffix.lstrip(".") or "png")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def overlay(image: np.ndarray, mask: np.ndarray, colour: str = ORANGE, strength: float = 0.55):
    """The photo with the mask (binary or soft) laid over it in a colour: uint8 (H, W, 3)."""
    check_sizes(image, mask)
    tint = np.array(matplotlib.colors.to_rgb(colour)) * 255
    weight = strength * np.asarray(mask, np.float32)[..., None]
    return np.rint(image * (1 - weight) + tint * weight).astype(np.uint8)


def error_map(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Two binary masks as one picture, uint8 (H, W, 3).

    White: found. Black: background. Orange: made up (fp). Blue: missed (fn).
    """
    check_sizes(truth, prediction)
    truth, prediction = np.asarray(truth) > 0, np.asarray(prediction) > 0
    picture = np.zeros((*truth.shape, 3), np.uint8)
    for where, colour in (
        (truth & prediction, "white"),
        (prediction & ~truth, ORANGE),
        (truth & ~prediction, BLUE),
    ):
        picture[where] = np.rint(np.array(matplotlib.colors.to_rgb(colour)) * 255)
    return picture


@matplotlib.rc_context(STYLE)
def show_pairs(
    images: Sequence[np.ndarray],
    mattes: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    columns: int = 6,
) -> Figure:
    """Photos with their mattes right below them, `columns` pairs to a row."""
    titles = check_titles(titles, images, mattes)
    columns = min(columns, len(images))
    shapes = [max(map(aspect, images[i : i + columns])) for i in range(0, len(images), columns)]
    heights = np.repeat(shapes, 2)
    size = (1.6 * columns, 1.6 * heights.sum() + 0.25 * len(shapes))
    figure, axes = new_figure(len(heights), columns, size, heights)
    for axis in axes.flat:
        axis.axis("off")
    for i, (image, matte, title) in enumerate(zip(images, mattes, titles, strict=True)):
        row, column = 2 * (i // columns), i % columns
        draw_picture(axes[row, column], image, title)
        draw_picture(axes[row + 1, column], matte)
    return figure


@matplotlib.rc_context(STYLE)
def show_cases(
    images: Sequence[np.ndarray],
    mattes: Sequence[np.ndarray],
    softs: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    threshold: float = 0.5,
) -> Figure:
    """One row per photo: photo, true matte, soft prediction, errors at the threshold."""
    titles = check_titles(titles, images, mattes, softs)
    heights = [aspect(image) for image in images]
    figure, axes = new_figure(len(images), 4, (7.4, 1.62 * sum(heights) + 0.4), heights)
    heads = ("photo", "truth", "soft prediction", "orange: made up\nblue: missed")
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head, fontsize=9)
    for row, image, matte, soft, title in zip(axes, images, mattes, softs, titles, strict=True):
        errors = error_map(np.asarray(matte) >= 0.5, np.asarray(soft) >= threshold)
        for axis, picture in zip(row, (image, matte, soft, errors), strict=True):
            draw_picture(axis, picture)
        row[0].axis("on")  # the title stands to the left of its row
        row[0].set(xticks=[], yticks=[])
        row[0].set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center")
    return figure


@matplotlib.rc_context(STYLE)
def show_history(history: Sequence[Mapping[str, float]]) -> Figure:
    """Learning curves: losses on the left, validation scores on the right with the best epoch.

    `history` is a list with a dict per epoch, as `fit` returns it; what it lacks is not drawn.
    """
    if not history:
        raise ValueError("the history is empty: no epoch was trained")
    figure, axes = new_figure(1, 2, size=(8.6, 3.2))
    left, right = axes[0]
    for axis, names in ((left, ("train_loss", "val_loss")), (right, ("val_iou", "val_dice"))):
        for name in names:
            rows = [(r["epoch"], r[name]) for r in history if r.get(name) is not None]
            if rows:
                axis.plot(*zip(*rows, strict=True), label=LABELS[name], marker=".", markersize=5)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if axis.lines:
            axis.legend(loc="best" if axis is left else "lower right")
    best = max(history, key=lambda r: r.get("val_iou") or 0.0)
    if best.get("val_iou") is not None:
        right.plot(best["epoch"], best["val_iou"], "o", color=BLUE, markersize=8)
        right.set_title(f"validation: best IoU {best['val_iou']:.3f}, epoch {best['epoch']}")
    left.set(title="loss", ylim=(0, None))
    right.set_ylim(0, 1)
    return figure


@matplotlib.rc_context(STYLE)
def show_sweep(table) -> Figure:
    """Scores and their best thresholds; `table` has columns threshold, iou, and perhaps dice."""
    figure, axes = new_figure(size=(6.0, 3.2))
    axis, found = axes[0, 0], []
    thresholds = np.asarray(table["threshold"], float)
    for name, label, colour in (("iou", "IoU", BLUE), ("dice", "Dice", ORANGE)):
        if name in table:
            scores = np.asarray(table[name], float)
            axis.plot(thresholds, scores, color=colour, label=label)
            best = thresholds[scores == scores.max()]  # of several, the one nearest to 0.5
            best = best[np.abs(best - 0.5).argmin()]
            axis.axvline(best, color=colour, linewidth=1, linestyle="--")
            axis.plot(best, scores.max(), "o", color=colour)
            found.append(f"best {label} {scores.max():.3f} at threshold {best:.2f}")
    axis.set_title(", ".join(found))
    axis.set(xlabel="threshold", ylabel="mean per image", xlim=(0, 1), ylim=(0, 1))
    axis.legend(loc="lower center")
    return figure


@matplotlib.rc_context(STYLE)
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


def draw_picture(axis, picture: np.ndarray, title: str = "") -> None:
    """Draw a photo, or a mask in greys that always run from 0 to 1, without ticks."""
    picture = np.asarray(picture)
    if picture.ndim == 2:
        axis.imshow(picture.astype(np.float32), cmap="gray", vmin=0, vmax=1)
    else:
        axis.imshow(picture)
    axis.axis("off")
    if title:
        axis.set_title(title, fontsize=8)


def aspect(picture: np.ndarray) -> float:
    return np.shape(picture)[0] / np.shape(picture)[1]


def check_sizes(first: np.ndarray, second: np.ndarray) -> None:
    if np.shape(first)[:2] != np.shape(second)[:2]:
        raise ValueError(f"different sizes: {np.shape(first)[:2]} and {np.shape(second)[:2]}")


def check_titles(titles: Sequence[str] | None, *series: Sequence[np.ndarray]) -> Sequence[str]:
    titles = [""] * len(series[0]) if titles is None else titles
    if not titles or any(len(s) != len(titles) for s in series):
        counts = ", ".join(str(len(s)) for s in series)
        raise ValueError(f"need as many of each, and at least one: {counts}, {len(titles)} titles")
    return titles
