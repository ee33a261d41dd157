"""What a submission holds: its notebooks, its results, and what they claim."""

import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from unetlib.app import runs
from unetlib.app.execution import ANSI
from unetlib.app.rubric import METRICS, Chapter, check_in
from unetlib.config import hint
from unetlib.exercise import MIME
from unetlib.paths import find_input

CHECKPOINT = "checkpoints/best_model.pth"
LARGEST_RECORD = 5_000_000  # bytes of metrics.json


@dataclass
class Notebook:
    """How a notebook went; `problem` "" where every cell ran, `tail` of its first error."""

    cells: int = 0
    ran: int = 0
    problem: str = ""
    tail: str = ""


@dataclass
class Evidence:
    """All that a rubric looks at."""

    outputs: list[Path]  # where files are looked for: those handed in, then those made again
    notebooks: dict[str, Notebook] = field(default_factory=dict)  # by stem
    exercises: dict[str, tuple[bool, str]] = field(default_factory=dict)  # solved, else why not
    claimed: dict = field(default_factory=dict)  # by metrics.json
    measured: dict = field(default_factory=dict)  # the numbers that count
    doubt: str = ""  # why none of them counts
    flags: list[str] = field(default_factory=list)

    def add_notebook(self, chapter: Chapter, events: list[dict], reason: str = "") -> None:
        """Take in what happened in a notebook: the events of `worker`, and why it was stopped."""
        facts = {key: value for event in events for key, value in event.items()}
        done = [event for event in events if "done" in event]
        failed = [event for event in done if event["problem"]]
        reason = reason or facts.get("error", "")
        problems = [f"cell {event['done']}: {event['problem']}" for event in failed[:1]]
        if reason:  # a stored run has words of its own, and no start
            problems = (
                [*problems, f"cell {facts['start']}: {reason}"] if "start" in facts else [reason]
            )
        self.notebooks[chapter.stem] = Notebook(
            max(facts.get("cells", 0), chapter.cells),  # to leave cells out gains nothing
            len(done) - len(failed),
            "; ".join(problems),
            failed[0]["tail"] if failed else "",
        )
        if reason and "start" in facts:
            self.flags.append(f"{chapter.stem}: stopped")
        if facts.get("dropped"):
            self.flags.append(f"{chapter.stem}: output was dropped")
        if facts.get("changed"):
            self.flags.append(f"changed check cells: {', '.join(facts['changed'])}")
        values = {event["check"]: event["value"] for event in done if "check" in event}
        for name in chapter.checks:
            verdict = values.get(name)
            passed = isinstance(verdict, dict) and verdict.get("passed") is True
            why = str(verdict.get("hint") or "")[:500] if isinstance(verdict, dict) else ""
            if name in facts.get("missing", ()):
                why = f"its check cell (grade_id {name}) is missing"
            elif name not in values:
                why = f"its check did not run: {reason or 'the notebook ended before it'}"
            self.exercises[name] = (passed, "" if passed else why or "its check gave no verdict")

    def read_claims(self) -> dict:
        """Fill in what metrics.json claims, or the doubt about it; returns the run's record."""
        path = self.outputs[0] / "metrics.json"
        if not path.is_file():
            self.doubt = "there is no metrics.json: 04_evaluate writes it"
            return {}
        try:
            if path.stat().st_size > LARGEST_RECORD:
                raise ValueError(f"{path.name} is larger than {LARGEST_RECORD / 1e6:g} MB")
            record = runs.read_record(path.parent)
        except (ValueError, RecursionError, OSError) as error:
            self.doubt = str(error).replace(str(path), path.name)
            return {}
        self.claimed = record["evaluation"] if isinstance(record["evaluation"], dict) else {}
        if not self.claimed:
            self.doubt = "metrics.json holds no scores: 04_evaluate writes them"
        return record["run"]


def as_it_is(folder: Path, course: dict[str, Chapter]) -> Evidence:
    """The outputs that are in the notebooks and the numbers in metrics.json, believed."""
    evidence = Evidence([outputs_of(folder)])
    states = evidence.read_claims().get("notebooks")
    for stem, chapter in course.items():
        path, events = find_notebook(folder, stem), []
        reason = "" if path else missing_notebook(folder, stem)
        if path:
            try:
                events = _stored_events(path, chapter)
            except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
                reason = f"the file is no readable notebook ({str(error)[:200]})"
        with suppress(KeyError, TypeError):  # the run's own words, where it noted some
            reason = states[stem]["error"]["summary"]
        evidence.add_notebook(chapter, events, reason)
    evidence.measured = {k: v for k, v in evidence.claimed.items() if k in METRICS}
    return evidence


def _stored_events(path: Path, chapter: Chapter) -> list[dict]:
    """The events of a run, from the outputs that it left in a notebook."""
    import nbformat

    cells = code_cells(nbformat.read(path, as_version=4))
    checks = {name: check.source for name, check in chapter.checks.items()}
    events: list[dict] = [{"cells": len(cells)}]
    for number, cell in enumerate(cells, 1):
        if cell.execution_count is None:
            continue
        errors = [out for out in cell.outputs if out.output_type == "error"]
        problem = f"{errors[0].ename}: {errors[0].evalue}" if errors else ""
        tail = ANSI.sub("", "\n".join(errors[0].traceback))[-3000:] if errors else ""
        event = {"done": number, "problem": problem[:300], "tail": tail}
        if name := check_in(cell, checks):
            results = [out for out in cell.outputs if out.output_type == "execute_result"]
            value = results[-1].data.get(MIME) if results else None
            event |= {"check": name, "value": value}
        events.append(event)
    return events


def code_cells(notebook) -> list:
    """The cells with code, but for the one that papermill put in."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code"
        and cell.source.strip()
        and "injected-parameters" not in cell.metadata.get("tags", [])
    ]


def find_submissions(paths: list[str]) -> tuple[dict[str, Path], Path | None]:
    """Name -> folder of each submission, and the folder that holds them all (None: there is none).

    Raises ValueError for a path that is neither a run nor a submission nor a folder of some.
    """
    found, parent = {}, None
    for path in paths:
        folder = _find_folder(path)
        inside = [folder]
        if not is_submission(folder):
            inside = [  # without those that -o of an earlier grading made
                p
                for p in _folders_in(folder)
                if is_submission(p) or not (p / "grades.html").is_file()
            ]
            if not any(is_submission(_unwrapped(p)) for p in inside):
                raise ValueError(
                    f"{folder} is no run and no submission: expected were notebooks (01_….ipynb) "
                    "or metrics.json in it or in its folder notebooks, or folders with these "
                    "(archives have to be unpacked)"
                )
            parent = folder if len(paths) == 1 else None
        for one in inside:
            name, number = one.resolve().name, 2
            while found.get(name, one) != one:
                name, number = f"{one.resolve().name}-{number}", number + 1
            found[name] = one
    return {name: _unwrapped(one) for name, one in found.items()}, parent


def _folders_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("[!.]*/") if not p.name.startswith("__"))  # __MACOSX


def _unwrapped(folder: Path) -> Path:
    """The folder, or the submission that an archive put alone into it."""
    inside = [] if is_submission(folder) else _folders_in(folder)
    inner = _unwrapped(inside[0]) if len(inside) == 1 else folder
    return inner if is_submission(inner) else folder


def _find_folder(path: str) -> Path:
    with suppress(FileNotFoundError):
        folder = find_input(path).absolute()
        if folder.is_dir():
            return folder
        raise ValueError(
            f"{folder} is a file: expected was the folder of a run or of submissions, unpacked"
        )
    names = sorted(p.name for p in runs.runs_dir().glob("*/"))
    if path in names:
        return runs.runs_dir() / path
    raise ValueError(
        f"there is no folder {path!r} and no run of that name.{hint(path, names)} "
        f"Runs in {runs.runs_dir()}: {', '.join(names) or 'none'}"
    )


def is_submission(folder: Path) -> bool:
    """It holds notebooks of the course, or metrics.json."""
    places = (folder, folder / "notebooks")
    return any((p / "metrics.json").is_file() or _notebooks_in(p) for p in places)


def find_notebook(folder: Path, stem: str) -> Path | None:
    """A submission's notebook: of that name, or the only one with its number."""
    for place in (folder, folder / "notebooks"):
        alike = _notebooks_in(place, stem[:3])
        exact = [path for path in alike if path.stem.lower() == stem.lower()]
        if exact or len(alike) == 1:
            return (exact or alike)[0]
    return None


def missing_notebook(folder: Path, stem: str) -> str:
    """Why `find_notebook` found none."""
    alike = [p.name for f in (folder, folder / "notebooks") for p in _notebooks_in(f, stem[:3])]
    return f"there is no notebook {stem}" + (f", or which one? {', '.join(alike)}" if alike else "")


def _notebooks_in(folder: Path, number: str = r"\d\d_") -> list[Path]:
    """Those with a number; browsers and Colab change names: "Copy of 01_data (1).ipynb"."""
    start = re.compile(rf"(?<!\d){number}")
    return sorted(path for path in folder.glob("*.ipynb") if start.search(path.name))


def outputs_of(folder: Path) -> Path:
    """Where a submission keeps its results: it, its outputs/, or its newest run."""
    own_runs = (folder / "outputs" / "runs").glob("*/")
    newest = sorted(own_runs, key=lambda path: path.stat().st_mtime, reverse=True)
    places = [folder, folder / "outputs", folder / "notebooks", *newest]
    for part in ("metrics.json", "checkpoints"):
        for place in places:
            if (place / part).exists():
                return place
    return folder
