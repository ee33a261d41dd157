"""The things of the synthetic pictures. One unit is the height of a thing, (0, 0) its middle."""

from __future__ import annotations

import numpy as np

from unetlib.data.synthetic.drawing import (
    Pen,
    ellipse,
    make_pattern,
    mirrored,
    mix,
    outward,
    path,
    rgb,
    ribbon,
    smooth,
    strands,
)
from unetlib.data.synthetic.figures import Look

HAIRY = ("teddy", "plant", "ball")  # a furry bear, a grass, a pompom
TEDDY = path(  # x, y, rx, ry of body, head, ears, feet and arms
    "0,0.2,0.3,0.28 0,-0.2,0.27,0.24 -0.21,-0.38,0.1,0.1 0.21,-0.38,0.1,0.1 "
    "-0.27,0.42,0.15,0.1 0.27,0.42,0.15,0.1 -0.33,0.12,0.1,0.19 0.33,0.12,0.1,0.19",
    columns=4,
)


def choose(rng: np.random.Generator, tags: set[str]) -> str:
    """The name of a thing that can show the wanted edge cases."""
    if "transparency" in tags:
        return "glass"
    return str(rng.choice(HAIRY if "hair" in tags else [k for k in THINGS if k != "glass"]))


def draw(pen: Pen, kind: str, rng: np.random.Generator, look: Look, tags: set[str]) -> None:
    scale = rng.uniform(2, 3)  # patterns are made for people, whose unit is a head
    cloth = make_pattern(rng, look.cloth, look.second, look.accent, scale)
    THINGS[kind](pen, rng, look, tags, cloth)


def highlights(pen: Pen, x: float, y: float, length: float, atop: bool = True) -> None:
    """A window's reflection, a fainter one across from it, and a gleam above."""
    side = -1 if pen.light[0] > 0 else 1
    bar = np.array([(0.7 * x, y - length), (x, y - length * 0.2), (x, y + length * 0.5)])
    pen.shine(ribbon(bar * (side, 1), [0.02, 0.1, 0.02]), 1.0, 0.006, atop)
    pen.shine(ellipse(-side * x * 1.05, y + length * 0.55, 0.035, 0.08), 0.95, 0.006, atop)
    pen.shine(ellipse(side * x * 0.25, y - length * 0.9, 0.055, 0.028), 0.95, 0.006, atop)


def vase(pen, rng, look, tags, cloth):
    neck, belly, foot = rng.uniform(0.08, 0.16), rng.uniform(0.28, 0.4), rng.uniform(0.12, 0.22)
    waist = rng.uniform(-0.1, 0.2)
    for k in range(5 * int(rng.random() < 0.6)):  # flowers
        x, y = 0.13 * (k - 2) * rng.uniform(0.8, 1.3), -0.42 - rng.uniform(0.05, 0.3)
        stem = ribbon(path(f"0,-0.2 {x * 0.4},-0.45 {x},{y}"), [0.03, 0.02])
        pen.shape(stem, rgb(70, 110, 70), 0.2)
        petal = look.accent if k % 2 else look.second
        bloom = ellipse(0, 0, 1, n=10) * np.where(np.arange(10) % 2, 0.075, 0.125)[:, None]
        pen.shape(smooth(bloom + (x, y)), petal, 0.35)
        pen.shape(ellipse(x, y, 0.035), mix(petal, rgb(220, 180, 60), 0.7), 0.2)
    right = f"{neck * 1.3},-0.4 {neck},-0.3 {belly},{waist} {foot},0.45 {foot},0.5"
    pen.shape(smooth(mirrored(path(right))), cloth, 0.42)
    pen.shape(ellipse(0, -0.4, neck * 1.3, 0.035), look.cloth * 0.6, 0.2)
    if "reflection" in tags:
        highlights(pen, belly * 0.55, waist, 0.28)


def glass(pen, rng, look, tags, cloth):
    tint = mix(look.accent, rgb(200, 214, 220), rng.uniform(0.3, 0.7))
    w, level, opacity = rng.uniform(0.26, 0.36), rng.uniform(0.2, 0.45), rng.uniform(0.58, 0.7)
    cup = path(f"{w},-0.5 {w * 0.94},0 {w * 0.84},0.44 {w * 0.7},0.5")
    if rng.random() < 0.4:
        cup = path("0.27,-0.5 0.33,-0.2 0.22,0.05 0.03,0.14")
        pen.shape(mirrored(path("0.03,0.1 0.03,0.42 0.24,0.5")), tint, 0.3, 0.85)
    rim = ellipse(0, -0.5, cup[0, 0], 0.05)
    pen.shape(rim, tint * 0.95, 0, opacity)
    pen.shape(mirrored(cup), tint, 0.15, opacity)
    if rng.random() < 0.5:  # a drink
        y = np.linspace(level - 0.5, cup[-1, 1] - 0.03, 6)
        inside = np.stack([np.interp(y, cup[:, 1], cup[:, 0]) * 0.92, y], 1)
        pen.shape(mirrored(inside), mix(look.cloth, tint, 0.3), 0.2, 0.45)
    half = smooth(cup, False)
    pen.lines([half, half * (-1, 1)], tint * 0.72, 0.018)
    pen.lines([np.concatenate([rim, rim[:2]])], tint * 0.8, 0.014)
    highlights(pen, cup[1, 0] * 0.62, -0.2, 0.2, atop=False)  # they hide what is behind the glass


def plant(pen, rng, look, tags, cloth):
    green, n = mix(rgb(64, 120, 80), look.accent, rng.uniform(0, 0.35)), int(rng.integers(9, 14))
    lean = (np.arange(n) / (n - 1) - 0.5) * 2.3 + rng.uniform(-0.1, 0.1, n)
    tips = np.stack([np.sin(lean), -np.cos(lean)], 1) * rng.uniform(0.45, 0.72, (n, 1)) + (0, 0.12)
    for k in rng.permutation(n):
        tone, spine = green * rng.uniform(0.75, 1.2), [(0, 0.16), tips[k] * (0.42, 0.62), tips[k]]
        pen.shape(ribbon(spine, [0.03, rng.uniform(0.14, 0.2), 0.01]), tone, 0.3)
        pen.lines([smooth(spine, False)], tone * 0.75, 0.009)
    if "hair" in tags:
        a = rng.uniform(-1.25, 1.25, 170)
        ways = np.stack([np.sin(a), -np.cos(a)], 1)
        for count, tone in ((150, green * 1.1), (70, green * 0.75)):
            pen.lines(strands(rng, 0 * ways + (0, 0.1), ways, 0.78, 0.1, count), tone, 0.009)
    w = rng.uniform(0.22, 0.28)
    pen.shape(mirrored(path(f"{w},0.12 {w * 0.92},0.3 {w * 0.72},0.5")), cloth, 0.4)
    pen.shape(mirrored(path(f"{w * 1.1},0.09 {w * 1.08},0.19")), look.cloth * 0.9, 0.35)
    if "reflection" in tags:
        highlights(pen, w * 0.6, 0.32, 0.12)
        for x, y in ((-0.16, -0.2), (0.05, -0.3), (0.2, -0.15)):
            pen.shine(ellipse(x, y, 0.05, 0.022, x * 3), 0.9, 0.008)


def ball(pen, rng, look, tags, cloth):
    ring = ellipse(0, 0, 0.47, n=60)
    if "hair" in tags:  # a pompom
        ways, pale = outward(ring), mix(look.cloth, look.second, 0.6)
        for tone in (look.cloth * 0.7, look.cloth, pale):
            pen.lines(strands(rng, ring * 0.7, ways, 0.24, 0.1, 220), tone, 0.006)
        pen.shape(ring * 0.85, look.cloth, 0.5)
        for tone in (look.cloth * 0.72, pale):
            pen.lines(
                strands(rng, ring * rng.uniform(0.1, 0.7), ways, 0.3, 0.2, 60), tone, 0.008, True
            )
    elif rng.random() < 0.5:  # a beach ball
        pen.shape(ring, look.cloth, 0.5)
        middle, turn = (rng.uniform(-0.15, 0.15), rng.uniform(-0.2, 0)), int(rng.integers(20))
        for k, tone in enumerate((look.second, look.accent, look.second)):
            edge = np.roll(ring, turn + 20 * k, 0)[:11]
            pen.shape(np.concatenate([[middle], edge]), tone, 0, atop=True)
        pen.shape(ellipse(*middle, 0.06), look.accent, 0.1)
        shadow = ellipse(-0.1 * pen.light[0], 0.22, 0.5, 0.3)
        pen.shape(shadow, rgb(0, 0, 0), 0, 0.22, atop=True, soft=0.1)
    else:
        pen.shape(ring, cloth, 0.5)
    if "reflection" in tags:
        highlights(pen, 0.22, -0.08, 0.2)


def mug(pen, rng, look, tags, cloth):
    w = rng.uniform(0.34, 0.42)
    a = np.linspace(-1.63, 1.63, 7)
    handle = np.stack([w * 0.9 + 0.27 * np.cos(a), 0.03 + 0.25 * np.sin(a)], 1)
    pen.shape(ribbon(handle, [0.1, 0.1]), look.second, 0.35)
    body = mirrored(path(f"{w},-0.42 {w},0.3 {w * 0.85},0.46 0.01,0.5"))
    pen.shape(smooth(body), cloth, 0.4)
    pen.shape(ellipse(0, -0.43, w, 0.075), look.second * 0.8, 0.1)
    pen.shape(ellipse(0, -0.415, w * 0.86, 0.055), mix(look.hair, rgb(90, 56, 36), 0.6), 0.1)
    if "reflection" in tags:
        highlights(pen, w * 0.6, 0.0, 0.3)


def lamp(pen, rng, look, tags, cloth):
    top, low = rng.uniform(0.14, 0.24), rng.uniform(0.34, 0.46)
    stand = path("0.035,-0.1 0.045,0.1 0.16,0.28 0.2,0.4 0.26,0.46 0.26,0.5")
    pen.shape(mirrored(stand), look.second, 0.4)
    pen.shape(mirrored(path(f"{top},-0.5 {low},0.04")), cloth, 0.35)
    pen.shape(ellipse(0, 0.04, low, 0.035), mix(look.accent, rgb(220, 200, 150), 0.6), 0)
    if "reflection" in tags:
        highlights(pen, 0.12, 0.33, 0.1)
        gleam = path(f"{-top / 2},-0.4 {-low / 2},-0.05")
        pen.shine(ribbon(gleam, [0.03, 0.09, 0.03]), 0.95, 0.01)


def teddy(pen, rng, look, tags, cloth):
    fur, pale = look.hair, mix(look.hair, rgb(216, 196, 168), 0.5)
    if "hair" in tags:
        for tone in (fur * 0.75, fur, mix(fur, pale, 0.5)):
            for part in TEDDY:
                ring = ellipse(*part, n=40)
                pen.lines(strands(rng, ring, outward(ring), 0.13, 0.2, 80), tone, 0.005)
    for k in (2, 3, 6, 7, 0, 4, 5, 1):
        pen.shape(ellipse(*TEDDY[k]), fur, 0.4)
    if rng.random() < 0.6:  # a jumper
        jumper = mirrored(path("0.16,0 0.28,0.1 0.31,0.22 0.24,0.4"))
        pen.shape(smooth(jumper), cloth, 0.3)
    else:
        pen.shape(ellipse(0, 0.22, 0.19), pale, 0.25)
    pen.shape(ellipse(0, -0.13, 0.12, 0.09), pale, 0.25)
    for x in (-0.21, 0.21):
        pen.shape(ellipse(x, -0.38, 0.055), pale, 0.2)
        pen.shape(ellipse(x * 1.35, 0.43, 0.07, 0.05), pale, 0.2)
        pen.shape(ellipse(x * 0.5, -0.24, 0.027, 0.032), rgb(24, 20, 22), 0)
    pen.shape(ellipse(0, -0.17, 0.042, 0.03), rgb(40, 28, 30), 0)
    pen.lines([smooth(path("-0.05,-0.1 0,-0.085 0.05,-0.1"), False)], fur * 0.5, 0.012)
    if "reflection" in tags:  # a satin bow, and satin paws
        for side in (-1, 1):
            loop = path("0,0.02 0.18,-0.08 0.2,0.12") * (side, 1)
            pen.shape(smooth(loop), look.accent, 0.3)
            pen.shine(ribbon(path("0.05,0.01 0.16,0") * (side, 1), [0.02, 0.07]), 1.0, 0.006)
        pen.shine(ribbon(path("-0.15,0.12 -0.18,0.24 -0.14,0.34"), [0.02, 0.08, 0.02]), 0.95, 0.01)
        pen.shine(ellipse(-0.1, -0.34, 0.07, 0.035, -0.4), 0.95, 0.01)


THINGS = {f.__name__: f for f in (vase, glass, plant, ball, mug, lamp, teddy)}
