"""Drawn photos with exact soft mattes, and ordinary files of them: what the course runs on.

A photo shows a person or a thing, in light and shade, over any background:

    image = degrade(matte * foreground + (1 - matte) * background)

A sample depends on (seed, index) alone; `size` draws the same picture larger or smaller.
"""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from unetlib.data.images import SUFFIXES
from unetlib.data.pairs import DataError, split_fraction
from unetlib.data.synthetic import drawing, figures
from unetlib.data.synthetic.drawing import Pen, mix, path
from unetlib.paths import atomic, write_atomic

TAGS = {"hair": 0.34, "transparency": 0.28, "reflection": 0.32, "texture": 0.42}  # how often
VERSION = 3  # of the drawings: sets of another version are drawn anew
OURS = re.compile(r"synthetic-\d{6,}\.(jpg|png)|manifest\.csv")
PALETTE = (  # skin and hair; then a dark, a middle and a light colour for clothes
    "240,206,180 224,174,140 206,152,114 162,106,74 110,70,50 86,56,44",
    "38,32,36 84,56,40 116,72,46 190,102,52 206,204,202 104,78,146",
    "30,52,92 24,84,84 110,34,52 76,56,28 62,44,96 40,72,48",
    "52,112,160 198,76,60 88,140,92 150,92,150 196,134,48 90,148,156",
    "240,206,120 150,204,190 228,170,150 176,196,232 214,176,214 190,208,130",
)


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
        share = self.matte[..., None]
        mixed = share * self.foreground + (1 - share) * self.background
        return np.rint(mixed).astype(np.uint8)


def generate_sample(seed: int, index: int, size: int = 128) -> Sample:
    """Sample `index` of the set `seed` (both 0 or more) with `size` x `size` pixels, 16 or more."""
    if seed < 0 or index < 0 or size < 16:
        raise ValueError(f"seed and index are 0 or more, size at least 16: {seed}, {index}, {size}")
    rng = np.random.default_rng([seed, index])
    tags = {tag for tag, share in TAGS.items() if rng.random() < share}
    skin, hair, *clothes = (rng.choice(path(tones, columns=3)) for tones in PALETTE)
    colours = np.float32([skin, hair, *rng.permutation(clothes)]) * rng.uniform(0.88, 1.06, (5, 1))
    n = size * max(2, -(-192 // size))  # drawn larger, for fine edges
    pen = Pen(n, (np.cos(rng.uniform(0, 2 * np.pi)) * 0.8, -0.5))
    draw_figure(pen, rng, colours, tags)
    back = draw_background(rng, n, colours, "texture" in tags)
    rgba = cv2.resize(pen.rgba, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    back = cv2.resize(back, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    fore, back, matte = light(rng, rgba, back)
    sample = Sample(back, matte, tuple(tag for tag in TAGS if tag in tags), fore, back)
    return replace(sample, image=photograph(rng, sample.composite()))


def draw_figure(pen: Pen, rng, colours, tags: set[str]) -> None:
    """A person in three pictures of four. Corrects the tags where a thing cannot show them."""
    flip, turn = rng.random() < 0.5, rng.normal(0, 0.07)
    if rng.random() < 0.77:
        head = rng.triangular(0.18, 0.3, 0.46)  # from most of the figure to the face alone
        pen.place(rng.uniform(0.25, 0.75), 0.85 * head + rng.uniform(0.02, 0.16), head, turn, flip)
        return figures.draw_person(pen, rng, colours, tags)
    pen.place(rng.uniform(0.3, 0.7), rng.uniform(0.45, 0.62), rng.uniform(0.6, 0.95), turn, flip)
    draw = figures.draw_plant if rng.random() < 0.5 else figures.draw_ball
    if "transparency" in tags:
        draw = figures.draw_glass
        tags.discard("hair")
        tags.add("reflection")
    draw(pen, rng, colours, tags)


def draw_background(rng, n: int, colours, busy: bool) -> np.ndarray:
    """In the figure's colours, paler as air makes them; the busy ones a little out of focus."""
    pool = rng.choice(colours, 8) * rng.uniform(0.8, 1.15, (8, 1))
    pool = mix(pool, rng.uniform(80, 200), rng.uniform(0.2, 0.48))
    image = rng.choice(drawing.BUSY if busy else drawing.SOFT)(rng, n, pool)
    sigma = rng.uniform(0.004, 0.012) * len(image)
    return cv2.GaussianBlur(image, (0, 0), sigma) if busy else image


def light(rng, rgba, back) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The figure's shadow, and light over all: (foreground, background, matte) as in Sample."""
    size = len(back)
    shift = np.column_stack([np.eye(2), size * rng.uniform((-0.03, 0.005), (0.03, 0.04))])
    shadow = cv2.warpAffine(rgba[..., 3], shift, (size, size), borderMode=cv2.BORDER_REPLICATE)
    shadow = cv2.GaussianBlur(shadow, (0, 0), rng.uniform(0.012, 0.03) * size)
    back = back * (1 - rng.uniform(0.4, 0.65) / 255 * shadow)[..., None]
    x, _ = drawing.grid(size, rng.uniform(0, 6.3), 2.0)
    lit = rng.uniform(0.92, 1.02, 3) + rng.uniform(0, 0.06) * x[..., None]
    fore = rgba[..., :3] * (255 / np.maximum(rgba[..., 3:], 1.0))
    fore, back = (np.clip(np.rint(v * lit), 0, 255).astype(np.uint8) for v in (fore, back))
    return fore, back, np.rint(rgba[..., 3]) / np.float32(255)


def photograph(rng, image) -> np.ndarray:
    """What a camera and a file format add: grain, and the artefacts of JPEG."""
    grain = max(0, rng.uniform(-2, 4)) * rng.standard_normal((*image.shape[:2], 1), np.float32)
    noisy = np.clip(np.rint(image + grain), 0, 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 97))]
    code = cv2.imencode(".jpg", noisy[..., ::-1], quality)[1]
    return np.ascontiguousarray(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1])


def write_synthetic(root, count=1200, size=128, seed=0, val_fraction=0.2) -> Path:
    """Write samples 0 to count - 1 to root/{train,val}/{images/*.jpg, masks/*.png}, `size` square.

    The split is `split_fraction(id, seed) < val_fraction`. A set that is whole is kept; one that
    was cut off, or of other arguments, is drawn anew. A photo that this function did not write is
    never touched: it raises DataError. Returns root.
    """
    if count < 1 or not 0 <= val_fraction < 1:
        raise ValueError(f"count is 1 or more, val_fraction in [0, 1): {count}, {val_fraction}")
    root, ids = Path(root), [f"synthetic-{i:06d}" for i in range(count)]
    sides = ["val" if split_fraction(id, seed) < val_fraction else "train" for id in ids]
    if len(set(sides)) == 1 and val_fraction > 0:
        raise DataError(f"all {count} samples fall into {sides[0]}: take a larger count")
    stamp = root / "synthetic.json"  # names alone do not make a file ours
    folders = [root / split / kind for split in ("train", "val") for kind in ("images", "masks")]
    here = [file for folder in folders for file in sorted(folder.glob("[!.]*"))]
    here = [file for file in here if file.suffix.lower() in SUFFIXES]
    here += root.glob("manifest.csv")
    for file in here:
        if not (stamp.is_file() and OURS.fullmatch(file.name)):
            advice = "another folder (data_dir), or the source 'folder' for photos of your own"
            raise DataError(f"{file} is no synthetic sample; nothing was changed. Choose {advice}")
    settings = json.dumps({"version": VERSION, "arguments": [count, size, seed, val_fraction]})
    same = stamp.is_file() and stamp.read_text() == settings
    if same and len(here) == 2 * count + 1:
        return root
    for file in [*root.glob("*/*/.synthetic-*.part"), *(() if same else here)]:
        file.unlink(missing_ok=True)  # another call may draw the same set
    write_atomic(stamp, settings.encode())

    def write_sample(i: int) -> str:
        sample, side = generate_sample(seed, i, size), root / sides[i]
        with atomic(side / "images" / f"{ids[i]}.jpg") as part:
            Image.fromarray(sample.image).save(part, "JPEG", quality=95, subsampling=0)
        with atomic(side / "masks" / f"{ids[i]}.png") as part:
            Image.fromarray(np.rint(255 * sample.matte).astype(np.uint8)).save(part, "PNG")
        return f"{ids[i]},synthetic,{sides[i]},{';'.join(sample.tags)}"

    with ThreadPoolExecutor() as pool:
        drawn = pool.map(write_sample, range(count))
        rows = [*tqdm(drawn, "drawing", count, delay=1, disable=sys.stderr is None)]
    manifest = "\n".join(["id,source,split,tags", *rows, ""])
    write_atomic(root / "manifest.csv", manifest.encode())
    return root
