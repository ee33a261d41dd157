"""Hair and what covers it, for the people of the synthetic pictures; units as in `figures`."""

from __future__ import annotations

import numpy as np

from unetlib.data.synthetic.drawing import (
    Pen,
    ellipse,
    mirrored,
    mix,
    outward,
    path,
    rgb,
    ribbon,
    smooth,
    strands,
)

STYLES = {
    "short": 0.14, "crop": 0.08, "bob": 0.12, "long": 0.2, "curly": 0.13, "bun": 0.09,
    "ponytail": 0.1, "bald": 0.04, "beanie": 0.05, "scarf": 0.05,
}  # fmt: skip
CROWN = "0,-0.63 0.3,-0.57 0.46,-0.3 0.48,0"
WINDOW = "0,-0.36 0.27,-0.3 0.36,-0.05 0.32,0.25 0.14,0.46 0,0.49"  # what a headscarf leaves free


class Hair:
    def __init__(self, rng: np.random.Generator, look, cloth, tags: set[str]):
        self.rng, self.look, self.cloth = rng, look, cloth
        self.style = str(rng.choice(list(STYLES), p=list(STYLES.values())))
        if "hair" in tags and self.style in ("bald", "beanie", "scarf", "crop"):
            self.style = "long" if rng.random() < 0.5 else "curly"
        self.length = {"long": rng.uniform(1.0, 2.0), "bob": 0.6, "scarf": 0.7}.get(
            self.style, 0.34
        )
        ends = {
            "bob": "0.54,0.3 0.52,0.56 0.3,0.6",
            "long": f"0.54,0.4 0.6,0.9 0.62,{self.length} 0.3,{self.length + 0.12}",
            "scarf": "0.52,0.35 0.5,0.6 0.3,0.7",
        }
        outline = mirrored(path(f"{CROWN} {ends.get(self.style, '0.42,0.2 0.3,0.34')}"))
        if self.style == "curly":
            r = rng.uniform(0.62, 0.8) * rng.uniform(0.95, 1.06, (22, 1))
            outline = ellipse(0, 0, 1, n=22) * r - (0, 0.14)
        self.outline = smooth(outline)

    def behind(self, pen: Pen) -> None:
        tone, side = self.look.hair * 0.82, self.rng.choice([-1, 1])
        if self.style == "ponytail":
            tail = path("0.1,-0.5 0.6,-0.55 0.82,0.1 0.7,0.95") * (side, 1)
            pen.shape(ribbon(tail, [0.2, 0.34, 0.4, 0.04]), tone, 0.35)
        if self.style == "bun":
            pen.shape(ellipse(side * 0.06, -0.76, 0.27, 0.24), tone, 0.4)
        if self.style not in ("short", "crop", "bald", "beanie"):
            pen.shape(self.outline, self.cloth if self.style == "scarf" else tone, 0.3)

    def front(self, pen: Pen) -> None:
        rng, style, tone = self.rng, self.style, self.look.hair
        part, y = rng.uniform(-0.22, 0.22), rng.uniform(-0.27, -0.2)
        x, straight = rng.uniform(-0.36, 0.36, 14), rng.random() < 0.45
        thick = {"crop": 0.03, "short": 0.1, "curly": 0.12}.get(style, 0.09)
        a = np.linspace(np.pi * 1.02, np.pi * 1.98, 11)
        top = np.stack([(0.385 + thick * 0.6) * np.cos(a), (0.41 + thick) * np.sin(a) - 0.1], 1)
        fringe = f"0.37,-0.06 0.3,{y + 0.03} {part},{y - 0.08} -0.3,{y + 0.04} -0.37,-0.06"
        if style == "short":  # tousled
            top[2:9] += np.stack([np.full(7, 0.1 * part), -0.07 * np.abs(np.sin(a[2:9] * 3))], 1)
        if straight and style in ("long", "bob", "ponytail"):
            fringe = f"0.4,0.08 0.34,{y + 0.1} 0,{y + 0.12} -0.34,{y + 0.1} -0.4,0.08"
        cap = smooth(np.concatenate([top, path(fringe)]), steps=4)
        if style == "scarf":
            hole = smooth(mirrored(path(WINDOW)))
            ring = [self.outline, self.outline[:1], hole[::-1], hole[-1:]]
            pen.shape(np.concatenate(ring), self.cloth, 0.3)
            wrap = path("-0.5,0.45 0,0.62 0.5,0.45 0.55,0.85 0,1.05 -0.55,0.85")
            pen.shape(smooth(wrap), self.cloth, 0.35)
        elif style == "beanie":
            pen.shape(cap, tone, 0.3)
            top = np.minimum(top * (1.08, 1.12) - (0, 0.03), (9, -0.2))
            wool = np.concatenate([top, path("0.42,-0.2 -0.42,-0.2")])
            pen.shape(smooth(wool), self.look.accent, 0.35)
            brim = ribbon(path("-0.45,-0.22 0,-0.27 0.45,-0.22"), [0.17, 0.17])
            pen.shape(brim, self.look.accent * 0.8, 0.3)
        elif style != "bald":
            pen.shape(cap, tone, 0.3)
            if style in ("long", "bob"):
                end = self.length * 0.9
                for side in (-1, 1):
                    lock = path(f"0.2,-0.45 0.44,-0.12 0.47,{end / 2} 0.5,{end}") * (side, 1)
                    pen.shape(ribbon(lock, [0.1, 0.16, 0.24, 0.03]), tone, 0.35)
            combed = [
                smooth([((part + k) / 2, -0.5), (k, -0.4), (1.12 * k, -0.25)], False, 4) for k in x
            ]
            pen.lines(combed[:7], mix(tone, rgb(235, 215, 190), 0.3), 0.012, atop=True)
            pen.lines(combed[7:], tone * 0.7, 0.012, atop=True)

    def loose(self, pen: Pen) -> None:
        """Single strands around the outline; straight hair hangs, curls stand out."""
        rng, tone, curly = self.rng, self.look.hair, self.style == "curly"
        x, y = self.outline.T
        low = {"long": 1.0, "bob": 0.5, "curly": 9.0}.get(self.style, 0.05)
        keep = (y < low) & ((y < 0.2) | (np.abs(x) > 0.4))
        ways = outward(self.outline)
        if not curly:
            ways = ways * (1, 0.8) + np.stack([0 * y, np.clip(y + 0.35, 0, 1)], 1)
            ways /= np.linalg.norm(ways, axis=1)[:, None]
        roots, length = self.outline[keep] * 0.95, rng.uniform(0.3, 0.45)
        curl = rng.uniform(0.8, 1.2) if curly else rng.uniform(0.1, 0.6)
        pale = mix(tone, rgb(225, 205, 180), 0.25)
        for n, shade in ((190, tone), (110, tone * 0.75), (90, pale)):
            pen.lines(strands(rng, roots, ways[keep], length, curl, n), shade, 0.006)
