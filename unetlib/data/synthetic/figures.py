"""What stands in front: people, and three things that are hard to cut out.

A person's unit is the height of a head, a thing's its own; (0, 0) is the middle, y points down.
Random numbers never depend on the picture's size, so that a figure is the same at all sizes.
`colours`, float32 (5, 3), are those of skin, hair and cloth, a second and an accent.
"""

import numpy as np

from unetlib.data.synthetic.drawing import Pen, ellipse, mirrored, mix, path, ribbon, smooth, weave

ARMS = path("0.16,1.95,0.1,2.75 0.6,1.85,-0.2,2.45 0.5,1.2,0.5,0.05", columns=4)  # elbow, wrist
WHITE, BLACK = (255, 255, 255), (36, 38, 48)


def choose_cloth(pen: Pen, rng, colours):
    """A plain colour, or a pattern."""
    plain, threads = rng.random() < 0.2, rng.uniform(2.2, 4.5) * len(pen.rgba) / pen.unit
    return colours[2] if plain else weave(rng, len(pen.rgba), colours[2:], threads)


def draw_hairs(pen, rng, roots, ways, colour, length, curl=0.1, width=0.006, n=390) -> None:
    """`n` loose hairs that leave random roots (k, 2) in the roots' directions."""
    i = rng.integers(0, len(roots), n)
    long = length * rng.uniform(0.35, 1.0, (n, 1, 1))
    way = (ways / np.linalg.norm(ways, axis=1, keepdims=True))[i, None] * long
    lock = np.sin(2 * np.pi * (3 * i / len(roots) + rng.random()))[:, None, None]
    bend = (0.3 + curl / 2) * lock + rng.normal(0, 0.15 + curl / 3, (n, 1, 1))  # neighbours agree
    wobble = rng.normal(0, 0.2 * curl + 0.03, (n, 1, 1))
    t = np.linspace(-0.25, 1, 9)[:, None]
    bend = bend * t**2 + wobble * np.sin(7 * t)
    curves = roots[i, None] + way * t + way[..., ::-1] * (-1, 1) * bend + (0, 0.35) * t**2 * long
    for k, tone in enumerate((colour, colour * 0.75, mix(colour, (225, 205, 180), 0.25))):
        pen.lines(curves[k::3], tone, width)


def draw_person(pen: Pen, rng, colours, tags: set[str]) -> None:
    """Loose hair, a veil, or pearls and dark glasses where the tags ask for it."""
    tone, wide = colours[1], rng.uniform(0.82, 1.08)  # of the hair; half the shoulders' width
    curly, low = rng.random() < 0.2, rng.choice([0.1, 0.55, rng.uniform(1.0, 2.0)])
    ends = f"0.55,{low * 0.6} 0.6,{low} 0.3,{low + 0.1}" if low > 0.1 else "0.42,0.2 0.3,0.34"
    hair = smooth(mirrored(path("0,-0.63 0.3,-0.57 0.46,-0.3 0.48,0 " + ends)))
    if curly:
        low = rng.uniform(0.62, 0.8)
        hair = smooth(ellipse(0, 0, low, n=22) * rng.uniform(0.95, 1.06, (22, 1)) - (0, 0.14))
    if low > 0.1:
        pen.shape(hair, tone * 0.82, 0.3)
    draw_body(pen, rng, colours, wide)
    draw_head(pen, rng, colours, "reflection" in tags)
    draw_fringe(pen, rng, tone, 0 if curly else low)
    if "hair" in tags:  # straight hair hangs, curls stand out
        x, y = hair.T
        roots = hair[(y < max(low / 2, curly)) & ((y < 0.2) | (np.abs(x) > 0.4))]
        ways = roots if curly else roots + np.maximum(roots[:, 1:] + 0.35, 0) * (0, 1)
        length, curl = rng.uniform(0.3, 0.45), rng.uniform(0.8, 1.2) if curly else 0.35
        draw_hairs(pen, rng, 0.95 * roots, ways, tone, length, curl)
    if "transparency" in tags:
        draw_veil(pen, rng, colours, wide)
    for x, y in ellipse(0, 0.7, 0.4, 0.3, n=28)[:15] if "reflection" in tags else ():
        pen.shape(ellipse(x, y + 0.012, 0.05), (140, 136, 150), 0)
        pen.shape(ellipse(x, y, 0.04), WHITE, 0)


def draw_body(pen: Pen, rng, colours, wide: float) -> None:
    """Arms that hang, rest on the hip or wave, in long sleeves or short ones; then the trunk."""
    skin, cloth = colours[0], choose_cloth(pen, rng, colours)
    for side in (-1, 1):
        joints = [-0.17, 1.08, *(rng.choice(ARMS) + rng.uniform(-0.1, 0.1, 4))]
        start, elbow, wrist = (np.reshape(joints, (3, 2)) + (wide, 0)) * (side, 1)
        way = (wrist - elbow) / np.linalg.norm(wrist - elbow)
        hand, turn = wrist + 0.14 * way, np.arctan2(way[1], way[0])
        pen.shape(ellipse(*(hand + 0.1 * side * way[::-1] * (1, -1)), 0.1, 0.05, turn), skin, 0.2)
        pen.shape(ellipse(*hand, 0.19, 0.125, turn), skin, 0.25)
        pen.shape(ribbon([start, elbow, wrist], [0.3, 0.28, 0.19]), skin, 0.3)
        sleeve = smooth([start, elbow, wrist], closed=False)[: 11 if rng.random() < 0.6 else 6]
        pen.shape(ribbon(sleeve, np.linspace(0.44, 0.34, len(sleeve))), cloth, 0.35)
    trousers, dip = mix(colours[3], (50, 54, 70), 0.45), rng.uniform(0.85, 1.3)
    pen.shape(mirrored(path("0.7,2.4 0.72,3.2 0.66,4.9 0.3,4.9 0.03,3.1")), trousers, 0.3)
    chest = f"0.2,0.62 0.45,0.74 {wide * 0.9},0.9 {wide},1.2 {wide * 0.84},1.6"
    belly = f"{rng.uniform(0.52, 0.78)},2.25 {rng.uniform(0.6, 0.82)},2.9"
    pen.shape(smooth(mirrored(path(f"{chest} {belly}"))), cloth, 0.32)
    pen.shape(ribbon(path("0,0.2 0,0.82"), [0.36, 0.42]), skin, 0.3)
    neck = path(f"0.2,0.66 0.27,0.7 0.15,{dip / 2 + 0.405} 0.01,{dip}")
    pen.shape(smooth(mirrored(neck)), skin, 0.12)
    pen.shape(ellipse(0, 0.5, 0.25, 0.1), skin * 0.55, 0, 0.4, atop=True)


def draw_head(pen: Pen, rng, colours, glasses: bool) -> None:
    skin, yaw = colours[0], rng.uniform(-0.11, 0.11)
    for side in (-1, 1):
        pen.shape(ellipse(side * 0.385 - yaw * 0.4, 0.03, 0.07, 0.11), skin * 0.93, 0.3)
    face = path("0,-0.5 0.27,-0.43 0.385,-0.15 0.365,0.12 0.3,0.36 0.1,0.505")
    pen.shape(smooth(mirrored(face * (rng.uniform(0.94, 1.04), 1))), skin, 0.26)
    iris, tilt, lid = rng.uniform(20, 90, 3), rng.uniform(-0.02, 0.014), rng.uniform(0.04, 0.05)
    for side in (-1, 1):
        x = side * 0.165 + yaw
        cheek = ellipse(x + side * 0.045, 0.16, 0.1, 0.075)
        pen.shape(cheek, mix(skin, (205, 70, 70), 0.45), 0, 0.3, atop=True)
        pen.shape(ellipse(x, 0, 0.082, lid, side * 0.1), (222, 220, 216), 0)
        pen.shape(ellipse(x + yaw * 0.3, 0, 0.042, 0.046), iris, 0)
        brow = path(f"-0.1,{side * tilt - 0.12} 0,-0.155 0.1,{-side * tilt - 0.12}")
        lash = path(f"-0.09,-0.01 0,{-1.3 * lid} 0.09,-0.01")
        strokes = [smooth(stroke + (x, 0), closed=False) for stroke in (brow, lash)]
        pen.lines(strokes, mix(colours[1], skin, 0.25) * 0.4, 0.03)
        if glasses:
            pen.shape(ellipse(x, 0.005, 0.155, 0.12), BLACK, 0.2)
            pen.lines([[(x + side * 0.14, 0), (side * 0.39, -0.03)]], BLACK, 0.03)
            pen.shape(path("-0.1,0.06 0.02,-0.08 0.09,-0.08 -0.03,0.07") + (x, 0), WHITE, 0)
    nose = path(f"{yaw * 1.1},0.02 {0.03 + yaw * 1.5},0.16 {-0.03 + yaw * 1.3},0.175")
    pen.lines([smooth(nose, closed=False)], skin * 0.72, 0.022)
    smile, red = rng.uniform(-0.005, 0.05), mix(skin * 0.72, (170, 50, 64), rng.uniform(0.3, 0.8))
    mouth = path(f"-0.12,{0.285 - smile} 0,0.275 0.12,{0.285 - smile} 0,{0.33 + smile}")
    pen.shape(smooth(mouth + (yaw, 0)), red, 0)


def draw_fringe(pen: Pen, rng, tone, low: float) -> None:
    part, y = rng.uniform(-0.22, 0.22), rng.uniform(-0.27, -0.2)
    top = ellipse(0, -0.1, 0.44, 0.53)[18:]
    hem = path(f"0.37,-0.06 0.3,{y + 0.03} {part},{y - 0.08} -0.3,{y + 0.04} -0.37,-0.06")
    pen.shape(smooth(np.concatenate([top, hem])), tone, 0.3)
    for side in (-1, 1) if low > 0.1 else ():  # long hair falls over the shoulders
        lock = path(f"0.2,-0.45 0.44,-0.12 0.47,{low * 0.45} 0.5,{low * 0.9}") * (side, 1)
        pen.shape(ribbon(lock, [0.1, 0.16, 0.24, 0.03]), tone, 0.35)
    for x in rng.uniform(-0.36, 0.36, 12):
        combed = smooth([((part + x) / 2, -0.5), (x, -0.4), (1.12 * x, -0.25)], closed=False)
        pen.lines([combed], tone * rng.choice([0.7, 1.25]), 0.012, atop=True)


def draw_veil(pen: Pen, rng, colours, wide: float) -> None:
    """Cloth that lets the background through, from the crown or from the shoulders."""
    tint, end = mix(colours[4], (222, 218, 222), rng.uniform(0.2, 0.6)), rng.uniform(2.6, 4.0)
    flare, opacity = wide + rng.uniform(0.5, 0.8), rng.uniform(0.58, 0.74)
    outer, inner = f"0.25,0.68 {wide},0.8", "0.5,1.5"
    if rng.random() < 0.5:
        outer, inner = "0.15,-0.6 0.5,-0.3 0.85,0.5", "0.72,1.2 0.42,0.3 0.36,-0.25"
    outer = path(f"{outer} {flare},1.35 {flare + 0.3},{end}")
    for side in (-1, 1):
        cloth = np.concatenate([outer, path(f"0.65,{end} {inner}")]) * (side, 1)
        pen.shape(smooth(cloth), tint, 0.18, opacity)
        folds = [smooth(outer[1:] * (side * k, 1), closed=False) for k in (0.72, 0.86, 0.95)]
        pen.lines(folds, tint * 0.88, 0.02, atop=True)


def highlights(pen: Pen, x: float, y: float, length: float, atop: bool = True) -> None:
    """A window's reflection, and a fainter one across from it."""
    side = -1 if pen.light[0] > 0 else 1
    bar = np.array([(0.7 * x, y - length), (x, y - length * 0.2), (x, y + length * 0.5)])
    pen.shape(ribbon(bar * (side, 1), [0.02, 0.1, 0.02]), WHITE, 0, 0.97, atop)
    pen.shape(ellipse(-side * x, y + length * 0.55, 0.03, 0.08), WHITE, 0, 0.97, atop)


def draw_glass(pen: Pen, rng, colours, tags: set[str]) -> None:
    """A tumbler with a drink and a straw. It always shines, and the background shows through."""
    tint, drink = mix(colours[4], (214, 226, 230), 0.7), mix(colours[2], (255, 240, 220), 0.2)
    w, full, opacity = rng.uniform(0.28, 0.36), rng.uniform(-0.3, 0.1), rng.uniform(0.52, 0.62)
    cup, rim, level = path(f"{w},-0.5 {w * 0.82},0.5"), ellipse(0, -0.5, w, 0.06), w * 0.84
    pen.shape(mirrored(cup), tint, 0.15, opacity)
    straw = ribbon([(-0.12, 0.4), (0.02, -0.2), (0.2, -0.72)], [0.06] * 3)
    pen.shape(straw, colours[3], 0.3)
    pen.shape(mirrored(path(f"{level},{full} {w * 0.76},0.43")), drink, 0.3, 0.6)
    pen.shape(ellipse(0, full, level, 0.05), mix(drink, WHITE, 0.35), 0, 0.6)
    pen.lines([cup, cup * (-1, 1), rim, rim[[-1, 0]]], mix(tint, WHITE, 0.4), 0.018)
    highlights(pen, w * 0.62, -0.1, 0.26, atop=False)  # they hide what is behind the glass


def draw_plant(pen: Pen, rng, colours, tags: set[str]) -> None:
    """A pot with broad leaves, and with blades of grass where hair is asked for."""
    green, n = mix((64, 120, 80), colours[4], rng.uniform(0, 0.35)), int(rng.integers(9, 14))
    lean = np.linspace(-1.15, 1.15, n) + rng.uniform(-0.1, 0.1, n)
    ways = np.stack([np.sin(lean), -np.cos(lean)], 1)
    for tip in rng.permutation(ways * rng.uniform(0.45, 0.72, (n, 1))) + (0, 0.12):
        tone, spine = green * rng.uniform(0.75, 1.2), [(0, 0.16), tip * (0.42, 0.62), tip]
        pen.shape(ribbon(spine, [0.03, rng.uniform(0.14, 0.2), 0.01]), tone, 0.3)
        pen.lines([smooth(spine, closed=False)], tone * 0.75, 0.009)
    if "hair" in tags:
        ways = rng.choice(ways, 170) + rng.normal(0, 0.15, (170, 2))
        draw_hairs(pen, rng, 0 * ways + (0, 0.1), ways, green * 0.85, 0.78, width=0.009, n=240)
    w = rng.uniform(0.22, 0.28)
    pot = mirrored(path(f"{w},0.12 {w * 0.92},0.3 {w * 0.72},0.5"))
    pen.shape(pot, choose_cloth(pen, rng, colours), 0.4)
    pen.shape(mirrored(path(f"{w * 1.1},0.09 {w * 1.08},0.19")), colours[2] * 0.9, 0.35)
    if "reflection" in tags:
        highlights(pen, w * 0.6, 0.32, 0.12)


def draw_ball(pen: Pen, rng, colours, tags: set[str]) -> None:
    """A ball, or a pompom where hair is asked for."""
    ring, wool = ellipse(0, 0, 0.47, n=60), colours[2]
    if "hair" in tags:
        draw_hairs(pen, rng, 0.7 * ring, ring, wool, 0.24, n=660)
        pen.shape(0.85 * ring, wool * 0.85, 0.5)
        draw_hairs(pen, rng, ring * rng.uniform(0, 0.6, (60, 1)), ring, wool, 0.3, 0.2, n=240)
    else:
        pen.shape(ring, choose_cloth(pen, rng, colours), 0.5)
    if "reflection" in tags:
        highlights(pen, 0.22, -0.08, 0.2)
