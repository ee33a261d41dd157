"""The process in which a submission is run: one notebook, or one checkpoint that is evaluated.

`python -m unetlib.app.worker JOB.json` writes what it finds to the job's file of events, a JSON
object per line. So what was done counts, also where the process is killed in the middle.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

from unetlib.app.execution import ANSI, this_python
from unetlib.app.rubric import check_in
from unetlib.app.submission import code_cells
from unetlib.exercise import MIME
from unetlib.paths import whole

GRACE = 3  # seconds that an interrupted cell has left
SAVE_EVERY = 2  # seconds
IMPORT = (  # a check needs no earlier cell for it, and does not care what one did to the module
    "import importlib, unetlib.exercise\nimportlib.reload(unetlib.exercise)\n"
    "from unetlib.exercise import exercise\n\n\n"
)
LARGEST_SET = 6000 * 320**2  # pixels of the synthetic photos that are drawn anew


class Ended(RuntimeError):
    """The notebook cannot go on."""


def main(path: str) -> None:
    """Do the job that a file describes; an error becomes the last event."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(job["events"], "w", encoding="utf-8") as file:

        def say(**event) -> None:
            file.write(json.dumps(event) + "\n")
            file.flush()

        try:
            (run_notebook if "notebook" in job else evaluate_checkpoint)(job, say)
        except Exception as error:  # a submission may be broken in any way
            known = isinstance(error, Ended | ValueError) and not isinstance(error, KeyError)
            name = "" if known else f"{type(error).__name__}: "
            say(error=" ".join(f"{name}{error}".split())[:600])


def run_notebook(job: dict, say) -> None:
    """Run the cells of a notebook, each for job["seconds"] at most, whatever the others did."""
    import nbformat

    path, executed = Path(job["notebook"]), Path(job["executed"])
    try:
        notebook = nbformat.read(path, as_version=4)
        say(**prepare(notebook, job["parameters"], job["checks"]))
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        counted = {id(cell): n for n, cell in enumerate(code_cells(notebook), 1)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Ended(f"the file is no readable notebook ({str(error)[:200]})") from error

    def save() -> float:
        with whole(executed) as part:
            nbformat.write(notebook, part)
        return time.monotonic()

    saved = save()
    with this_python():
        kernel = Kernel(path.parent, job["seconds"], job["output"])
        try:
            for cell in cells:
                if number := counted.get(id(cell)):
                    say(start=number)
                problem = kernel.run(cell)
                event = {"done": number, "problem": problem[:300], "tail": kernel.tail[-3000:]}
                if name := check_in(cell, job["checks"]):
                    event |= {"check": name, "value": kernel.value.get(MIME)}
                if number:
                    say(**event)
                if time.monotonic() - saved > SAVE_EVERY:
                    saved = save()
        finally:
            say(dropped=kernel.dropped)
            kernel.close()
            save()


def prepare(notebook, parameters: dict, checks: dict[str, str]) -> dict:
    """Put the course's checks and the parameters into a notebook; returns what was found there."""
    import nbformat

    changed, settings, found = [], [], set()
    for index, cell in enumerate(notebook.cells):
        name, tags = check_in(cell, checks), cell.metadata.get("tags", [])
        if name:
            changed += [name] * (cell.source.strip() != checks[name].strip())
            found.add(name)
            about = {**cell.metadata, "nbgrader": {"grade_id": name}}
            cell = nbformat.v4.new_code_cell(IMPORT + checks[name], metadata=about)
            notebook.cells[index] = cell
        elif "parameters" in tags or "injected-parameters" in tags:
            settings.append(cell)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    values = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    if not settings:  # an editor dropped the tags
        settings = [c for c in notebook.cells if "\noutputs_dir = " in f"\n{c.source}"][:1]
    for cell in settings[-1:]:  # the last has the last word: an earlier run put in a second one
        cell.source = f"{cell.source}\n# unetlib grade:\n{values}"
    missing = [name for name in checks if name not in found]
    return {"cells": len(code_cells(notebook)), "missing": missing, "changed": changed}


class Kernel:
    """A notebook's Python. `tail` is the error of the cell that ran last, `value` its result."""

    def __init__(self, folder: Path, seconds: float, output: int):
        from jupyter_client import KernelManager

        self.seconds, self.left, self.dropped = seconds, output, False
        self.tail, self.value = "", {}
        self.manager = KernelManager(kernel_name="python3")
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": str(folder)}
        options["extra_arguments"] = ["--HistoryManager.hist_file=:memory:"]  # not into the user's
        self.manager.start_kernel(**options)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=120)
        except RuntimeError as error:
            self.close()
            raise Ended(f"the notebook's Python did not start ({error})") from error

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, cell) -> str:
        """Run a cell and fill in its outputs. Returns what went wrong, or "".

        Raises Ended where the cell's process died, or goes on although it was interrupted.
        """
        self.tail, self.value, late = "", {}, ""
        request = self.client.execute(cell.source, allow_stdin=False, stop_on_error=False)
        end, problem, replied = time.monotonic() + self.seconds, "", False
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=0.25)
            except queue.Empty:
                message = None
                if not self.manager.is_alive():
                    raise Ended("the notebook's Python died") from None
                if replied:  # in a flood of outputs the last message may be lost
                    return late or problem
                replied = self._has_replied(request)
            if time.monotonic() > end:
                if late:
                    raise Ended(f"{late} and ignored the interrupt")
                late, end = f"ran longer than {self.seconds:g} s", time.monotonic() + GRACE
                self.manager.interrupt_kernel()
            if message is None or message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "execute_input":
                cell.execution_count = content["execution_count"]
            elif kind == "status" and content["execution_state"] == "idle":
                return late or problem
            elif kind == "error":
                problem = f"{content['ename']}: {content['evalue']}"
                self.tail = ANSI.sub("", "\n".join(content["traceback"]))
            if kind == "execute_result":
                self.value = content["data"]
            if kind in ("stream", "display_data", "execute_result", "error"):
                self._keep(cell.outputs, message)

    def _has_replied(self, request: str) -> bool:
        while True:
            try:
                reply = self.client.get_shell_msg(timeout=0)
            except queue.Empty:
                return False
            if reply["parent_header"].get("msg_id") == request:
                return True

    def _keep(self, outputs: list, message: dict) -> None:
        from nbformat import v4

        content = message["content"]
        size = len(content.get("text") or repr(content.get("data") or content.get("traceback")))
        if size <= self.left:
            self.left -= size
            outputs.append(v4.output_from_msg(message))
            return
        self.left, note = 0, "[unetlib grade: output was dropped, a notebook may write 5 MB]\n"
        if not self.dropped or not outputs or outputs[-1].get("text") != note:
            outputs.append(v4.new_output("stream", name="stderr", text=note))
        self.dropped = True


def evaluate_checkpoint(job: dict, say) -> None:
    """Measure a checkpoint on the val photos that its run was measured on."""
    from unetlib.app.course import declared_parameters
    from unetlib.data import open_settings, open_source
    from unetlib.evaluate import measure
    from unetlib.predict import Predictor

    settings = job["settings"]
    own = declared_parameters(Path(job["parameters_of"])) if job["parameters_of"] else {}
    settings |= {name: own[name] for name in settings if name in own}
    name = settings["source_root"] or settings["source"]
    predictor = Predictor(job["checkpoint"])
    count, size, seed = (int(settings[name]) for name in ("count", "image_size", "seed"))
    if name != "synthetic" and not job["source"]:
        raise Ended(f"it was measured on {name}: say with --source where these photos are")
    if name != "synthetic":
        photos = open_source(job["source"], seed=seed)
    else:
        if count < 1 or size < 1 or count * size**2 > LARGEST_SET:
            raise Ended(f"{count} photos of {size} x {size} are too many to be drawn again")
        folder = Path(job["data"]) / f"{count}-{size}-{seed}"
        photos = open_settings("synthetic", "", str(folder), count, size, seed)
        say(drawn={"count": count, "image_size": size})
    found = measure(predictor, photos.val, job["threshold"])
    say(measured={"n": len(found.table), **found.summary(resamples=1)["mean"]})


def _end_with_parent() -> None:
    os.read(0, 1)  # standard input ends where the grader does, even if that was killed
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
