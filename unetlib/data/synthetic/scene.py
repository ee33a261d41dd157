"""One synthetic picture: people and things, in light and shade, over any background.

    image = degrade(matte * foreground + (1 - matte) * background)

A sample depends on (seed, index) alone; `size` draws the same picture larger or smaller.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from unetlib.data.synthetic import backgrounds, figures, objects
from unetlib.data.synthetic.drawing import Pen, mix

GENERATOR_VERSION = 1
TAGS = ("hair", "transparency", "reflection", "texture")
SHOTS = {  # head height, x and y of the head's middle, all as shares of the picture
    "close": ((0.38, 0.46), (0.3, 0.7), (0.36, 0.5)),
    "bust": ((0.27, 0.38), (0.22, 0.78), (0.28, 0.48)),
    "half": ((0.19, 0.26), (0.2, 0.8), (0.2, 0.4)),
    "full": ((0.16, 0.19), (0.25, 0.75), (0.14, 0.22)),
}


@dataclass(frozen=True)
class Sample:
    """image uint8 (H, W, 3) RGB; matte float32 (H, W) in [0, 1], in steps of 1/255; tags of TAGS;
    foreground and background uint8 (H, W, 3), the true colours in front and behind."""

    image: np.ndarray
    matte: np.ndarray
    tags: tuple[str, ...]
    foreground: np.ndarray
    background: np.ndarray

    def composite(self) -> np.ndarray:
        """matte * foreground + (1 - matte) * background: the image before noise and JPEG."""
        return compose(self.foreground, self.background, self.matte)


def compose(foreground, background, matte) -> np.ndarray:
    m = matte[..., None]
    return np.rint(m * foreground + (1 - m) * background).astype(np.uint8)


def choose_look(rng: np.random.Generator) -> figures.Look:
    hue, step = rng.random(), rng.choice([0.08, 0.33, 0.42, 0.5])
    colours = []
    for k in range(3):
        h = (hue + k * step + rng.uniform(-0.03, 0.03)) % 1
        calm = 0.6 if 0.2 < h < 0.45 or 0.75 < h < 0.92 else 1.0  # pure green and magenta shout
        s, v = calm * rng.uniform(0.3, 0.75), (0.42, 0.66, 0.88)[k] + rng.uniform(-0.1, 0.03)
        colours.append(255 * np.array(colorsys.hsv_to_rgb(h, s, v), np.float32))
    colours = [colours[k] for k in rng.permutation(3)]
    skin = figures.SKIN[rng.integers(len(figures.SKIN))]
    hair = figures.HAIR[rng.integers(len(figures.HAIR))]
    return figures.Look(skin, hair, *colours)


def generate_sample(seed: int, index: int, size: int = 128) -> Sample:
    """Sample `index` of the set `seed` (both 0 or more) with `size` x `size` pixels."""
    if seed < 0 or index < 0 or size < 16:
        raise ValueError(
            f"seed and index are 0 or more and size is at least 16, not {seed}, {index}, {size}"
        )
    rng = np.random.default_rng([seed, index])
    tags = {t for t, p in zip(TAGS, (0.34, 0.28, 0.32, 0.42), strict=True) if rng.random() < p}
    look = choose_look(rng)
    ss = max(2, -(-192 // size))
    n = size * ss
    angle = rng.uniform(0, 2 * np.pi)
    pen = Pen(n, (np.cos(angle) * 0.8, -0.5))
    draw_figure(pen, rng, look, tags)
    back = draw_background(rng, n, look, tags)
    rgba = cv2.resize(pen.rgba, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    how = cv2.INTER_AREA if len(back) > size else cv2.INTER_CUBIC
    back = cv2.resize(back, (size, size), interpolation=how).astype(np.float32)
    return finish(rng, rgba, back, tags)


def draw_figure(pen, rng, look, tags) -> None:
    person = rng.random() < 0.77
    flip, turn = rng.random() < 0.5, rng.normal(0, 0.07)
    if person:
        shot = str(rng.choice(list(SHOTS), p=[0.16, 0.46, 0.28, 0.1]))
        head, xs, ys = (rng.uniform(*r) for r in SHOTS[shot])
        pen.place(xs, ys, head, turn, flip)
        figures.Person(rng, look, tags, ys + 3 * head < 1.1, head > 0.36).draw(pen)
    else:
        kind = objects.choose(rng, tags)
        tall = rng.uniform(0.6, 0.95)
        if kind == "glass":
            tags.add("reflection")
        if kind not in objects.HAIRY:
            tags.discard("hair")
        pen.place(rng.uniform(0.3, 0.7), rng.uniform(0.45, 0.62), tall, turn, flip)
        objects.draw(pen, kind, rng, look, tags)


def draw_background(rng, n: int, look, tags) -> np.ndarray:
    """In the figure's colours, paler as air makes them; the busy ones a little out of focus."""
    colours = np.array(look.colours(), np.float32)
    near = np.clip(colours * rng.uniform(0.8, 1.15, (5, 1)), 0, 235)
    pool = np.concatenate([colours, near, mix(look.cloth, look.accent, 0.5)[None]])
    pool = pool[rng.permutation(11)[: int(rng.integers(5, 9))]]
    pool = mix(pool, rng.uniform(80, 200) * np.ones(3), rng.uniform(0.2, 0.48)).astype(np.float32)
    painters = backgrounds.BUSY if "texture" in tags else backgrounds.SOFT
    image = painters[rng.integers(len(painters))](rng, n, pool)
    focus = rng.uniform(0.004, 0.012)
    if "texture" in tags:
        image = cv2.GaussianBlur(image, (0, 0), focus * len(image))
    return image


def finish(rng, rgba, back, tags) -> Sample:
    """Shadow, light, focus, then the composite, then what a camera and a file format add."""
    size = rgba.shape[0]
    alpha = rgba[..., 3] * np.float32(1 / 255)
    dx, dy = rng.uniform(-0.03, 0.03), rng.uniform(0.005, 0.04)
    wide, deep = rng.uniform(0.012, 0.03), rng.uniform(0.4, 0.65)
    shift = np.array([[1, 0, dx * size], [0, 1, dy * size]], np.float32)
    shadow = cv2.warpAffine(alpha, shift, (size, size), borderMode=cv2.BORDER_REPLICATE)
    shadow = cv2.GaussianBlur(shadow, (0, 0), wide * size)
    back = back * (1 - deep * shadow)[..., None]

    x, y = backgrounds.grid(size, rng.uniform(0, 6.3), 2.0)
    tint = 1 + rng.uniform(-0.04, 0.04, 3).astype(np.float32)
    light = (rng.uniform(0.93, 1.02) + rng.uniform(0, 0.06) * x)[..., None] * tint
    back *= light
    rgba[..., :3] *= light
    if rng.random() < 0.12:  # a lens slightly out of focus: matte and colours alike
        sigma = rng.uniform(0.0015, 0.0035) * size
        rgba, back = cv2.GaussianBlur(rgba, (0, 0), sigma), cv2.GaussianBlur(back, (0, 0), sigma)
    a8 = np.clip(np.rint(rgba[..., 3]), 0, 255)
    matte = (a8 / 255).astype(np.float32)
    fore = rgba[..., :3] * (255 / np.maximum(rgba[..., 3:], 1.0))
    fore, back = (np.clip(np.rint(v), 0, 255).astype(np.uint8) for v in (fore, back))
    image = compose(fore, back, matte).astype(np.float32)

    grain = rng.uniform(0, 4) * (rng.random() < 0.7)
    quality = int(rng.integers(70, 97))
    image += grain * rng.standard_normal((size, size, 1), np.float32)
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    image = np.ascontiguousarray(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1])
    return Sample(image, matte, tuple(t for t in TAGS if t in tags), fore, back)
