"""What is graded, for how many points: the course with its checks, and the rubric in YAML."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unetlib.app.course import declared_parameters, find_notebooks
from unetlib.config import hint

DEFAULT = Path(__file__).with_name("rubric.yaml")
METRICS = (  # the numbers of 04_evaluate that are measured again on the checkpoint
    "iou", "dice", "accuracy", "precision", "recall", "f_beta", "mae", "boundary_iou",
    "boundary_accuracy", "s_measure", "e_measure", "e_max", "e_adaptive", "f_max", "f_adaptive",
    "weighted_f", "pooled_iou", "pooled_dice",
)  # fmt: skip
OPTIONS = {  # kind of item -> keys that it may have besides title and points
    "notebook": (),
    "file": ("at_least", "at_least_bytes"),
    "metric": ("at_least", "at_most", "partial"),
    "exercise": (),
}


@dataclass(frozen=True)
class Check:
    """A cell that checks an exercise: the course's own source, and how much it weighs."""

    source: str
    points: float = 1


@dataclass(frozen=True)
class Chapter:
    """One notebook of the course."""

    stem: str
    cells: int  # code cells that a submission has to have: all but the solutions
    parameters: dict[str, Any]
    checks: dict[str, Check]  # by grade_id


@dataclass(frozen=True)
class Item:
    """One line of a rubric: `kind` and `name` say what is looked at, e.g. "metric" and "iou"."""

    kind: str
    name: str
    title: str
    points: float
    at_least: float | None = None  # of a file: how many, of a metric: its value
    at_most: float | None = None
    at_least_bytes: int = 0
    partial: dict[float, float] = field(default_factory=dict)  # value of a metric -> points


def read_course(folder: Path | None = None) -> dict[str, Chapter]:
    """The course's notebooks by stem, with the check cells that nbgrader metadata marks."""
    import nbformat

    course = {}
    for path in find_notebooks(folder):
        cells = nbformat.read(path, as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
        marked = {grade_id(cell): cell for cell in code if cell.metadata.get("nbgrader")}
        checks = {
            name: Check(cell.source, float(cell.metadata.nbgrader.get("points") or 1))
            for name, cell in marked.items()
            if name and cell.metadata.nbgrader.get("grade")
        }
        own = [cell for cell in code if "solution" not in cell.metadata.get("tags", [])]
        course[path.stem] = Chapter(path.stem, len(own), declared_parameters(path), checks)
    return course


def grade_id(cell) -> str:
    """The name that nbgrader knows a cell by, or ""."""
    about = cell.metadata.get("nbgrader")
    return str(about.get("grade_id") or "") if isinstance(about, dict) else ""


def check_in(cell, checks: dict[str, str]) -> str:
    """Which check a cell is, or "": by its grade_id, or by its text where an editor dropped that.

    ``checks``: grade_id -> source.
    """
    same = [name for name, source in checks.items() if source.strip() == cell.source.strip()]
    name = grade_id(cell)
    return name if name in checks else same[0] if same else ""


def checks_of(name: str, course: dict[str, Chapter]) -> dict[str, Check]:
    """The checks that an item `exercise: NAME` is about: one, those of a notebook, or "all"."""
    chapters = [course[name]] if name in course else course.values()
    checks = {key: check for chapter in chapters for key, check in chapter.checks.items()}
    return {name: checks[name]} if name in checks else checks


def read_rubric(path: Path | None, course: dict[str, Chapter]) -> list[Item]:
    """The items of a rubric file (None: of the default). Raises ValueError naming file and item."""
    import yaml

    path = path or DEFAULT
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {' '.join(str(error).split())}") from error
    rows = content.get("items") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} should hold `items:` and a list of them: see --show-rubric")
    for key in content:
        _known("key", key, ("items",), str(path))
    items = [_read_item(row, f"{path}, item {n}", course) for n, row in enumerate(rows, 1)]
    titles = [item.title for item in items]
    for title in titles:
        if titles.count(title) > 1:
            raise ValueError(f"{path}: {titles.count(title)} items have the title {title!r}")
    if not sum(item.points for item in items) > 0:
        raise ValueError(f"{path}: all items together are worth 0 points")
    return items


def _read_item(row: Any, place: str, course: dict[str, Chapter]) -> Item:
    if not isinstance(row, dict):
        raise ValueError(f"{place} should hold lines like `notebook: 01_data`, not {row!r:.60}")
    keys = ("title", "points", *OPTIONS, *dict.fromkeys(k for o in OPTIONS.values() for k in o))
    for key in row:
        _known("key", key, keys, place)
    kinds = [key for key in row if key in OPTIONS]
    if len(kinds) != 1:
        raise ValueError(f"{place} needs one of {', '.join(OPTIONS)}, it has {kinds or 'none'}")
    kind, name = kinds[0], str(row[kinds[0]])
    title = str(row.get("title") or f"{kind} {name}")
    place = f"{place} ({title})"
    for key in row.keys() - {"title", "points", kind}:
        _known(f"key for a {kind}", key, ("title", "points", kind, *OPTIONS[kind]), place)
    exercises = checks_of("all", course)
    known = {
        "notebook": list(course),
        "metric": METRICS,
        "exercise": ["all", *(c.stem for c in course.values() if c.checks), *exercises],
    }
    if kind in known:
        _known(kind, name, known[kind], place)
    elif Path(name).anchor or ".." in Path(name).parts or name == "None":
        raise ValueError(f"{place}: a file is a pattern below the outputs, like videos/*.gif")
    else:
        _check_pattern(name, place)
    limits = [key for key in OPTIONS[kind] if key in row and key != "partial"]
    values = {key: _number(row[key], f"{place}: {key}") for key in limits}
    if kind == "metric":
        if len(values) != 1:
            raise ValueError(f"{place} needs either at_least or at_most")
        values["partial"] = row.get("partial") or {}
    item = Item(kind, name, title, _number(row.get("points"), f"{place}: points"), **values)
    _check_partial(item, place)
    return item


def _check_pattern(pattern: str, place: str) -> None:
    try:
        next(Path().glob(pattern), None)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{place}: {pattern!r} is no pattern of files ({error})") from error


def _check_partial(item: Item, place: str) -> None:
    if not isinstance(item.partial, dict):
        raise ValueError(f"{place}: partial looks like {{0.6: 5, 0.7: 8}}, not {item.partial!r}")
    for value, points in item.partial.items():
        _number(value, f"{place}: partial")
        if _number(points, f"{place}: partial") > item.points:
            raise ValueError(f"{place}: partial gives {points} of {item.points:g} points")
        limit = item.at_most if item.at_least is None else item.at_least
        if (value >= limit) if item.at_most is None else (value <= limit):
            raise ValueError(f"{place}: partial {value} is not easier than {limit:g}")


def is_number(value: Any) -> bool:
    """Neither text nor true or false, nor NaN, nor too large to reckon with."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -1e300 < value < 1e300


def _number(value: Any, what: str) -> float:
    if not is_number(value) or value < 0:
        raise ValueError(f"{what} should be a number, 0 or above, not {value!r}")
    return value


def _known(what: str, name: Any, names, place: str) -> None:
    if name not in names:
        raise ValueError(
            f"{place}: there is no {what} {name!r}.{hint(name, names)} Known: {', '.join(names)}"
        )
