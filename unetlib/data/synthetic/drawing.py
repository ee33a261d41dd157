"""What the drawn photos are made of: anti-aliased shapes on an RGBA canvas, and backgrounds.

Points are float arrays (n, 2) of (x, y) in a figure's own units; `Pen.place` says where they land.
A background's painter takes a generator, the canvas size n and colours, float32 (k, 3), and returns
a square uint8 RGB picture: of n pixels where it has edges, of fewer where it has none.
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


def grid(n: int, turn: float, f: float) -> tuple[np.ndarray, np.ndarray]:
    """Turned coordinates x, y, float32 (n, n), that run over f units across the picture."""
    t = np.linspace(-f / 2, f / 2, n, dtype=np.float32)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return c * t + s * t[:, None], c * t[:, None] - s * t


def noise(rng, n: int, lattice: int) -> np.ndarray:
    """Smooth noise in about [-1, 1], float32 (n, n)."""
    small = rng.normal(0, 0.6, (lattice + 3, lattice + 3)).astype(np.float32)
    return cv2.resize(small, (n, n), interpolation=cv2.INTER_CUBIC)


def gradient(rng, n, colours):
    """Two colours with broad clouds of the others."""
    _, y = grid(64, rng.uniform(0, 6.3), 1.3)
    image = colours[0] + np.clip(y + 0.5, 0, 1)[..., None] * (colours[1] - colours[0])
    for colour in colours[2:]:
        share = np.clip(noise(rng, 64, int(rng.integers(1, 4))) * 1.6 - 0.1, 0, 1)
        image += share[..., None] * (colour - image)
    return np.clip(image, 0, 255).astype(np.uint8)


def scraps(rng, n, colours, low=0.01, high=0.08):
    """Flat triangles, diamonds and pentagons over a gradient: the smaller, the more."""
    pen = Pen(n)
    pen.rgba[..., :3] = cv2.resize(gradient(rng, n, colours), (n, n))
    for flat in rng.uniform(0.2, 1, int(9 / (low + high))):
        (x, y, turn), r = rng.random(3), rng.uniform(low, high)
        tone = rng.choice(colours) * rng.uniform(0.85, 1.12)
        pen.shape(ellipse(x, y, r, r * flat, 6.3 * turn, rng.integers(3, 6)), tone, 0)
    return pen.rgba[..., :3]


def defocus(rng, n, colours):
    """Large things far out of focus, and perhaps discs of light, as a lens makes them of lamps."""
    pen = Pen(96)
    pen.rgba[..., :3] = cv2.GaussianBlur(scraps(rng, 96, colours, 0.06, 0.3), (0, 0), 3)
    for r in rng.uniform(0.02, 0.11, rng.choice([0, 30])):
        tone, opacity = 1.1 * rng.choice(colours), rng.uniform(0.2, 0.75)
        pen.shape(ellipse(*rng.random(2), r), tone, 0, opacity)
    return cv2.GaussianBlur(pen.rgba[..., :3], (0, 0), 1.5)


def camouflage(rng, n, colours):
    """Noise in bands, like a map or a marbled paper."""
    height = noise(rng, n, int(rng.integers(5, 9)))
    height += 0.5 * noise(rng, n, 16) + 0.25 * noise(rng, n, 40)
    band = np.floor(height * rng.uniform(3, 6)).astype(np.int32)
    return rng.permutation(colours).astype(np.uint8)[band % len(colours)]


def weave(rng, n, colours, threads=None):
    """Stripes, checks, dots or zigzags in two colours, `threads` of them across the picture."""
    kind = rng.choice(["stripes", "checks", "dots", "zigzag"])
    x, y = grid(n, rng.choice([0.0, 0.5, 1.0]) * np.pi / 2, threads or rng.uniform(9, 16))
    if kind == "dots":
        share = 3.5 - 10 * np.hypot(x - np.rint(x), y - np.rint(y))
    else:
        y = y + np.abs(x - np.rint(x)) if kind == "zigzag" else y
        share = np.clip(0.5 + 4 * np.sin(np.float32(2 * np.pi) * np.stack([y, x])), 0, 1)
        share = share.mean(axis=0) if kind == "checks" else share[0]
    other = max(colours, key=lambda colour: abs((colour - colours[0]).sum()))
    table = colours[0] + np.linspace(0, 1, 256)[:, None] * (other - colours[0])
    return np.clip(table, 0, 255).astype(np.uint8)[np.clip(255 * share, 0, 255).astype(np.uint8)]


SOFT = (gradient, defocus)  # out of focus, colours without edges
BUSY = (scraps, camouflage, weave)  # sharp edges everywhere
