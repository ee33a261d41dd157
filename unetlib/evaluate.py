"""How good is a network? A table with a row per photo, and what can be read from it.

A predictor is a `Predictor`, or any function from a photo, uint8 (H, W, 3), to its mask, float
(H, W) in [0, 1] or bool. Or it is None: then the images of the pairs are the predictions. All is
measured at the photo's own size, in one pass: read, predicted, scored and forgotten one by one.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from pooch import file_hash
from tqdm import tqdm

from unetlib import pretrained
from unetlib.data.images import ImageError, load_mask, resize
from unetlib.data.pairs import DataError, Pair, image_files
from unetlib.metrics import COUNTED, COUNTS, Counts
from unetlib.paths import project_root, resolve
from unetlib.scores import (
    SALIENCY,
    SCORES,
    THRESHOLDS,
    curves,
    histogram,
    paired,
    reliability,
    resampled_sums,
    saliency_scores,
)

DIFFICULTIES = ("fine_detail", "transparency", "reflection", "texture")
WORK_SIDE = 256  # lengths in a difficulty are pixels of a photo with this side, or of its area


class Evaluation(NamedTuple):
    """What one pass over a set found out. Columns are lists or arrays; pandas, for `table`, comes
    with the extra "course".

    columns: a value per photo, in the order of the pairs. Names: id; those of SCORES, for the masks
        `soft >= threshold` and `matte >= 0.5` (mae: soft and matte as they are); where asked for,
        those of SALIENCY and DIFFICULTIES, and hard (in which difficulties the photo is among the
        highest quarter); foreground_share; tp, fp, fn, tn; tags; milliseconds.
    sweep: a value per threshold 0.01 ... 0.99, and the one asked for. Names: threshold, and iou,
        dice, ..., which are means over the photos.
    histogram: all pixels by probability and truth, see `histogram`.
    """

    columns: dict[str, Any]
    sweep: dict[str, np.ndarray]
    threshold: float
    histogram: np.ndarray

    @property
    def table(self) -> Any:
        """A DataFrame with a row per photo, see `columns`."""
        from pandas import DataFrame

        texts = {key: self.columns[key] for key in ("id", "tags")}  # Arrow takes no stray bytes
        for key, values in texts.items():
            texts[key] = [text.encode(errors="backslashreplace").decode() for text in values]
        return DataFrame(self.columns | texts)

    def scores(self, resamples: int = 2000) -> dict[str, dict[str, float]]:
        """Means of all scores over the photos, and pooled scores, with their 95 % intervals.

        Keys: the columns that are a score, then pooled_iou, ..., in which every pixel weighs alike.
        Values: mean (of a pooled score, its value), low, high.
        """
        names = [name for name in (*SCORES, *SALIENCY) if name in self.columns]
        values = np.array([self.columns[name] for name in (*names, *COUNTS)], np.float64).T
        known = ~np.isnan(values)  # means are those of the photos that have the score
        values = np.hstack([np.where(known, values, 0), known])
        totals = [values.sum(axis=0), resampled_sums(values, resamples)]
        sums, photos = np.hsplit(np.vstack(totals), 2)
        pooled = Counts(*sums.T[-4:])
        with np.errstate(invalid="ignore"):  # 0 / 0 where no photo has it
            resampled = dict(zip(names, (sums / photos).T, strict=False))
        resampled |= {f"pooled_{name}": getattr(pooled, name)() for name in COUNTED}
        ends = {key: np.quantile(drawn[1:], [0.025, 0.975]) for key, drawn in resampled.items()}
        return {
            key: {"mean": float(resampled[key][0]), "low": float(low), "high": float(high)}
            for key, (low, high) in ends.items()
        }


def measure(predictor, pairs, threshold=0.5, difficulty=False, saliency=False) -> Evaluation:
    """Everything about a predictor on pairs. `threshold`: a number in [0, 1], or "best", that with
    the highest mean IoU on them; `difficulty` and `saliency` (needs PySODMetrics) add columns.

    A photo that is damaged is left out with a warning that names it. Raises ValueError for a
    prediction of another size than its mask or outside [0, 1], and where there is no photo;
    ImageError for a file of a prediction; OSError and MemoryError as they are.
    """
    best = threshold == "best"
    if not best and not 0 <= float(threshold) <= 1:
        raise ValueError(f"a threshold lies between 0 and 1, got {threshold!r}")
    thresholds = THRESHOLDS if best else np.union1d(THRESHOLDS, float(threshold))
    rows, counted, pixels = [], [], 0.0
    for pair in tqdm(pairs, unit="photo", leave=False, disable=None):
        try:
            photo, matte, soft, took = predict_pair(predictor, pair)
        except ImageError as error:
            if predictor is None:
                raise
            warnings.warn(f"left out of the evaluation: {error}", stacklevel=2)
            continue
        if predictor is None and 0 < soft.max() <= 1.01 / 255:
            warnings.warn(f"{pair.image} holds 0 and 1 only: write 0 and 255", stacklevel=2)
        if soft.shape != matte.shape:
            sizes = f"the prediction is {soft.shape}, its mask {matte.shape}"
            raise ValueError(f"{pair.id}: {sizes}: resize one to the other")
        if not (soft.min() >= -1e-5 and soft.max() <= 1 + 1e-5):  # also catches NaN
            span = f"{soft.min():.7g} to {soft.max():.7g}"
            raise ValueError(f"{pair.id}: probabilities are expected, not {span} (logits?)")
        soft, truth = soft.clip(0, 1), matte >= 0.5  # a sigmoid may round to a bit over 1
        pixels += histogram(soft, truth)
        counted.append(curves(soft, truth, thresholds))
        row = {"id": pair.id, "mae": np.abs(soft - matte).mean(dtype=np.float64)}
        row |= {"foreground_share": truth.mean(), "tags": " ".join(pair.tags), "milliseconds": took}
        row |= difficulties(photo, matte) if difficulty else {}
        row |= saliency_scores(soft, truth) if saliency else {}
        rows.append(row)
    if not rows:
        raise ValueError("nothing to evaluate: no photo is held out (--all-photos), or readable")
    if all(pair.mask for pair in pairs) and not any(row["foreground_share"] for row in rows):
        advice = "if they hold numbers of classes, take folder:FOLDER?mask_kind=labels"
        warnings.warn(f"no true mask has a foreground at one half: {advice}", stacklevel=2)
    counts, rims = zip(*counted, strict=True)
    counts = Counts(*np.stack(counts, axis=1))  # each (photos, thresholds)
    scores = {name: getattr(counts, name)() for name in COUNTED} | {"boundary_iou": np.stack(rims)}
    means = {name: values.mean(axis=0) for name, values in scores.items()}
    sweep = {"threshold": thresholds} | means
    threshold = best_threshold(sweep) if best else float(threshold)
    at = thresholds.searchsorted(threshold)
    scores |= counts._asdict()
    table = {name: [row[name] for row in rows] for name in rows[0]}
    table |= {name: value[:, at] for name, value in scores.items()}
    if difficulty:
        values = np.array([table[name] for name in DIFFICULTIES])
        high = (values > np.quantile(values, 0.75, axis=1, keepdims=True)).T
        table["hard"] = [", ".join(compress(DIFFICULTIES, row)) for row in high]
    names = ("id", *SCORES, *SALIENCY, *DIFFICULTIES, "hard", "foreground_share", *COUNTS)
    columns = {name: table[name] for name in (*names, "tags", "milliseconds") if name in table}
    return Evaluation(columns, sweep, threshold, pixels)


def predict_pair(predictor: Any, pair: Pair) -> tuple:
    """(photo, matte, soft mask, milliseconds that it took) of one pair, of one size as a rule. The
    photo is uint8 (H, W, 3); without a predictor it is the matte, float32 (H, W) like the masks."""
    if predictor is None:
        soft, matte = load_mask(pair.image, kind="matte"), load_mask(pair.mask)
        return matte, matte, soft, np.nan
    photo, matte = pair.load()
    start = time.perf_counter()
    soft = getattr(predictor, "predict", predictor)(photo)
    return photo, matte, np.asarray(soft, np.float32), 1e3 * (time.perf_counter() - start)


def match_predictions(predictions: Path, masks: Path) -> list[Pair]:
    """Masks that another program made, as files, with the true ones, for `measure(None, pairs)`.

    Files are looked for below the folders, too; a true mask may end in _mask, a prediction in
    _mask_soft, _soft or _mask. Grey values are probabilities. Raises DataError where there are no
    masks, for a missing prediction, for the same folder twice.
    """
    if predictions.samefile(masks):
        raise DataError(f"{masks} cannot be both the predictions and the truth: name two folders")
    files = {id: path for path, id in image_files(predictions, []).items()}
    pairs = []
    for path, id in image_files(masks, []).items():
        name = id.removesuffix("_mask")
        known = [files.get(name + end) for end in ("_mask_soft", "_soft", "_mask", "")]
        pairs.append(Pair(name, next(filter(None, known), None), path))
    if not pairs:
        raise DataError(f"{masks} has no images: expected a folder with one mask per photo")
    if missing := [pair.id for pair in pairs if pair.image is None]:
        seen = ", ".join([*files][:3]) or "no image"
        text = f"{len(missing)} of {len(pairs)} masks in {masks} have no prediction of their name"
        raise DataError(f"{text} in {predictions}, such as {missing[0]}. There: {seen}")
    return pairs


def best_threshold(sweep: Mapping[str, Any], by: str = "iou") -> float:
    """The threshold with the highest score; of several equal ones the one nearest to 0.5."""
    best = np.asarray(sweep["threshold"])[sweep[by] == np.max(sweep[by])]
    return float(min(best, key=lambda one: abs(one - 0.5)))


def difficulties(image: np.ndarray, matte: np.ndarray) -> dict[str, float]:
    """What makes a photo hard to cut out, each in [0, 1]; numbers to rank photos by.

    fine_detail: share of the edge's length that is gone once the mask is smoothed (hair, leaves).
    transparency: share of the object that is half there, edges aside; 0 of a binary mask.
    reflection: highlights in the object, small, steep and white; x / (x + 1 %) of their share x.
    texture: local standard deviation v of the background in grey levels, as v / (v + 4).

    `image`: uint8 (H, W, 3). `matte`: the truth, float (H, W) in [0, 1].
    """
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


def compare(evaluations: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    """Ranks networks by mean IoU, and tests with a paired bootstrap whether the best is better.
    `evaluations`: by name, of the same photos in the same order.

    A row per network, the highest mean IoU first. Keys: name; iou with iou_low and iou_high (the
    95 % interval), dice, boundary_iou, mae; lead (mean IoU of the best less this one's) with
    lead_low and lead_high, of the paired bootstrap; best_is ("better" where this interval lies
    above 0, else "cannot tell"); best_threshold; calibration_error; milliseconds (median); scores,
    all of `Evaluation.scores`.
    """
    order = sorted(evaluations.items(), key=lambda item: -np.mean(item[1].columns["iou"]))
    best, rows = order[0][1].columns["iou"], []
    for name, one in order:
        scores, iou = one.scores(), one.columns["iou"]
        mean, low, high = scores["iou"].values()
        row = {"name": name, "iou": mean, "iou_low": low, "iou_high": high}
        row |= {key: scores[key]["mean"] for key in ("dice", "boundary_iou", "mae")}
        row["lead"], row["lead_low"], row["lead_high"], _ = paired(iou, best)
        sure = row["lead_low"] > 0 and len(best) > 1  # of one photo there is nothing to draw from
        row["best_is"] = "better" if sure else "cannot tell" if rows else "the best"
        row["best_threshold"] = best_threshold(one.sweep)
        row["calibration_error"] = reliability(one.histogram)[1]
        row["milliseconds"] = float(np.median(one.columns["milliseconds"]))
        rows.append(row | {"scores": scores})
    return rows


def find_models(places: Sequence[str | Path] = ()) -> dict[str, Path]:
    """The networks at some places, by name; each content once.

    A place is a name (people, best, ... see `pretrained`), a file (.pth, .onnx), a run by its name,
    or a folder: every best_model.pth in it counts, or else the files in it. Without any: all of
    outputs/runs and outputs/checkpoints. Raises FileNotFoundError or ValueError where nothing is.
    """
    files, runs = [], resolve("outputs/runs")
    ours = [runs, runs.with_name("checkpoints")]
    for place in places or filter(Path.is_dir, ours):
        tried = [base / place for base in (Path.cwd(), project_root(), runs)]
        folder = next(filter(Path.is_dir, tried), None)
        if not folder or str(place) in (*pretrained.NETWORKS, "best"):
            files.append(pretrained.find(place))
            continue
        files += sorted(folder.rglob("best_model.pth")) or [
            path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".pth", ".onnx")
        ]
    if not files:
        where = " nor ".join(map(str, places or ours))
        raise FileNotFoundError(f"no network in {where}. Train one: `unetlib run`, `unetlib train`")
    once, models = {file_hash(path): path for path in reversed(files)}, {}
    for path in sorted(once.values(), key=files.index):
        *_, parent, folder, file = path.absolute().parts
        run = (folder, file) == ("checkpoints", "best_model.pth") and parent != "outputs"
        name = pretrained.name_of(path) or (parent if run else file)
        models[name if name not in models else str(path)] = path
    return models
