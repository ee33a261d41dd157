"""The console command: options reach the run, errors are one line, exit codes mean something."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_course import write_course

from unetlib.app import cli, course

ROOT = Path(__file__).resolve().parents[1]


def call(*args) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(args))
    return exit_.value.code or 0


@pytest.fixture
def toy(root, tmp_path, monkeypatch) -> Path:
    """The command runs a toy course, from a folder that is not the checkout."""
    folder = write_course(tmp_path / "course")
    real = course.find_notebooks
    for module in ("unetlib.app.pipeline", "unetlib.app.course"):
        monkeypatch.setattr(f"{module}.find_notebooks", lambda given=None: real(given or folder))
    return tmp_path / "root" / "outputs" / "runs"


def test_options_reach_the_run(toy, capsys):
    assert call("run", "--name", "mine", "-p", "seed", "5", "-p", "lr", "-1", "--only", "01") == 0
    said = capsys.readouterr()
    assert "01_data                ok" in said.out and "report.html" in said.out
    assert "Traceback" not in said.err
    assert "5 -1.0 False" in (toy / "mine" / "01_data.ipynb").read_text(encoding="utf-8")
    assert call("run", "--name", "mine", "--from", "04", "--timeout", "60") == 0
    assert (toy / "mine" / "06_timelapse.ipynb").is_file()


def test_a_failing_notebook_is_one_line_on_stderr_and_exit_code_1(toy, tmp_path, capsys):
    write_course(tmp_path / "course", "1 / 0")
    assert call("run", "smoke") == 1
    line = "04_evaluate, cell 3 (1 / 0): ZeroDivisionError: division by zero\n"
    assert capsys.readouterr().err == line
    assert list(toy.glob("smoke-*/report.html"))


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["run", "quik"], 2, "unetlib: unknown preset 'quik': did you mean 'quick'?"),
        (["run", "-p", "sed", "1"], 2, "unetlib: unknown parameter 'sed': did you mean 'seed'?"),
        (["run", "-p", "seed"], 2, "Option '-p' requires 2 arguments"),
        (["run", "smoke", "--preset", "full"], 2, "two presets: smoke and full"),
        (["run", "--only", "04"], 2, "unetlib: there is no quick run"),
        (["run", "-p", "photo", "gone.jpg"], 1, "unetlib: 'gone.jpg' not found"),
        (["run", "--timeout", "soon"], 2, "'soon' is not a valid float"),
        (["fly"], 2, "No such command 'fly'"),
    ],
)
def test_errors_for_people(toy, capsys, args, code, words):
    assert call(*args) == code
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    assert not toy.exists()


def test_debug_shows_the_traceback(toy):
    with pytest.raises(ValueError, match="unknown preset"):
        cli.main(["run", "quik", "--debug"])


def test_ctrl_c_outside_a_notebook(toy, monkeypatch, capsys):
    def pressed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_course", pressed)
    assert call("run") == 130
    assert "Ctrl-C" in capsys.readouterr().err


def test_list_runs_nothing(toy, capsys):
    assert call("run", "--list") == 0
    said = capsys.readouterr().out
    assert "smoke" in said and "04_evaluate\n" in said
    assert "  lr             0.001\n" in said
    assert not toy.exists()


def test_module_and_console_command_are_the_same_and_quick():
    began = time.monotonic()
    module = subprocess.run(
        [sys.executable, "-m", "unetlib", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert module.stdout.split() == ["unetlib,", "version", "0.1.0"]
    assert time.monotonic() - began < 10  # 0.1 s when nothing else runs; torch alone takes seconds
    from importlib.metadata import entry_points

    (command,) = entry_points(group="console_scripts", name="unetlib")
    assert command.load() is cli.main
