"""The project's own errors, and the sentences that several of them share."""

import difflib
from collections.abc import Iterable
from importlib.util import find_spec


class CheckpointError(ValueError):
    """A network's file that cannot be read, written or used; the message names the file."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what to change."""


def hint(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for an unknown name that is close to a known one, else ""."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def need(*packages: str, extra: str) -> None:
    """Raises ImportError that says which extra to install where one of the packages is missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ImportError(f'{", ".join(missing)} is not installed: pip install "unetlib[{extra}]"')
