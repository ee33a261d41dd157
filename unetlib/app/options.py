"""The options of `unetlib train`, made from the fields of `TrainOptions`, and its YAML file."""

from dataclasses import fields
from typing import Any

import click

from unetlib.config import ALIASES, TrainConfig, TrainOptions, read_options
from unetlib.paths import find_input


def training_options(command):
    """Adds an option for each setting to a click command. One that is not given is None."""
    other_names = {name: alias for alias, name in ALIASES.items()}
    how = {f.name for f in fields(TrainConfig)}  # listed behind what and where
    for f in sorted(reversed(fields(TrainOptions)), key=lambda f: f.name not in how):
        kind, switch = type(f.default), f.name.replace("_", "-")
        names = [f"--{switch}", f.name]
        if f.name in other_names:
            names.insert(1, f"--{other_names[f.name].replace('_', '-')}")
        flag = kind is bool or f.name == "resume"
        if flag:
            names[0] = f"--{switch}/--no-{switch}"
        choices = "" if flag else ", ".join(f.metadata["choices"] or ())
        shown = {True: "yes", False: "no"}[f.default] if kind is bool else f.default
        default = f"default {shown:g}" if kind is float else f"default {shown}"
        facts = "; ".join([choices] * bool(choices) + [default] * (shown != ""))
        text = (
            f.metadata["help"][0].upper()
            + f.metadata["help"][1:]
            + (f" [{facts}]." if facts else ".")
        )
        option = click.option(
            *names, type=bool if flag else kind, default=None, help=text,
            metavar=None if flag else {int: "N", float: "X", str: "TEXT"}[kind],
        )  # fmt: skip
        command = option(command)
    return command


def read_settings(path: str) -> dict[str, Any]:
    """The settings in a YAML file, checked names. Raises ValueError that names the file."""
    import yaml

    file = find_input(path)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} should hold lines like `epochs: 20`, not {content!r:.60}")
    return read_options(content, str(file))
