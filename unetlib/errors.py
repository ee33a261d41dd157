"""The project's own errors, and the sentences that several of them share."""

import difflib
from collections.abc import Iterable
from importlib.util import find_spec


class CheckpointError(ValueError):
    """A network's file that cannot be read, written or used; the message names the file."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what to change."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown name: the most similar known name, and the list of all."""
    close = difflib.get_close_matches(str(name).lower(), known := list(known), n=1, cutoff=0.5)
    near = f" Did you mean {close[0]!r}?" if close else ""
    return f"no {kind} is called {name!r:.200}.{near} There are {', '.join(known)}"


def need(*packages: str, extra: str) -> None:
    """Raises ImportError that says which extra to install where one of the packages is missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ImportError(f'{", ".join(missing)} is not installed: pip install "unetlib[{extra}]"')
