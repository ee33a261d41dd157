"""The command `unetlib evaluate`: on which photos, the numbers, and a page about them."""

import html
import json
import re
import sys
import warnings
from pathlib import Path

import click

from unetlib.app import Command
from unetlib.paths import find_input, resolve, typed, write_whole

FILES = ("evaluation.html", "evaluation.csv", "metrics.json")
WORST, BEST, SHOWN_SIDE = 5, 3, 320  # photos that the page shows, and their size in pixels


@click.command(cls=Command, short_help="Say how good a network is, or which of several.")
@click.argument("models", nargs=-1, metavar="[MODEL|RUN]...")
@click.option("--network", "--checkpoint", "named", multiple=True, help="The same as MODEL.")
@click.option("--all", "everything", is_flag=True, help="All networks in outputs.")
@click.option("--source", metavar="SPEC", help="Photos [those of the training].")
@click.option("--all-photos", is_flag=True, help="All photos of the source, not its val photos.")
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

    Measured are the val photos of the training, or of --source. Writes a page, evaluation.csv (a
    row per photo) and metrics.json. Networks that fail are listed; exit code 1 then.
    """
    models = (*models, *named)
    if not re.fullmatch(r"best|0?\.\d+|[01]\.?0*", threshold):
        raise ValueError(f"--threshold is a number between 0 and 1, or best, not {threshold!r}")
    if bool(predictions) != bool(masks) or predictions and (models or everything or source):
        raise ValueError("--predictions DIR and --masks DIR belong together, without a network")

    from unetlib.evaluate import find_models, match_predictions, measure
    from unetlib.predict import Predictor

    if predictions:
        made, truth = find_input(predictions), find_input(masks)
        networks, pairs = {made.name: None}, match_predictions(made, truth)
        notes = [f"Masks of {predictions}, measured with those of {masks}"]
    else:
        networks = find_models(() if everything else models or ["best"])
        pairs, notes = choose_photos(next(iter(networks.values())), source, all_photos)
    name = [*networks][0].removesuffix(".pth") if len(networks) == 1 else "leaderboard"
    into = how["into"] or resolve("outputs/evaluation") / name
    folder = typed(into).absolute()
    if not how["overwrite"] and any((folder / file).exists() for file in FILES):
        raise ValueError(f"there are results in {folder}: --overwrite, or -o with another folder")
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"saliency": how["saliency"], "difficulty": how["difficulty"] and not predictions}
    predictors, found, failed = {}, {}, {}
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: notes.append(str(message))
        for name, path in networks.items():
            try:
                predictors[name] = path and Predictor(path, how["device"])
                found[name] = measure(predictors[name], pairs, threshold, **columns)
            except (ValueError, OSError, RuntimeError, ImportError, MemoryError) as error:
                failed[name] = error
    if not found:
        raise next(iter(failed.values()))
    notes += ["The threshold was picked on these very photos: it flatters"] * (threshold == "best")
    notes += [f"{name} failed: {str(e) or 'out of memory'}" for name, e in failed.items()]
    for part in write(folder, found, list(dict.fromkeys(notes)), predictors, pairs):
        text = part if isinstance(part, str) else part.to_string(na_rep="–", float_format="%.3f")
        click.echo(html.unescape(re.sub("</?code>|#+ ", "", text)))
    click.echo(f"written to {folder}: {', '.join(FILES)}")
    sys.exit(1 if failed else 0)


def choose_photos(network: Path, source: str | None, all_photos: bool) -> tuple[list, list]:
    """(pairs, notes on them): the val photos, or all, of `source` or of the network's training."""
    from unetlib.app.train import open_photos

    data = open_photos(network, source, **{"val_fraction": 0.0} if all_photos else {})
    pairs = [*(data.train if all_photos else ()), *data.val]
    side = "photos" if all_photos else f"val photos (of {len(data.train) + len(data.val):,})"
    notes = [f"{len(pairs):,} {side} of {data.name} in {data.root}"]
    if all_photos and not source:
        notes.append("Photos of the training are among these: it looks better than it is")
    return pairs, notes + data.describe().split("\n")[1:]


def write(folder: Path, found: dict, notes: list[str], predictors: dict, pairs: list) -> list:
    """The three files about `found`. Returns the texts and tables that the terminal shows, too."""
    import numpy as np
    import pandas as pd

    from unetlib.app.pages import code, write_page
    from unetlib.data.images import fit_within, resize
    from unetlib.evaluate import DIFFICULTIES, compare, predict_pair
    from unetlib.metrics import SALIENCY, SCORES
    from unetlib.plots import contact_sheet, error_map

    board, known = compare(found), SCORES | SALIENCY
    summaries = {name: one.summary() for name, one in found.items()}
    record = {"notes": notes, "networks": json.loads(board.to_json(orient="records"))}
    record["scores"] = {n: json.loads(t.to_json(orient="index")) for n, t in summaries.items()}
    write_whole(folder / FILES[2], json.dumps(record, indent=2).encode())
    rows = pd.concat({name: one.table for name, one in found.items()}, names=["model"])
    csv = rows.droplevel(1).to_csv()
    write_whole(folder / FILES[1], csv.encode(errors="backslashreplace"))

    top = next(board.itertuples())
    one, table = found[top.name], found[top.name].table.set_index("id").sort_values("iou")
    scores = summaries[top.name].filter([*known], axis=0).rename(lambda key: known[key].label)
    said = ["\n".join(f"- {code(note.strip())}" for note in notes)]
    if len(found) > 1:
        said += ["## Which is the best, and is it better or was it luck?", board.set_index("name")]
    said += [f"## Scores of {code(top.name)} at threshold {one.threshold:g}", scores]
    best, error = top.best_threshold, top.calibration_error
    said += [f"Best threshold {best:g} (by IoU), calibration error {error:.3f}"]
    if "hard" in table:
        quarters = np.ceil(4 * table[[*DIFFICULTIES]].rank(pct=True)).astype(int)
        means = {key: table["iou"].groupby(quarters[key]).mean() for key in DIFFICULTIES}
        said += ["## IoU from the easiest quarter of photos to the hardest", pd.DataFrame(means).T]

    shown, files = [], {pair.id: pair for pair in pairs}
    for id, iou in table["iou"].drop(table.index[WORST:-BEST]).items():
        pictures = predict_pair(predictors[top.name], files[id])[:3]
        photo, matte, soft = (resize(p, fit_within(p.shape[:2], SHOWN_SIDE)) for p in pictures)
        errors = error_map(matte >= 0.5, soft >= one.threshold)
        title = f"{id[-20:]}, IoU {iou:.3f}".encode(errors="backslashreplace").decode()
        titles = title, "truth", "soft prediction", "orange: false positive, blue: missed"
        shown += zip(titles, (photo, matte, soft, errors), strict=True)
    levels = one.sweep[one.sweep["threshold"].isin(np.arange(1, 10) / 10)].set_index("threshold")
    legend = "\n".join(f"- **{score.label}**: {score.says}" for score in known.values())
    worst = table.filter([*known, "hard"]).head(200)  # the .csv has all
    parts = [*said, levels, "## The worst and the best", contact_sheet(shown, 4)]
    parts += [worst, legend]
    write_page(folder / FILES[0], f"Evaluation: {', '.join(found)}", parts)
    return said
