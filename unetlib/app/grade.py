"""The command `unetlib grade`: points for a run, or for each submission in a folder."""

import csv
import io
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import click

from unetlib.app.limits import GIGABYTE, Limits
from unetlib.app.marks import Grade, Mark, apply_rubric
from unetlib.app.markup import template
from unetlib.app.rubric import DEFAULT, Chapter, Item, read_course, read_rubric
from unetlib.app.runner import Runner
from unetlib.app.submission import CHECKPOINT, as_it_is, find_notebook, find_submissions, outputs_of
from unetlib.paths import find_input, resolve, sha256, write_whole

NOT_GRADED = "not graded"
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


def grade_run(folder: Path, rubric_file: Path | None = None) -> Grade:
    """Grade a run of one's own by what is in its folder: nothing is run, metrics.json is believed.

    Writes grade.json and grade.html there. A run that failed gets fewer points, and no error.
    """
    course = read_course()
    items = read_rubric(rubric_file, course)
    return grade_all({folder.name: folder}, items, course, lambda _: folder, as_is=True)[0]


def grade_all(
    folders: dict[str, Path],
    items: list[Item],
    course: dict[str, Chapter],
    into: Callable[[str], Path],
    limits: Limits = Limits(),  # noqa: B008 (it is frozen)
    jobs: int = 1,
    source: str = "",
    as_is: bool = False,
    echo: Callable[[str], None] = lambda text: None,
) -> list[Grade]:
    """Grade submissions, ``jobs`` at a time, and write the files of each to ``into``(name).

    On Ctrl-C all that runs is ended, and the grades so far are returned.
    """
    grades: dict[str, Grade] = {}
    stop, shared = threading.Event(), shared_files(folders, course)

    def one(name: str) -> Grade | None:
        try:
            if as_is:
                evidence = as_it_is(folders[name], course)
            else:
                evidence = runner.run(name, folders[name], into(name) / "executed")
            if stop.is_set():
                return None
            evidence.flags += shared[name]
            grade = apply_rubric(name, items, evidence, course)
            write_grade(grade, into(name))
        except Exception as error:  # whatever is wrong with it, the others are graded
            marks = [Mark(item.title, 0, item.points, NOT_GRADED) for item in items]
            return Grade(name, marks, [f"{NOT_GRADED}: {str(error)[:300]}"])
        shutil.rmtree(Path(work) / name, ignore_errors=True)
        return grade

    with tempfile.TemporaryDirectory(prefix="unetlib-grade-", ignore_cleanup_errors=True) as work:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        runner = Runner(course, Path(work), limits, source, stop, threads)
        with ThreadPoolExecutor(jobs) as pool:
            left = {pool.submit(one, name) for name in folders}
            try:
                while left:  # with a timeout: on Windows a wait without one is deaf to Ctrl-C
                    done, left = wait(left, 0.5, FIRST_COMPLETED)
                    for grade in filter(None, (task.result() for task in done)):
                        grades[grade.submission] = grade
                        flags = f"  ({', '.join(grade.flags)})" if grade.flags else ""
                        echo(
                            f"  {grade.submission:<24} {grade.points:g} of {grade.out_of:g}{flags}"
                        )
            except BaseException as error:  # Ctrl-C, or a closed pipe where echo writes to
                stop.set()
                pool.shutdown(cancel_futures=True)
                if not isinstance(error, KeyboardInterrupt):
                    raise
                echo(f"stopped with Ctrl-C: {len(grades)} of {len(folders)} graded")
    return [grades[name] for name in folders if name in grades]


def shared_files(folders: dict[str, Path], stems: Iterable[str]) -> dict[str, list[str]]:
    """Flags for each submission whose network or notebook is the same file as another's.

    What more than a third of the class has was handed out, or is what the defaults give.
    """
    owners: dict[tuple[str, str], list[str]] = {}
    for name, folder in folders.items():
        files = {stem: find_notebook(folder, stem) for stem in stems}
        for part, path in {**files, "network": outputs_of(folder) / CHECKPOINT}.items():
            with suppress(OSError):  # it is not there
                if path:
                    owners.setdefault((part, sha256(path)), []).append(name)
    flags: dict[str, list[str]] = {name: [] for name in folders}
    for (part, _), names in owners.items():
        for name in names if 1 < len(names) <= max(2, len(folders) // 3) else []:
            others = ", ".join(other for other in names if other != name)
            flags[name].append(f"{part}: same file as {others}")
    return flags


def write_grade(grade: Grade, folder: Path) -> None:
    """Write grade.json and grade.html."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"submission": grade.submission, "points": grade.points, "out_of": grade.out_of}
    content |= {"items": [asdict(mark) for mark in grade.items], "flags": grade.flags}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / "grade.json", text.encode("utf-8", "replace"))
    executed = sorted(p.name for p in folder.glob("executed/*.ipynb"))
    page = template("grade.html").render(grade=grade, executed=executed, written=datetime.now())
    write_whole(folder / "grade.html", page.encode("utf-8", "replace"))


def write_overview(grades: list[Grade], folder: Path, pages: dict[str, Path]) -> None:
    """Write grades.csv, a line per submission, and grades.html. ``pages``: name -> grade.html."""
    folder.mkdir(parents=True, exist_ok=True)
    titles = [mark.title for mark in grades[0].items] if grades else []
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(map(_cell, ["submission", "points", "out_of", *titles, "flags", "reason"]))
    for grade in grades:
        points = [mark.points for mark in grade.items]
        row = [grade.submission, grade.points, grade.out_of, *points]
        writer.writerow(map(_cell, [*row, "; ".join(grade.flags), grade.reason]))
    write_whole(folder / "grades.csv", file.getvalue().encode("utf-8-sig", "replace"))
    links = {
        name: quote(os.fsencode(page.relative_to(folder).as_posix()))
        if page.is_relative_to(folder)
        else page.as_uri()
        for name, page in pages.items()
    }
    page = template("grade.html").render(grades=grades, pages=links, written=datetime.now())
    write_whole(folder / "grades.html", page.encode("utf-8", "replace"))


def _cell(value):
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    if isinstance(value, str):
        value = " ".join(value.split())[:2000]
        return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value
    return value


@click.command(short_help="Grade a run, or a folder of submissions.")
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--rubric", "rubric_file", metavar="FILE", help="YAML, see --show-rubric.")
@click.option("--show-rubric", is_flag=True, help="Print the default one, to edit a copy.")
@click.option("--as-is", is_flag=True, help="Run nothing: believe what the notebooks show.")
@click.option(
    "--source", default="", metavar="SPEC", help="Photos of the runs that did not use drawn ones."
)
@click.option(
    "--jobs", type=click.IntRange(1), default=1, metavar="N", help="Submissions at a time."
)
@click.option("--timeout", default=300.0, metavar="SECONDS", help="Longest a cell may take [300].")
@click.option("--memory", default=4.0, metavar="GB", help="What a submission may take [4].")
@click.option("-o", "--into", metavar="DIR", help="Where to [beside each submission].")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
def grade(paths, rubric_file, show_rubric, as_is, source, jobs, timeout, memory, into) -> None:
    """Give points by a rubric. PATH is a run (folder or name), a submission or a folder of them.

    A submission is a folder with the course's notebooks and their outputs. Its notebooks are run
    in a copy, with the smoke preset and the course's own checks of the exercises; a cell may take
    --timeout seconds, a notebook 4 times, all of them 8 times as long. Scores count if its
    checkpoint gives them again: on the same photos, drawn again or taken from --source.

    Writes grade.json and grade.html for each, grades.csv and grades.html for several. This is no
    sandbox: code of people you do not trust belongs on a machine that holds nothing else.
    """
    if show_rubric:
        click.echo(DEFAULT.read_text(encoding="utf-8"), nl=False)
        return
    if not paths:
        raise click.UsageError("what is to be graded? PATH is a run or a folder of submissions")
    limits = Limits(timeout, memory * GIGABYTE)
    course = read_course()
    items = read_rubric(find_input(rubric_file) if rubric_file else None, course)
    if source:
        from unetlib.data.sources import absolute_spec

        source = absolute_spec(source)
    folders, parent = find_submissions(paths)
    target = Path(into).expanduser().absolute() if into else parent
    several = parent is not None or len(folders) > 1
    files = parent.iterdir() if parent else ()
    if packed := sorted(p.name for p in files if p.suffix.lower() in ARCHIVES):
        click.echo(f"not looked into, unpack them first: {', '.join(packed)}", err=True)

    def folder_of(name: str) -> Path:
        return folders[name] if not into else target / name if several else target

    click.echo(f"{len(folders)} to grade, {sum(item.points for item in items):g} points each")
    grades = grade_all(
        folders, items, course, folder_of, limits, jobs, source, as_is, echo=click.echo
    )
    if several:
        target = target or resolve("outputs/grades")
        pages = {name: folder_of(name) / "grade.html" for name in folders}
        write_overview(grades, target, pages)
        click.echo(f"table: {target / 'grades.csv'}\npage: {target / 'grades.html'}")
    elif grades:
        click.echo(f"{grades[0].reason}\npage: {folder_of(grades[0].submission) / 'grade.html'}")
    failed = [one for one in grades if any(NOT_GRADED in flag for flag in one.flags)]
    if len(grades) < len(folders):
        sys.exit(130)
    sys.exit(1 if len(failed) == len(grades) else 0)
