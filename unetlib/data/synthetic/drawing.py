"""Soft, anti-aliased shapes on an RGBA canvas: what the drawn photos are made of.

Points are float arrays (n, 2) of (x, y) in a figure's own units; `Pen.place` says where they land.
"""

import cv2
import numpy as np

SHIFT = 4  # fractional bits of the coordinates given to OpenCV
T = np.linspace(0, 1, 6, endpoint=False)[:, None]
CATMULL_ROM = np.hstack(  # weights of four neighbouring points, at 6 places between the middle two
    [-T + 2 * T**2 - T**3, 2 - 5 * T**2 + 3 * T**3, T + 4 * T**2 - 3 * T**3, T**3 - T**2]
)


def path(text: str, columns: int = 2) -> np.ndarray:
    """Points written as in an SVG: "0,-0.5 0.27,-0.43"; colours with three columns."""
    return np.array(text.replace(",", " ").split(), np.float32).reshape(-1, columns)


def mix(a, b, t: float) -> np.ndarray:
    return (1 - t) * np.asarray(a, np.float32) + t * np.asarray(b, np.float32)


def smooth(points, closed: bool = True) -> np.ndarray:
    """A Catmull-Rom curve through the points (k, any number of columns)."""
    p = np.asarray(points)
    ends = (p[-1:], p[:2]) if closed else (2 * p[:1] - p[1:2], 2 * p[-1:] - p[-2:-1])
    p = np.concatenate([ends[0], p, ends[1]])
    windows = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], axis=1)
    curve = (CATMULL_ROM / 2 @ windows).reshape(-1, p.shape[1])
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def turned(points, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def ellipse(x, y, rx, ry=None, turn: float = 0.0, n: int = 36) -> np.ndarray:
    a = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return turned(np.stack([rx * np.cos(a), (ry or rx) * np.sin(a)], axis=1), turn) + (x, y)


def ribbon(points, widths) -> np.ndarray:
    """A limb, leaf or lock: the outline of a curve with a width at each of its points."""
    curve = smooth(np.column_stack([points, widths]), closed=False)
    d = np.gradient(curve[:, :2], axis=0)
    side = d[:, ::-1] * (-1, 1) / np.linalg.norm(d, axis=1, keepdims=True) * curve[:, 2:] / 2
    return np.concatenate([curve[:, :2] + side, (curve[:, :2] - side)[::-1]])


def mirrored(right) -> np.ndarray:
    """The closed outline whose right half is given from top to bottom."""
    return np.concatenate([right, right[::-1] * (-1, 1)])


class Pen:
    """Draws on `rgba`, uint8 (n, n, 4), premultiplied: alpha is the matte, coverage by coverage."""

    def __init__(self, n: int, light: tuple[float, float] = (0.0, 0.0)):
        self.rgba, self.light = np.zeros((n, n, 4), np.uint8), np.float32(light)
        self.place(0, 0, 1)

    def place(self, x, y, scale, turn: float = 0.0, flip: bool = False) -> None:
        """Where (0, 0) lies and how long a unit is, as shares of the picture."""
        self.unit = scale * len(self.rgba)
        self.origin = np.array([x, y]) * len(self.rgba)
        self.matrix = turned(np.diag([-self.unit if flip else self.unit, self.unit]), turn)

    def shape(self, points, colour, shade=0.25, opacity=1.0, atop=False) -> None:
        """Fill an outline. `colour`: (3,), or a cloth (n, n, 3). `shade` rounds it off towards its
        edges and away from the light, `atop` paints only on what is there."""
        where, polygon, mask = self._window(points, 2)
        cv2.fillPoly(mask, [polygon], 255, cv2.LINE_AA, SHIFT)
        if np.ndim(colour) == 3:
            colour = colour[where]
        if shade:
            x, y = (np.linspace(-1, 1, side, dtype=np.float32) for side in mask.shape[::-1])
            slope = 0.6 * (self.light[0] * x + self.light[1] * y[:, None])
            k = (2 * int(0.16 * min(mask.shape)) + 3,) * 2
            inner = cv2.blur(cv2.blur(mask, k, borderType=1), k, borderType=1) / np.float32(255)
            tone = 1 + np.float32(shade) * (inner - 1 + slope)
            colour = np.float32(colour) * np.clip(tone, 0.3, 1.08)[..., None]
        self._blend(where, mask, colour, opacity, atop)

    def lines(self, curves, colour, width: float, atop: bool = False) -> None:
        """Open curves of one colour, `width` in figure units (at least a canvas pixel)."""
        thick = max(1, round(width * self.unit))
        where, points, mask = self._window(np.concatenate(curves), 2 + thick)
        curves = np.split(points, np.cumsum([len(curve) for curve in curves[:-1]]))
        cv2.polylines(mask, curves, False, 255, thick, cv2.LINE_AA, SHIFT)
        self._blend(where, mask, colour, 1.0, atop)

    def _window(self, points, pad: int) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """The part of the picture that the points need (at least a pixel), the points in it for
        OpenCV, and an empty mask of its size."""
        p, last = points @ self.matrix + self.origin, len(self.rgba) - 1
        corner = np.clip(p.min(axis=0) - pad, 0, last).astype(int)
        x, y = np.clip(p.max(axis=0) + pad, corner, last).astype(int) + 1
        where = np.s_[corner[1] : y, corner[0] : x]
        fixed = np.rint((p - corner) * 2**SHIFT).astype(np.int32)
        return where, fixed, np.zeros_like(self.rgba[..., 3][where])

    def _blend(self, where, mask, colour, opacity: float, atop: bool) -> None:
        old = self.rgba[where]
        new = np.full_like(old, 255)
        new[..., :3] = np.clip(colour, 0, 255)
        if atop:
            new = cv2.multiply(new, cv2.merge([old[..., 3]] * 4), scale=1 / 255)
        share = mask * np.float32(opacity / 255)
        old[...] = cv2.blendLinear(new, old, share, 1 - share)
