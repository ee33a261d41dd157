"""What the course consists of: its notebooks, the parameters they declare, and values for them."""

import ast
import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import unetlib
from unetlib.paths import find_input, project_root

INPUT_PATHS = ("source_root", "photo", "init_from")  # typed relative to where a person is


def find_notebooks(folder: Path | None = None) -> list[Path]:
    """The course's notebooks in order: those of the checkout, or of the folder given."""
    checkout = Path(unetlib.__file__).resolve().parents[1] / "notebooks"
    places = [folder] if folder else [checkout, project_root() / "notebooks", Path("notebooks")]
    for place in places:
        found = sorted(Path(place).resolve().glob("[0-9][0-9]_*.ipynb"))
        if found:
            return found
    raise ValueError(
        f"no notebooks (01_….ipynb) in {places[0]}: run this from a checkout of the project, "
        "they are not part of the installed package"
    )


def select(notebooks: list[Path], only: Sequence[str], start: str | None) -> list[Path]:
    """The part of the course that ``only`` (some notebooks) or ``start`` (from one on) names."""

    def position(wanted: str) -> int:
        for index, path in enumerate(notebooks):
            number, _, rest = path.stem.partition("_")
            if wanted.removesuffix(".ipynb") in (path.stem, number, number.lstrip("0"), rest):
                return index
        names = ", ".join(path.stem for path in notebooks)
        raise ValueError(f"there is no notebook {wanted!r}: the course has {names}")

    if only and start:
        raise ValueError("--only and --from exclude each other: one names notebooks, one a start")
    if start:
        return notebooks[position(start) :]
    wanted = sorted({position(part) for text in only for part in text.split(",")})
    return [notebooks[index] for index in wanted] or notebooks


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Names and default values of the notebook's `parameters` cell."""
    import papermill

    found = {}
    for name, parameter in papermill.inspect_notebook(str(notebook)).items():
        try:
            found[name] = ast.literal_eval(parameter["default"])
        except (ValueError, SyntaxError):  # a default that is computed has no type to go by
            found[name] = None
    return found


def check_parameters(given: dict[str, Any], declared: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Typed parameters; ValueError for a name that no notebook declares or a value of a wrong type.

    Folders and files that a person typed become absolute here, since the notebooks run elsewhere.
    """
    defaults: dict[str, Any] = {}
    for notebook in declared.values():
        defaults = {**notebook, **defaults}
    defaults.pop("outputs_dir", None)
    checked = {}
    for name, value in given.items():
        if name == "outputs_dir":
            raise ValueError("each run has its own outputs_dir, outputs/runs/NAME: use --name")
        known("parameter", name, defaults)
        checked[name] = typed(name, value, defaults[name])
        if name in INPUT_PATHS and checked[name]:
            checked[name] = str(find_input(checked[name]))
        if name == "source":
            from unetlib.data.sources import absolute_spec  # brings NumPy: not for --help

            checked[name] = absolute_spec(checked[name])
    return checked


def typed(name: str, value: Any, default: Any) -> Any:
    """Text from the command line as the type of the notebook's default; other values unchanged."""
    if not isinstance(value, str) or default is None or isinstance(default, str):
        return value
    try:
        if isinstance(default, bool):
            return {"true": True, "yes": True, "false": False, "no": False}[value.lower()]
        return type(default)(value)
    except (KeyError, ValueError, TypeError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}
        expected = kind.get(type(default), type(default).__name__)
        raise ValueError(
            f"parameter {name} is {expected} (default {default!r}), not {value!r}"
        ) from None


def known(kind: str, name: str, names: Collection[str]) -> None:
    """ValueError with the nearest and all known names, unless ``name`` is one of them."""
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(sorted(names))}")
