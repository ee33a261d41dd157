"""What people touch: the command line, the headless course and the web page."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from unetlib.errors import unknown
from unetlib.paths import read_text


class Command(click.Command):
    """A command of unetlib. It has --debug, which `cli.main` reads, and refuses empty values, which
    are most often variables that are not set: ValueError names the parameter."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if "debug" not in {param.name for param in self.params}:
            options = {"is_flag": True, "expose_value": False, "help": "Show tracebacks of errors."}
            self.params.append(click.Option(["--debug"], **options))

    def invoke(self, ctx: click.Context):
        given = [(param, ctx.params.get(param.name)) for param in self.params]
        for param, value in given:
            if isinstance(value, tuple):  # given several times, or a pair
                given += [(param, one) for one in value]
            elif isinstance(value, str) and not value.strip():
                hint = param.get_error_hint(ctx)
                raise ValueError(f"{hint} is empty (a variable that is not set?)")
            elif value != value:  # no limit stops NaN
                raise ValueError(f"{param.get_error_hint(ctx)}: {value} is no number")
        return super().invoke(ctx)


def setting_name(name: Any, value: Any, known: Iterable[str]) -> str:
    """The name of a setting, with `_` for `-`. Raises ValueError for another than those that are
    known, and for a value that is not one text."""
    plain = str(name).replace("-", "_").lower()
    if plain not in known:
        raise ValueError(unknown("setting", plain, known))
    if not isinstance(value, str) or value.strip() in ("", "~", "null"):
        raise ValueError(f"{plain} is empty (a variable that is not set?), or not one value")
    return plain


def read_settings(file: Path, known: Iterable[str]) -> dict[str, str]:
    """What a file of settings says: YAML, of which JSON is a part. Raises ValueError that names the
    file: no such lines, and what `setting_name` raises."""
    import yaml

    text = read_text(file).expandtabs()  # YAML refuses the tabs of JSON
    try:  # texts only: YAML would make 202405 of 2024_05, and False of no
        lines = yaml.load(text, yaml.BaseLoader) or {}
        if not isinstance(lines, dict):
            raise ValueError(f"it should have lines like `NAME: VALUE`, not {lines!r:.60}")
        return {setting_name(name, value, known): value for name, value in lines.items()}
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from error
