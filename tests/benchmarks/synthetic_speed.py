"""Synthetic samples per second on one core at 128 x 128 (60 asked), and at other sizes.

python tests/benchmarks/synthetic_speed.py
"""

import time

import cv2

from unetlib.data.synthetic import generate_sample


def speed(size: int, count: int) -> float:
    """The best of three rounds, in processor time: one core, whatever else it has to do."""
    best = float("inf")
    for r in range(3):
        start = time.process_time()
        for i in range(count):
            generate_sample(r, i, size)
        best = min(best, time.process_time() - start)
    return count / best


if __name__ == "__main__":
    cv2.setNumThreads(1)
    generate_sample(0, 0, 128)
    for size, count in ((128, 150), (64, 100), (256, 50), (512, 16)):
        print(f"{size:4d} px: {speed(size, count):6.1f} samples/s on one core", flush=True)
