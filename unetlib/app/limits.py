"""A process that is not trusted: it ends when it takes too much, and all its children with it."""

import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GIGABYTE = 10**9
MARK = "UNETLIB_GRADING"  # in the environment of all that a submission starts: how they are found


@dataclass(frozen=True)
class Limits:
    """What a submission may take: seconds of a cell, and bytes.

    A notebook may take 4 times as long as a cell, a submission 8 times.
    """

    cell: float = 300
    memory: int = 4 * GIGABYTE  # of all its processes together
    disk: int = 4 * GIGABYTE
    output: int = 5_000_000  # of a notebook, in its cells

    def __post_init__(self):
        if not 0 < self.cell < float("inf") or not 0 < self.memory < float("inf"):
            raise ValueError("--timeout (seconds) and --memory (gigabytes) are numbers above 0")

    @property
    def notebook(self) -> float:
        return 4 * self.cell

    @property
    def submission(self) -> float:
        return 8 * self.cell


def run_limited(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    seconds: float,
    limits: Limits,
    stop: threading.Event,
) -> str:
    """Run a command with ``folder`` as working directory, and end all that it started.

    Returns why it was stopped ("took more than 4 GB of memory"), or "" where it ended by itself.
    Its standard input stays open as long as this process lives; what it prints to standard error
    is in ``folder``/stderr.txt.
    """
    import psutil

    mark = uuid.uuid4().hex
    options = {"cwd": folder, "env": {**environment, MARK: mark}}
    if os.name == "nt":  # Ctrl-C is for the grader, which then ends its children
        options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
    else:
        options["start_new_session"] = True
    with open(folder / "stderr.txt", "wb") as errors:
        process = psutil.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, **options
        )
    family, end, look = {process}, time.monotonic() + seconds, 0.0
    try:
        while True:
            with suppress(psutil.TimeoutExpired):
                code = process.wait(0.3)
                return f"its process died (exit code {code})" if code else ""
            with suppress(psutil.NoSuchProcess):
                family.update(process.children(recursive=True))
            if stop.is_set():
                return "the grading was stopped"
            if time.monotonic() > end:
                return f"it took longer than {seconds:.0f} s"
            taken, allowed = sum(map(_memory, family)) / GIGABYTE, limits.memory / GIGABYTE
            if taken > allowed:
                return f"it took {taken:.1f} GB of memory, allowed are {allowed:g} GB"
            if time.monotonic() > look:
                look = time.monotonic() + 1
                if folder_size(folder) > limits.disk:
                    return f"it wrote more than {limits.disk / GIGABYTE:g} GB to the disk"
    finally:
        _end(family, mark)
        process.stdin.close()


def folder_size(folder: Path, ignore: Callable = lambda place, names: ()) -> int:
    """Bytes of the files below a folder but for what ``ignore`` names, as in `shutil.copytree`;
    what vanishes meanwhile does not count."""
    total = 0
    for place, folders, names in os.walk(folder):
        left_out = set(ignore(place, folders + names))
        folders[:] = set(folders) - left_out
        for name in set(names) - left_out:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _memory(process) -> int:
    import psutil

    try:
        return process.memory_info().rss
    except psutil.Error:  # it ended
        return 0


def _end(family: set, mark: str) -> None:
    """Kill the processes, and those that cut the ties to them: these still carry the mark."""
    import psutil

    for _ in range(60):  # what forks while it is killed is found in the next round
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == mark:
                    family.add(process)
        living = [process for process in family if _lives(process)]
        for process in living:
            with suppress(psutil.Error):
                process.kill()
        if not living:
            return
        psutil.wait_procs(living, timeout=0.05)


def _lives(process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
