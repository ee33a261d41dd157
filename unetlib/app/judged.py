"""What `unetlib evaluate` found: as numbers for programs, and as lines for a terminal."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import unetlib
from unetlib.difficulty import DIFFICULTIES, named
from unetlib.evaluate import Evaluation
from unetlib.leaderboard import Leaderboard
from unetlib.metrics import SCORES
from unetlib.metrics.histogram import Histogram
from unetlib.summaries import best_threshold, by_quartile, by_tag

if TYPE_CHECKING:
    import pandas as pd

WORST = 5
PRINTED = ("iou", "dice", "boundary_iou", "mae", "f_beta", "s_measure", "e_measure", "weighted_f")


@dataclass
class Judged:
    """evaluations: by name, the best network first. what: which photos. look: names of networks and
    ids of photos -> a tuple for each photo: the photo (None: there is none), the matte, and the
    soft masks by network. also: by name, files with the same bytes."""

    evaluations: dict[str, Evaluation]
    what: str
    notes: list[str]
    look: Callable
    board: Leaderboard | None = None
    also: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    command: str = ""

    @property
    def best(self) -> str:
        return next(iter(self.evaluations))

    @property
    def failed(self) -> dict[str, str]:
        return self.board.failed if self.board else {}

    def table(self) -> pd.DataFrame:
        """A row per photo; of several networks those of the best first, with a column model."""
        import pandas as pd

        tables = {name: found.table for name, found in self.evaluations.items()}
        if len(tables) == 1:
            return tables[self.best]
        return pd.concat(tables, names=["model"]).reset_index("model")

    def numbers(self, temperature: bool) -> dict[str, Any]:
        """Everything that was measured; numbers that are undefined are NaN."""
        record: dict[str, Any] = {"unetlib": unetlib.__version__, "judged": self.what}
        record |= {"command": self.command, "notes": self.notes}
        record["models"] = {n: facts(found, temperature) for n, found in self.evaluations.items()}
        if self.board:
            rows = self.board.table.to_dict("records")
            record["leaderboard"] = rows
            record["failed"] = self.failed
            record["disagreements"] = self.board.disagreements.head(20).to_dict("records")
        return record


def facts(found: Evaluation, temperature: bool) -> dict[str, Any]:
    """Of one network. Of a single photo there is no interval: low and high are NaN."""
    table, summary, sweep = found.table, found.summary(), found.sweep
    if len(table) == 1:
        summary[["low", "high"]] = math.nan
    record: dict[str, Any] = {"photos": len(table), "threshold": found.threshold}
    record["scores"] = summary.to_dict("index")
    record["best_threshold"] = {
        name: {"threshold": best_threshold(sweep, name), "mean": float(sweep[name].max())}
        for name in ("iou", "dice")
    }
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        record["auc"] = found.histogram.auc()
        record["average_precision"] = found.histogram.average_precision()
        record["calibration_error"] = found.calibration()[1]
        if temperature:
            record["temperature"] = found.temperature()
            record["calibration_error_scaled"] = scaled(found, record["temperature"])[1]
    record["undefined"] = [str(one.message) for one in said]
    record["by_tag"] = by_tag(table).to_dict("records")
    measured = [n for n in DIFFICULTIES if n in table and len(table) >= 4]  # there are quarters
    record["by_quartile"] = {name: by_quartile(table, name).to_dict("records") for name in measured}
    worst = table.nsmallest(WORST, "iou")[["id", "iou", "boundary_iou"]]
    worst["hard"] = named(table)[worst.index] if DIFFICULTIES[0] in table else ""
    record["worst"] = worst.to_dict("records")
    return record


def scaled(found: Evaluation, temperature: float) -> tuple[dict[str, np.ndarray], float]:
    """The reliability table, and the calibration error, of sigmoid(logit / temperature), from the
    mean probability in each fine bin; NaN where the temperature is undefined."""
    if math.isnan(temperature):
        return {}, math.nan
    fine, result = found.histogram, Histogram()
    steps, count = fine.pixels.shape[1] - 1, fine.pixels.sum(axis=0)
    p = np.clip(fine.total / np.maximum(count, 1), 1e-7, 1 - 1e-7)
    p = 1 / (1 + (1 / p - 1) ** (1 / temperature))
    place = (p * steps).astype(int)
    np.add.at(result.total, place, p * count)
    for pixels, values in zip(result.pixels, fine.pixels, strict=True):
        np.add.at(pixels, place, values)
    return result.reliability()


def number(value: Any) -> str:
    """Three decimals, without a minus before 0; "–" for what is undefined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:z.3f}" if isinstance(value, float) else str(value)


def between(row: dict[str, Any], name: str = "") -> str:
    """An interval in words, "" where it is undefined."""
    low, high = (row[f"{name}{end}"] for end in ("low", "high"))
    return "" if math.isnan(low) else f"{low:z.3f} to {high:z.3f}"


def text(judged: Judged, record: dict[str, Any]) -> list[str]:
    """The numbers in short, for a terminal."""
    found = record["models"][judged.best]
    lines = [f"judged on {judged.what}", *(f"  {note}" for note in judged.notes), ""]
    if judged.board and len(judged.board.table) > 1:
        lines += board_lines(record["leaderboard"])
        lines += [f"{name} is also {path}" for name, more in judged.also.items() for path in more]
        lines.append("")
    lines.append(f"{judged.best}, threshold {found['threshold']:g}")
    rows = [
        [row["label"], number(row["mean"]), row["interval"], number(row["pooled"])]
        for row in score_rows(found, PRINTED)
    ]
    lines += [*aligned([["", "per photo", "95 % interval", "pooled"], *rows]), *remarks(found)]
    tags = [f"{row['tag']} {number(row['iou'])} ({row['n']})" for row in found["by_tag"][:-1]]
    lines += [f"IoU by tag: {', '.join(tags)}"] if tags else []
    if found["by_quartile"]:
        lines.append("IoU by quarter of the photos, from the least of it to the most:")
        lines += aligned(
            [f"  {name.replace('_', ' ')}", *(number(row and row["iou"]) for row in quarters(rows))]
            for name, rows in found["by_quartile"].items()
        )
    much = " and what they have much of" if found["by_quartile"] else ""
    lines.append(f"worst photos, with their IoU{much}:")
    lines += [f"  {number(row['iou'])}  {row['id']}  {row['hard']}" for row in found["worst"]]
    return [line.rstrip() for line in lines]


def score_rows(found: dict[str, Any], names: Iterable[str]) -> list[dict[str, Any]]:
    """What each score is (see `Score`), with its mean, interval (in words), and pooled value."""
    rows = []
    for name in names:
        own, pooled = (found["scores"].get(key, {}) for key in (name, f"pooled_{name}"))
        row = {"mean": own["mean"], "interval": between(own), "pooled": pooled.get("mean")}
        rows.append(SCORES[name]._asdict() | row)
    return rows


def quarters(rows: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """The four rows of a difficulty; None for a quarter that is in another, all being alike."""
    found = {row["quartile"]: row for row in rows}
    return [found.get(quartile) for quartile in (1, 2, 3, 4)]


def remarks(found: dict[str, Any]) -> list[str]:
    """Of one network: thresholds, probabilities, and whatever could not be measured."""
    best = [
        f"{one['threshold']:g} by {SCORES[name].label} ({number(one['mean'])})"
        for name, one in found["best_threshold"].items()
    ]
    pixels = {name: number(found[name]) for name in ("auc", "average_precision")}
    error = f"calibration error {number(found['calibration_error'])}"
    if not math.isnan(found.get("temperature", math.nan)):
        after = number(found["calibration_error_scaled"])
        error += f", {after} with the temperature {found['temperature']:.3f}"
    return [
        *(["one photo only: there is no interval"] if found["photos"] == 1 else []),
        f"best threshold: {', '.join(best)}",
        f"{error}; pixels: AUC {pixels['auc']}, average precision {pixels['average_precision']}",
        *found["undefined"],
    ]


def board_lines(rows: list[dict[str, Any]]) -> list[str]:
    heads = ["", "IoU", "95 % interval", "behind", "95 % interval", "is the best better?"]
    table = [[*heads, "ms", "parameters", "MB"]]
    for row in rows:
        scores = [number(row["iou"]), between(row, "iou_"), number(row["lead"])]
        luck = [between(row, "lead_"), row["best_is"]] if row is not rows[0] else ["", "the best"]
        table.append([row["name"], *scores, *luck, *costs(row)])
    places = ", ".join(sorted({row["runs_on"] for row in rows}))
    return [*aligned(table), f"ms: for a photo, the network alone, on {places}"]


def costs(row: dict[str, Any]) -> list[str]:
    """Milliseconds, parameters and megabytes in words."""
    millions = row["parameters"] / 1e6
    parameters = "–" if math.isnan(millions) else f"{millions:.2f} M"
    return [f"{row['milliseconds']:.1f}", parameters, f"{row['megabytes']:.1f}"]


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """A table: the first column to the left, the others to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    padded = ([cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=False)] for row in rows)
    firsts = (row[0].ljust(widths[0]) for row in rows)
    return ["  ".join([first, *row]) for first, row in zip(firsts, padded, strict=True)]
