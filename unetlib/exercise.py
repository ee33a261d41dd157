"""Exercises that check themselves, and say what is missing instead of "wrong".

A check is a function with `@exercise` before it. It gets the student's function, tries it, and
returns None when the answer is right, else a hint. A notebook shows "correct" or "not yet: HINT".
"""

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

MIME = "application/vnd.unetlib.exercise+json"
UNTOUCHED = "nothing is returned so far. Write the function, end it with return, and come back"


@dataclass(frozen=True)
class Verdict:
    """What a check says, shown as a sentence, and stored in a notebook as data (MIME) as well."""

    exercise: str
    hint: str | None = None

    @property
    def passed(self) -> bool:
        return self.hint is None

    def __repr__(self) -> str:
        return "correct" if self.passed else f"not yet: {self.hint}"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        data = {"exercise": self.exercise, "passed": self.passed, "hint": self.hint}
        return {"text/plain": repr(self), MIME: data}


def exercise(check: Callable) -> Callable[[Callable], Verdict | None]:
    """Turn `check` (student's function -> None or a hint) into one that returns a `Verdict`.

    Whatever the student's function raises becomes a hint, and so does what the check cannot work
    with. Only under nbgrader (NBGRADER_EXECUTION is set) a wrong answer raises AssertionError with
    the hint, because nbgrader gives all points to a cell without an error. A right one is printed
    there: nbgrader would take a cell's value for a number of points.
    """

    @functools.wraps(check)
    def run(answer) -> Verdict | None:
        # A warning is not a wrong answer, but nbgrader gives no points to a cell with stderr.
        with contextlib.redirect_stderr(sys.stdout):
            verdict = Verdict(check.__name__, _hint(check, answer))
        if not os.environ.get("NBGRADER_EXECUTION"):
            return verdict
        if not verdict.passed:
            raise AssertionError(verdict.hint)
        print(verdict)

    return run


def _hint(check: Callable, answer) -> str | None:
    if not callable(answer):
        return f"the answer should be a function, its type is {type(answer).__name__}"
    kinds, raised, line = [], None, ""  # types of what was returned; the last error, and where

    def watched(*arguments, **named):
        nonlocal raised, line
        try:
            value = answer(*arguments, **named)
        except (Exception, SystemExit) as error:
            calls = traceback.extract_tb(error.__traceback__)[1:]  # the first one is this function
            lines = [call.lineno for call in calls if call.filename == calls[0].filename]
            raised, line = error, f" in line {lines[-1]}" if lines else ""
            raise
        kinds.append(type(value))
        return value

    try:
        hint = check(functools.update_wrapper(watched, answer, updated=()))
    except (Exception, SystemExit) as error:
        if isinstance(error, NotImplementedError) and not error.args:
            return UNTOUCHED
        if error is raised:
            return f"your code raised {type(error).__name__}{line}: {error}"[:300]
        hint = f"{type(error).__name__}: {error}"[:300]
        if isinstance(error, NameError):
            return f"run the cells above first, the check needs them ({hint})"
        hint = f"the check cannot work with this {kinds[-1].__name__ if kinds else 'one'} ({hint})"
    silent = kinds and {type(None), type(...)}.issuperset(kinds)
    return UNTOUCHED if hint is not None and silent else hint
