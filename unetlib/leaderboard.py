"""Several networks on the same photos: which is the best, is it better or was it luck, what does
it cost, and where do they disagree?"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from unetlib import pretrained
from unetlib.config import hint
from unetlib.data import Pair
from unetlib.evaluate import Evaluation, best_threshold, measure, threshold_sweep
from unetlib.metrics import paired
from unetlib.models.cost import count_parameters
from unetlib.paths import find_input, resolve, sha256
from unetlib.predict import Predictor

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".pth", ".onnx")
STATE = "training_state.pth"  # beside checkpoints: what a training goes on from, no network
SHOWN = ("iou", "dice", "boundary_iou", "mae", "weighted_f")
TIMED = 8  # photos
GRID = 32  # side of the small masks by which networks are compared
HOW = "Train one with `unetlib run` (the course) or `unetlib train`"


@dataclass(frozen=True)
class Model:
    """A network's file. `also`: other files with the same bytes."""

    name: str
    path: Path
    also: tuple[Path, ...] = ()


@dataclass
class Leaderboard:
    """What `compare` found.

    table: a row per model, the highest mean IoU first. Columns: name; the scores of SHOWN (means
        per image) with _low and _high, the 95 % interval; lead (mean IoU of the best less this
        one's), lead_low, lead_high (its interval), share (of the resamples in which the best is
        better), best_is (see `verdict`; "the best" in the first row); threshold, parameters (NaN:
        unknown), milliseconds (for a photo, the predictor alone), megabytes (the file), runs_on.
    evaluations: by name, of the models that could be judged, the best first.
    failed: by name, why the others could not.
    disagreements: a row per photo, the most disputed first: id, difference (in [0, 1]: mean
        absolute difference of the two soft masks that differ most, averaged in 32×32 cells),
        first and second (whose masks these are). No rows for a single model.
    """

    table: pd.DataFrame
    evaluations: dict[str, Evaluation]
    failed: dict[str, str]
    disagreements: pd.DataFrame


def find_models(places: Sequence[str | Path] = ()) -> list[Model]:
    """The networks in files, runs, folders of runs and folders of networks; each content once.

    A place is a name (people, u2netp, see `pretrained`), a file (.pth, .onnx), a run (its folder,
    or its name in outputs/runs), a folder of runs, or a folder with such files. Without any: all of
    outputs/runs and outputs/checkpoints. Files are not opened here: a spoilt one fails when it is
    judged.

    Raises FileNotFoundError (says how to get a network) where nothing is, ValueError for a folder
    without any network and for a file of another kind.
    """
    folders = [resolve(f"outputs/{name}") for name in ("runs", "checkpoints")]
    found = [path for place in places for path in _files_at(place)]
    if not places:
        found = [path for folder in folders if folder.is_dir() for path in _files_in(folder)]
    if not found:
        raise FileNotFoundError(f"no network in {' nor '.join(map(str, folders))}. {HOW}")
    same: dict[str, list[Path]] = {}
    for path in dict.fromkeys(found):
        same.setdefault(sha256(path), []).append(path)
    return _named_apart([Model(_name(first), first, (*more,)) for first, *more in same.values()])


def verdict(low: float, high: float) -> str:
    """ "better", "worse" or "cannot tell" of a difference with the interval (low, high): told only
    where all of it lies on one side of 0, so not for the same network twice, nor of NaN."""
    return "better" if low > 0 else "worse" if high < 0 else "cannot tell"


def compare(
    models: Sequence[Model],
    pairs: Sequence[Pair],
    threshold: float | str = 0.5,
    difficulty: bool = False,
    device: Any = "auto",
    progress: Callable[[Sequence[Pair], str], Iterable[Pair]] = lambda pairs, name: pairs,
) -> Leaderboard:
    """Judge networks on the same photos, one after the other: only one is in memory at a time.

    `threshold` "best" gives each network its own, picked on these very photos by mean IoU. The
    bootstrap of a difference is paired: a photo is drawn with the scores of both networks.
    `progress(pairs, name)` may wrap the photos of each pass. A network that fails does not stop
    the others; if none is left, its error is raised (of several different ones, ValueError).
    """
    rows, evaluations, grids = [], {}, {}
    errors: dict[str, Exception] = {}
    for model in models:
        try:
            predictor, at = Predictor(model.path, device), threshold
            if at == "best":
                sweep = threshold_sweep(predictor, progress(pairs, f"{model.name}, threshold"))
                at = best_threshold(sweep)
            watched = _Watched(predictor)
            found = measure(watched, progress(pairs, model.name), at, difficulty)
            rows.append(_row(model, watched, found))
            evaluations[model.name], grids[model.name] = found, np.stack(watched.grids)
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            errors[model.name] = error
    failed = {name: str(error) for name, error in errors.items()}
    if len(set(failed.values())) == 1 and not rows:
        raise next(iter(errors.values()))
    if not rows:
        raise ValueError("\n".join(failed.values()))
    table = _ranked(rows, evaluations)
    evaluations = {name: evaluations[name] for name in table["name"]}
    return Leaderboard(table, evaluations, failed, _disagreements(evaluations, grids))


def milliseconds(predictor: Predictor, photos: Sequence[np.ndarray]) -> float:
    """Median time from a photo, uint8 (H, W, 3), to its mask of the same size, once warm."""
    times = []
    for photo in (photos[0], *photos):
        start = time.perf_counter()
        predictor.predict(photo)
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[1:]))


class _Watched:
    """A predictor that keeps a small picture (1 kB) of each mask it makes, and a few photos."""

    def __init__(self, predictor: Predictor):
        self.predictor, self.grids, self.photos = predictor, [], []

    def predict_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        softs = self.predictor.predict_batch(images)
        self.photos += images[: TIMED - len(self.photos)]
        for soft in softs:
            small = cv2.resize(soft, (GRID, GRID), interpolation=cv2.INTER_AREA)
            self.grids.append(np.rint(255 * small).astype(np.uint8))
        return softs


def _row(model: Model, watched: _Watched, found: Evaluation) -> dict[str, Any]:
    predictor, summary, row = watched.predictor, found.summary(), {"name": model.name}
    network = predictor.networks[0]
    known = predictor.model is not None  # else ONNX Runtime, which does not say how many threads
    for score in SHOWN:
        row[score] = summary.loc[score, "mean"]
        row |= {f"{score}_{end}": summary.loc[score, end] for end in ("low", "high")}
    return row | {
        "threshold": found.threshold,
        "parameters": float(count_parameters(predictor.model)) if known else math.nan,
        "milliseconds": milliseconds(predictor, watched.photos),
        "megabytes": model.path.stat().st_size / 1e6,
        "runs_on": network.runs_on + ("" if known or network.device != "cpu" else " on all cores"),
    }


def _ranked(rows: list[dict], evaluations: dict[str, Evaluation]) -> pd.DataFrame:
    """Best first, each with the lead that the best has over it."""
    import pandas as pd

    rows = sorted(rows, key=lambda row: -row["iou"])
    scores = [evaluations[row["name"]].table["iou"].to_numpy() for row in rows]
    for row, own in zip(rows, scores, strict=True):
        lead, low, high, share = paired(own, scores[0])
        if len(own) == 1:  # nothing to draw from
            low = high = share = math.nan
        word = verdict(low, high) if row is not rows[0] else "the best"
        row |= {"lead": lead, "lead_low": low, "lead_high": high, "share": share, "best_is": word}
    return pd.DataFrame(rows)


def _disagreements(evaluations: dict[str, Evaluation], grids: dict[str, np.ndarray]):
    """See `Leaderboard`. `grids`: uint8 (photos, h, w) of each model."""
    import pandas as pd

    ids = next(iter(evaluations.values())).table["id"]
    couples = list(itertools.combinations(evaluations, 2))
    if not couples:
        return pd.DataFrame(columns=["id", "difference", "first", "second"])
    differences = (np.abs(grids[a] - grids[b].astype(np.int16)) for a, b in couples)
    apart = np.stack([difference.mean((1, 2)) for difference in differences])
    first, second = zip(*(couples[i] for i in apart.argmax(0)), strict=True)
    columns = {"id": ids, "difference": apart.max(0) / 255, "first": first, "second": second}
    return pd.DataFrame(columns).sort_values("difference", ascending=False, ignore_index=True)


def _files_at(place: str | Path) -> list[Path]:
    if str(place) in (*pretrained.NETWORKS, "best"):
        return [pretrained.find(place)]
    try:
        path = find_input(place)
    except FileNotFoundError as error:
        path = resolve("outputs/runs") / place
        if not path.is_dir():
            near = hint(str(place), [*pretrained.NETWORKS, "best"])
            text = f"no network: {error} nor {path}.{near} {HOW}, or name one"
            raise FileNotFoundError(text) from error
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is no network: their files end in {' or '.join(SUFFIXES)}")
    files = [path] if path.is_file() else _files_in(path)
    if not files:
        names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir())
        raise ValueError(
            f"{path} is no run and holds none: expected checkpoints/best_model.pth in it or in the "
            f"folders below, or .pth and .onnx files. Found: {', '.join(names[:8]) or 'nothing'}"
        )
    return files


def _files_in(folder: Path) -> list[Path]:
    best = folder / "checkpoints" / "best_model.pth"
    runs = [best] if best.is_file() else sorted(folder.glob("*/checkpoints/best_model.pth"))
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name != STATE)
    return runs or files


def _name(path: Path) -> str:
    """The run's name for a run's best model, that of a network with a name, else the file's."""
    if name := pretrained.name_of(path):
        return name
    *_, run, folder, file = path.absolute().parts
    ours = (folder, file) == ("checkpoints", "best_model.pth")
    return run if ours and path.absolute().parents[1] != resolve("outputs") else file


def _named_apart(models: list[Model]) -> list[Model]:
    """Those of the same name get as much of their path as tells them apart."""
    names = [model.name for model in models]
    depth = 1
    while len(set(names)) < len(names):
        depth += 1
        longer = ["/".join(model.path.absolute().parts[-depth:]) for model in models]
        names = [a if names.count(a) == 1 else b for a, b in zip(names, longer, strict=True)]
    return [replace(model, name=name) for model, name in zip(models, names, strict=True)]
