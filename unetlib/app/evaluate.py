"""The command `unetlib evaluate`: on which photos, the numbers, and a page about them."""

import csv
import html
import io
import json
import re
import sys
import warnings
from pathlib import Path

import click

from unetlib.app import Command
from unetlib.errors import need
from unetlib.paths import find_input, resolve, user_path, write_atomic

FILES = ("evaluation.html", "evaluation.csv", "metrics.json")
WORST, BEST, SHOWN_SIDE = 5, 3, 320  # photos that the page shows, and their size in pixels


@click.command(cls=Command, short_help="Say how good a network is, or which of several.")
@click.argument("models", nargs=-1, metavar="[MODEL|RUN]...")
@click.option("--network", "--checkpoint", "named", multiple=True, help="The same as MODEL.")
@click.option("--all", "everything", is_flag=True, help="All networks in outputs.")
@click.option("--source", metavar="SPEC", help="Photos [those of the training].")
@click.option("--all-photos", is_flag=True, help="All photos of the source, not its val photos.")
@click.option("--seed", type=click.IntRange(0), help="Of the division into train and val.")
@click.option("--predictions", metavar="DIR", help="Masks made elsewhere, with --masks.")
@click.option("--masks", metavar="DIR", help="The true masks of --predictions.")
@click.option("--threshold", default="0.5", show_default=True, help="Or best, on these photos.")
@click.option("--difficulty/--no-difficulty", default=True, help="Scores by what makes it hard.")
@click.option("--saliency", is_flag=True, help="S-measure, E-measure and weighted F, too.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps or auto.")
@click.option("-o", "--into", metavar="DIR", help="Where to [outputs/evaluation/NAME].")
@click.option("--overwrite", is_flag=True, help="Replace an earlier evaluation there.")
def evaluate(models, named, everything, source, all_photos, predictions, masks, threshold, **how):
    """How good is a network, on which photos does it fail and why, is it better than that one?

    \b
    unetlib evaluate                              Your last training.
    unetlib evaluate quick-20260101-120000        A run, by its name or folder.
    unetlib evaluate a.pth b.onnx                 A leaderboard. --all: of all there are.
    unetlib evaluate --predictions A --masks B    Masks of another program; no network.

    Measured are the val photos of the training (of drawings: those in data/ now), or of --source.
    Writes a page, evaluation.csv (a row per photo) and metrics.json. Exit code 1: one failed.
    """
    models = (*models, *named)
    if not re.fullmatch(r"best|0?\.\d+|[01]\.?0*|\d(\.\d+)?e-\d+", threshold):
        raise ValueError(f"--threshold is a number between 0 and 1, or best, not {threshold!r}")
    if bool(predictions) != bool(masks) or predictions and (models or everything or source):
        raise ValueError("--predictions DIR and --masks DIR belong together, without a network")

    from tabulate import tabulate

    from unetlib.app.train import open_photos
    from unetlib.evaluate import compare, find_models, match_predictions, measure
    from unetlib.predict import Predictor

    if predictions:
        made, truth = find_input(predictions), find_input(masks)
        networks, pairs = {made.resolve().name or "masks": None}, match_predictions(made, truth)
        notes = [f"Masks of {predictions}, measured with those of {masks}"]
    else:
        every = find_models().values() if everything else ()
        networks = find_models([*models, *every] or ["best"])
        share = 0.0 if all_photos else None
        first = next(iter(networks.values()))
        data = open_photos(first, source, val_fraction=share, seed=how["seed"])
        pairs = [*(data.train if all_photos else ()), *data.val]
        side = "photos" if all_photos else f"val photos (of {len(data.train) + len(data.val):,})"
        notes = [f"{len(pairs):,} {side} of {data.name} in {data.root}"]
        if all_photos and not source:
            notes.append("Photos of the training are among these: it looks better than it is")
        elif how["seed"] is not None or len(networks) > 1:
            notes.append("Trainings hold out different photos: a network may know some of these")
        notes += data.describe().split("\n")[1:]
    name = [*networks][0].removesuffix(".pth") if len(networks) == 1 else "leaderboard"
    folder = user_path(how["into"] or resolve("outputs/evaluation") / name).absolute()
    if not how["overwrite"] and any((folder / file).exists() for file in FILES):
        raise ValueError(f"there are results in {folder}: --overwrite, or -o with another folder")
    columns = {"saliency": how["saliency"], "difficulty": how["difficulty"] and not predictions}
    predictors, found, failed = {}, {}, []
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: notes.append(str(message))
        for name, path in networks.items():
            try:
                predictors[name] = path and Predictor(path, how["device"])
                found[name] = measure(predictors[name], pairs, threshold, **columns)
            except (ValueError, OSError, RuntimeError, ImportError, MemoryError) as error:
                failed.append(error)
                notes.append(f"{name} failed: {str(error) or 'out of memory'}")
    if not found:
        raise failed[0]
    notes += ["The threshold was picked on these very photos: it flatters"] * (threshold == "best")
    board = compare(found)
    top = board[0]["name"]
    report = write(folder, found, board, list(dict.fromkeys(notes)))
    for part in report:
        if not isinstance(part, str):
            part = tabulate(part, "keys", floatfmt=".3f", missingval="–", disable_numparse=[0])
        click.echo(html.unescape(re.sub("</?code>|(?m:^#+ )", "", part)))
    try:
        render(folder / FILES[0], report, found[top], predictors[top], pairs, ", ".join(found))
    except ImportError as error:  # the base installation measures the same
        click.echo(f"no page: {error}")
    click.echo(f"written to {folder}")
    sys.exit(1 if failed else 0)


def write(folder: Path, found: dict, board: list[dict], notes: list[str]) -> list:
    """The .csv and metrics.json about `found`; `board`: the same, compared. Returns the texts and
    tables, which are lists of rows, that the terminal and the page show."""
    import numpy as np

    from unetlib.app.pages import code
    from unetlib.evaluate import DIFFICULTIES
    from unetlib.scores import SALIENCY, SCORES

    known, photos = SCORES | SALIENCY, len(next(iter(found.values())).columns["id"])
    scores = {row["name"]: row.pop("scores") for row in board}
    record = {"notes": notes, "photos": photos, "networks": board, "scores": scores}
    record = json.loads(json.dumps(record), parse_constant=lambda name: None)  # JSON has no NaN
    write_atomic(folder / FILES[2], json.dumps(record, indent=2).encode())
    lines = csv.writer(text := io.StringIO(), lineterminator="\n")
    lines.writerow(["model", *next(iter(found.values())).columns])
    for name, one in found.items():
        for row in zip(*one.columns.values(), strict=True):
            lines.writerow([name, *("" if value != value else value for value in row)])
    write_atomic(folder / FILES[1], text.getvalue().encode("utf-8-sig", "backslashreplace"))

    name, best, error = (board[0][key] for key in ("name", "best_threshold", "calibration_error"))
    one, scores = found[name], record["scores"][name]
    report = ["\n".join(f"- {code(note.strip())}" for note in notes)]
    if len(found) > 1:
        report += ["## Which is the best, and is it better or was it luck?", record["networks"]]
    report += [f"## Scores of {code(name)} at threshold {one.threshold:g}"]
    report += [[{"score": known[key].label} | scores[key] for key in known if key in scores]]
    report += [f"Best threshold {best:g} (by IoU), calibration error {error:.3f}"]
    if "hard" in one.columns:
        iou, rows = np.asarray(one.columns["iou"]), []
        for key in DIFFICULTIES:
            values = np.asarray(one.columns[key])
            part = np.digitize(values, np.quantile(values, [0.25, 0.5, 0.75]), right=True)
            means = {str(n + 1): iou[part == n].mean() if n in part else None for n in range(4)}
            rows.append({"quarter": key} | means)
        report += ["## IoU from the easiest quarter of photos to the hardest", rows]
    return report


def render(page: Path, report: list, one, predictor, pairs: list, names: str) -> None:
    """Writes the page: `report`, then the worst and the best photos of one network.
    Raises ImportError without the extra "course"."""
    need("nbconvert", "pandas", extra="course")
    import pandas as pd

    from unetlib.app.pages import write_page
    from unetlib.data.images import fit_within, resize
    from unetlib.evaluate import predict_pair
    from unetlib.plots import contact_sheet, error_map
    from unetlib.scores import SALIENCY, SCORES

    tables = [p if isinstance(p, str) else pd.DataFrame(p).set_index([*p[0]][0]) for p in report]
    table, known = one.table.set_index("id").sort_values("iou"), SCORES | SALIENCY
    shown, files = [], {pair.id.encode(errors="backslashreplace").decode(): pair for pair in pairs}
    for id, iou in pd.concat([table[:WORST], table[WORST:][-BEST:]])["iou"].items():
        pictures = predict_pair(predictor, files[id])[:3]
        photo, matte, soft = (resize(p, fit_within(p.shape[:2], SHOWN_SIDE)) for p in pictures)
        errors = error_map(matte >= 0.5, soft >= one.threshold)
        about = f"{id[-20:]}, IoU {iou:.3f}"
        titles = about, "truth", "soft prediction", "orange: false positive, blue: missed"
        shown += zip(titles, (photo, matte, soft, errors), strict=True)
    tenths = [n / 10 for n in range(1, 10)]
    levels = pd.DataFrame(one.sweep).set_index("threshold").filter(tenths, axis=0)
    legend = "\n".join(f"- **{score.label}**: {score.says}" for score in known.values())
    worst = table.filter([*known, "hard"]).head(200)  # the .csv has all
    parts = [*tables, levels, "## The worst and the best", contact_sheet(shown, 4), worst, legend]
    write_page(page, f"Evaluation: {names}", parts)
