"""Photos and masks beside each other: for the cells of the notebooks and for the pages."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, GAP = 1060, 6  # pixels
FALSE_POSITIVE, MISSED = (230, 159, 0), (0, 114, 178)  # Okabe and Ito's orange and blue


def error_map(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Two binary masks (H, W) as one picture, uint8 (H, W, 3): white was found, black is
    background, orange a false positive, and blue was missed."""
    colours = np.array([(0, 0, 0), FALSE_POSITIVE, MISSED, (255, 255, 255)], np.uint8)
    return colours[2 * (np.asarray(truth) > 0) + (np.asarray(found) > 0)]


def contact_sheet(
    pictures: Mapping[str, Any] | Iterable, columns: int = 0, total: int = WIDTH
) -> Image.Image:
    """One picture, `total` pixels wide, of several in rows, with their titles above them.

    `pictures`: title -> picture, (title, picture) pairs, or pictures alone; each is uint8
    (H, W, 3), or a mask (H, W) of bool or float in [0, 1], which is white where it is 1. `columns`:
    pictures in a row; 0: all, at most five.
    """
    listed = pictures.items() if isinstance(pictures, Mapping) else pictures
    named = [one if isinstance(one, tuple) else ("", one) for one in listed]
    columns, font = columns or max(1, min(5, len(named))), ImageFont.load_default(15)
    width = total // columns - GAP
    tiles = []
    for title, picture in named:
        array = np.asarray(picture)
        if array.dtype != np.uint8:
            array = np.rint(255 * np.clip(array.astype(np.float32), 0, 1)).astype(np.uint8)
        size = width, max(1, round(width * array.shape[0] / array.shape[1]))
        shrinks = width < array.shape[1]
        method = Image.Resampling.LANCZOS if shrinks else Image.Resampling.NEAREST
        tiles.append((title, Image.fromarray(array).resize(size, method)))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heads = [20 * max(title.count("\n") + bool(title) for title, _ in row) for row in rows]
    heights = [max(tile.height for _, tile in row) + GAP for row in rows]
    sheet = Image.new("RGB", (total, max(1, sum(heads) + sum(heights))), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for row, head, height in zip(rows, heads, heights, strict=True):
        for k, (title, tile) in enumerate(row):
            draw.multiline_text((k * (width + GAP), top), title, "black", font)
            sheet.paste(tile, (k * (width + GAP), top + head))
        top += head + height
    return sheet


def show(pictures: Mapping[str, Any] | Iterable, columns: int = 0) -> Any:
    """A `contact_sheet` that a notebook's cell shows, as the smaller one of JPEG and PNG."""
    from IPython.display import Image as Shown

    sheet, jpeg, png = contact_sheet(pictures, columns), io.BytesIO(), io.BytesIO()
    sheet.save(jpeg, "JPEG", quality=85)
    sheet.quantize(256).save(png, "PNG", optimize=True)
    return Shown(min(jpeg.getvalue(), png.getvalue(), key=len))
