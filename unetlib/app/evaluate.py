"""The command `unetlib evaluate`: on which photos, the numbers, and a page about them."""

import html
import json
import re
import sys
import warnings
from pathlib import Path

import click

from unetlib.app import Command
from unetlib.paths import find_input, resolve, write_whole

FILES = ("evaluation.html", "evaluation.csv", "metrics.json")


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
def evaluate(models, named, everything, source, all_photos, predictions, masks, **how):
    """How good is a network, on which photos does it fail and why, is it better than that one?

    \b
    unetlib evaluate                              Your last training.
    unetlib evaluate quick-20260101-120000        A run, by its name or folder.
    unetlib evaluate a.pth b.onnx                 A leaderboard. --all: of all there are.
    unetlib evaluate --predictions A --masks B    Masks of another program; no network.

    Measured are the val photos of the training, or of --source. Writes a page, evaluation.csv (a
    row per photo) and metrics.json. Networks that fail are listed; exit code 1 then.
    """
    models, level, into = (*models, *named), how["threshold"], how["into"]
    if not re.fullmatch(r"best|0?\.\d+|[01]\.?0*", level):
        raise ValueError(f"--threshold is a number between 0 and 1, or best, not {level!r}")
    if bool(predictions) != bool(masks) or predictions and (models or everything or source):
        raise ValueError("--predictions DIR and --masks DIR belong together, without a network")

    from unetlib.evaluate import find_models, measure, read_predictions, score
    from unetlib.predict import Predictor

    folders = [find_input(name) for name in (predictions, masks) if name]
    networks = {path.name: path for path in folders[:1]}
    networks = networks or find_models(() if everything else models or ["best"])
    name = [*networks][0].removesuffix(".pth") if len(networks) == 1 else "leaderboard"
    folder = Path(into).expanduser().absolute() if into else resolve("outputs/evaluation") / name
    if not how["overwrite"] and any((folder / file).exists() for file in FILES):
        raise ValueError(f"there are results in {folder}: --overwrite, or -o with another folder")
    columns = {"saliency": how["saliency"], "difficulty": how["difficulty"] and not folders}
    neither = [], [f"Masks of {predictions}, measured with those of {masks}"]
    pairs, notes = neither if folders else choose_photos(networks, source, all_photos)
    found, failed = {}, {}
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: notes.append(str(message))
        for name, path in networks.items():
            try:
                if folders:
                    found[name] = score(lambda: read_predictions(*folders), level, **columns)
                else:
                    found[name] = measure(Predictor(path, how["device"]), pairs, level, **columns)
            except (ValueError, OSError, RuntimeError, ImportError) as error:
                failed[name] = str(error)
    if not found:
        raise ValueError("\n".join(dict.fromkeys(failed.values())))
    if level == "best":
        notes.append("The threshold was picked on these very photos: it flatters")
    notes += [f"{name} failed: {reason}" for name, reason in failed.items()]
    for part in write(folder, found, list(dict.fromkeys(notes))):
        text = part if isinstance(part, str) else part.to_string(na_rep="–", float_format="%.3f")
        click.echo(html.unescape(re.sub("</?code>|#+ ", "", text)))
    click.echo(f"written to {folder}: {', '.join(FILES)}")
    sys.exit(1 if failed else 0)


def choose_photos(networks: dict[str, Path], source: str, all_photos: bool) -> tuple[list, list]:
    """(pairs, notes on them): the val photos, or all, of `source`. Without it they are those of the
    training of the first network (its file, or the .pth beside it, tells), divided as then."""
    from unetlib.checkpoint import load_checkpoint
    from unetlib.data.sources import open_source

    how = {"source": source or "synthetic"}
    if not source:
        try:
            how |= load_checkpoint(next(iter(networks.values())).with_suffix(".pth")).extra
        except ValueError as error:
            raise ValueError(f"{error}\n--source SPEC says which photos to measure on") from error
    if how["source"] == "synthetic":  # as drawn for the training, and not drawn again
        how["source"] = f"folder:{resolve(how.get('data_dir', 'data'))}"
    fraction = 0.0 if all_photos else how.get("val_fraction", 0.2)
    root, seed = how.get("source_root") or None, how.get("seed", 0)
    data = open_source(how["source"], root, seed=seed, val_fraction=fraction)
    pairs = [*(data.train if all_photos else ()), *data.val]
    side = "photos" if all_photos else f"val photos (of {len(data.train) + len(data.val):,})"
    notes = [f"{len(pairs):,} {side} of {data.name} in {data.root}"]
    if all_photos and not source:
        notes.append("Photos of the training are among these: it looks better than it is")
    return pairs, notes + data.describe().split("\n")[1:]


def write(folder: Path, found: dict, notes: list[str]) -> list:
    """The three files about `found`. Returns the texts and tables that the terminal shows, too."""
    import numpy as np
    import pandas as pd

    from unetlib import plots
    from unetlib.app.pages import code, write_page
    from unetlib.evaluate import DIFFICULTIES, compare
    from unetlib.metrics import SALIENCY, SCORES

    board, known = compare(found), SCORES | SALIENCY
    record = {"notes": notes, "networks": json.loads(board.to_json(orient="records"))}
    summaries = {name: one.summary() for name, one in found.items()}
    record["scores"] = {n: json.loads(t.to_json(orient="index")) for n, t in summaries.items()}
    write_whole(folder / FILES[2], json.dumps(record, indent=2).encode())
    tables = {name: one.table for name, one in found.items()}
    csv = pd.concat(tables, names=["model"]).droplevel(1).to_csv()
    write_whole(folder / FILES[1], csv.encode(errors="backslashreplace"))

    top = next(board.itertuples())
    one, table = found[top.name], found[top.name].table.set_index("id")
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

    ids, softs, mattes, photos, *_ = zip(*one.shown, strict=True)
    titles = [f"{id[-20:]}\nIoU {iou:.3f}" for id, iou in table["iou"][[*ids]].items()]
    worst = table.filter([*known, "hard"]).sort_values("iou").head(200)  # the .csv has all
    legend = "\n".join(f"- **{score.label}**: {score.says}" for score in known.values())
    parts = [*said, plots.show_intervals(scores), plots.show_sweep(one.sweep)]
    parts += [plots.show_reliability(*one.histogram.reliability()), "## The worst and the best"]
    parts += [plots.show_cases(photos, mattes, softs, titles, one.threshold), worst, legend]
    write_page(folder / FILES[0], f"Evaluation: {', '.join(found)}", parts)
    return said
