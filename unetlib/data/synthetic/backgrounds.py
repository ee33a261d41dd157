"""What is behind the figures: busy patterns and soft scenes, in the figures' own colours.

Each painter takes a generator, the canvas size n and colours (k, 3) and returns a square uint8 RGB
picture: of n pixels where it has edges, of fewer where it has none.
"""

from __future__ import annotations

import cv2
import numpy as np

from unetlib.data.synthetic.drawing import SHIFT, ellipse, fixed, mix, smooth


def grid(n: int, turn: float, f: float) -> tuple[np.ndarray, np.ndarray]:
    """Turned coordinates that run over f units across the picture."""
    t = np.linspace(-f / 2, f / 2, n, dtype=np.float32)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return c * t[None] + s * t[:, None], c * t[:, None] - s * t[None]


def cells(rng, colours, i, j) -> np.ndarray:
    """A random colour for every cell (i, j), the same for all its pixels."""
    table = colours[rng.integers(0, len(colours), 4096)] * rng.uniform(0.88, 1.1, (4096, 1))
    key = (i.astype(np.int32) * 73 + j.astype(np.int32) * 179) & 4095
    return np.clip(table, 0, 255).astype(np.uint8)[key]


def fill(image, points, colour) -> None:
    p = fixed(np.asarray(points) * image.shape[0])
    cv2.fillPoly(image, [p], colour.tolist(), cv2.LINE_AA, SHIFT)


def noise(rng, n: int, lattice: int) -> np.ndarray:
    """Smooth noise in about [-1, 1], float32 (n, n)."""
    small = rng.normal(0, 0.6, (lattice + 3, lattice + 3)).astype(np.float32)
    return cv2.resize(small, (n, n), interpolation=cv2.INTER_CUBIC)


def gradient(rng, n: int, colours) -> np.ndarray:
    """Two colours with broad clouds of the others."""
    _, y = grid(64, rng.uniform(0, 6.3), 1.3)
    image = colours[0] + np.clip(y + 0.5, 0, 1)[..., None] * (colours[1] - colours[0])
    for c in colours[2:]:
        w = np.clip(noise(rng, 64, int(rng.integers(1, 4))) * 1.6 - 0.1, 0, 1)
        image += w[..., None] * (c - image)
    return np.clip(image, 0, 255).astype(np.uint8)


# busy: sharp edges everywhere


def stripes(rng, n, colours):
    x, _ = grid(n, rng.uniform(0, np.pi), rng.uniform(18, 34))
    x = x + (rng.random() < 0.4) * rng.uniform(0.5, 1.5) * noise(rng, n, 3)
    order = rng.integers(0, len(colours), 7)
    return colours[order].astype(np.uint8)[np.floor(x).astype(np.int32) % 7]


def tiles(rng, n, colours):
    x, y = grid(n, rng.choice([0, np.pi / 4, rng.uniform(0, 1)]), rng.uniform(9, 16))
    kind = rng.integers(0, 4)
    if kind == 0:  # bricks
        x = x / 2 + 0.5 * (np.floor(y) % 2)
    i, j = np.floor(x), np.floor(y)
    fx, fy = x - i, y - j
    if kind == 1:  # triangles
        i = 2 * i + (fx > fy)
    image = cells(rng, colours, i, j)
    if kind == 2:  # a motif in each
        motif = (fx - 0.5) ** 2 + (fy - 0.5) ** 2 < 0.1
        image[motif] = cells(rng, colours, i + 31, j + 17)[motif]
    if kind != 1:
        grout = (fx < 0.07 * (1 if kind else 0.6)) | (fy < 0.07)
        image[grout] = np.clip(colours[rng.integers(len(colours))] * 0.75, 0, 255).astype(np.uint8)
    return image


def scales(rng, n, colours):
    """Rows of overlapping discs, like a roof."""
    f = rng.uniform(5, 9)
    image = np.empty((n, n, 3), np.uint8)
    image[:] = colours[0].astype(np.uint8)
    r = 0.62 / f
    for row in range(int(f * 2) + 3):
        for k in range(int(f) + 2):
            x, y = (k + 0.5 * (row % 2)) / f, (row - 1) * 0.5 / f
            c = colours[rng.integers(len(colours))]
            fill(image, ellipse(x, y, r, n=14), c)
            fill(
                image, ellipse(x, y, r * 0.6, n=12), mix(c, colours[(row + k) % len(colours)], 0.6)
            )
    return image


def books(rng, n, colours):
    """Shelves of upright spines."""
    image = np.empty((n, n, 3), np.uint8)
    image[:] = (colours[rng.integers(len(colours))] * 0.45).astype(np.uint8)
    rows = int(rng.integers(3, 5))
    for row in range(rows):
        low = (row + 1) / rows
        x = 0.0
        while x < 1:
            w, h = rng.uniform(0.022, 0.06), rng.uniform(0.6, 0.92) / rows
            lean = rng.choice([0, 0, 0, 0.03])
            c = colours[rng.integers(len(colours))] * rng.uniform(0.75, 1.08)
            fill(
                image,
                [(x, low), (x + w, low), (x + w + lean, low - h), (x + lean, low - h)],
                np.minimum(c, 255),
            )
            band = colours[rng.integers(len(colours))]
            fill(
                image,
                [
                    (x, low - h * 0.3),
                    (x + w, low - h * 0.3),
                    (x + w, low - h * 0.2),
                    (x, low - h * 0.2),
                ],
                band,
            )
            x += w + 0.004
        fill(
            image,
            [(0, low - 0.015), (1, low - 0.015), (1, low + 0.012), (0, low + 0.012)],
            colours[0] * 0.7,
        )
    return image


def clutter(rng, n, colours, count=120, low=0.02, high=0.085):
    """Flat scraps: triangles, bars, crosses, crescents, zigzags."""
    image = cv2.resize(gradient(rng, n, colours), (n, n), interpolation=cv2.INTER_CUBIC)
    which = rng.integers(0, (len(SCRAPS), len(colours)), (count, 2))
    tones = np.clip(colours[which[:, 1]] * rng.uniform(0.85, 1.12, (count, 1)), 0, 255)
    at, r, a = rng.random((count, 2)), rng.uniform(low, high, count), rng.uniform(0, 6.3, count)
    for k in range(count):
        fill(image, at[k] + r[k] * turned(SCRAPS[which[k, 0]], a[k]), tones[k])
    return image


def terrazzo(rng, n, colours):
    return clutter(rng, n, colours, 260, 0.012, 0.04)


def camouflage(rng, n, colours):
    """Noise in bands, like a map or a marbled paper."""
    height = (
        noise(rng, n, int(rng.integers(5, 9))) + 0.5 * noise(rng, n, 16) + 0.25 * noise(rng, n, 40)
    )
    band = np.floor(height * rng.uniform(3, 6)).astype(np.int32)
    return colours[rng.permutation(len(colours))].astype(np.uint8)[band % len(colours)]


# soft: out of focus, colours without edges


def soften(image, sigma: float) -> np.ndarray:
    """A blur so wide that 96 pixels are enough."""
    small = cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), sigma * 96, borderType=cv2.BORDER_REFLECT)


def defocus(rng, n, colours):
    return soften(clutter(rng, 128, colours, 45, 0.06, 0.22), rng.uniform(0.022, 0.04))


def bokeh(rng, n, colours):
    image = soften(clutter(rng, 128, colours * 0.75, 20, 0.1, 0.25), 0.06).astype(np.float32)
    image = cv2.resize(image, (128, 128))
    for _ in range(34):
        (x, y), r = rng.random(2) * 128, rng.uniform(3, 14)
        x0, y0 = max(int(x - r) - 1, 0), max(int(y - r) - 1, 0)
        roi = image[y0 : int(y + r) + 2, x0 : int(x + r) + 2]
        disc = np.zeros(roi.shape[:2], np.uint8)
        cv2.fillPoly(disc, [fixed(ellipse(x - x0, y - y0, r, n=24))], 255, cv2.LINE_AA, SHIFT)
        w = disc[..., None] * np.float32(rng.uniform(0.2, 0.75) / 255)
        roi += w * (colours[rng.integers(len(colours))] * 1.05 - roi)
    return soften(np.clip(image, 0, 255).astype(np.uint8), 0.016)


def room(rng, n, colours):
    """A wall, a floor, a window and a few pieces of furniture, far out of focus."""
    image = np.empty((128, 128, 3), np.uint8)
    image[:] = colours[0].astype(np.uint8)
    floor = rng.uniform(0.55, 0.85)
    fill(image, [(0, floor), (1, floor), (1, 1.1), (0, 1.1)], colours[1] * 0.85)
    for _ in range(7):
        x, w, top = rng.uniform(-0.1, 1), rng.uniform(0.12, 0.35), rng.uniform(-0.1, floor)
        c = colours[rng.integers(len(colours))] * rng.uniform(0.8, 1.1)
        low = top + rng.uniform(0.15, 0.5)
        fill(image, [(x, top), (x + w, top), (x + w, low), (x, low)], np.minimum(c, 255))
    return soften(image, rng.uniform(0.02, 0.035))


def hills(rng, n, colours):
    image = cv2.resize(gradient(rng, n, colours[:2]), (128, 128))
    for k in range(5):
        xs = np.linspace(-0.1, 1.1, 7)
        ys = 0.25 + 0.15 * k + rng.uniform(-0.09, 0.09, 7)
        line = smooth(np.stack([xs, ys], 1), False)
        fill(
            image,
            np.concatenate([line, [(1.1, 1.2), (-0.1, 1.2)]]),
            mix(colours[k % len(colours)], colours[0], 0.2),
        )
    return soften(image, rng.uniform(0.02, 0.03))


def turned(points, a: float) -> np.ndarray:
    c, s = np.cos(a), np.sin(a)
    return points @ np.array([[c, s], [-s, c]])


def _scraps() -> list[np.ndarray]:
    arc = ellipse(0, 0, 1, n=20)[:11]
    plus = [(-0.25, -1), (0.25, -1), (0.25, -0.25), (1, -0.25), (1, 0.25), (0.25, 0.25)]
    plus += [(0.25, 1), (-0.25, 1), (-0.25, 0.25), (-1, 0.25), (-1, -0.25), (-0.25, -0.25)]
    zig = [
        (-1.2, 0.3),
        (-0.6, -0.5),
        (0, 0.3),
        (0.6, -0.5),
        (1.2, 0.3),
        (1.2, 0.7),
        (0.6, 0),
        (0, 0.7),
        (-0.6, 0),
        (-1.2, 0.7),
    ]
    shapes = [
        [(-1, 0.8), (1, 0.8), (0, -0.9)],
        [(-1.4, -0.25), (1.4, -0.25), (1.4, 0.25), (-1.4, 0.25)],
        plus,
        zig,
    ]
    shapes += [
        np.concatenate([arc, (arc * (1, 0.45))[::-1]]),
        [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    ]
    return [np.asarray(s, np.float64) for s in shapes]


SCRAPS = _scraps()
BUSY = (stripes, tiles, scales, books, clutter, terrazzo, camouflage)
SOFT = (gradient, defocus, bokeh, room, hills)
