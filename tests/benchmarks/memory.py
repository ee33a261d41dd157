"""Peak memory of loading one epoch as the dataset grows: it should not.

    python tests/benchmarks/memory.py [--count 1000 20000] [--size 64] [--workers 2]

For each count, a fresh process opens a folder of that many small JPEG and PNG pairs, builds the
cache and goes through one epoch with augmentation. The peak of the resident memory is printed for
it and for the largest of its worker processes, then the ratios to the first count.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image


def write_pairs(folder: Path, count: int, height: int = 96, width: int = 128) -> None:
    """`count` photos that differ in a comment only, and links to one mask."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    photo = BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.BICUBIC).save(photo, "JPEG")
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    mask = np.zeros((height, width), np.uint8)
    mask[20:70, 40:90] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    start, rest = photo.getvalue()[:2], photo.getvalue()[2:]
    for number in range(count):
        comment = b"\xff\xfe\x00\x0a%08d" % number
        (folder / "images" / f"photo-{number:06}.jpg").write_bytes(start + comment + rest)
        os.link(folder / "mask.png", folder / "masks" / f"photo-{number:06}.png")


def load_one_epoch(folder: str, size: int, workers: int) -> None:
    from unetlib.data.dataset import make_loaders
    from unetlib.data.sources import open_source

    start = time.perf_counter()
    train, val = make_loaders(open_source("folder", folder), size, 16, workers=workers)
    photos = sum(len(image) for loader in (train, val) for image, _ in loader)
    del train, val  # ends the workers, so that their memory is counted
    unit = 1 if sys.platform == "darwin" else 1024
    own, worker = (
        resource.getrusage(who).ru_maxrss * unit / 1e6
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(photos, time.perf_counter() - start, own, worker)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, nargs="+", default=[1000, 20000])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # what a fresh process is to load
    options = parser.parse_args()
    if options.folder:
        return load_one_epoch(options.folder, options.size, options.workers)

    first = None
    for count in options.count:
        with tempfile.TemporaryDirectory() as folder:
            write_pairs(Path(folder) / "set", count)
            command = [sys.executable, __file__, f"--folder={folder}/set", f"--size={options.size}"]
            done = subprocess.run(
                [*command, f"--workers={options.workers}"],
                env={**os.environ, "UNETLIB_CACHE": folder},
                stdout=subprocess.PIPE,
                check=True,
            )
        photos, seconds, *peaks = map(float, done.stdout.split())
        first = first or peaks
        text = [
            f"{peak:.0f} MB ({peak / before:.2f} x)"
            for peak, before in zip(peaks, first, strict=True)
        ]
        print(f"{photos:6.0f} photos in {seconds:5.1f} s: main process {text[0]}, worker {text[1]}")


if __name__ == "__main__":
    main()
