"""How good a network is on real people: the photos that the recipe of `people` holds out.

    python tests/benchmarks/people.py DATA [NETWORK ...] [--no-flip] [--size N] [--refine guided]

DATA has the sets that unetlib/pretrained/people.yaml names; networks are names or files. Each photo
goes the way of `unetlib cut`, at its own size. By set, and for all photos with somebody in them:

    IoU    mean over the photos of the binary mask
    edge   mean absolute difference of soft mask and true mask, in the band of ±10 px around the
           true edge, times 100
    fog    share of all pixels more than 20 px away from the true mask, whose soft mask is above
           0.02, in per cent
"""

import argparse
import os
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import yaml

from unetlib.data.sources import open_settings
from unetlib.matting import cut_out
from unetlib.metrics import count
from unetlib.predict import Predictor
from unetlib.pretrained import SHIPPED


def held_out(data: str) -> dict[str, list]:
    """The val pairs of the recipe, by set."""
    recipe = yaml.safe_load((SHIPPED / "people.yaml").read_text(encoding="utf-8"))
    os.chdir(data)
    source = open_settings(
        recipe["source"], "", "", 2, 256, 0, recipe["val_fraction"], recipe.get("exclude", "")
    )
    sets = defaultdict(list)
    for pair in source.val:
        sets[pair.source].append(pair)
    return sets


def scores(pair, predictor: Predictor, refine: str) -> tuple[float, float, float]:
    photo, matte = pair.load()
    true = matte >= 0.5
    cut = cut_out(photo, predictor.predict(photo), refine=refine)
    iou = count(cut.binary[None] > 0, true[None]).iou().item()
    outside = cv2.distanceTransform((~true).view(np.uint8), cv2.DIST_L2, 5)
    inside = cv2.distanceTransform(true.view(np.uint8), cv2.DIST_L2, 5)
    band = outside + inside <= 10
    edge = np.abs(cut.soft - true)[band].mean() if band.any() else np.nan
    return iou, 100 * edge, 100 * np.mean((cut.soft > 0.02) & (outside > 20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("networks", nargs="*", default=["people"])
    parser.add_argument("--no-flip", action="store_true")
    parser.add_argument("--size", type=int)
    parser.add_argument("--refine", default="guided")
    parser.add_argument("--worst", type=int, default=0, help="name so many photos of each set")
    options = parser.parse_args()
    files = [str(Path(n).resolve()) if Path(n).is_file() else n for n in options.networks]
    sets = held_out(options.data)
    for network in files:
        predictor = Predictor(network, size=options.size, flip=False if options.no_flip else None)
        print(f"{network}: {predictor.describe()}, refine {options.refine}")
        for name, pairs in sets.items():
            start = time.perf_counter()
            rows = [scores(pair, predictor, options.refine) for pair in pairs]
            iou, fog = np.mean(rows, axis=0)[[0, 2]]
            edge = np.nanmean([row[1] for row in rows]) if name != "backgrounds" else np.nan
            took = 1e3 * (time.perf_counter() - start) / len(pairs)
            print(
                f"  {name:<14} {len(pairs):>4} photos  IoU {iou:.4f}  edge {edge:5.2f}  "
                f"fog {fog:5.2f}  {took:.0f} ms a photo",
                flush=True,
            )
            order = np.argsort([row[0] for row in rows])[: options.worst]
            for i in order:
                print(f"      {rows[i][0]:.3f}  {pairs[i].id}")


if __name__ == "__main__":
    main()
