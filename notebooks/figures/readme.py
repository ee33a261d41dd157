"""Makes readme.png: drawn photos the network never saw, its masks, and the cut-outs.

python notebooks/figures/readme.py [checkpoint]     (default: outputs/checkpoints/best_model.pth)
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from unetlib import matting
from unetlib.data.synthetic import generate_sample
from unetlib.paths import resolve
from unetlib.predict import Predictor

SIZE, GAP = 220, 6
SAMPLES = (1, 13, 33, 36, 25, 46)  # of a seed that no notebook trains on
BACKGROUNDS = ("#0a4678", "#e8b04a", "#3f8f6b", "#b7472a", "#6b5b95", "#2a9d9d")


def main() -> None:
    default = resolve("outputs") / "checkpoints" / "best_model.pth"
    predictor = Predictor(sys.argv[1] if len(sys.argv) > 1 else default)
    columns = []
    for index, colour in zip(SAMPLES, BACKGROUNDS, strict=True):
        photo = generate_sample(seed=2026, index=index, size=SIZE).image
        cut = matting.cut_out(photo, predictor.predict(photo))
        mask = np.repeat(np.rint(255 * cut.soft).astype(np.uint8)[..., None], 3, axis=2)
        placed = matting.composite(cut.rgba, matting.parse_color(colour))[..., :3]
        gap = np.full((GAP, SIZE, 3), 255, np.uint8)
        columns += [np.vstack([photo, gap, mask, gap, placed])]
        columns += [np.full((len(columns[0]), GAP, 3), 255, np.uint8)]
    picture = Image.fromarray(np.hstack(columns[:-1]))
    target = Path(__file__).with_name("readme.png")
    picture.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(target, optimize=True)
    print(f"{target}: {picture.width}×{picture.height}, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
