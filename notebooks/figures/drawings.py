"""Makes the drawings of 02_model: unet.png and operations.png.

python notebooks/figures/drawings.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, Rectangle

HERE = Path(__file__).parent
BLUE, ORANGE, GREEN, GREY, PINK = "#0072B2", "#E69F00", "#009E73", "#8A8A8A", "#CC79A7"
PALE_BLUE, PALE_ORANGE, PALE_GREEN = "#9CC9E6", "#F4CE85", "#BFE3D5"
WIDTHS = {3: 0.16, 1: 0.1, 64: 0.3, 128: 0.42, 256: 0.58, 512: 0.78, 1024: 1.05}
LEVELS = [(64, 96), (128, 48), (256, 24), (512, 12)]  # channels, side


def box(axis, x, y, channels, side, colour, label=""):
    """Features: as wide as they have channels, as high as they are large; their right side."""
    width, height = WIDTHS[channels], height_of(side)
    axis.add_patch(Rectangle((x, y - height / 2), width, height, color=colour, lw=0))
    axis.text(x + width / 2, y + height / 2 + 0.08, label, ha="center", va="bottom", fontsize=12)
    return x + width


def height_of(side):
    return 0.34 + 0.42 * side / 24


def arrow(axis, start, end, colour):
    how = {"arrowstyle": "-|>", "mutation_scale": 16, "lw": 2.4, "color": colour}
    axis.add_patch(FancyArrowPatch(start, end, **how))


def unet() -> None:
    figure, axis = plt.subplots(figsize=(12.8, 6.8), dpi=100)
    depths = [0.0, -2.6, -4.6, -6.2]
    end = box(axis, -1.3, 0, 3, 96, GREY, "3")
    arrow(axis, (end + 0.1, 0), (-0.1, 0), BLUE)
    x, skips = 0.0, []
    for (channels, side), y, below in zip(LEVELS, depths, [*depths[1:], -7.6], strict=True):
        axis.text(-1.75, y, f"{side} × {side}", ha="right", va="center", fontsize=12, color=GREY)
        end = box(axis, x, y, channels, side, BLUE, channels)
        skips.append(end)
        middle = x + WIDTHS[channels] / 2
        x += 1.15
        top = below + height_of(side // 2) / 2
        arrow(axis, (middle, y - height_of(side) / 2 - 0.08), (x - 0.05, top - 0.1), PINK)
    axis.text(-1.75, -7.6, "6 × 6", ha="right", va="center", fontsize=12, color=GREY)
    x = box(axis, x, -7.6, 1024, 6, GREY)
    axis.text(x - 0.5, -7.95, "1024", ha="center", va="top", fontsize=12)
    y, side = -7.6, 6
    for level in (3, 2, 1, 0):
        channels, target, left = LEVELS[level][0], depths[level], x + 0.85
        joined = left + WIDTHS[channels]
        foot = target - height_of(2 * side) / 2
        arrow(axis, (x + 0.06, y + height_of(side) / 2 - 0.15), (joined + 0.1, foot - 0.08), GREEN)
        arrow(axis, (skips[level] + 0.1, target), (left - 0.1, target), GREY)
        y, side = target, 2 * side
        box(axis, left, y, channels, side, PALE_BLUE)
        end = box(axis, joined, y, channels, side, PALE_ORANGE)
        text = f"{channels} + {channels}"
        axis.text(
            joined, y + height_of(side) / 2 + 0.08, text, ha="center", va="bottom", fontsize=12
        )
        arrow(axis, (end + 0.1, y), (end + 0.95, y), BLUE)
        x = box(axis, end + 1.05, y, channels, side, ORANGE, channels)
    arrow(axis, (x + 0.1, 0), (x + 0.75, 0), "black")
    box(axis, x + 0.85, 0, 1, 96, GREY, "1")
    keys = {
        BLUE: "two 3×3 convolutions, batch norm, ReLU",
        PINK: "max pooling: half the side; then the two convolutions",
        GREEN: "transposed convolution: twice the side, half the channels",
        GREY: "skip: the features are concatenated",
        "black": "1×1 convolution: one logit for each pixel",
    }
    for k, (colour, text) in enumerate(keys.items()):
        y = -5.6 - 0.55 * k
        arrow(axis, (x - 5.0, y), (x - 4.4, y), colour)
        axis.text(x - 4.25, y, text, va="center", fontsize=11)
    axis.set(xlim=(-2.9, x + 1.4), ylim=(-8.5, 1.5))
    axis.axis("off")
    figure.savefig(HERE / "unet.png", bbox_inches="tight", pad_inches=0.05)


def grid(axis, x, y, rows, marked, colour, size=0.5):
    """Numbers in squares; those at the places (row, column) of `marked` are coloured."""
    for (i, j), value in np.ndenumerate(rows):
        left, bottom = x + j * size, y - (i + 1) * size
        fill = colour if (i, j) in marked else "white"
        square = Rectangle((left, bottom), size, size, facecolor=fill, edgecolor="black", lw=1)
        axis.add_patch(square)
        middle = left + size / 2, bottom + size / 2
        axis.text(*middle, value, ha="center", va="center", fontsize=11)


def operations() -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12.8, 3.4), dpi=100)
    photo = np.array([[1, 2, 0, 1], [0, 1, 3, 1], [2, 1, 0, 0], [1, 0, 1, 2]])
    kernel = np.array([[1, 0, -1]] * 3)
    places = [(i, j) for i in (0, 1) for j in (0, 1)]
    found = [(photo[i : i + 3, j : j + 3] * kernel).sum() for i, j in places]
    nine = [(i, j) for i in range(3) for j in range(3)]
    grid(axes[0], 0, 2, photo, nine, PALE_ORANGE)
    axes[0].text(2.25, 1.0, "∗", fontsize=18, va="center", ha="center")
    grid(axes[0], 2.5, 1.75, kernel, nine, PALE_BLUE)
    axes[0].text(4.25, 1.0, "=", fontsize=16, va="center", ha="center")
    grid(axes[0], 4.5, 1.5, np.reshape(found, (2, 2)), [(0, 0)], PALE_ORANGE)
    axes[0].set_title("convolution:\nnine products, added up", fontsize=13)
    largest = photo.reshape(2, 2, 2, 2).max(axis=(1, 3))
    grid(axes[1], 0.3, 2, photo, places, PALE_ORANGE)
    arrow(axes[1], (2.5, 1.0), (3.3, 1.0), PINK)
    grid(axes[1], 3.5, 1.5, largest, [(0, 0)], PALE_ORANGE)
    axes[1].set_title("max pooling:\nthe largest of four", fontsize=13)
    small, block = np.array([[2, 1], [0, 3]]), np.array([[1, 2], [0, 1]])
    grid(axes[2], 0, 1.5, small, [(0, 0)], PALE_ORANGE)
    axes[2].text(1.35, 1.0, "×", fontsize=16, va="center", ha="center")
    grid(axes[2], 1.7, 1.5, block, places, PALE_GREEN)
    arrow(axes[2], (2.85, 1.0), (3.4, 1.0), GREEN)
    grid(axes[2], 3.55, 2, np.kron(small, block), places, PALE_ORANGE)
    axes[2].set_title("transposed convolution:\neach value lays down a block", fontsize=13)
    for axis in axes:
        axis.set(xlim=(-0.1, 5.65), ylim=(-0.1, 2.1), aspect="equal")
        axis.axis("off")
    figure.savefig(HERE / "operations.png", bbox_inches="tight", pad_inches=0.05)


if __name__ == "__main__":
    unet()
    operations()
