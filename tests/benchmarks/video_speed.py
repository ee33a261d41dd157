"""Speed and memory of cutting out a 720p video, beside what the network alone would reach.

    python tests/benchmarks/video_speed.py [--frames 30 300] [--checkpoint best_model.pth]
        [--background white] [--suffix .mp4]

A video is made of a noisy drawing that sways, with a sound track. For each number of frames a fresh
process cuts it out; its frames per second, those of the network alone, the seconds of each stage
and the peak of its resident memory are printed. Without a checkpoint an untrained u2netp at 160 px
takes part: as fast as a trained one.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 1280, 720


def write_video(path: Path, frames: int) -> None:
    from imageio_ffmpeg import get_ffmpeg_exe

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    scene = cv2.resize(coarse, (WIDTH + 64, HEIGHT + 64), interpolation=cv2.INTER_CUBIC)
    cv2.ellipse(scene, (WIDTH // 2, HEIGHT // 2 + 60), (220, 340), 0, 0, 360, (200, 150, 120), -1)
    noise = [rng.normal(0, 3, (HEIGHT, WIDTH, 3)).astype(np.int16) for _ in range(7)]
    command = [get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{WIDTH}x{HEIGHT}", "-r", "30", "-i", "-", "-f", "lavfi", "-i"]
    command += [f"sine=duration={frames / 30}", "-pix_fmt", "yuv420p", "-c:a", "aac", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        for number in range(frames):
            x, y = int(32 + 31 * np.sin(number / 20)), int(32 + 31 * np.cos(number / 17))
            frame = scene[y : y + HEIGHT, x : x + WIDTH] + noise[number % 7]
            process.stdin.write(np.clip(frame, 0, 255).astype(np.uint8).tobytes())


def cut(source: str, target: str, checkpoint: str, background: str) -> None:
    import unetlib.video as video
    from unetlib.cutting import Background, Recipe
    from unetlib.predict import Predictor

    spent: Counter[str] = Counter()

    def timed(name, function):
        def run(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        return run

    if checkpoint:
        predictor = Predictor(checkpoint)
    else:
        from unetlib.checkpoint import Checkpoint
        from unetlib.data.preprocess import Preprocess
        from unetlib.models import build_model

        predictor = Predictor(Checkpoint(build_model("u2netp"), Preprocess((160, 160))))
    video.cut_out = timed("cut_out", video.cut_out)
    video.resize_soft = timed("resize", video.resize_soft)
    video.Steady.__call__ = timed("steady", video.Steady.__call__)
    Background.over_background = timed("background", Background.over_background)
    predictor.predict_small = timed("network", predictor.predict_small)
    start = time.perf_counter()
    said = video.cut_video(source, target, predictor, Recipe(background=background))
    seconds, frames = time.perf_counter() - start, int(said.split()[0])
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    per = ", ".join(f"{name} {1000 * spent[name] / frames:.1f}" for name in spent)
    print(
        f"{frames:5} frames in {seconds:6.1f} s: {frames / seconds:5.1f} frames/s; "
        f"peak {peak:5.0f} MB; ms a frame, in threads where not of the network: {per}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[30, 300])
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--background", default="white", help="'transparent' with .webm or .mov")
    parser.add_argument("--suffix", default=".mp4")
    parser.add_argument("--cut", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cut:
        cut(*args.cut, args.checkpoint, args.background)
        return
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with tempfile.TemporaryDirectory() as folder:
        for frames in args.frames:
            source, target = Path(folder) / f"{frames}.mp4", Path(folder) / f"cut{args.suffix}"
            write_video(source, frames)
            command = [sys.executable, __file__, "--cut", str(source), str(target)]
            command += ["--checkpoint", args.checkpoint, "--background", args.background]
            subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
