"""All scores, threshold sweep and calibration of many photos: time, agreement, memory.

    python tests/benchmarks/scores_speed.py [--count 1000] [--size 512] [--files]
    python tests/benchmarks/scores_speed.py --agreement
    python tests/benchmarks/scores_speed.py --memory 100 5000

Photos are drawn: smooth masks, and blurred, shifted, noisy soft predictions of them. --files writes
both as PNG first and reads them in the time that is taken. By turns with that, PySODMetrics'
measures (F, E, S, weighted F, MAE) are called image by image on some of the photos: the ratio is
that of its time for these to ours for everything. --agreement prints the largest difference to
the libraries that have the same score. --memory prints the peak of fresh processes.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from unetlib.evaluate import Case, read_predictions, score_cases
from unetlib.metrics.boundary import band_width

DRAWN = 24  # photos; the others are these, moved around
ROUNDS, PER_ROUND = 5, 12


def draw(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and its true matte."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((7, 7)).astype(np.float32)
    form = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    matte = np.clip(form * 20 - rng.uniform(-5, 10), 0, 1).astype(np.float32)
    moved = np.roll(matte, rng.integers(-6, 7, 2), (0, 1))
    soft = cv2.GaussianBlur(moved, (0, 0), rng.uniform(1, 4))
    noise = cv2.GaussianBlur(rng.standard_normal((size, size)).astype(np.float32), (0, 0), 3)
    logit = np.log(soft.clip(1e-4, 1 - 1e-4) / (1 - soft.clip(1e-4, 1 - 1e-4))) + 12 * noise
    return (1 / (1 + np.exp(-logit))).astype(np.float32), matte


def photos(count: int, size: int) -> Iterator[Case]:
    drawn = [draw(seed, size) for seed in range(min(count, DRAWN))]
    for number in range(count):
        shift = number // DRAWN * 37
        soft, matte = (np.roll(a, (shift, 2 * shift), (0, 1)) for a in drawn[number % DRAWN])
        yield Case(f"{number:05}", soft, matte)


def by_pysodmetrics(case: Case) -> dict[str, float]:
    """The saliency scores of one photo."""
    import py_sod_metrics as sod

    kinds = sod.Fmeasure(), sod.Emeasure(), sod.Smeasure(), sod.WeightedFmeasure(), sod.MAE()
    for measure in kinds:
        measure.step(case.soft, case.matte >= 0.5, normalize=False)
    f, e, s, weighted, mae = kinds
    return {
        "f_max": f.changeable_fms[0].max(),
        "f_adaptive": f.adaptive_fms[0],
        "e_measure": e.changeable_ems[0].mean(),
        "e_max": e.changeable_ems[0].max(),
        "e_adaptive": e.adaptive_ems[0],
        "s_measure": s.sms[0],
        "weighted_f": weighted.weighted_fms[0],
        "mae": mae.maes[0],
    }


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def everything(cases) -> None:
    found = score_cases(cases)
    found.calibration()
    found.summary()


def speed(count: int, size: int, files: bool) -> None:
    warmed = [case for case, _ in zip(photos(DRAWN, size), range(PER_ROUND), strict=False)]
    everything(warmed[:2]), by_pysodmetrics(warmed[0])
    if files:
        with tempfile.TemporaryDirectory() as folder:
            soft, true = Path(folder, "predictions"), Path(folder, "masks")
            for part in (soft, true):
                part.mkdir()
            for case in photos(count, size):
                for part, mask in ((soft, case.soft), (true, case.matte)):
                    image = Image.fromarray(np.rint(mask * 255).astype(np.uint8))
                    image.save(part / f"{case.id}.png", compress_level=1)
            taken = seconds(lambda: everything(read_predictions(soft, true)))
        print(f"{count} photos of {size} x {size} from PNG files: {taken:.1f} s")
    taken = seconds(lambda: everything(photos(count, size)))
    print(f"{count} photos of {size} x {size}: {taken:.1f} s, {taken / count * 1000:.1f} ms each")
    ratios = []
    for turn in range(ROUNDS):
        both = [
            lambda: score_cases(warmed),
            lambda: [by_pysodmetrics(case) for case in warmed],
        ]
        times = [seconds(action) for action in (both if turn % 2 else both[::-1])]
        ours, theirs = times if turn % 2 else times[::-1]
        ratios.append(theirs / ours)
        print(f"  {PER_ROUND} photos: ours {ours:.2f} s, PySODMetrics {theirs:.2f} s")
    print(f"ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


def agreement(size: int) -> None:
    """The largest difference over photos, at full and at odd small sizes."""
    from skimage.morphology import erosion
    from torchmetrics.functional import classification as tm

    drawn = [draw(seed, side) for seed in range(8) for side in (size, 67)]
    cases = [Case(str(number), *masks) for number, masks in enumerate(drawn)]
    rng = np.random.default_rng(0)
    for number in range(8):
        soft, matte = rng.random((2, 50, 40), np.float32)
        cases.append(Case(f"noise {number}", soft, (matte > number / 8).astype(np.float32)))
    table = score_cases(cases).table
    worst: dict[tuple[str, str], float] = {}

    def compare(name, library, ours, theirs):
        key = (name, library)
        worst[key] = max(worst.get(key, 0), abs(float(ours) - float(theirs)))

    for case, row in zip(cases, table.to_dict("records"), strict=True):
        truth, mask = case.matte >= 0.5, case.soft >= 0.5
        binary = Case(case.id, case.soft, truth.astype(np.float32))
        for name, value in by_pysodmetrics(binary).items():
            ours = row[name] if name != "mae" else np.abs(case.soft - truth).mean(dtype=float)
            compare(name, "PySODMetrics", ours, value)
        guess, target = torch.from_numpy(mask).int(), torch.from_numpy(truth).int()
        for name, score in {
            "iou": tm.binary_jaccard_index,
            "dice": tm.binary_f1_score,
            "accuracy": tm.binary_accuracy,
            "precision": tm.binary_precision,
            "recall": tm.binary_recall,
            "f_beta": lambda p, t: tm.binary_fbeta_score(p, t, beta=0.3**0.5),
        }.items():
            compare(name, "torchmetrics", row[name], score(guess, target))
        byte = np.rint(case.soft * 255).astype(np.float32) / np.float32(255)
        pixels = score_cases([Case("", byte, case.matte)]).histogram
        soft = torch.from_numpy(byte).double()
        if 0 < truth.mean() < 1:
            compare("AUC", "torchmetrics", pixels.auc(), tm.binary_auroc(soft, target))
            precise = tm.binary_average_precision(soft, target)
            compare("average precision", "torchmetrics", pixels.average_precision(), precise)
        error = tm.binary_calibration_error(torch.from_numpy(case.soft).double(), target, 15)
        compare("calibration error", "torchmetrics", score_cases([case]).calibration()[1], error)
        width = band_width(truth.shape)
        square = np.ones((2 * width + 1, 2 * width + 1))
        rims = [
            m & ~erosion(np.pad(m, width), square)[width:-width, width:-width]
            for m in (mask, truth)
        ]
        rim = (rims[0] & rims[1]).sum() / max(1, (rims[0] | rims[1]).sum())
        compare("boundary_iou", "scikit-image", row["boundary_iou"], rim)
    print(f"{'score':<20} {'library':<14} largest difference, {len(cases)} photos")
    for (name, library), value in worst.items():
        print(f"{name:<20} {library:<14} {value:.1e}")


def memory(counts: list[int], size: int) -> None:
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); import scores_speed as s;"
        "s.everything(s.photos(int(sys.argv[2]), int(sys.argv[3])));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    unit = 1 if sys.platform == "darwin" else 1024
    for count in counts:
        command = [sys.executable, "-c", code, str(Path(__file__).parent), str(count), str(size)]
        peak = int(subprocess.run(command, check=True, capture_output=True).stdout) * unit
        print(f"{count:>6} photos: peak {peak / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--files", action="store_true")
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--memory", type=int, nargs="+", metavar="COUNT")
    args = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # PySODMetrics announces another class
    if args.agreement:
        agreement(args.size)
    elif args.memory:
        memory(args.memory, args.size)
    else:
        speed(args.count, args.size, args.files)


if __name__ == "__main__":
    main()
