"""`unetlib cut` on a folder: photos per second with one job and with two, and peak memory.

    python tests/benchmarks/cut_folder.py [--count 200] [--rounds 3] [--checkpoint FILE]

Photos of 640×480 to 1280×720 are drawn. Each measurement is a process of its own, cold; one job and
two take turns, so that what else the machine does meets both, and the median of the ratios counts.
On a machine with other work (Linux only), "with free cores" is the figure to look at: the wall
clock without the time that the thread worst off stood in line for a core. It still counts the time
that threads wait for each other, for the files and for Python's lock. At the end two jobs cut a
quarter of the photos: the peak of their memory should be that of all. Without --checkpoint, u2netp
with random weights is exported.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

SIZES = ((640, 480), (800, 600), (1024, 683), (1280, 720))


def draw_photos(folder: Path, count: int) -> None:
    """Coloured noise of all scales with a standing ellipse of another colour, as JPEGs."""
    folder.mkdir()
    for number in range(count):
        rng, (width, height) = np.random.default_rng(number), SIZES[number % len(SIZES)]
        photo = np.full((height, width, 3), 128, np.float32)
        for cells, strength in ((4, 60), (16, 35), (64, 20), (200, 8)):
            coarse = rng.standard_normal((cells, cells, 3)).astype(np.float32) * strength
            photo += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        y, x = np.mgrid[:height, :width]
        photo[np.hypot((x / width - 0.5) / 0.2, (y / height - 0.5) / 0.4) < 1] += (60, 20, -50)
        photo = np.clip(photo, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:05}.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, 85])


def random_network(path: Path) -> Path:
    from unetlib.checkpoint import Checkpoint
    from unetlib.data.preprocess import Preprocess
    from unetlib.export import export_onnx
    from unetlib.models import build_model

    return export_onnx(Checkpoint(build_model("u2netp"), Preprocess((320, 320))), path)


def time_in_line(pid: int, known: dict[str, float]) -> None:
    """Notes for each thread of a process how many seconds it was ready to run without a core."""
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            known[path.parent.name] = int(path.read_text().split()[1]) / 1e9
        except (OSError, IndexError):  # the thread has just ended
            continue


def measure(photos: Path, out: Path, network: Path, jobs: int) -> tuple[float, float, float]:
    """(seconds, seconds with free cores, peak of the resident memory in MB) of one command."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "unetlib", "cut", photos, "-o", out, "--jobs", jobs]
    command += ["--checkpoint", network]
    start, waited = time.perf_counter(), {"none": 0.0}
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    ended, status, usage = 0, 0, None
    while not ended:
        time_in_line(process.pid, waited)
        time.sleep(0.02)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    seconds = time.perf_counter() - start
    files, expected = len([*out.iterdir()]), 3 * len([*photos.iterdir()])
    if status or files != expected:
        raise SystemExit(f"exit status {status}, {files} files of {expected}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, seconds - max(waited.values()), usage.ru_maxrss * unit / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        network = options.checkpoint or random_network(folder / "u2netp.onnx")
        for name, count in (("all", options.count), ("some", max(1, options.count // 4))):
            draw_photos(folder / name, count)
        ratios = []
        for _ in range(options.rounds):
            taken = []
            for jobs in (1, 2):
                wall, free, peak = measure(folder / "all", folder / "out", network, jobs)
                taken.append((wall, free))
                print(
                    f"{options.count} photos, jobs {jobs}: {options.count / wall:5.2f} photos/s, "
                    f"{wall:6.1f} s, {free:6.1f} s with free cores, peak {peak:.0f} MB"
                )
            ratios.append([one / two for one, two in zip(*taken, strict=True)])
            print("  ratio {:.2f}, {:.2f} with free cores".format(*ratios[-1]), flush=True)
        medians = [statistics.median(values) for values in zip(*ratios, strict=True)]
        print("two jobs against one, median: {:.2f} x, {:.2f} x with free cores".format(*medians))
        *_, small = measure(folder / "some", folder / "out", network, 2)
        print(f"memory, {options.count} photos against {count}: {peak / small:.2f} x")


if __name__ == "__main__":
    main()
