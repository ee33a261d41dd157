"""Pairs per second and peak memory of `prepare` as the set grows: the first should stay, the second
hardly rise.

    python tests/benchmarks/prepare_speed.py [--count 1000 5000] [--size 512] [--masks rgba grey]

For each count, a fresh process prepares a folder of that many generated portraits of 600 x 800:
JPEGs of quality 90 that differ in a comment, 48 different pictures of them, with masks that are
either grey PNGs or cut-outs (RGBA PNGs with colours inside, nothing around). 5,000 pairs take up to
2 GB of the temporary folder.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

PICTURES = 48


def portrait(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo-like picture, uint8 (800, 600, 3), with grain, and the soft mask of a figure."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    photo = cv2.resize(coarse, (600, 800), interpolation=cv2.INTER_CUBIC)
    photo = np.clip(photo + rng.normal(0, 3, photo.shape), 0, 255).astype(np.uint8)
    mask = np.zeros((800, 600), np.uint8)
    x = int(rng.integers(220, 380))
    cv2.ellipse(mask, (x, 300), (100, 140), 0, 0, 360, 255, -1)
    cv2.ellipse(mask, (x, 800), (220, 380), 0, 180, 360, 255, -1)
    return photo, cv2.GaussianBlur(mask, (9, 9), 0)


def write_pairs(folder: Path, count: int, kind: str) -> None:
    """`count` pairs in images/ and masks/; each photo has bytes of its own."""
    for name in ("images", "masks", "contents"):
        (folder / name).mkdir(parents=True)
    photos = []
    for seed in range(min(PICTURES, count)):
        photo, mask = portrait(seed)
        photos.append(BytesIO())
        Image.fromarray(photo).save(photos[-1], "JPEG", quality=90)
        if kind == "rgba":
            mask = np.dstack([photo * (mask[..., None] > 0), mask])
        Image.fromarray(mask).save(folder / f"contents/{seed}.png")
    for number in range(count):
        content = photos[number % PICTURES].getvalue()
        comment = b"\xff\xfe\x00\x0a%08d" % number
        name = f"{number:06}"
        (folder / f"images/{name}.jpg").write_bytes(content[:2] + comment + content[2:])
        os.link(folder / f"contents/{number % PICTURES}.png", folder / f"masks/{name}.png")


def peak_mb() -> float:
    """Peak of the resident memory since this program began."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what its parent held before it
        text = status.read_text().partition("VmHWM:")[2]
        return int(text.split()[0]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


def measure(folder: str, into: str, size: int, workers: int | None) -> None:
    from unetlib.data.prepare import prepare
    from unetlib.data.sources import open_source

    source = open_source("folder", folder)
    opened = peak_mb()
    start, used = time.perf_counter(), time.process_time()
    made = prepare(source, into, size, workers, progress=False).made
    wall, used = time.perf_counter() - start, time.process_time() - used
    peak = peak_mb()
    start = time.perf_counter()
    prepare(source, into, size, workers, progress=False)
    again = time.perf_counter() - start
    print(
        f"{made:6d} pairs: {made / wall:6.1f} pairs/s ({wall:.1f} s, {used / made * 1e3:.1f} ms of "
        f"processor time each), peak {peak:.0f} MB ({opened:.0f} MB when opened), "
        f"again {again:.2f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--masks", nargs="+", choices=["rgba", "grey"], default=["rgba", "grey"])
    parser.add_argument("--workers", type=int)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(*args.measure, args.size, args.workers)
        return
    for kind in args.masks:
        for count in args.count:
            with tempfile.TemporaryDirectory() as folder:
                write_pairs(Path(folder, "photos"), count, kind)
                load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
                print(f"{kind}, size {args.size}, load before {load:.1f}", flush=True)
                command = [sys.executable, __file__, "--size", str(args.size)]
                command += ["--workers", str(args.workers)] if args.workers else []
                measured = ["--measure", f"{folder}/photos", f"{folder}/prepared"]
                subprocess.run([*command, *measured], check=True)


if __name__ == "__main__":
    main()
