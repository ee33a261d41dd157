"""Soft, anti-aliased shapes on an RGBA canvas: what the synthetic pictures are drawn with.

Points are float arrays (n, 2) of (x, y) in a figure's own units; `Pen.place` says where they land.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

SHIFT = 4  # fractional bits of the coordinates given to OpenCV


def rgb(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def path(text: str, columns: int = 2) -> np.ndarray:
    """Points written as in an SVG: "0,-0.5 0.27,-0.43"; colours and others with more columns."""
    return np.array(text.replace(",", " ").split(), np.float32).reshape(-1, columns)


def mix(a, b, t: float) -> np.ndarray:
    return (1 - t) * np.asarray(a, np.float32) + t * np.asarray(b, np.float32)


@lru_cache
def _catmull_rom(steps: int) -> np.ndarray:
    t = np.linspace(0, 1, steps, endpoint=False)
    rows = [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    return 0.5 * np.stack(rows, axis=1).astype(np.float32)


@lru_cache
def _circle(n: int) -> np.ndarray:
    a = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([np.cos(a), np.sin(a)], axis=1).astype(np.float32)


def smooth(points, closed: bool = True, steps: int = 6) -> np.ndarray:
    """A Catmull-Rom curve through the points, `steps` samples for each of them."""
    given = np.asarray(points, np.float32)
    p = np.empty((len(given) + (3 if closed else 2), 2), np.float32)
    p[1 : len(given) + 1] = given
    if closed:
        p[0], p[-2:] = given[-1], given[:2]
    else:
        p[0], p[-1] = 2 * given[0] - given[1], 2 * given[-1] - given[-2]
    windows = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], axis=1)  # (n, 4, 2)
    curve = (_catmull_rom(steps) @ windows).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, given[-1:]])


def ellipse(x, y, rx, ry=None, turn: float = 0.0, n: int = 36) -> np.ndarray:
    ring = _circle(n) * (rx, rx if ry is None else ry)
    if turn:
        c, s = np.cos(turn), np.sin(turn)
        ring = ring @ np.array([[c, s], [-s, c]])
    return (ring + (x, y)).astype(np.float32)


def ribbon(points, widths, steps: int = 6) -> np.ndarray:
    """A limb, leaf or lock: the outline of a curve whose width changes along it."""
    c = smooth(points, closed=False, steps=steps)
    d = np.concatenate([c[1:2] - c[:1], c[2:] - c[:-2], c[-1:] - c[-2:-1]])
    normal = np.stack([-d[:, 1], d[:, 0]], axis=1)
    normal /= np.sqrt((d * d).sum(axis=1) + 1e-12)[:, None]
    at = np.linspace(0, len(widths) - 1, len(c))
    low = np.minimum(at.astype(int), len(widths) - 2)
    ease = 0.5 - 0.5 * np.cos(np.pi * (at - low))  # no kink where the width changes
    w = np.asarray(widths, np.float32)
    half = (w[low] + ease * (w[low + 1] - w[low]))[:, None] / 2
    return np.concatenate([c + half * normal, (c - half * normal)[::-1]]).astype(np.float32)


def mirrored(right) -> np.ndarray:
    """The closed outline whose right half is given from top to bottom."""
    return np.concatenate([right, right[::-1] * np.float32([-1, 1])])


def outward(points) -> np.ndarray:
    """Unit normals of a closed outline, away from its middle."""
    d = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    n = np.stack([d[:, 1], -d[:, 0]], axis=1)
    inside = ((points - points.mean(0)) * n).sum(1) < 0
    return n * (np.where(inside, -1, 1) / (np.linalg.norm(n, axis=1) + 1e-6))[:, None]


def strands(rng, roots, ways, length: float, curl: float, n: int) -> np.ndarray:
    """`n` loose curved hairs (n, 9, 2) that leave random roots (k, 2) in the roots' directions."""
    i = rng.integers(0, len(roots), n)
    way = ways[i][:, None] * (length * rng.uniform(0.35, 1.0, (n, 1, 1)))
    side = way[..., ::-1] * (-1, 1)
    lock = np.sin(2 * np.pi * (3 * i / len(roots) + rng.random()))[:, None, None]
    bend = (0.3 + curl / 2) * lock + rng.normal(0, 0.15 + curl / 3, (n, 1, 1))  # neighbours agree
    wobble = rng.normal(0, 0.2 * curl + 0.03, (n, 1, 1))
    t = np.linspace(-0.25, 1, 9)[None, :, None]
    fall = (0, 0.35) * t**2 * np.linalg.norm(way, axis=2, keepdims=True)
    return roots[i][:, None] + way * t + side * (bend * t**2 + wobble * np.sin(7 * t)) + fall


def make_pattern(rng: np.random.Generator, a, b, c, scale: float = 1.0):
    """A cloth: a plain colour, or a function of figure coordinates u, v (h, w) -> (h, w, 3)."""
    kind = rng.choice(["plain", "stripes", "gingham", "dots", "zigzag", "argyle", "blocks"])
    f, turn = scale * rng.uniform(2.2, 4.5), rng.choice([0.0, 0.5, 1.0]) * np.pi / 2
    f, sharp = np.float32(f), np.float32(4)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    a, b, c = (np.asarray(k, np.float32) for k in (a, b, c))
    wave = np.float32(2 * np.pi)

    if kind == "plain":
        return a

    def step(x):
        return np.clip(0.5 + sharp * x, 0, 1)

    def paint(u, v):
        x, y = f * (cos * u + sin * v), f * (cos * v - sin * u)
        if kind == "stripes":
            w = step(np.sin(wave * y))
        elif kind == "gingham":
            w = 0.5 * step(np.sin(wave * x)) + 0.5 * step(np.sin(wave * y))
        elif kind == "dots":
            row = np.floor(y)
            dx, dy = x + 0.5 * (row % 2) - np.floor(x + 0.5 * (row % 2)) - 0.5, y - row - 0.5
            w = np.clip((0.3 - np.sqrt(dx * dx + dy * dy)) * 10 + 0.5, 0, 1)
        elif kind == "zigzag":
            w = step(np.sin(wave * (y + np.abs(x - np.floor(x) - 0.5))))
        elif kind == "argyle":
            w = step(np.sin(wave * 0.4 * (x + y)) * np.sin(wave * 0.4 * (x - y)))
        else:
            w = step(0.8 * np.sin(wave * 0.22 * y + 1.0))
        out = a + w[..., None] * (b - a)
        if kind in ("argyle", "gingham", "blocks"):  # a thin third colour
            line = np.clip(
                np.abs(np.sin(np.pi * (x + (y if kind == "argyle" else 0)))) * 8 - 7.2, 0, 1
            )
            out += (0.8 * line)[..., None] * (c - out)
        return out

    return paint


def fixed(pixels) -> np.ndarray:
    return np.rint(pixels * (1 << SHIFT)).astype(np.int32)


class Pen:
    """Draws on `rgba`, uint8 (n, n, 4), premultiplied: alpha is the matte, coverage by coverage."""

    def __init__(self, n: int, light: tuple[float, float]):
        self.rgba = np.zeros((n, n, 4), np.uint8)
        self.n, self.light = n, np.asarray(light, np.float32)
        self.place(0.0, 0.0, 1.0)

    def place(self, x: float, y: float, scale: float, turn: float = 0.0, flip=False) -> None:
        """Figure origin at (x, y), one figure unit `scale` long, all as shares of the picture."""
        c, s = np.cos(turn) * scale * self.n, np.sin(turn) * scale * self.n
        m = -1.0 if flip else 1.0
        self.matrix = np.array([[m * c, -s], [m * s, c]], np.float32)
        self.inverse = np.linalg.inv(self.matrix).astype(np.float32)
        self.origin = np.array([x * self.n, y * self.n], np.float32)
        self.unit = float(scale * self.n)

    def pixels(self, points) -> np.ndarray:
        return np.asarray(points, np.float32) @ self.matrix.T + self.origin

    def shape(self, points, colour, shade=0.25, opacity=1.0, atop=False, soft=0.0):
        """Fills an outline. `colour`: (3,) or a cloth. `shade` rounds it off towards its edges and
        away from the light, `atop` paints only on what is there, `soft` blurs the edge."""
        p = self.pixels(points)
        (left, top), (right, low) = p.min(axis=0).tolist(), p.max(axis=0).tolist()
        if not (shade or atop or soft or callable(colour)) and opacity == 1:
            value = (*(float(c) for c in colour), 255.0)
            cv2.fillPoly(self.rgba, [fixed(p)], value, cv2.LINE_AA, SHIFT)
            return
        box = self._box(left, top, right, low, 2 + int(2 * soft * self.unit))
        if box is None:
            return
        x0, y0, x1, y1 = box
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(mask, [fixed(p - (x0, y0))], 255, cv2.LINE_AA, SHIFT)
        if soft:
            k = 2 * int(soft * self.unit / 2) + 3
            mask = cv2.blur(cv2.blur(mask, (k, k)), (k, k))
        ys = np.arange(y0, y1, dtype=np.float32)[:, None]
        xs = np.arange(x0, x1, dtype=np.float32)
        paint = colour
        if callable(colour):
            (a, b), (c, d) = self.inverse
            x, y = xs - self.origin[0], ys - self.origin[1]
            paint = colour(a * x + b * y, c * x + d * y)
        if shade:
            wide, high = right - left, low - top
            k = 2 * int(0.16 * min(wide, high)) + 3
            inner = cv2.blur(cv2.blur(mask, (k, k), borderType=1), (k, k), borderType=1)
            lx, ly = (1.2 * shade / max(wide, high, 1.0) * self.light).tolist()
            tone = inner * np.float32(shade / 255)
            tone += (xs - (left + right) / 2) * lx
            tone += (ys - (top + low) / 2) * ly + np.float32(1 - shade)
            paint = paint * np.clip(tone, 0.3, 1.08, out=tone)[..., None]
        self._blend(mask, box, paint, opacity, atop)

    def lines(self, curves, colour, width: float, atop: bool = False) -> None:
        """Open curves of one colour, `width` in figure units (at least a canvas pixel)."""
        if isinstance(curves, np.ndarray):  # (n, points, 2): all at once
            curves = list(self.pixels(curves))
        else:
            curves = [self.pixels(c) for c in curves]
        thick = max(1, round(width * self.unit))
        if not atop:
            value = (*(float(v) for v in np.clip(colour, 0, 255)), 255.0)
            where = [fixed(c) for c in curves]
            cv2.polylines(self.rgba, where, False, value, thick, cv2.LINE_AA, SHIFT)
            return
        every = np.concatenate(curves)
        box = self._box(*every.min(axis=0), *every.max(axis=0), 2 + thick)
        if box is not None:
            mask = np.zeros((box[3] - box[1], box[2] - box[0]), np.uint8)
            where = [fixed(c - box[:2]) for c in curves]
            cv2.polylines(mask, where, False, 255, thick, cv2.LINE_AA, SHIFT)
            self._blend(mask, box, np.asarray(colour, np.float32), 1.0, True)

    def _box(self, left, top, right, low, pad: int) -> tuple[int, int, int, int] | None:
        x0, y0 = max(int(left) - pad, 0), max(int(top) - pad, 0)
        x1, y1 = min(int(right) + 1 + pad, self.n), min(int(low) + 1 + pad, self.n)
        return None if x1 <= x0 or y1 <= y0 else (x0, y0, x1, y1)

    def _blend(self, mask, box, paint, opacity: float, atop: bool) -> None:
        x0, y0, x1, y1 = box
        old = self.rgba[y0:y1, x0:x1]
        new = np.full_like(old, 255)
        new[..., :3] = paint
        if atop:
            new = cv2.multiply(new, cv2.merge([old[..., 3]] * 4), scale=1 / 255)
        m = mask * np.float32(opacity / 255)
        old[...] = cv2.blendLinear(new, old, m, 1 - m)

    def shine(self, points, strength=0.95, soft=0.01, atop=True) -> None:
        """A specular highlight, on what is there."""
        self.shape(points, (255, 255, 255), 0, strength, atop, soft)
