"""What is behind the figures, in their own colours; their clothes are woven here, too.

Each painter takes a generator, the canvas size n and colours, float32 (k, 3), and returns a square
uint8 RGB picture: of n pixels where it has edges, of fewer where it has none.
"""

import cv2
import numpy as np

from unetlib.data.synthetic.drawing import Pen, ellipse


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
