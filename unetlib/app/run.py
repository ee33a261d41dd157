"""The command `unetlib run`: the notebooks through papermill, one folder per run, and a report.

outputs/runs/NAME/ holds the executed notebooks, what they wrote, report.html and metrics.json:
{"run": settings, versions, state of each notebook; "evaluation": what 04_evaluate measured}.
"""

import ast
import filecmp
import json
import logging
import os
import re
import shutil
import sys
import time
from collections import ChainMap
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from itertools import dropwhile
from pathlib import Path
from typing import Any

import click

import unetlib
from unetlib.app import Command
from unetlib.app.pages import code, write_page
from unetlib.errors import unknown
from unetlib.paths import find_input, folder_lock, project_root, read_text, resolve, write_atomic

RUNS = "outputs/runs"
VERSIONS = ("torch", "torchvision", "numpy", "albumentations", "pillow", "papermill")
SMOKE = {"image_size": 64, "count": 60, "epochs": 2, "steps": 10, "data_dir": "outputs/smoke"}
FULL = {"image_size": 256, "count": 6000, "epochs": 60}
VERDICT = "application/vnd.unetlib.exercise+json"  # checks.MIME, without importing PyTorch
PRESETS = {"smoke": SMOKE, "quick": {}, "full": FULL}


def read_record(folder: Path) -> dict:
    """A run's metrics.json as {"run": {...}, "evaluation": {...}}; what 04_evaluate wrote, bare,
    is the evaluation. Raises ValueError that names a bad file."""
    path = folder / "metrics.json"
    try:
        text = read_text(path) if path.is_file() else "{}"
        content = dict(json.loads(text, parse_constant=lambda name: None))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} should hold a JSON object ({error})") from None
    wrapped = content if isinstance(content.get("run"), dict) else {"evaluation": content}
    return {"run": {}, "evaluation": {}} | wrapped


def write_record(folder: Path, record: dict) -> None:
    """Write metrics.json, whole or not at all."""
    write_atomic(folder / "metrics.json", json.dumps(record, indent=2).encode())


def find_notebooks(appendix: bool = False) -> list[Path]:
    """The course's notebooks in order: those below project_root(), else those of the checkout."""
    for place in (project_root(), Path(unetlib.__file__).parents[1]):
        if found := sorted(place.glob("notebooks/[0-9][0-9]_*.ipynb")):
            return found + sorted(place.glob("notebooks/appendix/*.ipynb")) * appendix
    raise ValueError(f"no notebooks (01_….ipynb) in {place}: run this in a checkout")


def read_notebook(path: Path):
    """A notebook of anybody's. Raises ValueError where the file is none."""
    import nbformat

    try:
        if not path.is_file():  # reading a pipe would wait for ever
            raise ValueError("no ordinary file")
        notebook = nbformat.reads(read_text(path), as_version=4)
        nbformat.validate(notebook, relax_add_props=True)
    except Exception as error:  # a file may be broken in any way
        raise ValueError(f"{path.name} is no readable notebook: {str(error)[:200]}") from error
    return notebook


def declared_parameters(path: Path) -> dict[str, Any]:
    """Names and default values of the notebook's `parameters` cell, as far as they are literals.
    Raises SyntaxError for a cell that is not Python."""
    from IPython.core.inputtransformer2 import TransformerManager

    cells = [c for c in read_notebook(path).cells if "parameters" in c.metadata.get("tags", ())]
    text, found = "\n".join(cell.source for cell in cells), {}
    for node in ast.parse(TransformerManager().transform_cell(text)).body:  # with %magic
        match node:
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, value):
                with suppress(ValueError, TypeError):  # no literal
                    found[name] = ast.literal_eval(value)
    return found


def check_parameters(given: dict[str, str], defaults: ChainMap, preset: str) -> dict[str, Any]:
    """The values in the types of the defaults, names of files as absolute paths. Raises ValueError
    for what does not fit, and FileNotFoundError for photos that are not there."""
    checked = {}
    known = sorted(defaults.keys() - {"outputs_dir"})
    for name, text in given.items():
        if name not in known:
            raise ValueError(unknown("parameter", name, known))
        kind = click.types.convert_type(None, defaults[name])
        try:
            checked[name] = kind(text)
        except click.BadParameter as error:
            raise ValueError(f"-p {name}: {error.message} Default: {defaults[name]!r}") from None
        if name == "photo" or (name == "data_dir" and (Path(text).is_dir() or preset == "full")):
            checked[name] = str(find_input(text))
    return checked


def open_run(preset: str | None, name: str | None, part: bool) -> tuple[Path, dict]:
    """Folder and record of a run, which is this command's alone until it ends: a `part` of the
    course goes on in the one called `name`, or in the newest, where there is one. Raises ValueError
    for a bad name, for a run that is there already, and for one that is still going on."""
    if name is not None and not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError(f"a run's name is letters, digits, '-', '_' and '.', not {name!r}")
    chosen, now = {"preset": preset} if preset else {}, datetime.now()
    folder = resolve(RUNS) / (name or f"{preset or 'quick'}-{now:%Y%m%d-%H%M%S}")
    if part and (found := list(resolve(RUNS).glob(f"{name or '*'}/metrics.json"))):
        folder = max(found, key=lambda path: path.stat().st_mtime).parent
    click.get_current_context().with_resource(folder_lock(folder))
    record = read_record(folder)
    run = {"preset": "quick", "parameters": {}, "notebooks": {}} | record["run"] | chosen
    if record["run"] and not part:
        raise ValueError(f"there is a run {folder.name} already: another --name, or --from 01")
    run |= {"status": "running", "started": f"{now:%Y-%m-%d %H:%M:%S}"}
    run |= {"versions": {package: metadata.version(package) for package in VERSIONS}}
    write_record(folder, record := record | {"run": run})
    return folder, record


def execute(notebook: Path, folder: Path, parameters: dict, timeout: float) -> str:
    """Run a notebook and write it, as far as it came, into `folder`; `timeout` in seconds per cell.
    Returns "", or cell and exception in a line where it failed or was stopped with Ctrl-C."""
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # errors come as exceptions
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this Python's kernel, not one of the user's
    os.environ.pop("MPLBACKEND", None)  # figures are shown
    options = {"kernel_name": "python3", "execution_timeout": timeout}
    options |= {"progress_bar": False, "extra_arguments": ["--log-level=CRITICAL"]}
    output = folder / notebook.name
    output.unlink(missing_ok=True)  # what an earlier run left must not pass for this one's
    try:
        papermill.execute_notebook(notebook, output, parameters, **options)
        return ""
    except CellTimeoutError:
        error = f"Timeout: it ran longer than {timeout:g} s (--timeout allows more)"
    except DeadKernelError:
        error = "DeadKernelError: the notebook's Python died, most often for want of memory"
    except (Exception, KeyboardInterrupt) as failure:  # the run goes on to its report
        name = getattr(failure, "ename", type(failure).__name__)
        error = f"{name}: {getattr(failure, 'evalue', failure)}"
    cells = nbformat.read(output, as_version=4).cells if output.is_file() else []
    about = [cell.metadata.get("papermill", {}) for cell in cells if cell.cell_type == "code"]
    number = sum(bool(one.get("start_time")) for one in about)  # a dying kernel does not count
    return " ".join(f"cell {number}: {error}".split())[:300]


def keep_earlier(checkpoints: Path) -> None:
    """Copies a folder's checkpoints, with their dates in the names, before new ones replace them;
    except those that a run's folder has, too."""
    for path in list(checkpoints.glob("????_model.*")):
        copies = resolve(RUNS).glob(f"*/checkpoints/{path.name}")
        if not any(filecmp.cmp(path, copy, shallow=False) for copy in copies):
            date = datetime.fromtimestamp(path.stat().st_mtime)
            shutil.copy2(path, path.with_stem(f"{path.stem}-{date:%Y%m%d-%H%M%S}"))


def publish(folder: Path) -> list[str]:
    """Copy what a run made to outputs/, where the notebooks look; returns the folders copied."""
    parts = ("checkpoints", "timelapse", "videos", "images")
    copied = [part for part in parts if (folder / part).is_dir()]
    for part in copied:
        target = resolve("outputs") / part
        if part == "checkpoints":
            keep_earlier(target)
        if part in ("timelapse", "videos"):  # frames of two trainings must not mix
            shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder / part, target, dirs_exist_ok=True)
    return copied


def write_report(folder: Path) -> Path:
    """Write report.html from what is in a run's folder: it also has to tell of a run that failed
    half-way."""
    import nbformat
    import pandas as pd

    record = read_record(folder)
    run, scores = record["run"], record["evaluation"]
    given = "".join(f" -p {name} {value}" for name, value in run["parameters"].items())
    parts = [f"{code('unetlib run ' + run['preset'] + given)}: **{run['status']}**"]
    parts += [pd.DataFrame(run["notebooks"]).T]
    files = filter(Path.is_file, (folder / f"{stem}.ipynb" for stem in run["notebooks"]))
    executed = [nbformat.read(path, as_version=4) for path in files]
    solved = {name: one for notebook in executed for name, one in verdicts(notebook).items()}
    if scores:
        parts += ["## Scores", pd.json_normalize(scores, sep=", ").T.set_axis([""], axis=1)]
    if solved:
        table = pd.DataFrame(solved).T[["passed", "hint"]]
        parts += [f"## Exercises: {sum(table['passed'])} of {len(table)} solved", table]
    about = {"": {"started": run["started"]} | run["versions"]}
    parts += ["## Made with", pd.DataFrame(about), *executed]
    return write_page(folder / "report.html", f"Run {folder.name}", parts)


def verdicts(notebook) -> dict[str, dict]:
    """What the checks of an executed notebook said: grade_id -> {"passed": bool, "hint"}."""
    return {
        cell.metadata.nbgrader.grade_id: output.data[VERDICT]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "execute_result" and VERDICT in output.data
        if "nbgrader" in cell.metadata and "error" not in {o.output_type for o in cell.outputs}
    }


@click.command(cls=Command, short_help="Execute the six notebooks and write a report.")
@click.argument("preset", required=False, type=click.Choice(PRESETS), metavar="[PRESET]")
@click.option("--name", help="Name of the run's folder in outputs/runs [preset and time].")
@click.option(
    "parameters", "-p", nargs=2, multiple=True, metavar="NAME VALUE", help="As in -p epochs 20."
)
@click.option("--from", "start", metavar="NOTEBOOK", help="From this one on, e.g. 04.")
@click.option("--appendix", is_flag=True, help="The four notebooks of the appendix, too.")
@click.option("--timeout", type=click.FloatRange(1), metavar="SECONDS", help="For each cell.")
@click.option("--list", "listing", is_flag=True, help="Show notebooks and parameters, run nothing.")
def run(preset, name, parameters, start, appendix, timeout, listing) -> None:
    """Execute the six notebooks into outputs/runs/NAME and write report.html there.

    PRESET is quick (default, the notebooks as they stand), smoke (does everything run? the scores
    mean nothing) or full (for a GPU and real photos). --from goes on with the newest run, or with
    the one called --name. The exit code is 1 when a notebook failed.
    """
    notebooks = find_notebooks(appendix)
    declared = {path: declared_parameters(path) for path in notebooks}
    if listing:
        for path, defaults in declared.items():
            click.echo(path.stem)
            click.echo("".join(f"  {key:<14} {value!r}\n" for key, value in defaults.items()))
        return
    first = start.zfill(2) if start else ""  # "04", "4" or "04_evaluate"
    selected = [*dropwhile(lambda path: not path.stem.startswith(first), notebooks)]
    if not selected:
        known = ", ".join(path.stem for path in notebooks)
        raise ValueError(f"no notebook {start!r}: --from names one of {known}")
    given = check_parameters(dict(parameters), ChainMap(*declared.values()), preset)
    folder, record = open_run(preset, name, part=bool(start))
    about, preset = record["run"], record["run"]["preset"]
    about["parameters"] |= given
    states = about["notebooks"]
    states |= {path.stem: {"status": "not run", "seconds": 0, "error": ""} for path in selected}
    if selected[0].stem < "05":
        record["evaluation"] = {}  # it was of other data or of another model
    settings = PRESETS[preset] | about["parameters"] | {"outputs_dir": str(folder)}
    click.echo(f"{preset} run: {len(selected)} notebook(s) into {folder}")
    for path in selected:
        write_record(folder, record)
        values = {key: settings[key] for key in declared[path] if key in settings}
        began = time.monotonic()
        error = execute(path, folder, values, timeout or (86_400 if preset == "full" else 1800))
        status, seconds = "failed" if error else "ok", round(time.monotonic() - began)
        states[path.stem] = {"status": status, "seconds": seconds, "error": error}
        record["evaluation"] = read_record(folder)["evaluation"]  # 04_evaluate wrote over it
        click.echo(f"  {path.stem:<22} {status:<7} {seconds} s")
        if error:
            click.echo(f"{path.stem}, {error}", err=True)
            break
    about["status"] = min(state["status"] for state in states.values())  # failed < not run < ok
    write_record(folder, record)
    click.echo(f"report: {write_report(folder)}")
    if error:
        sys.exit(130 if re.match(r"cell \d+: KeyboardInterrupt", error) else 1)
    if preset != "smoke" or not resolve("outputs/checkpoints").exists():
        with folder_lock(resolve("outputs/checkpoints")):  # a training may go on there
            click.echo(f"copied {', '.join(publish(folder)) or 'nothing'} to {resolve('outputs')}")
