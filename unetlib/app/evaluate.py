"""The command `unetlib evaluate`. What is heavy is imported when it runs."""

import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from unetlib.paths import find_input, resolve

DEFAULT = "outputs/checkpoints/best_model.pth"
WRITTEN = ("evaluation.csv", "metrics.json", "evaluation.html")


@click.command(short_help="Say how good a network is, or which of several.")
@click.argument("models", nargs=-1, metavar="[MODEL|RUN]...")
@click.option(
    "--network", "--checkpoint", "named", multiple=True, metavar="NAME|FILE",
    help="The same as MODEL: people, best, u2netp, ... or a file.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="All networks in outputs.")
@click.option("--source", default="", metavar="SPEC", help="Photos [those of the training].")
@click.option("--all-photos", is_flag=True, help="All photos of the source, not its val photos.")
@click.option("--predictions", metavar="DIR", help="Masks made elsewhere, with --masks.")
@click.option("--masks", metavar="DIR", help="The true masks of --predictions.")
@click.option(
    "--threshold", default="0.5", show_default=True, metavar="X|best",
    help="Foreground from there on; best: picked on these photos.",
)  # fmt: skip
@click.option("--difficulty/--no-difficulty", default=True, help="Scores by what makes it hard.")
@click.option("--temperature", is_flag=True, help="Scale the probabilities to be honest ones.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps or auto.")
@click.option("-o", "--into", metavar="DIR", help="Where to [outputs/evaluation/NAME].")
@click.option("--overwrite", is_flag=True, help="Replace an earlier evaluation there.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
def evaluate(
    models, named, everything, source, all_photos, predictions, masks, threshold, difficulty,
    temperature, device, into, overwrite,
) -> None:  # fmt: skip
    """How good is a network, on which photos does it fail and why, is it better than that one?

    \b
    unetlib evaluate                          outputs/checkpoints/best_model.pth
    unetlib evaluate quick-20260101-120000    A run, by its name or folder.
    unetlib evaluate a.pth b.onnx             A leaderboard. --all: of all there are.
    unetlib evaluate --source folder:tests --all-photos
                                              On photos that were never trained on.
    unetlib evaluate --predictions masks --masks truth
                                              Masks of another program; no network.

    Judged are the val photos of the training, or of --source. Writes evaluation.html to look at,
    evaluation.csv (a row per photo) and metrics.json. Networks that cannot be judged are listed;
    exit code 1 then.
    """
    models, level = (*models, *named), read_threshold(threshold)
    if "" in (predictions, masks):
        raise ValueError("--predictions or --masks is empty (a variable that is not set?)")
    if bool(predictions) != bool(masks):
        raise ValueError("--predictions DIR and --masks DIR belong together: give both")
    if predictions and (models or everything or source or all_photos):
        raise ValueError("--predictions are judged alone: without a network, --all or --source")
    if everything and models:
        raise ValueError("--all takes all there are: leave the names away, or --all")
    folders = [find_folder(name) for name in (predictions, masks)] if predictions else []

    from unetlib.app.batch import check_writable  # brings OpenCV: after the cheap checks
    from unetlib.app.evaluation_page import write
    from unetlib.app.judged import text
    from unetlib.leaderboard import find_models

    found = [] if folders else find_models(models or (() if everything else [DEFAULT]))
    name = folders[0].name if folders else found[0].name if len(found) == 1 else "leaderboard"
    folder = find_target(into, name, overwrite)
    existed = folder.exists()
    check_writable(folder)
    try:
        with warnings_as_lines():
            if folders:
                judged = judge_masks(*folders, level)
            else:
                judged = judge_models(found, source, all_photos, level, difficulty, device)
            if level == "best":
                judged.notes.append("The threshold was picked on these very photos: it flatters")
            judged.command = shlex.join(["unetlib", *sys.argv[1:]])
            record = judged.numbers(temperature)
            write(judged, record, folder)
    finally:
        if not existed:
            with suppress(OSError):  # it is not empty: all is well
                folder.rmdir()
    click.echo("\n".join(text(judged, record)))
    click.echo(f"written to {folder}: {', '.join(WRITTEN)}")
    for name, reason in judged.failed.items():
        click.echo(f"not judged: {name}: {reason}", err=True)
    sys.exit(1 if judged.failed else 0)


def read_threshold(text: str) -> float | str:
    """A number in [0, 1], or "best". Raises ValueError."""
    if text.strip().lower() == "best":
        return "best"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # also catches NaN
        raise ValueError(f"--threshold is a number between 0 and 1, or best, not {text!r}")
    return value


def find_folder(name: str) -> Path:
    path = find_input(name)
    if not path.is_dir():
        raise ValueError(f"{path} is a file: expected a folder of masks")
    return path


def find_target(into: str | None, name: str, overwrite: bool) -> Path:
    """The folder to write to. Without -o an earlier evaluation is kept, and this one gets a number
    behind its name; with -o it is an error. Raises ValueError."""
    if into == "":
        raise ValueError("-o is empty (a variable that is not set?): name a folder")
    if into is None:
        stem = re.sub(r"[^\w.+-]+", "_", name).removesuffix(".pth").strip("._") or "evaluation"
        folder = resolve("outputs/evaluation") / stem
        number = 1
        while not overwrite and folder.exists():
            number += 1
            folder = folder.with_name(f"{stem}-{number}")
        return folder
    folder = Path(into).expanduser().absolute()
    if folder.is_file():
        raise ValueError(f"-o {folder} is a file: the results are three, name a folder")
    if present := [one for one in WRITTEN if (folder / one).exists() and not overwrite]:
        raise ValueError(f"there already: {', '.join(present)} in {folder}. --overwrite replaces")
    return folder


@contextmanager
def warnings_as_lines():
    """Photos that are left out are named, once each, on standard error."""
    said = set()

    def show(message, *_):
        if str(message) not in said:
            click.echo(message, err=True)
        said.add(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def progress(items, name: str):
    from tqdm import tqdm

    return tqdm(items, desc=name, unit="photo", leave=False, disable=None)  # None: not in logs


def judge_models(models, source: str, all_photos: bool, threshold, difficulty: bool, device: str):
    """Networks on the photos of `choose_photos`: a `Judged`. Raises what `compare` raises."""
    from unetlib.app.judged import Judged
    from unetlib.app.photos import choose_photos
    from unetlib.data import load_pair
    from unetlib.leaderboard import compare
    from unetlib.predict import Predictor

    pairs, what, notes = choose_photos(models, source, all_photos)
    board = compare(models, pairs, threshold, difficulty, device, progress)
    files, photos = {model.name: model.path for model in models}, {pair.id: pair for pair in pairs}

    def look(names: Sequence[str], ids: Sequence[str]):
        """(photo, matte, soft masks of the networks by name) of each photo."""
        pictures = [load_pair(photos[id]) for id in ids]
        softs = {
            n: Predictor(files[n], device).predict_batch([p for p, _ in pictures]) for n in names
        }
        return [(*pair, {n: softs[n][i] for n in names}) for i, pair in enumerate(pictures)]

    also = {model.name: model.also for model in models}
    if len(models) == 1:  # else the leaderboard says so
        notes += [f"{models[0].name} is also {path}" for path in models[0].also]
    return Judged(board.evaluations, what, notes, look, board, also)


def judge_masks(predictions: Path, masks: Path, threshold):
    """Masks of another program: a `Judged` without a board."""
    from unetlib.app.judged import Judged
    from unetlib.data import load_mask
    from unetlib.data.predicted import load_soft, match_predictions
    from unetlib.evaluate import best_threshold, read_predictions, score_cases

    def cases():
        return progress(read_predictions(predictions, masks), predictions.name)

    if threshold == "best":
        threshold = best_threshold(score_cases(cases()).sweep)
    found = score_cases(cases(), threshold)

    def look(names: Sequence[str], ids: Sequence[str]):
        files = match_predictions(predictions, masks)
        pairs = [(load_soft(files[id][0]), load_mask(files[id][1])) for id in ids]
        return [(None, matte, {names[0]: soft}) for soft, matte in pairs]

    what = f"{len(found.table):,} masks of {predictions}, against those of {masks}"
    notes = ["No difficulties: they are measured on the photos, and there are only masks"]
    return Judged({predictions.name: found}, what, notes, look)
