"""One page to grade from: a run's report.html, self-contained, from the files in its folder."""

import csv
import io
import json
import shlex
from datetime import datetime
from pathlib import Path

from unetlib.app.execution import clock
from unetlib.app.markup import data_url, template
from unetlib.app.runs import read_record
from unetlib.paths import write_whole

HEADLINE = (  # the label, and the names under which 04_evaluate may have written it
    ("val IoU", ("iou", "val_iou", "mean_iou")),
    ("Dice", ("dice", "val_dice", "mean_dice")),
    ("pixel accuracy", ("accuracy", "val_accuracy", "mean_accuracy")),
)
SECTIONS = {  # figures are images/NN_*.png of notebook NN
    "05": "Cut-outs",
    "04": "Best and worst, scores, difficulty, comparison",
    "03": "Training",
    "01": "Data",
    "02": "Model",
    "06": "Timelapse",
}
WIDEST, CUT_OUTS, TIMELAPSES, FRAMES = 1200, 6, 3, 40


def write_report(folder: Path) -> Path:
    """Write ``folder``/report.html from metrics.json, grade.json, evaluation.csv, images/, videos/.

    Whatever is missing is left out, and a picture that cannot be read is named: the page also has
    to tell of a run that failed half-way.
    """
    record = read_record(folder)
    unreadable: list[str] = []
    names = list(record["run"].get("notebooks", {}))
    page = template("report.html", number=number, clock=clock, quote=shlex.quote).render(
        run=record["run"],
        headline=headline(record["evaluation"]),
        grade=_grade(folder / "grade.json"),
        bars=bars(record["evaluation"]),
        scores=scores(record["evaluation"]),
        images=_images(folder / "evaluation.csv"),
        cut_outs=_cut_outs(folder / "images", unreadable),
        sections=_figures(folder / "images", names, unreadable),
        timelapses=_timelapses(folder / "videos", unreadable),
        unreadable=unreadable,
        written=datetime.now(),
    )
    path = folder / "report.html"
    write_whole(path, page.encode(errors="backslashreplace"))  # names of files: see write_record
    return path


def number(value) -> str:
    """A value of metrics.json for people: three decimals, no false precision, "–" for none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def headline(evaluation: dict) -> list[tuple[str, str, str]]:
    """The few scores that come first, as (label, text, interval); [] before 04_evaluate has run."""
    found = []
    for label, keys in HEADLINE:
        key = next((key for key in keys if evaluation.get(key) is not None), None)
        if isinstance(evaluation.get(key), int | float):
            found.append((label, f"{evaluation[key]:.3f}", interval(evaluation, key)))
    return found


def interval(evaluation: dict, name: str) -> str:
    """The 95 % interval of a score that 04_evaluate wrote, "0.908 to 0.924", or ""."""
    intervals = evaluation.get("intervals")
    ends = intervals.get(name) if isinstance(intervals, dict) else None
    if not isinstance(ends, list) or len(ends) != 2 or None in ends:
        return ""
    return f"{number(ends[0])} to {number(ends[1])}"


def bars(evaluation: dict) -> list[tuple[str, float]]:
    """IoU of the network and of the baselines, best first, for the bar chart."""
    baselines = evaluation.get("baselines")
    rows = {}
    for name, value in (baselines if isinstance(baselines, dict) else {}).items():
        rows[name] = value.get("iou") if isinstance(value, dict) else value
    # the baselines are slow and were perhaps scored on a part of the photos: compare on the same
    keys = ("baseline_images_iou", *HEADLINE[0][1])
    rows["this network"] = next((evaluation[key] for key in keys if key in evaluation), None)
    usable = {name: float(v) for name, v in rows.items() if isinstance(v, int | float)}
    return sorted(usable.items(), key=lambda row: -row[1]) if len(usable) > 1 else []


def scores(evaluation: dict, prefix: str = "") -> list[tuple[str, str]]:
    """Everything 04_evaluate wrote, one row per number; nested names joined with "/"."""
    rows = []
    for key, value in evaluation.items():
        if isinstance(value, dict):
            rows += scores(value, f"{prefix}{key}/")
        elif not isinstance(value, list):
            ends = "" if prefix else interval(evaluation, key)
            text = f"{number(value)} ({ends})" if ends else number(value)
            rows.append((f"{prefix}{key}".replace("_", " "), text))
    return rows


def _grade(path: Path) -> dict:
    """What `unetlib grade` wrote; {} where it has not."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _images(path: Path, count: int = 5) -> dict:
    """The worst and best rows of evaluation.csv by IoU, with the columns worth reading."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if _float(row.get("iou")) is not None]
    rows.sort(key=lambda row: _float(row["iou"]))
    if not rows:
        return {}
    columns = [name for name in ("id", "iou", "dice", "accuracy", "mae", "tags") if name in rows[0]]

    def cells(row):
        return [
            row[c] if _float(row[c]) is None or c == "id" else number(float(row[c]))
            for c in columns
        ]

    best = rows[count:][-count:][::-1]
    return {
        "columns": columns,
        "worst": [cells(r) for r in rows[:count]],
        "best": [cells(r) for r in best],
    }


def _float(text) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _figures(folder: Path, notebooks: list[str], unreadable: list[str]) -> list[dict]:
    sections = []
    for number_, title in SECTIONS.items():
        paths = sorted(folder.glob(f"{number_}_*.png"), key=_place)
        pictures = _pictures(paths, unreadable)
        notebook = next((name for name in notebooks if name.startswith(number_)), "")
        if pictures:
            sections.append({"title": title, "notebook": notebook, "pictures": pictures})
    return sections


def _place(path: Path) -> tuple:
    """What a grader looks for comes first, the rest by name."""
    wanted = ("curves", "history", "best", "worst")
    return min((i for i, word in enumerate(wanted) if word in path.stem), default=9), path.name


def _cut_outs(folder: Path, unreadable: list[str]) -> list[dict]:
    found = []
    for path in sorted(folder.glob("*_foreground.png"))[:CUT_OUTS]:
        stem = path.name.removesuffix("_foreground.png")
        parts = [path, *(folder / f"{stem}_mask_{kind}.png" for kind in ("soft", "binary"))]
        pictures = _pictures([part for part in parts if part.is_file()], unreadable, 600)
        if pictures:
            found.append({"name": stem, "pictures": pictures})
    return found


def _timelapses(folder: Path, unreadable: list[str]) -> list[dict]:
    return _pictures(sorted(folder.glob("*.gif"))[:TIMELAPSES], unreadable, 720)


def _pictures(paths: list[Path], unreadable: list[str], widest: int = WIDEST) -> list[dict]:
    pictures = []
    for path in paths:
        try:
            name = path.stem.removeprefix(path.stem[:3] if path.stem[:2].isdigit() else "")
            pictures.append({"caption": name.replace("_", " "), **_embed(path, widest)})
        except OSError as error:
            unreadable.append(f"{path.name}: {error}")
    return pictures


def _embed(path: Path, widest: int) -> dict:
    """A picture or animation as a data: URI of WebP, which keeps alpha and motion and is small."""
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        scale = min(1.0, widest / image.width)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        step = -(-getattr(image, "n_frames", 1) // FRAMES)
        duration = step * image.info.get("duration", 250)
        frames = [
            frame.convert("RGBA" if "A" in frame.getbands() else "RGB").resize(size)
            for index, frame in enumerate(ImageSequence.Iterator(image))
            if index % step == 0
        ]
    buffer, motion = io.BytesIO(), {"save_all": True, "append_images": frames[1:], "loop": 0}
    frames[0].save(
        buffer, "WEBP", quality=88, **({**motion, "duration": duration} if frames[1:] else {})
    )
    uri = data_url(buffer.getvalue(), "image/webp")
    return {"uri": uri, "width": size[0], "height": size[1]}
