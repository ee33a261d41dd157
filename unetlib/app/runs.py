"""The folder of one headless run: its name, its record (metrics.json), and what it publishes.

outputs/runs/NAME/   executed notebooks, checkpoints/ images/ timelapse/ videos/, evaluation.csv,
                     metrics.json {"run": ..., "evaluation": what 04_evaluate wrote}, grade.json,
                     grade.html, report.html
"""

import filecmp
import itertools
import json
import math
import os
import re
import shutil
from datetime import datetime
from pathlib import Path

from unetlib.paths import resolve, whole, write_whole

PUBLISHED = ("checkpoints", "timelapse", "videos", "images")  # what later notebooks look for
REPLACED_WHOLE = ("timelapse", "videos")  # frames of two trainings must not mix


def runs_dir() -> Path:
    """The folder of all runs, outputs/runs."""
    return resolve("outputs") / "runs"


def read_record(folder: Path) -> dict:
    """The run's record {"run": ..., "evaluation": ...}; both {} where nothing was written.

    04_evaluate writes its numbers to the same metrics.json, bare; they become "evaluation".
    Raises ValueError that names the file when it is no JSON object.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        return {"run": {}, "evaluation": {}}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold a JSON object, not {type(content).__name__}")
    if isinstance(content.get("run"), dict):
        return {"run": content["run"], "evaluation": content.get("evaluation") or {}}
    return {"run": {}, "evaluation": content}


def write_record(folder: Path, record: dict) -> None:
    """Write metrics.json whole or not at all; NaN and infinity become null (JSON has neither)."""
    text = json.dumps(_finite(record), indent=2, ensure_ascii=False, default=str)
    # names of files need not be Unicode; what stands for their bytes is valid JSON, too
    write_whole(folder / "metrics.json", f"{text}\n".encode(errors="backslashreplace"))


def _finite(value):
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def new_run(preset: str, name: str | None) -> Path:
    """Make the folder of a new run; without a name it is the preset and the time."""
    if name is None:
        stem = name = f"{preset}-{datetime.now():%Y%m%d-%H%M%S}"
        for number in itertools.count(2):  # two runs may start in the same second
            if not (runs_dir() / name).exists():
                break
            name = f"{stem}-{number}"
    folder = run_folder(name)
    if folder.exists():
        raise ValueError(
            f"there is a run {folder.name} already ({folder}): choose another --name, "
            f"or do it again in the same folder with --from 01"
        )
    folder.mkdir(parents=True)
    return folder


def run_folder(name: str) -> Path:
    """The folder of a named run, there or not; a name that could leave outputs/runs is an error."""
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError(f"a run's name is letters, digits, '-', '_' and '.', not {name!r}")
    return runs_dir() / name


def run_to_continue(preset: str, name: str | None) -> Path:
    """The named run, or the newest one of that preset. Raises ValueError listing what there is."""
    records = {}
    for folder in sorted(runs_dir().glob("*/")):
        try:
            records[folder] = read_record(folder)["run"]
        except ValueError:  # a spoilt record is nothing to go on with
            records[folder] = {}
    known = ", ".join(folder.name for folder in records) or "none"
    if name is not None:
        folder = run_folder(name)
        if folder not in records:
            raise ValueError(f"there is no run {name!r} in {runs_dir()} (there: {known})")
        return folder
    fitting = [folder for folder, run in records.items() if run.get("preset") == preset]
    if not fitting:
        raise ValueError(
            f"there is no {preset} run in {runs_dir()} to go on with (there: {known}): "
            f"start with `unetlib run {preset}`, or say which one with --name"
        )
    return max(fitting, key=lambda folder: str(records[folder].get("started", "")))


def publish(folder: Path, outputs: Path, overwrite: bool = True) -> list[str]:
    """Copy a run's checkpoints, timelapse, videos and images to outputs/; returns which of these.

    File by file and atomically, so that a kill leaves each file old or new, never half. With
    ``overwrite=False`` a folder that holds anything is left alone. A checkpoint that no run folder
    holds (trained in the notebook itself) is not lost: it is kept under its date.
    """
    written = []
    for part in PUBLISHED:
        source, target = folder / part, outputs / part
        if not source.is_dir() or not any(source.iterdir()):
            continue
        if not overwrite and target.is_dir() and any(target.iterdir()):
            continue
        written.append(part)
        if part in REPLACED_WHOLE:
            _replace_folder(source, target)
            continue
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if part == "checkpoints":
                keep_own(copy, folder.parent)
            with whole(copy) as new:
                shutil.copy2(file, new)
    return written


def keep_own(checkpoint: Path, runs: Path) -> None:
    """Give a checkpoint that is about to be replaced its date as name, unless a run has a copy."""
    if not checkpoint.is_file():
        return
    copies = runs.glob(f"*/checkpoints/{checkpoint.name}")
    if not any(filecmp.cmp(checkpoint, copy, shallow=False) for copy in copies):
        date = datetime.fromtimestamp(checkpoint.stat().st_mtime)
        kept = checkpoint.with_name(f"{checkpoint.stem}-{date:%Y%m%d-%H%M%S}{checkpoint.suffix}")
        os.replace(checkpoint, kept)


def _replace_folder(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    new, old = target.with_name(target.name + ".new"), target.with_name(target.name + ".old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, new)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
