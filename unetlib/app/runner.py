"""Runs what was handed in: a copy of it, each notebook in a process of its own, with limits.

The limits protect from mistakes: loops, floods, lack of memory. This is no sandbox against somebody
who wants to do harm.
"""

import json
import os
import shutil
import site
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import unetlib
from unetlib.app.limits import GIGABYTE, Limits, folder_size, run_limited
from unetlib.app.pipeline import PRESETS
from unetlib.app.rubric import METRICS, Chapter, is_number
from unetlib.app.submission import (
    CHECKPOINT,
    Evidence,
    find_notebook,
    missing_notebook,
    outputs_of,
)
from unetlib.paths import whole

FORGED = "forged or stale"
TOLERANCE = 0.02  # by which claimed and measured numbers may differ: another device, other rounding
SETTINGS = {"source": "synthetic", "source_root": "", "count": 800, "image_size": 96, "seed": 0}
LENT = ("checkpoints", "timelapse")  # handed in, for the notebooks after a training that failed
NOT_COPIED = ("data", "outputs", "executed", "unetlib", "__pycache__")  # and what is hidden


class Runner:
    """Runs submissions below the folder `work`, which the caller removes.

    `threads`: of PyTorch in each notebook; more than there are cores for all slow down everything.
    """

    def __init__(
        self,
        course: dict[str, Chapter],
        work: Path,
        limits: Limits,
        source: str,
        stop: threading.Event,
        threads: int,
    ):
        self.course, self.work, self.limits, self.source = course, work, limits, source
        self.stop, self.threads, self._measuring = stop, threads, threading.Lock()

    def run(self, name: str, folder: Path, executed: Path) -> Evidence:
        """Copy a submission, run its notebooks and measure its network.

        The executed notebooks go to the folder ``executed``. Raises OSError where the submission
        cannot be copied.
        """
        place, handed_in = self.work / name, outputs_of(folder)
        evidence = Evidence([handed_in, place / "outputs"])
        if executed.is_symlink():  # handed in, to have something else overwritten
            executed.unlink()
        executed.mkdir(parents=True, exist_ok=True)  # first, since it fails where it cannot be
        for part in ("temp", "packages", "outputs", "executed"):
            (place / part).mkdir(parents=True)
        if folder_size(folder, _not_copied) > self.limits.disk:
            raise OSError(f"{folder} is larger than {self.limits.disk / GIGABYTE:g} GB")
        shutil.copytree(folder, place / "submission", ignore=_not_copied)
        end = time.monotonic() + self.limits.submission
        for stem, chapter in self.course.items():
            if stem[:2] > "03":
                _lend(handed_in, place / "outputs")
            path = find_notebook(place / "submission", stem)
            evidence.add_notebook(chapter, *self._run_notebook(path, chapter, place, end))
        if not list((place / "executed").iterdir()):
            evidence.flags.append("no notebook that runs")
        self._measure(folder, place, evidence)
        for path in (place / "executed").glob("*.ipynb"):
            with whole(executed / path.name) as part:
                shutil.copyfile(path, part)
        return evidence

    def _run_notebook(self, path: Path | None, chapter: Chapter, place: Path, end: float):
        """Its events, and why it was stopped."""
        seconds = min(self.limits.notebook, end - time.monotonic())
        if path is None:
            return [], missing_notebook(place / "submission", chapter.stem)
        if seconds <= 0:
            return [], f"the submission's {self.limits.submission:.0f} s were used up before it"
        values = PRESETS["smoke"].parameters | {
            "outputs_dir": str(place / "outputs"),
            "data_dir": str(place / "data"),
        }
        job = {
            "notebook": str(path),
            "executed": str(place / "executed" / path.name),
            "parameters": {k: v for k, v in values.items() if k in chapter.parameters},
            "checks": {name: check.source for name, check in chapter.checks.items()},
            "seconds": self.limits.cell,
            "output": self.limits.output,
        }
        return self._work(job, place, seconds)

    def _measure(self, folder: Path, place: Path, evidence: Evidence) -> None:
        """Evaluate the checkpoint that was handed in, and compare with what metrics.json says."""
        run, checkpoint = evidence.read_claims(), evidence.outputs[0] / CHECKPOINT
        if not evidence.doubt and not checkpoint.is_file():
            evidence.doubt = f"there is no {CHECKPOINT} to measure again"
        if evidence.doubt:
            return
        last = [chapter for stem, chapter in self.course.items() if stem[:2] == "04"]
        preset, given = PRESETS.get(str(run.get("preset"))), run.get("parameters")
        asked = SETTINGS | (last[0].parameters if last else {})
        known = asked | (preset.parameters if preset else {})
        known |= given if isinstance(given, dict) else {}
        notebook = find_notebook(folder, "04_evaluate")
        job = {
            "checkpoint": str(checkpoint),
            "source": self.source,
            "settings": {name: known[name] for name in SETTINGS},
            "parameters_of": "" if run or notebook is None else str(notebook),  # no record: ask it
            "threshold": evidence.claimed.get("threshold", 0.5),
            "data": str(self.work / "photos of the grader"),
        }
        with self._measuring:  # the first draws the photos that others are measured on, too
            events, reason = self._work(job, place, self.limits.notebook)
        facts = {key: value for event in events for key, value in event.items()}
        if "measured" not in facts:
            reason = reason or facts.get("error", "")
            evidence.doubt = f"the network could not be measured: {reason}"
            return
        evidence.measured, drawn = facts["measured"], facts.get("drawn", {})
        small = [f"{key} {value}" for key, value in drawn.items() if value < asked[key]]
        if small:  # easier than the course's photos, or so few that luck decides
            evidence.flags.append(f"scores on easy photos: {', '.join(small)}")
        wrong = [
            f"{name} {str(claim):.20} is claimed, but the checkpoint gives {measured:.3f}"
            for name in METRICS
            if (claim := evidence.claimed.get(name)) is not None
            and not _agree(claim, measured := evidence.measured[name])
        ]
        if wrong:
            evidence.doubt = f"{FORGED}: {'; '.join(wrong)}"
            evidence.flags.append(FORGED)

    def _work(self, job: dict, place: Path, seconds: float) -> tuple[list[dict], str]:
        """Give a job to a process of its own. Returns its events, and why it was stopped."""
        path, log, temp = place / "job.json", place / "events.jsonl", str(place / "temp")
        packages = str(place / "packages")
        log.unlink(missing_ok=True)
        path.write_text(json.dumps({**job, "events": str(log)}), encoding="utf-8")
        code = str(Path(unetlib.__file__).resolve().parents[1])
        environment = {**os.environ, "UNETLIB_ROOT": str(place)}
        environment |= dict.fromkeys(("TMPDIR", "TMP", "TEMP"), temp)
        environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        paths = [code, os.environ.get("PYTHONPATH", "")]
        if "notebook" in job:  # keep its hands off the home folder and the installed packages
            environment |= dict.fromkeys(("HOME", "USERPROFILE", "UNETLIB_CACHE"), temp)
            environment["PYTHONUSERBASE"] = site.getuserbase()  # else it is looked for in HOME
            environment["MPLCONFIGDIR"] = str(self.work / "matplotlib")  # its fonts: found once
            environment["PIP_TARGET"] = packages
            paths.insert(1, packages)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        environment.pop("NBGRADER_EXECUTION", None)  # checks would raise, instead of a verdict
        command = [sys.executable, "-m", "unetlib.app.worker", str(path)]
        reason = run_limited(command, place, environment, seconds, self.limits, self.stop)
        events = []
        with suppress(FileNotFoundError):
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):  # the last line of one that was killed
                    events.append(json.loads(line))
        if not events:
            said = (place / "stderr.txt").read_text(encoding="utf-8", errors="replace")
            reason = f"{reason} {said[-300:]}".strip()
        return events, reason


def _agree(claimed, measured: float) -> bool:
    return is_number(claimed) and abs(claimed - measured) <= TOLERANCE


def _lend(handed_in: Path, outputs: Path) -> None:
    for part in LENT:
        if (handed_in / part).is_dir() and not (outputs / part).exists():
            shutil.copytree(handed_in / part, outputs / part, ignore=_links)


def _links(folder: str, names: list[str]) -> list[str]:
    """What is not copied: nothing outside of a submission, no pipes."""
    paths = {name: os.path.join(folder, name) for name in names}
    return [
        name
        for name, path in paths.items()
        if os.path.islink(path) or not (os.path.isfile(path) or os.path.isdir(path))
    ]


def _not_copied(folder: str, names: list[str]) -> list[str]:
    return [*_links(folder, names), *(name for name in names if _is_left_out(folder, name))]


def _is_left_out(folder: str, name: str) -> bool:
    environment = os.path.isfile(os.path.join(folder, name, "pyvenv.cfg"))
    return name in NOT_COPIED or name.startswith(".") or environment
