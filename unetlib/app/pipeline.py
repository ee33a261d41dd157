"""The course without a person: the six notebooks through papermill, into one folder per run."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import unetlib
from unetlib.app import runs
from unetlib.app.course import (
    check_parameters,
    declared_parameters,
    find_notebooks,
    known,
    select,
)
from unetlib.app.execution import clock, execute
from unetlib.paths import resolve


@dataclass(frozen=True)
class Preset:
    """What `unetlib run NAME` sets: seconds that one cell may take, and notebook parameters."""

    about: str
    timeout: float
    parameters: dict[str, Any] = field(default_factory=dict)


PRESETS = {
    "smoke": Preset(
        "does everything run? Tiny pictures, two epochs, about a minute; the scores mean nothing",
        600,
        {"image_size": 64, "count": 60, "epochs": 2, "batch_size": 8, "baseline_images": 6},
    ),
    "quick": Preset("the course as it stands in the notebooks: a laptop, no network", 1800),
    "full": Preset(
        "a GPU and a real dataset (-p source folder -p source_root PHOTOS); hours on a laptop",
        86_400,
        {
            "model": "unet",
            "image_size": 320,
            "epochs": 60,
            "count": 6000,
            "batch_size": 16,
            "augment": "strong",
        },
    ),
}
OK, FAILED, NOT_RUN = "ok", "failed", "not run"


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, its record (see runs.py) and the process's exit code."""

    folder: Path
    record: dict
    exit_code: int  # 0 fine, 1 a notebook failed, 130 stopped with Ctrl-C
    failure: str = ""  # one line: notebook, cell and exception


def run_course(
    preset: str | None = None,
    name: str | None = None,
    parameters: dict[str, Any] | None = None,
    only: Sequence[str] = (),
    start: str | None = None,
    timeout: float | None = None,
    *,
    notebooks_dir: Path | None = None,
    echo: Callable[[str], None] = print,
) -> RunResult:
    """Execute the notebooks into outputs/runs/NAME, then write metrics, grade and report there.

    ``only`` and ``start`` take a part of the course ("04", "4" or "04_evaluate") and go on in the
    run's folder where that part needs earlier files: the one called ``name``, or the newest of the
    preset. ``parameters`` go to every notebook that declares them; text is read as the type of the
    notebook's own default. ``timeout`` is in seconds per cell. Raises ValueError for a preset,
    part, parameter or run that does not exist; a notebook that fails is not raised but recorded.
    """
    if timeout is not None and timeout <= 0:
        raise ValueError(f"--timeout is a number of seconds above 0, not {timeout:g}")
    notebooks = find_notebooks(notebooks_dir)
    selected = select(notebooks, only, start)
    declared = {path.stem: declared_parameters(path) for path in notebooks}
    given = check_parameters(parameters or {}, declared)
    known("preset", preset or "quick", PRESETS)

    from unetlib.device import choose_device, describe_device  # brings torch: after the checks

    device = describe_device(choose_device(given.get("device", "auto")))  # absent: say so now
    folder, record = _open(preset, name, notebooks, selected, bool(only or start))
    run = record["run"]
    preset, given = run["preset"], {**run.get("parameters", {}), **given}
    run.update(status="running", parameters=given, device=device, versions=_versions())
    runs.write_record(folder, record)

    values = {**PRESETS[preset].parameters, **given, "outputs_dir": str(folder)}
    own_data = preset == "smoke" and "data_dir" not in given  # 60 toy pictures stay out of data/
    values["data_dir"] = str(
        folder / "data" if own_data else resolve(values.get("data_dir", "data"))
    )
    echo(f"{preset} run {folder.name}: {len(selected)} notebook(s) into {folder}")
    exit_code, failure = 0, ""
    for path in selected:
        passed = {key: values[key] for key in declared[path.stem] if key in values}
        result = execute(path, folder, passed, timeout or PRESETS[preset].timeout)
        run["notebooks"][path.stem] = result
        record = {"run": run, "evaluation": _evaluation(folder, record)}
        runs.write_record(folder, record)
        echo(f"  {path.stem:<22} {result['status']:<7} {clock(result['seconds'])}")
        if result["status"] != OK:
            failure = f"{path.stem}, {result['error']['summary']}"
            exit_code = 130 if result["error"]["name"] == "KeyboardInterrupt" else 1
            break
    states = [notebook["status"] for notebook in run["notebooks"].values()]
    run["status"] = FAILED if FAILED in states else OK if set(states) == {OK} else "incomplete"
    run["seconds"] = round(sum(n.get("seconds", 0) for n in run["notebooks"].values()), 1)
    runs.write_record(folder, record)
    result = RunResult(folder, record, exit_code, failure)
    _finish(folder, result, echo)
    return result


def _open(preset, name, notebooks, selected, part: bool) -> tuple[Path, dict]:
    """The folder to work in, new or gone on with, and its record, the selected marked not run."""
    there = name is not None and runs.run_folder(name).is_dir()
    if part and (there or selected[0] != notebooks[0]):
        folder = runs.run_to_continue(preset or "quick", name)
        record = runs.read_record(folder)
    else:
        folder, record = runs.new_run(preset or "quick", name), {"run": {}, "evaluation": {}}
    run = record["run"]
    made_with = run.setdefault("preset", preset or "quick")
    if preset and made_with != preset:
        raise ValueError(f"the run {folder.name} was made with {made_with}, not with {preset}")
    known("preset", made_with, PRESETS)
    if {path.stem[:2] for path in selected} & {"01", "03", "04"}:
        record["evaluation"] = {}  # of other data or of another model
    earlier = run.get("notebooks", {})
    states = {path.stem: earlier.get(path.stem, {"status": NOT_RUN}) for path in notebooks}
    run["notebooks"] = states | {path.stem: {"status": NOT_RUN} for path in selected}
    run.update(name=folder.name, started=datetime.now().isoformat(timespec="seconds"))
    return folder, record


def _evaluation(folder: Path, record: dict) -> dict:
    """04_evaluate writes its numbers over metrics.json; other notebooks leave what was there."""
    written = runs.read_record(folder)
    return record["evaluation"] if written["run"] else written["evaluation"]


def _finish(folder: Path, result: RunResult, echo: Callable[[str], None]) -> None:
    from unetlib.app.grade import grade_run
    from unetlib.app.report import headline, write_report

    grade = grade_run(folder)
    report = write_report(folder)
    if result.exit_code == 0:
        smoke = result.record["run"]["preset"] == "smoke"
        published = runs.publish(folder, resolve("outputs"), overwrite=not smoke)
        if published:
            echo(f"copied {', '.join(published)} to {resolve('outputs')}")
    for label, value, interval in headline(result.record["evaluation"]):
        echo(f"{label}: {value}" + (f" (95 %: {interval})" if interval else ""))
    echo(f"grade: {grade.points:g} of {grade.out_of:g} points, unsolved exercises included")
    echo(f"report: {report}")


def _versions() -> dict[str, str]:
    names = ("unetlib", "torch", "torchvision", "numpy", "albumentations", "pillow", "papermill")
    versions = {"python": sys.version.split()[0]}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a checkout that is not installed
            versions[name] = unetlib.__version__ if name == "unetlib" else "not installed"
    return versions
