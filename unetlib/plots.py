"""Arrays in, matplotlib figures out, without pyplot: a cell shows one that ends it.

Photos are uint8 (H, W, 3), mattes and soft masks float (H, W) in [0, 1], binary masks bool or 0/1.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito: people with any common colour vision can tell them apart
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
PINK, SKY, GREY = "#CC79A7", "#56B4E9", "#7F7F7F"
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=[BLUE, ORANGE, GREEN, PINK, SKY, GREY]),
}


class Picture(Figure):
    """A Figure that a notebook can show even where pyplot was never imported, in 256 colours: a
    third of the bytes, as notebooks are committed with their pictures."""

    def _repr_png_(self) -> bytes:
        full, small = io.BytesIO(), io.BytesIO()
        self.savefig(full, format="png", dpi=80)
        Image.open(full).convert("RGB").quantize(256).save(small, format="PNG", optimize=True)
        return small.getvalue()


@matplotlib.rc_context(STYLE)
def new_figure(rows=1, columns=1, size=(6.0, 3.2), heights=None) -> tuple[Figure, np.ndarray]:
    """An empty figure in the course's style and its axes, an array of shape (rows, columns).

    `size` is (width, height) in inches; `heights` are the rows' shares of the height.
    """
    figure = Picture(figsize=size, dpi=80, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=heights)


def save_figure(figure: Figure, path: str | Path, dpi: int = 100) -> None:
    """Writes a figure (format by suffix), and makes its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)


def error_map(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Two binary masks as one picture, uint8 (H, W, 3). White: found. Black: background. Orange:
    made up (false positive). Blue: missed (false negative)."""
    kinds = ["black", ORANGE, BLUE, "white"]
    colours = np.rint([np.multiply(matplotlib.colors.to_rgb(c), 255) for c in kinds])
    kind = 2 * (np.asarray(truth) > 0) + (np.asarray(prediction) > 0)
    return colours.astype(np.uint8)[kind]


def show(pictures: Mapping[str, Any] | Iterable, columns: int = 0, side: float = 0) -> Figure:
    """Photos and masks, at least one, in rows of `columns` (0: all in one), titles above them.

    `pictures` are a dict by title, (title, picture) pairs, or pictures alone. Each is `side` pixels
    wide (0: all together 1,024). A mask's greys run from 0 to 1, however faint it is.
    """
    pictures = pictures.items() if isinstance(pictures, Mapping) else pictures
    named = [one if isinstance(one, tuple) else ("", one) for one in pictures]
    columns = min(columns or len(named), len(named))
    rows = [named[i : i + columns] for i in range(0, len(named), columns)]
    width = (side or 1024 / columns) / 80
    heights = [width * max(len(picture) / len(picture[0]) for _, picture in row) for row in rows]
    lines = sum(1 + max(title.count("\n") for title, _ in row) for row in rows)  # of titles
    size = (width * columns, sum(heights) + 0.23 * lines)
    figure, axes = new_figure(len(rows), columns, size, heights)
    for axis in axes.flat:
        axis.set(frame_on=False, xticks=[], yticks=[], anchor="S")
    for axis, (title, picture) in zip(axes.flat, named, strict=False):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=9, parse_math=False)
    return figure
