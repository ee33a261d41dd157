"""The files that `unetlib evaluate` writes: evaluation.csv, metrics.json and the page."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

import unetlib
from unetlib import plots
from unetlib.app.judged import (
    Judged,
    between,
    costs,
    number,
    quarters,
    remarks,
    scaled,
    score_rows,
)
from unetlib.app.markup import figure_url, picture_url, template
from unetlib.app.runs import write_record
from unetlib.data.images import fit_within, resize
from unetlib.leaderboard import SHOWN
from unetlib.metrics import SCORES
from unetlib.paths import write_whole

SIDE = 360  # pixels of the pictures in the page, at most
TRADEOFF = "mean IoU against the time for a photo"
DISPUTED, SIDE_BY_SIDE = 4, 4  # photos, networks
LEAST = 0.01  # difference of two masks that can be seen


def write(judged: Judged, record: dict[str, Any], folder: Path) -> None:
    """Each file whole or not at all, the page last."""
    page, table = render(judged, record), judged.table().to_csv(index=False)
    # names of files need not be Unicode
    write_whole(folder / "evaluation.csv", table.encode(errors="backslashreplace"))
    write_record(folder, record)
    write_whole(folder / "evaluation.html", page.encode(errors="backslashreplace"))


def render(judged: Judged, record: dict[str, Any]) -> str:
    """The page, self-contained."""
    found, rows = record["models"][judged.best], record.get("leaderboard", [])
    several = len(rows) + len(judged.failed) > 1
    filters = {"number": number, "between": between, "costs": costs, "quarters": quarters}
    return template("evaluation.html", **filters).render(
        title=f"{len(rows)} networks, the best: {judged.best}" if several else judged.best,
        facts=[f"Judged on {judged.what}", *_about(rows)],
        tiles=_tiles(found),
        notes=judged.notes,
        best=judged.best,
        board=rows if several else [],
        shown=SHOWN,
        labels=SCORES,
        also=judged.also,
        places=", ".join(sorted({row["runs_on"] for row in rows})),
        failed=judged.failed,
        tradeoff=_drawn(plots.show_tradeoff(judged.board.table), TRADEOFF) if rows[1:] else None,
        disputed=_disputed(judged, record.get("disagreements", [])),
        scores=score_rows(found, SCORES),
        threshold_lines=remarks(found),
        figures=_figures(judged, found),
        tags=found["by_tag"] if len(found["by_tag"]) > 1 else [],
        quartiles=found["by_quartile"],
        quartile_figure=_quartile_figure(found["by_quartile"]),
        worst=_worst(judged, found),
        command=judged.command,
        version=unetlib.__version__,
        written=datetime.now(),
    )


def _about(rows: list[dict]) -> list[str]:
    """What the best costs, in a line."""
    for row in rows[:1]:
        milliseconds, parameters, megabytes = costs(row)
        known = "" if parameters == "–" else f"{parameters} parameters, "
        return [f"{known}{megabytes} MB, {milliseconds} ms a photo on {row['runs_on']}"]
    return []


def _tiles(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = score_rows(found, ("iou", "dice", "boundary_iou", "mae"))
    return [(row["label"], number(row["mean"]), row["interval"]) for row in rows]


def _worst(judged: Judged, found: dict[str, Any]) -> list[dict[str, Any]]:
    cases = []
    looks = judged.look([judged.best], [row["id"] for row in found["worst"]])
    for row, (photo, matte, softs) in zip(found["worst"], looks, strict=True):
        soft = softs[judged.best]
        errors = plots.error_map(matte >= 0.5, soft >= found["threshold"])
        pictures = {"photo": photo, "truth": matte, "prediction": soft}
        pictures["orange: made up, blue: missed"] = errors
        words = f"IoU {number(row['iou'])}, boundary IoU {number(row['boundary_iou'])}"
        words += f", much of: {row['hard']}" if row["hard"] else ""
        cases.append({"id": row["id"], "words": words, "pictures": _small(pictures)})
    return cases


def _disputed(judged: Judged, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The photos on which networks differ most, with the masks of the best and of those two."""
    cases, rows = [], [row for row in rows[:DISPUTED] if row["difference"] >= LEAST]
    apart = [name for row in rows for name in (judged.best, row["first"], row["second"])]
    names = list(dict.fromkeys([*apart, *judged.evaluations]))[:SIDE_BY_SIDE]
    looks = judged.look(names, [row["id"] for row in rows])
    for row, (photo, matte, softs) in zip(rows, looks, strict=True):
        pictures = {"photo": photo, "truth": matte}
        for name, soft in softs.items():
            table = judged.evaluations[name].table
            iou = table.loc[table["id"] == row["id"], "iou"].iloc[0]
            pictures[f"{name}: IoU {number(float(iou))}"] = soft
        words = f"{number(row['difference'])} between {row['first']} and {row['second']}"
        cases.append({"id": row["id"], "words": words, "pictures": _small(pictures)})
    return cases


def _small(pictures: dict[str, np.ndarray | None]) -> list[tuple[str, str]]:
    """(words, address) of photos and of masks in [0, 1], as small WebP pictures."""
    made = []
    for words, picture in pictures.items():
        if picture is None:
            continue
        picture = resize(picture, fit_within(picture.shape[:2], SIDE))
        if picture.ndim == 2:
            picture = np.rint(picture * 255).astype(np.uint8)
        made.append((words, picture_url(picture)))
    return made


def _drawn(figure, words: str) -> dict[str, Any]:
    """A figure as a picture in the page."""
    width, height = (round(100 * inches) for inches in figure.get_size_inches())
    return {"uri": figure_url(figure), "width": width, "height": height, "words": words}


def _figures(judged: Judged, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Of thresholds and probabilities."""
    own = judged.evaluations[judged.best]
    drawn = [("scores against the threshold", plots.show_sweep(own.sweep))]
    if not math.isnan(found["average_precision"]):
        drawn.append(("precision against recall", plots.show_precision_recall(own.sweep)))
    drawn.append(("calibration", plots.show_reliability(*own.calibration())))
    if not math.isnan(found.get("temperature", math.nan)):
        words = f"calibration with the temperature {found['temperature']:.3f}"
        drawn.append((words, plots.show_reliability(*scaled(own, found["temperature"]))))
    return [_drawn(figure, words) for words, figure in drawn]


def _quartile_figure(quartiles: dict[str, list[dict]]) -> dict[str, Any] | None:
    import pandas as pd

    tables = {name: pd.DataFrame(rows) for name, rows in quartiles.items()}
    return _drawn(plots.show_quartiles(tables), "IoU by quarter") if tables else None
