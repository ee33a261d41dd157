"""Cut-outs against rembg: time, size of the files, masks; the same network, side by side.

    pip install "rembg[cpu,cli]"
    python tests/benchmarks/cut_speed.py MODEL.onnx [PHOTO or FOLDER ...]

MODEL.onnx: a network written by `unetlib export`; rembg runs it as `u2net_custom` at 320 x 320, and
so do we. Photos: for the time, the first is enlarged to 1280 x 720 and to 3000 x 3000 (a crop of
its middle where the shape differs); for the masks all are compared. Without any, those of
scikit-image are taken. Both take turns; printed are the medians and the range of the ratio.
"""

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from unetlib.cutting import Recipe, cut_photo, remove_background
from unetlib.predict import Predictor

ROUNDS = 7


def jpeg(photo: Image.Image, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    fitted = ImageOps.fit(photo.convert("RGB"), size, Image.Resampling.BICUBIC)
    fitted.save(file, "JPEG", quality=92)
    return file.getvalue()


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def compare(name: str, ours, theirs, rounds: int = ROUNDS) -> None:
    """Run both by turns and print medians and the ratio's range."""
    pairs = []
    for turn in range(rounds):
        first = [ours, theirs] if turn % 2 else [theirs, ours]
        taken = {action: seconds(action) for action in first}
        pairs.append((taken[ours], taken[theirs]))
    ratios = sorted(b / a for a, b in pairs)
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{name:<34} ours {a * 1000:6.0f} ms   rembg {b * 1000:6.0f} ms   "
        f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def time_photo(given: bytes, name: str, predictor: Predictor, session) -> None:
    """JPEG bytes in, PNG bytes out, with our default refinement and without any."""
    from rembg import remove

    done = {}
    for refine in ("guided", "none"):
        compare(
            f"{name} JPEG to PNG, {refine}",
            lambda r=refine: done.update({r: remove_background(given, predictor, refine=r)}),
            lambda: done.update(rembg=remove(given, session=session)),
        )
    print("   PNG, kB: " + ", ".join(f"{k} {len(v) / 1000:.0f}" for k, v in done.items()))
    batch = np.zeros((1, 3, 320, 320), np.float32)
    network = statistics.median(seconds(lambda: predictor.networks[0](batch)) for _ in range(5))
    print(f"   the network alone: {network * 1000:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", nargs="*", type=Path)
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp())
    os.environ["REMBG_HOME"] = str(home)
    model = home / "models" / "u2net_custom" / "model.onnx"
    model.parent.mkdir(parents=True)
    shutil.copy(options.model, model)
    from rembg import new_session, remove

    session = new_session("u2net_custom", model_path=str(model))
    predictor = Predictor(model, device="cpu", size=320)
    print(predictor.describe())

    files = [f for p in options.photos for f in (sorted(p.iterdir()) if p.is_dir() else [p])]
    if files:
        photos = {file.name: Image.open(file) for file in files}
    else:
        from skimage import data

        names = ("astronaut", "cat", "coffee")
        photos = {name: Image.fromarray(getattr(data, name)()) for name in names}
    one = next(iter(photos.values()))

    for size in ((1280, 720), (3000, 3000)):
        time_photo(jpeg(one, size), f"{size[0]}x{size[1]}", predictor, session)

    differences, ious, full = [], [], []
    plain = Recipe(refine="none")
    for name, photo in photos.items():
        given = ImageOps.exif_transpose(photo.convert("RGB"))
        ours = cut_photo(given, predictor, plain).cutout.soft * 255
        theirs = np.asarray(remove(given, session=session, only_mask=True)).astype(float)
        a, b = ours >= 127.5, theirs >= 127.5
        differences.append(np.abs(ours - theirs).mean())
        ious.append((a & b).sum() / max(1, (a | b).sum()))
        full.append(np.asarray(given).max() == 255)
        if len(photos) <= 5:
            print(f"   {name}: difference {differences[-1]:.2f} of 255, IoU {ious[-1]:.4f}")
    print(
        f"masks of {len(photos)} photos: mean difference {np.mean(differences):.2f} of 255, IoU at "
        f"0.5 {np.mean(ious):.4f} (median {np.median(ious):.4f}, lowest {min(ious):.4f})"
    )
    # rembg divides by a photo's largest value, we (and the training) by 255
    same = np.array(ious)[full]
    print(
        f"   the {len(same)} whose largest value is 255: {same.mean():.4f} (lowest {min(same):.4f})"
    )

    photo = home / "photo.jpg"
    photo.write_bytes(jpeg(one, (1280, 720)))
    unetlib = [sys.executable, "-m", "unetlib", "cut", str(photo), "--checkpoint", str(model)]
    unetlib += ["--size", "320", "--overwrite", "-o", str(home / "ours.png")]
    rembg = [str(Path(sys.executable).with_name("rembg")), "i", "-m", "u2net_custom"]
    rembg += ["-x", f'{{"model_path": "{model}"}}', str(photo), str(home / "theirs.png")]
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    compare(
        "the command, one 1280x720, cold",
        lambda: subprocess.run(unetlib, **quiet),
        lambda: subprocess.run(rembg, **quiet),
        rounds=5,
    )
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
