"""Makes readme.png: real photos cut out by `people`, and drawn ones by the network of the course.

python notebooks/figures/readme.py [checkpoint]     (of the course; default: your last training)
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib import cbook
from PIL import Image
from skimage import data

from unetlib.cutting import Recipe, cut_photo
from unetlib.data.images import load_image
from unetlib.data.synthetic import generate_sample
from unetlib.predict import Predictor

HEIGHT, GAP, SMALL = 360, 6, 177
SAMPLES = (17, 22, 11, 28)  # of a seed that no notebook trains on
BACKGROUNDS = ("#0a4678", "#e8b04a", "#3f8f6b", "#b7472a")


def beside(pictures: list[np.ndarray]) -> np.ndarray:
    gap = np.full((len(pictures[0]), GAP, 3), 255, np.uint8)
    return np.hstack([part for picture in pictures for part in (picture, gap)][:-1])


def real(photo: np.ndarray, people: Predictor, colour: str) -> np.ndarray:
    """Photo and cut-out side by side."""
    picture = cut_photo(photo, people, Recipe(background=colour)).picture
    width = round(HEIGHT * photo.shape[1] / photo.shape[0])
    sized = (Image.fromarray(one).resize((width, HEIGHT)) for one in (photo, picture))
    return beside([np.asarray(one) for one in sized])


def drawn(index: int, network: Predictor, colour: str) -> np.ndarray:
    """Picture above, cut-out below."""
    picture = generate_sample(seed=2026, index=index, size=SMALL).image
    placed = cut_photo(picture, network, Recipe(background=colour)).picture
    gap = np.full((GAP, SMALL, 3), 255, np.uint8)
    return np.vstack([picture, gap, placed])


def main() -> None:
    people, course = Predictor("people"), Predictor(sys.argv[1] if sys.argv[1:] else "best")
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        hopper = np.asarray(load_image(file.name))
    photos = [real(data.astronaut(), people, "#0a4678"), real(hopper, people, "#3f8f6b")]
    photos += [drawn(i, course, c) for i, c in zip(SAMPLES, BACKGROUNDS, strict=True)]
    picture = Image.fromarray(beside(photos))
    target = Path(__file__).with_name("readme.png")
    picture.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(target, optimize=True)
    print(f"{target}: {picture.width}×{picture.height}, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
