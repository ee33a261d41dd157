"""Exercises that check themselves, and say what is missing instead of "wrong".

A check is a function with `@exercise` before it. It gets the student's function, tries it, and
returns None when the answer is right, else a hint. A notebook shows "correct" or "not yet: HINT".
"""

import contextlib
import functools
import os
import sys
import traceback
from collections import namedtuple
from collections.abc import Callable

MIME = "application/vnd.unetlib.exercise+json"
UNTOUCHED = "nothing is returned so far. Write the function, end it with return, and come back"


class Verdict(namedtuple("Verdict", "exercise passed hint")):
    """What a check says: a sentence, and data (MIME) in a notebook. hint: None when passed."""

    def __repr__(self) -> str:
        return "correct" if self.passed else f"not yet: {self.hint}"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"text/plain": repr(self), MIME: self._asdict()}


def exercise(check: Callable) -> Callable[[Callable], Verdict | None]:
    """Turn `check` (student's function -> None or a hint) into one that returns a `Verdict`.

    Whatever the student's function raises becomes a hint. nbgrader (NBGRADER_EXECUTION is set)
    gives all points to a cell without an error, so a wrong answer raises AssertionError there; a
    right one is printed, as a value would pass for points.
    """

    @functools.wraps(check)
    def run(answer) -> Verdict | None:
        with contextlib.redirect_stderr(sys.stdout):  # nbgrader gives no points where there is any
            hint = _hint(check, answer)
        if not os.environ.get("NBGRADER_EXECUTION"):
            return Verdict(check.__name__, hint is None, hint)
        if hint is not None:
            raise AssertionError(hint)
        print("correct")

    return run


def _hint(check: Callable, answer: Callable) -> str | None:
    returned = []

    @functools.wraps(answer)
    def watched(*arguments, **named):
        returned.append(answer(*arguments, **named))
        return returned[-1]

    try:
        hint = check(watched)
    except NotImplementedError:
        return UNTOUCHED
    except (Exception, SystemExit) as error:
        text, calls = f"{type(error).__name__}: {error}", traceback.extract_tb(error.__traceback__)
        names = [call.name for call in calls]
        if "watched" in names:  # what follows is the student's
            calls = calls[names.index("watched") + 1 :]
            lines = [call.lineno for call in calls if call.filename == calls[0].filename]
            return f"{f'line {lines[-1]} of ' if lines else ''}your code raised {text}"[:300]
        if isinstance(error, NameError):
            return f"run the cells above first, the check needs them ({text})"
        kind = type(returned[-1]).__name__ if returned else "answer"
        hint = f"the check cannot work with this {kind} ({text})"[:300]
    untouched = returned and all(value is None or value is ... for value in returned)
    return UNTOUCHED if hint is not None and untouched else hint
