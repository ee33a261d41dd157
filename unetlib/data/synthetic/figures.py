"""The people of the synthetic pictures: body, face and clothes; the hair is in `hair`.

One unit is the height of a head, (0, 0) is its middle, y points down. Random numbers never depend
on the picture's size, so that a figure is the same at all sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unetlib.data.synthetic.drawing import (
    Pen,
    ellipse,
    make_pattern,
    mirrored,
    mix,
    path,
    rgb,
    ribbon,
    smooth,
)
from unetlib.data.synthetic.hair import Hair

SKIN = path(
    "240,206,180 232,190,158 224,174,140 206,152,114 186,130,94 162,106,74 136,86,60 110,70,50 "
    "86,56,44 232,196,178",
    columns=3,
)
HAIR = path(
    "38,32,36 56,40,34 84,56,40 116,72,46 136,64,40 190,102,52 204,166,104 216,200,170 "
    "146,144,148 206,204,202 52,122,130 196,104,138 104,78,146",
    columns=3,
)
POSES = ("hang", "hip", "raise", "fold", "chin")
FACE = "0,-0.5 0.27,-0.43 0.385,-0.15 0.365,0.12 0.3,0.36 0.1,0.505"
BEARD = "0.03,0.24 0.2,0.22 0.36,0 0.37,0.22 0.28,0.45 0,0.6"


@dataclass
class Look:
    """The colours of one picture; the background borrows them."""

    skin: np.ndarray
    hair: np.ndarray
    cloth: np.ndarray
    second: np.ndarray
    accent: np.ndarray

    def colours(self) -> list[np.ndarray]:
        return [self.skin, self.hair, self.cloth, self.second, self.accent]


class Person:
    """`legs`: whether the picture reaches below the hips. `near`: the face fills the picture."""

    def __init__(
        self, rng: np.random.Generator, look: Look, tags: set[str], legs: bool, near: bool
    ):
        self.rng, self.look, self.tags, self.legs_shown, self.near = rng, look, tags, legs, near
        self.yaw = rng.uniform(-0.11, 0.11)
        self.shoulder, self.waist = rng.uniform(0.82, 1.08), rng.uniform(0.52, 0.78)
        self.hip = rng.uniform(0.6, 0.82)
        self.cloth = make_pattern(rng, look.cloth, look.second, look.accent)
        self.bottom = mix(look.second, rgb(50, 54, 70), rng.uniform(0.2, 0.7))
        self.dress = rng.random() < 0.35
        self.hair = Hair(rng, look, self.cloth, tags)

    def draw(self, pen: Pen) -> None:
        poses = self.rng.choice(POSES, 2, p=[0.4, 0.2, 0.2, 0.1, 0.1])
        self.hair.behind(pen)
        if self.legs_shown:
            self.legs(pen)
        self.arms(pen, poses, ("hang", "hip", "raise"))
        self.torso(pen)
        self.arms(pen, poses, ("fold",))
        self.head(pen)
        self.hair.front(pen)
        self.arms(pen, poses, ("chin",))
        if "hair" in self.tags:
            self.hair.loose(pen)
        if "transparency" in self.tags:
            self.veil(pen)
        if "reflection" in self.tags:
            self.gloss(pen)

    def legs(self, pen: Pen) -> None:
        spread, bare = self.rng.uniform(0.05, 0.4), self.rng.random() < 0.6
        cover = self.look.skin if self.dress and bare else self.bottom
        for side in (-1, 1):
            joints = path(f"0.34,2.7 {0.33 + spread / 2},3.8 {0.3 + spread},4.8") * (side, 1)
            pen.shape(ribbon(joints, [0.7, 0.5, 0.34]), cover, 0.3)
            foot = ellipse(side * (0.4 + spread), 4.85, 0.3, 0.15)
            pen.shape(foot, mix(self.look.accent, rgb(30, 30, 36), 0.5))
        if self.dress:
            skirt = path(f"{self.waist},2.2 {self.hip + 0.15},2.9 {self.hip + 0.45},3.7")
            pen.shape(mirrored(skirt), self.cloth, 0.3)
        else:
            pen.shape(mirrored(path(f"{self.waist},2.4 {self.hip},3.15")), self.bottom, 0.3)

    def torso(self, pen: Pen) -> None:
        look, rng, w = self.look, self.rng, self.shoulder
        right = f"0.2,0.62 0.45,0.74 {w * 0.9},0.9 {w},1.2 {w * 0.84},1.6 {self.waist},2.25"
        pen.shape(smooth(mirrored(path(f"{right} {self.hip},2.9"))), self.cloth, 0.32)
        pen.shape(ribbon(path("0,0.2 0,0.82"), [0.36, 0.42]), look.skin, 0.3)
        collar = int(rng.integers(4))  # round, V, shirt, high
        dip = (0.92, 1.3, 1.05, 0.72)[collar]
        neck = path(f"0.2,0.66 0.27,0.7 0.15,{dip / 2 + 0.405} 0.01,{dip}")
        pen.shape(smooth(mirrored(neck)), look.skin, 0.12)
        chin = smooth(path("-0.24,0.42 0.24,0.42 0.2,0.6 -0.2,0.6"))  # its shadow on the neck
        pen.shape(chin, look.skin * 0.55, 0, opacity=0.5, atop=True, soft=0.03)
        if collar == 3:
            pen.shape(mirrored(path("0.2,0.56 0.28,0.78 0.2,0.86")), self.cloth, 0.25)
        elif collar == 2:
            for side in (-1, 1):
                flap = path("0.24,0.6 0.4,0.78 0.3,1.14 0.03,1.02") * (side, 1)
                pen.shape(flap, mix(look.accent, look.cloth, 0.3), 0.2)
        if rng.random() < 0.3:  # a strap
            strap = ribbon(path(f"-0.5,0.72 0,1.7 {self.waist},2.3"), [0.13, 0.13])
            pen.shape(strap, look.accent, 0.2, atop=True)

    def arms(self, pen: Pen, poses, which) -> None:
        for side, pose in zip((-1, 1), poses, strict=True):
            if pose in which:
                self.arm(pen, side, pose)

    def arm(self, pen: Pen, side: int, pose: str) -> None:
        w, rng, skin = self.shoulder, self.rng, self.look.skin
        bends = {  # elbow and wrist
            "hang": f"{w + 0.16},1.95 {w + 0.1},2.75",
            "hip": f"{w + 0.62},1.85 {self.hip + 0.05},2.45",
            "raise": f"{w + 0.5},0.95 {w + 0.35},-0.1",
            "fold": f"{w + 0.18},1.95 -0.15,1.95",
            "chin": f"{w + 0.02},1.9 0.24,0.68",
        }
        elbow, wrist = (path(bends[pose]) + rng.uniform(-0.1, 0.1, (2, 2))) * (side, 1)
        start = np.array([side * (w - 0.17), 1.08])
        way = (wrist - elbow) / np.linalg.norm(wrist - elbow)
        across, turn = way[::-1] * (side, -side), np.arctan2(way[1], way[0])
        hand, middle = wrist + 0.14 * way, (start + elbow) / 2
        fore = [elbow + 0.02 * way, (elbow + wrist) / 2, wrist + 0.05 * way]
        pen.shape(ribbon(fore, [0.28, 0.26, 0.19]), skin, 0.3)
        pen.shape(ellipse(*hand, 0.19, 0.125, turn), skin, 0.25)
        pen.shape(ellipse(*(hand + 0.1 * across), 0.1, 0.05, turn - side * 0.7), skin, 0.2)
        for k in (-0.05, 0.015):
            finger = [hand + 0.06 * way + k * across, hand + 0.17 * way + k * across]
            pen.lines([finger], skin * 0.75, 0.016)
        if rng.random() < 0.35:  # a short sleeve
            pen.shape(ribbon([start, middle, elbow], [0.34, 0.32, 0.27]), skin, 0.3)
            pen.shape(ribbon([start - (0, 0.1), middle], [0.42, 0.46]), self.cloth, 0.35)
        else:
            cuff = (elbow + 2 * wrist) / 3 + 0.1 * way
            pen.shape(ribbon([start, elbow, cuff], [0.44, 0.4, 0.32]), self.cloth, 0.35)
            pen.shape(ellipse(*elbow, 0.19), self.cloth, 0)

    def head(self, pen: Pen) -> None:
        look, rng, yaw, skin = self.look, self.rng, self.yaw, self.look.skin
        line = mix(look.hair, skin, 0.25) * 0.55
        if self.hair.style != "scarf":
            for side in (-1, 1):
                pen.shape(ellipse(side * 0.385 - yaw * 0.4, 0.03, 0.07, 0.11), skin * 0.93, 0.3)
        face = mirrored(path(FACE))
        face[[4, 7], 0] *= rng.uniform(0.9, 1.1)  # the jaw
        pen.shape(smooth(face), skin, 0.26)
        eyes = ((60, 40, 30), (50, 80, 100), (60, 84, 54), (30, 26, 28))
        iris, tilt, lid = eyes[rng.integers(4)], rng.uniform(-0.02, 0.014), rng.uniform(0.04, 0.055)
        a = np.linspace(np.pi, 2 * np.pi, 9)
        lash = np.stack([0.09 * np.cos(a), lid * np.sin(a) - 0.012], 1)
        for side in (-1, 1):
            cheek = ellipse(side * 0.21 + yaw, 0.16, 0.1, 0.075)
            pen.shape(cheek, mix(skin, rgb(205, 70, 70), 0.45), 0, 0.45, atop=True, soft=0.04)
            x = side * 0.165 + yaw
            pen.shape(ellipse(x, 0, 0.082, lid, side * 0.1), rgb(222, 220, 216), 0.15, atop=True)
            pen.shape(ellipse(x + yaw * 0.3, 0, 0.042, 0.046), iris, 0, atop=True)
            pen.lines([lash + (x, 0)], line * 0.6, 0.026)
            brow = path(f"-0.1,{side * tilt - 0.12} 0,-0.155 0.1,{-side * tilt - 0.12}")
            pen.lines([smooth(brow + (x, 0), False)], mix(line, rgb(20, 16, 18), 0.3), 0.034)
        nose = path(f"{yaw * 1.1},0.02 {0.03 + yaw * 1.5},0.16 {-0.03 + yaw * 1.3},0.175")
        pen.lines([smooth(nose, False)], skin * 0.72, 0.022)
        smile, lip = (
            rng.uniform(-0.005, 0.05),
            mix(skin * 0.72, rgb(170, 50, 64), rng.uniform(0.3, 0.8)),
        )
        mouth = path(f"-0.12,{0.285 - smile} 0,0.275 0.12,{0.285 - smile} 0,{0.33 + smile}")
        if rng.random() < 0.16:
            pen.shape(smooth(mirrored(path(BEARD))), look.hair, 0.3)
        pen.shape(smooth(mouth + (yaw, 0)), lip, 0, atop=True)
        glint = "reflection" in self.tags
        if rng.random() < (0.22 if not glint else 1.0 if self.near else 0.7):
            self.glasses(pen, glint)

    def glasses(self, pen: Pen, glint: bool) -> None:
        frame, dark = mix(self.look.accent, rgb(24, 24, 28), 0.75), self.rng.random() < 0.5
        for side in (-1, 1):
            x = side * 0.175 + self.yaw
            lens = ellipse(x, 0.005, 0.145, 0.115)
            if dark:
                pen.shape(lens, rgb(36, 38, 48), 0.2)
            bow = [(x + side * 0.14, -0.02), (side * 0.39, -0.03)]
            bridge = [(self.yaw - 0.03, -0.02), (self.yaw + 0.03, -0.02)]
            pen.lines([np.concatenate([lens, lens[:2]]), bow, bridge], frame, 0.03)
            if glint:
                pen.shine(path("-0.1,0.06 0.02,-0.08 0.09,-0.08 -0.03,0.07") + (x, 0), 1.0, 0)

    # edge cases

    def veil(self, pen: Pen) -> None:
        """Cloth that lets the background through, from the crown or from the shoulders."""
        rng, w = self.rng, self.shoulder
        tint = mix(self.look.accent, rgb(222, 218, 222), rng.uniform(0.2, 0.6))
        flare, end, opacity = rng.uniform(0.5, 0.8), rng.uniform(2.6, 4.0), rng.uniform(0.58, 0.74)
        wide = f"{w + flare},1.35 {w + flare + 0.3},{end}"
        if rng.random() < 0.5:
            outer, inner = f"0.15,-0.6 0.5,-0.3 0.85,0.5 {wide}", "0.72,1.2 0.42,0.3 0.36,-0.25"
        else:
            outer, inner = f"0.25,0.68 {w},0.8 {wide}", "0.5,1.5"
        for side in (-1, 1):
            edge = path(outer) * (side, 1)
            cloth = np.concatenate([edge, path(f"{self.waist},{end} {inner}") * (side, 1)])
            pen.shape(smooth(cloth), tint, 0.18, opacity)
            folds = [smooth(edge[1:] * (k, 1), False) for k in (0.72, 0.86, 0.95)]
            pen.lines(folds, tint * 0.88, 0.02, atop=True)

    def gloss(self, pen: Pen) -> None:
        """Satin on the side of the light, and a gleam on hair and forehead."""
        rng, side = self.rng, -1 if pen.light[0] > 0 else 1
        for k in range(3):
            x, y = self.shoulder * (0.78 - 0.2 * k), 1.02 + 0.1 * k
            streak = path(f"{x},{y} {x - 0.05},{y + 0.25} {x - 0.02},{y + rng.uniform(0.5, 0.9)}")
            pen.shine(ribbon(streak * (side, 1), [0.02, 0.14, 0.02]), 1.0, 0.01)
        if self.hair.style not in ("bald", "scarf", "beanie", "crop"):
            band = ribbon(path("-0.3,-0.36 0,-0.48 0.26,-0.38"), [0.01, 0.1, 0.01])
            pen.shine(band, 0.95, 0.01)
        pen.shine(ellipse(side * 0.1 + self.yaw, -0.2, 0.06, 0.035), 0.9, 0.01)
