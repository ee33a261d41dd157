"""How good is a network? A table with a row per photo, and what can be read from it.

A predictor is a `Predictor`, or any function from a photo, uint8 (H, W, 3), to its mask, float
(H, W) in [0, 1] or bool. All is measured at the photo's own size, in one pass: photos are read,
predicted, scored and forgotten one by one.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from unetlib import metrics, pretrained
from unetlib.data.images import SUFFIXES, ImageError, fit_within, load_mask, resize
from unetlib.data.pairs import DataError, Pair, load_pair
from unetlib.metrics import COUNTED, COUNTS, SALIENCY, SCORES, THRESHOLDS, Counts, Histogram
from unetlib.paths import project_root, resolve, sha256

if TYPE_CHECKING:
    import pandas as pd

WORST, BEST, SHOWN_SIDE = 5, 3, 320  # photos that are kept to be shown, and their size in pixels
DIFFICULTIES = ("fine_detail", "transparency", "reflection", "texture")
WORK_SIDE = 256  # lengths in a difficulty are pixels of a photo with this side, or of its area


class Example(NamedTuple):
    """One photo that is to be scored; all arrays have its size (H, W)."""

    id: str
    soft: np.ndarray  # the prediction, float32 (H, W) in [0, 1]
    matte: np.ndarray  # the truth, float32 (H, W) in [0, 1]
    image: np.ndarray | None = None  # uint8 (H, W, 3); needed for the difficulties only
    tags: tuple[str, ...] = ()
    milliseconds: float = np.nan  # that the prediction took


class Evaluation(NamedTuple):
    """What one pass over a set found out.

    table: a row per photo, in the order of the pairs. Columns: id; those of SCORES, for the masks
        `soft >= threshold` and `matte >= 0.5` (mae: soft and matte as they are); where asked for,
        those of SALIENCY and DIFFICULTIES, and hard (in which difficulties the photo is among the
        highest quarter); foreground_share; tp, fp, fn, tn; tags; milliseconds.
    sweep: a row per threshold 0.01 ... 0.99: the means of iou, dice, precision, recall, ...
    histogram: all pixels by probability and truth.
    shown: the worst photos and the best, made small, by rising IoU.
    """

    table: pd.DataFrame
    sweep: pd.DataFrame
    threshold: float
    histogram: Histogram
    shown: list[Example]

    def summary(self, confidence: float = 0.95, resamples: int = 2000) -> pd.DataFrame:
        """Means of all scores over the photos, and pooled scores, with their bootstrap intervals.

        Index: score, the columns of the table that are one, then pooled_iou, ..., in which every
        pixel weighs alike. Columns: mean (of a pooled score, its value), low, high.
        """
        import pandas as pd

        names = [name for name in (*SCORES, *SALIENCY) if name in self.table]
        values = self.table[[*names, *COUNTS]].to_numpy(np.float64)
        sums = np.vstack([values.sum(axis=0), metrics.resampled_sums(values, resamples)])
        pooled = Counts(*sums.T[-4:])
        found = pd.DataFrame(sums[:, : len(names)] / len(values), columns=names)
        found = found.assign(**{f"pooled_{name}": getattr(pooled, name)() for name in COUNTED})
        ends = found[1:].quantile([(1 - confidence) / 2, (1 + confidence) / 2])
        table = pd.DataFrame({"mean": found.loc[0], "low": ends.iloc[0], "high": ends.iloc[1]})
        return table.rename_axis("score")


def evaluate(predictor: Any, pairs: Iterable[Pair], threshold: float = 0.5) -> pd.DataFrame:
    """The scores of every photo: see Evaluation.table."""
    return measure(predictor, pairs, threshold).table


def measure(predictor: Any, pairs: Iterable[Pair], threshold: Any = 0.5, **columns) -> Evaluation:
    """`score` of what a predictor makes of pairs; `columns`: difficulty, saliency. Files that
    cannot be read are left out with a warning that names them."""
    return score(lambda: predictions(predictor, pairs), threshold, **columns)


def predictions(predictor: Any, pairs: Iterable[Pair]) -> Iterator[Example]:
    """Reads and predicts photos one by one."""
    from tqdm import tqdm

    predict = getattr(predictor, "predict", predictor)
    for pair in tqdm(pairs, unit="photo", leave=False, disable=None):
        try:
            image, matte = load_pair(pair)
        except ImageError as error:
            warnings.warn(f"left out of the evaluation: {error}", stacklevel=2)
            continue
        start = time.perf_counter()
        soft = predict(image)
        took = 1e3 * (time.perf_counter() - start)
        yield Example(pair.id, soft, matte, image, pair.tags, took)


def read_predictions(predictions: Path, masks: Path) -> Iterator[Example]:
    """Masks that another program made, as files, with the true ones: a prediction for each.

    Files are looked for below the folders, too; a true mask may end in _mask, a prediction in
    _mask_soft, _soft or _mask. Grey values are probabilities. Raises DataError before the first is
    read: for a folder without images, for missing predictions, for the same folder twice.
    """
    if predictions.samefile(masks):
        raise DataError(f"{masks} cannot be both the predictions and the truth: name two folders")
    softs, truths = {}, {}
    for files, folder, end in ((softs, predictions, ""), (truths, masks, "_mask")):
        for path in sorted(folder.rglob("[!.]*")):
            if path.suffix.lower() in SUFFIXES:
                name = path.relative_to(folder).with_suffix("").as_posix()
                files[name.removesuffix(end)] = path
    if not truths:
        raise DataError(f"{masks} has no images: expected a folder with one mask per photo")
    ends = ("_mask_soft", "_soft", "_mask", "")
    found = {name: [softs[name + end] for end in ends if name + end in softs] for name in truths}
    if missing := [name for name, files in found.items() if not files]:
        some = ", ".join(missing[:5])
        raise DataError(
            f"{len(missing)} of {len(truths)} masks in {masks} have no prediction of the same name "
            f"in {predictions}, such as {some}"
        )
    for name, (path, *_) in found.items():
        soft = load_mask(path, kind="matte")
        if 0 < soft.max() <= 1.01 / 255:
            warnings.warn(f"{path} holds 0 and 1 only, nearly black: write 0 and 255", stacklevel=2)
        yield Example(name, soft, load_mask(truths[name]))


def score(
    examples: Callable[[], Iterable[Example]],
    threshold: float | str = 0.5,
    difficulty: bool = False,
    saliency: bool = False,
) -> Evaluation:
    """Everything about a stream of photos, in one pass. Threshold "best" takes that with the
    highest mean IoU on them, in a second pass, and so `examples` is called to start the stream;
    `difficulty` and `saliency` (needs PySODMetrics) add columns.

    Raises ValueError for a prediction of another size than its matte or outside [0, 1], and where
    there is no photo.
    """
    import pandas as pd

    best = threshold == "best"
    threshold = best_threshold(score(examples).sweep) if best else float(threshold)
    if not 0 <= threshold <= 1:
        raise ValueError(f"a threshold lies between 0 and 1, got {threshold!r}")
    rows, curves, shown, histogram = [], [], [], None
    for example in examples():
        soft, matte = (np.asarray(a, np.float32) for a in (example.soft, example.matte))
        if soft.shape != matte.shape:
            shapes = f"shape {soft.shape}, the photo {matte.shape}"
            raise ValueError(f"{example.id}: the prediction has {shapes}")
        if not (soft.min() >= 0 and soft.max() <= 1):  # also catches NaN
            span = f"{soft.min():.4g} to {soft.max():.4g}"
            raise ValueError(f"{example.id}: probabilities are expected, not {span} (logits?)")
        truth = matte >= 0.5
        pixels = Histogram.of(soft, truth)
        histogram = pixels if histogram is None else histogram + pixels
        curves.append(pixels.curve())
        id = example.id.encode(errors="backslashreplace").decode()  # of a file, if not Unicode
        row = {"id": id} | metrics.image_scores(soft >= threshold, truth)
        row |= {"mae": np.abs(soft - matte).mean(dtype=np.float64)}
        row |= {"foreground_share": truth.mean(), "tags": " ".join(example.tags)}
        row |= difficulties(example.image, matte) if difficulty else {}
        row |= metrics.saliency_scores(soft, truth) if saliency else {}
        rows.append(row | {"milliseconds": example.milliseconds})
        size = fit_within(matte.shape, SHOWN_SIDE)
        image = resize(matte if example.image is None else example.image, size)
        small = Example(id, resize(soft, size), resize(matte, size), image)
        shown = sorted([*shown, (row["iou"], small)], key=lambda pair: pair[0])
        del shown[WORST:-BEST]
    if not rows:
        raise ValueError("nothing to evaluate: the set has no photo that can be read")
    table = pd.DataFrame(rows)
    if difficulty:
        high = table[[*DIFFICULTIES]] > table[[*DIFFICULTIES]].quantile(0.75)
        table["hard"] = [", ".join(high.columns[row]) for row in high.to_numpy()]
    more = [name for name in (*SALIENCY, *DIFFICULTIES, "hard") if name in table]
    last = ("foreground_share", *COUNTS, "tags", "milliseconds")
    counts = Counts(*(np.stack([getattr(c, name) for c in curves]) for name in COUNTS))
    sweep = {name: getattr(counts, name)().mean(axis=0) for name in COUNTED}
    sweep = pd.DataFrame({"threshold": THRESHOLDS, **sweep})
    table = table[["id", *SCORES, *more, *last]]
    return Evaluation(table, sweep, threshold, histogram, [small for _, small in shown])


def best_threshold(sweep: pd.DataFrame, by: str = "iou") -> float:
    """The threshold with the highest score; of several equal ones the one nearest to 0.5."""
    best = sweep.loc[sweep[by] == sweep[by].max(), "threshold"]
    return float(best.loc[(best - 0.5).abs().idxmin()])


def difficulties(image: np.ndarray | None, matte: np.ndarray) -> dict[str, float]:
    """What makes a photo hard to cut out, each in [0, 1]; numbers to rank photos by.

    fine_detail: share of the edge's length that is gone once the mask is smoothed (hair, leaves).
    transparency: share of the object that is half there, edges aside; 0 of a binary mask.
    reflection: highlights in the object, small, steep and white; x / (x + 1 %) of their share x.
    texture: local standard deviation v of the background in grey levels, as v / (v + 4).

    `image`: uint8 (H, W, 3). `matte`: the truth, float (H, W) in [0, 1]. Raises ValueError without
    an image of this shape.
    """
    if image is None or image.shape != (*matte.shape, 3):
        raise ValueError("difficulties are measured on a photo, uint8 (H, W, 3), with its matte")
    scale = WORK_SIDE / np.sqrt(matte.size)
    size = tuple(max(1, round(n * scale)) for n in matte.shape)
    photo, alpha = resize(np.ascontiguousarray(image), size), resize(np.float32(matte), size)
    mask, square = alpha >= 0.5, np.ones((5, 5), np.uint8)
    low, high = cv2.erode(alpha, square), cv2.dilate(alpha, square)

    def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
        return cv2.GaussianBlur(picture, (0, 0), sigma)

    edge = np.pad(mask, 2, "edge").astype(np.float32)
    fine, smooth = (np.hypot(*np.gradient(blur(edge, sigma))).sum() for sigma in (0.7, 2.0))

    half = (low > 0.05) & (high < 0.95) & (high - low < 0.25)

    white = np.where(mask, photo.min(axis=2), 0).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (25, 25))
    steep = cv2.morphologyEx(white, cv2.MORPH_TOPHAT, disc) > 50
    light = (steep & (white > 205)).sum() / max(1, mask.sum())

    behind = np.float32(high <= 0.05)  # only these pixels count in the means below
    grey = np.float32(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY))
    near, wide, local = (np.maximum(blur(behind, sigma), 1e-6) for sigma in (1.5, 5.0, 3.0))
    detail = blur(grey * behind, 1.5) / near - blur(grey * behind, 5.0) / wide
    deviation = np.sqrt(blur(detail**2 * behind, 3.0) / local)
    busy = (deviation / (deviation + 4))[behind > 0]
    return {
        "fine_detail": max(0.0, float(1 - smooth / fine)) if fine > 0 else 0.0,
        "transparency": float(half.sum() / max(1, (alpha > 0.05).sum())),
        "reflection": float(light / (light + 0.01)),
        "texture": float(busy.mean()) if busy.size else 0.0,
    }


def compare(evaluations: Mapping[str, Evaluation]) -> pd.DataFrame:
    """Which network is the best, and is it better or was it luck? Of measurements, by name, on the
    same photos and in the same order.

    A row per network, the highest mean IoU first. Columns: name; iou with iou_low and iou_high (the
    95 % interval), dice, boundary_iou, mae; lead (mean IoU of the best less this one's) with
    lead_low and lead_high, of the paired bootstrap; best_is ("better" where this interval lies
    above 0, else "cannot tell"); best_threshold; calibration_error; milliseconds (median).
    """
    import pandas as pd

    order = sorted(evaluations, key=lambda name: -evaluations[name].table["iou"].mean())
    best, rows = evaluations[order[0]].table["iou"], []
    for name in order:
        one, iou = evaluations[name], evaluations[name].table["iou"]
        low, high = metrics.interval(iou)
        row = {"name": name, "iou": iou.mean(), "iou_low": low, "iou_high": high}
        row |= one.table[["dice", "boundary_iou", "mae"]].mean()
        row["lead"], row["lead_low"], row["lead_high"], _ = metrics.paired(iou, best)
        sure = row["lead_low"] > 0 and len(best) > 1  # of one photo there is nothing to draw from
        row["best_is"] = "better" if sure else "cannot tell" if rows else "the best"
        row["best_threshold"] = best_threshold(one.sweep)
        row["calibration_error"] = one.histogram.reliability()[1]
        rows.append(row | {"milliseconds": one.table["milliseconds"].median()})
    return pd.DataFrame(rows)


def find_models(places: Sequence[str | Path] = ()) -> dict[str, Path]:
    """The networks at some places, by name; each content once.

    A place is a name (people, best, ... see `pretrained`), a file (.pth, .onnx), a run (its folder,
    or its name in outputs/runs), a folder of runs, or a folder of such files. Without any: all of
    outputs/runs and outputs/checkpoints. Raises FileNotFoundError or ValueError where nothing is.
    """
    ours = [resolve("outputs/runs"), resolve("outputs/checkpoints")]
    files = [path for place in places or filter(Path.is_dir, ours) for path in _files_at(place)]
    if not files:
        where = " nor ".join(map(str, places or ours))
        raise FileNotFoundError(f"no network in {where}. Train one: `unetlib run`, `unetlib train`")
    once, models = {}, {}
    for path in files:
        once.setdefault(sha256(path), path)
    for path in once.values():
        *_, above, folder, file = path.absolute().parts
        run = (folder, file) == ("checkpoints", "best_model.pth") and above != "outputs"
        name = pretrained.name_of(path) or (above if run else file)
        models[name if name not in models else str(path)] = path
    return models


def _files_at(place: str | Path) -> list[Path]:
    tried = [base / place for base in (Path.cwd(), project_root(), resolve("outputs/runs"))]
    folder = next(filter(Path.is_dir, tried), None)
    if folder is None or str(place) in (*pretrained.NETWORKS, "best"):
        return [pretrained.find(place)]
    best = "checkpoints/best_model.pth"
    runs = [*folder.glob(best)] or sorted(folder.glob(f"*/{best}"))
    files = (p for p in sorted(folder.iterdir()) if p.suffix.lower() in (".pth", ".onnx"))
    return runs or [path for path in files if not path.name.startswith("training_state")]
