"""The console command as a process: options reach the run, errors are one line, exit codes."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from toy_course import write_course


def unetlib(*args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "unetlib", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture
def runs(root):
    """The folder of the runs of a toy course, not made yet."""
    write_course(root / "notebooks", "1 / 0")
    return root / "outputs" / "runs"


def test_a_run_and_its_failure_as_a_process(runs):
    said = unetlib("run", "--list").stdout
    assert "04_evaluate\n" in said and "  lr             0.001\n" in said and not runs.exists()
    first = unetlib("run", "--name", "mine", "-p", "seed", "5", "-p", "lr", "-1", "--only", "01")
    assert first.returncode == 0, first.stderr
    assert "01_data                ok" in first.stdout and "report.html" in first.stdout
    assert "5 -1.0 False" in (runs / "mine" / "01_data.ipynb").read_text(encoding="utf-8")
    rest = unetlib("run", "--name", "mine", "--from", "04", "--timeout", "60")
    assert rest.returncode == 1
    assert rest.stderr == "04_evaluate, cell 3: ZeroDivisionError: division by zero\n"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["run", "quik"], 2, "'quik' is not one of 'smoke', 'quick', 'full'"),
        (["run", "-p", "sed", "1"], 2, "unetlib: no parameter 'sed'. Did you mean 'seed'?"),
        (["run", "-p", "photo", "gone.jpg"], 1, "unetlib: 'gone.jpg' not found"),
        (["fly"], 2, "No such command 'fly'"),
    ],
)
def test_errors_for_people(runs, args, code, words):
    result = unetlib(*args)
    assert result.returncode == code and words in result.stderr
    assert "Traceback" not in result.stderr and not runs.exists()
    if code == 1:
        assert "Traceback" in unetlib(*args, "--debug").stderr


def test_module_and_console_command_are_the_same():
    from unetlib.app.cli import main

    assert unetlib("--version").stdout.startswith("unetlib, version")
    (command,) = entry_points(group="console_scripts", name="unetlib")
    assert command.load() is main
