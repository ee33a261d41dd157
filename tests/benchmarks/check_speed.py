"""How long `unetlib check` takes, and how much memory.

    python tests/benchmarks/check_speed.py [--counts 1000 5000] [--folder DIR]

Pairs of 600 x 800: JPEGs of about 100 kB and PNG masks. One photo in 50 is a cropped and re-encoded
copy of another: they have to be found. Each count runs in a process of its own, so that its peak of
memory is its own. The photos stay in --folder for the next time, if it is given.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH, COPIES = 600, 800, 50
Y, X = np.mgrid[:HEIGHT, :WIDTH]


def write_pair(root: Path, number: int) -> None:
    image, mask = root / "images" / f"{number:06d}.jpg", root / "masks" / f"{number:06d}.png"
    if mask.is_file():
        return
    copy = number % COPIES == 1
    rng = np.random.default_rng(number - copy)
    photo = np.full((HEIGHT, WIDTH, 3), 128, np.float32)
    for cells, strength in ((4, 60), (16, 35), (64, 20), (200, 12)):
        noise = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        photo += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    x, y, w, h = rng.uniform((250, 200, 60, 120), (550, 400, 200, 200))
    matte = np.clip((1 - np.hypot((X - x) / w, (Y - y) / h)) * 60 + 0.5, 0, 1) * 255
    photo += matte[..., None] / 255 * rng.choice((-70.0, 70.0), 3)  # a figure where the mask is
    if copy:
        part = np.s_[12 : HEIGHT - 6, 8 : WIDTH - 16]
        photo, matte = (cv2.resize(a[part], (WIDTH, HEIGHT)) for a in (photo, matte))
    quality = [cv2.IMWRITE_JPEG_QUALITY, 70 if copy else 88]
    cv2.imwrite(str(image), np.clip(photo, 0, 255).astype(np.uint8), quality)
    cv2.imwrite(str(mask), np.rint(matte).astype(np.uint8))


def measure(root: Path) -> None:
    from unetlib.data.check import examine

    before, cpu = time.perf_counter(), time.process_time()
    report = examine(root)
    seconds = time.perf_counter() - before
    cpu = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    count = sum(map(len, report.pairs.values()))
    copies = sum("near copy" in issue.kind for issue in report.issues)
    print(
        f"{count} pairs: {seconds:.1f} s ({count / seconds:.0f} a second, {cpu:.1f} s of CPU), "
        f"peak {peak:.0f} MB, {copies} of {count // COPIES} near copies and "
        f"{len(report.issues) - copies} other issues; load {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    with tempfile.TemporaryDirectory() as temporary:
        for count in args.counts:
            root = (args.folder or Path(temporary)) / str(count)
            for name in ("images", "masks"):
                (root / name).mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda i, root=root: write_pair(root, i), range(count)))
            subprocess.run([sys.executable, __file__, "--measure", root], check=True)


if __name__ == "__main__":
    main()
