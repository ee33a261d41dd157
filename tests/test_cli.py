"""The console command as a process: errors are one line, exit codes."""

from importlib.metadata import entry_points

import click
import pytest
from toy_course import write_course

from unetlib.app import cli


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["run", "quik"], 2, "'quik' is not one of 'smoke', 'quick', 'full'"),
        (["run", "-p", "photo", "gone.jpg"], 1, "unetlib: 'gone.jpg' not found"),
        (["fly"], 2, "No such command 'fly'"),
    ],
)
def test_errors_for_people(root, unetlib, args, code, words):
    write_course(root / "notebooks")
    result = unetlib(*args)
    assert result.returncode == code and words in result.stderr
    assert "Traceback" not in result.stderr and not (root / "outputs").exists()
    if code == 1:
        assert "Traceback" in unetlib(*args, "--debug").stderr


def test_an_error_that_nobody_foresaw_is_one_line_too(monkeypatch, capsys):
    monkeypatch.setitem(cli.app.commands, "odd", click.Command("odd", callback=lambda: {}["x"]))
    with pytest.raises(SystemExit, match="1"):
        cli.main(["odd"])
    assert capsys.readouterr().err == "unetlib: KeyError: 'x' (--debug shows the traceback)\n"


def test_no_parameter_takes_an_empty_value():
    for name, command in cli.app.commands.items():
        texts = [p for p in command.params if isinstance(p.type, click.types.StringParamType)]
        needed = ["x"] if any(p.required for p in texts) else []
        for param in (param for param in texts if param.nargs == 1):
            value = [param.opts[0], "", *needed] if isinstance(param, click.Option) else [""]
            with pytest.raises(ValueError, match="is empty"):
                cli.app.main([name, *value], standalone_mode=False)
    with pytest.raises(ValueError, match="is empty"):
        cli.app.main(["run", "-p", "photo", ""], standalone_mode=False)


def test_module_and_console_command_are_the_same(unetlib):
    assert unetlib("--version").stdout.startswith("unetlib, version")
    (command,) = entry_points(group="console_scripts", name="unetlib")
    assert command.load() is cli.main
