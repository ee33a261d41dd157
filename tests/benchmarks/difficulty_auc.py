"""How well the four difficulties of a photo find what the synthetic set drew: the area under the
ROC curve of each measure against its tag, from mattes and from binary masks.

python tests/benchmarks/difficulty_auc.py --count 600 --seed 4 --sizes 64 128 256 512
"""

import argparse
import time

import cv2
import numpy as np

from unetlib.data.synthetic import generate_sample
from unetlib.difficulty import DIFFICULTIES, TAG_OF, auc, difficulties


def measured(count: int, seed: int, size: int) -> tuple[dict, dict, float]:
    """AUCs by difficulty, from the matte and from the mask, and milliseconds per photo."""
    rows, spent = {"matte": [], "mask": []}, 0.0
    labels = {name: [] for name in DIFFICULTIES}
    for index in range(count):
        sample = generate_sample(seed, index, size)
        start = time.perf_counter()
        rows["matte"].append(difficulties(sample.image, sample.matte))
        spent += time.perf_counter() - start
        rows["mask"].append(difficulties(sample.image, sample.matte >= 0.5))
        for name in DIFFICULTIES:
            labels[name].append(TAG_OF[name] in sample.tags)
    matte, mask = (
        {name: auc(np.array([row[name] for row in found]), labels[name]) for name in DIFFICULTIES}
        for found in rows.values()
    )
    return matte, mask, 1e3 * spent / count


def main(count: int, seed: int, sizes: list[int]) -> None:
    print(f"{count} samples of seed {seed}; in brackets: from the binary mask")
    print(f"{'size':>5} " + "".join(f"{name:>18}" for name in DIFFICULTIES) + f"{'ms':>8}")
    for size in sizes:
        difficulties(*(lambda s: (s.image, s.matte))(generate_sample(seed, 0, size)))  # warm up
        matte, mask, spent = measured(count, seed, size)
        cells = [f"{matte[name]:.3f} ({mask[name]:.3f})" for name in DIFFICULTIES]
        print(f"{size:5d} " + "".join(f"{cell:>18}" for cell in cells) + f"{spent:8.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    cv2.setNumThreads(1)
    main(**vars(parser.parse_args()))
