"""One notebook through papermill: this very Python as kernel, a time limit, what went wrong."""

import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import unetlib

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def execute(notebook: Path, folder: Path, parameters: dict, timeout: float) -> dict:
    """Run a notebook with ``folder`` as output folder and working directory.

    Returns {"status": "ok" | "failed", "seconds", "file"} and, where it failed, "error": {"name",
    "message", "cell", "source", "traceback", "summary"}; the notebook as far as it came is kept.
    ``timeout`` is in seconds per cell.
    """
    import papermill

    output, began, failure = folder / notebook.name, time.monotonic(), None
    output.unlink(missing_ok=True)  # what an earlier run left must not pass for this one's
    bar = {"desc": f"  {notebook.stem}", "leave": False} if sys.stderr.isatty() else False
    with this_python(), _quiet("papermill", "traitlets"):
        try:
            papermill.execute_notebook(
                str(notebook),
                str(output),
                parameters=parameters,
                kernel_name="python3",
                cwd=str(folder),
                execution_timeout=timeout,
                start_timeout=120,
                progress_bar=bar,
            )
        except (Exception, KeyboardInterrupt) as error:  # the run goes on to its report
            failure = error
    result = {
        "status": "ok" if failure is None else "failed",
        "seconds": round(time.monotonic() - began, 1),
        "file": output.name,
    }
    if failure is not None:
        result["error"] = _explain(failure, output, timeout)
    return result


def clock(seconds: float) -> str:
    """Seconds for people: "8.4 s", "2 min 05 s", "3 h 07 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _explain(failure: BaseException, output: Path, timeout: float) -> dict:
    """What happened and in which cell, from the exception and the notebook as far as it came."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    if isinstance(failure, PapermillExecutionError):
        name, message = failure.ename, failure.evalue
    elif isinstance(failure, CellTimeoutError):
        name, message = "Timeout", f"the cell ran longer than {timeout:g} s (--timeout allows more)"
    elif isinstance(failure, DeadKernelError):
        name = "DeadKernel"
        message = (
            "the notebook's Python died, most often for want of memory: "
            "try a smaller batch_size or image_size"
        )
    elif isinstance(failure, KeyboardInterrupt):
        name, message = "KeyboardInterrupt", "stopped with Ctrl-C"
    else:
        name, message = type(failure).__name__, str(failure)
    cell, source, traceback = _failing_cell(output, name, message)
    line = " ".join(message.split())[:300]
    place = f"cell {cell} ({source}): " if cell else ""
    return {
        "name": name,
        "message": message,
        "cell": cell,
        "source": source,
        "traceback": traceback,
        "summary": f"{place}{name}: {line}".rstrip(": "),
    }


def _failing_cell(output: Path, name: str, message: str) -> tuple[int | None, str, str]:
    """Number (as in In [n]), first line and traceback of the cell that failed, or (None, "", "").

    papermill leaves no mark on a cell whose kernel died or hung, and calls it and all after it
    completed: the mark is set here, so that whoever opens the partial notebook sees where it ended.
    """
    import nbformat

    if not output.is_file():
        return None, "", ""
    notebook = nbformat.read(output, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    states = [cell.metadata.get("papermill", {}) for cell in cells]
    marked = [index for index, state in enumerate(states) if state.get("exception")]
    started = [index for index, state in enumerate(states) if state.get("start_time")]
    if not started:
        return None, "", ""
    index = marked[0] if marked else started[-1]
    outputs = cells[index].outputs
    errors = [line for out in outputs if out.output_type == "error" for line in out.traceback]
    if not marked:
        states[index].update(status="failed", exception=True)
        for state in states[index + 1 :]:
            state["status"] = "pending"
        outputs.append(nbformat.v4.new_output("error", ename=name, evalue=message))
        outputs[-1].traceback = [f"{name}: {message}"]
        nbformat.write(notebook, output)
    lines = [line.strip() for line in cells[index].source.splitlines() if line.strip()]
    code = next((line for line in lines if not line.startswith(("#", "%"))), "")
    return index + 1, code[:60], ANSI.sub("", "\n".join(errors))


@contextmanager
def this_python() -> Iterator[None]:
    """Make "python3" mean the interpreter that runs us, whatever kernels the user has installed."""
    from ipykernel.kernelspec import get_kernel_dict

    spec = get_kernel_dict()
    spec["argv"].append("--log-level=CRITICAL")  # else: TCP warnings, tracebacks of kernels we stop
    spec["env"] = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    checkout = Path(unetlib.__file__).resolve().parents[1]
    if (
        checkout / "pyproject.toml"
    ).is_file():  # not installed: the kernel must find it all the same
        paths = [str(checkout), os.environ.get("PYTHONPATH", "")]
        spec["env"]["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory(prefix="unetlib-kernel-") as folder:
        kernel = Path(folder) / "kernels" / "python3" / "kernel.json"
        kernel.parent.mkdir(parents=True)
        kernel.write_text(json.dumps(spec), encoding="utf-8")
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [folder, before]))
        try:
            yield
        finally:
            os.environ.pop("JUPYTER_PATH")
            if before is not None:
                os.environ["JUPYTER_PATH"] = before


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Errors come back as exceptions; the loggers would say them a second time, with tracebacks."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in loggers:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
