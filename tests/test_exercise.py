"""Exercises: what a check says, and those at the end of the six notebooks."""

import ast
import re
import textwrap
from pathlib import Path

import nbformat
import numpy as np
import pytest

from unetlib.exercise import MIME, UNTOUCHED, exercise

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
DEFAULT_STUB = "# YOUR CODE HERE\nraise NotImplementedError()"  # nbgrader's own
REGION = re.compile(r"^( *)### BEGIN SOLUTION\n(.*?)\n *### END SOLUTION", re.M | re.S)


@exercise
def check_double(answer):
    """Two times a number."""
    if answer(2) != 4:
        return "two times two is four"
    if answer(-1) != -2:
        return "and below zero?"


@pytest.fixture(autouse=True)
def not_under_nbgrader(monkeypatch):
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)


def student(source: str):
    """The function `f` of a cell of its own, as in a notebook."""
    space = {}
    exec(compile(textwrap.dedent(source).strip(), "a cell", "exec"), space)
    return space["f"]


def test_right_and_wrong():
    right, wrong = check_double(lambda x: 2 * x), check_double(lambda x: x)
    assert right.passed and right.hint is None and repr(right) == str(right) == "correct"
    assert not wrong.passed and repr(wrong) == "not yet: two times two is four"
    data = {"exercise": "check_double", "passed": False, "hint": "two times two is four"}
    assert wrong._repr_mimebundle_() == {"text/plain": repr(wrong), MIME: data}
    assert check_double(abs).hint == "two times two is four"
    assert check_double(lambda x: 2 * abs(x)).hint == "and below zero?"
    assert check_double.__name__ == "check_double" and check_double.__doc__


@pytest.mark.parametrize(
    "source",
    [
        "def f(x): ...",
        "def f(x): return ...",
        "def f(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()",
        "def f(x): print(2 * x)",
    ],
)
def test_untouched_is_no_error(source):
    assert check_double(student(source)).hint == UNTOUCHED
    assert "Error" not in UNTOUCHED and "None" not in UNTOUCHED


def test_errors_name_the_line_of_the_student():
    hint = check_double(student("def f(x):\n    return 1 / (x - x)")).hint
    assert hint == "line 2 of your code raised ZeroDivisionError: division by zero"
    source = """
        import json
        def half(x):
            return json.loads("{")

        def f(x):
            return half(x)
    """
    hint = check_double(student(source)).hint
    assert hint.startswith("line 3 of your code raised JSONDecodeError: "), hint
    wrong_call = check_double(student("def f(): return 4")).hint
    assert re.match(r"your code raised TypeError: f\(\) takes 0 positional", wrong_call)
    assert len(check_double(student("def f(x): raise ValueError('no' * 10**6)")).hint) == 300
    with pytest.raises(KeyboardInterrupt):
        check_double(student("def f(x): raise KeyboardInterrupt"))


def test_what_the_check_cannot_work_with():
    @exercise
    def check_number(answer):
        if not np.isclose(answer(), 1):
            return "one"

    assert "cannot work with this str" in check_number(lambda: "one").hint
    assert "'int' object is not callable" in check_number(3).hint
    assert check_number(lambda: np.float32(1)).passed

    @exercise
    def check_alone(answer):
        return None if answer() == not_yet_defined else "no"  # noqa: F821

    hint = check_alone(lambda: 1).hint
    assert "cells above first" in hint and "not_yet_defined" in hint


def test_under_nbgrader_wrong_answers_raise_and_right_ones_are_printed(monkeypatch, capsys):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(AssertionError, match="^two times two is four$"):
        check_double(lambda x: x)
    with pytest.raises(AssertionError, match=f"^{re.escape(UNTOUCHED)}$"):
        check_double(lambda x: None)
    assert check_double(lambda x: 2 * x) is None
    assert capsys.readouterr() == ("correct\n", "")
    monkeypatch.setenv("NBGRADER_EXECUTION", "")
    assert check_double(lambda x: 2 * x).passed


def metadata(cell) -> dict:
    return cell.metadata.get("nbgrader", {})


def parts(path: Path) -> tuple[list, list, list]:
    """(code cells before the exercises, check cells, solution cells) of a notebook."""
    notebook = nbformat.read(path, as_version=4)
    checks = [cell for cell in notebook.cells if metadata(cell).get("grade")]
    solutions = [cell for cell in notebook.cells if metadata(cell).get("solution")]
    start = next(i for i, c in enumerate(notebook.cells) if "## Exercises" in c.source)
    above = [cell for cell in notebook.cells[:start] if cell.cell_type == "code"]
    assert not [cell for cell in above if metadata(cell)]
    return above, checks, solutions


def last_call(cell) -> tuple[str, str]:
    """("check_x", "x") of a cell that ends with check_x(x)."""
    call = ast.parse(cell.source).body[-1].value
    return call.func.id, call.args[0].id


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_each_check_has_its_answer_and_its_solution(self, path):
        above, checks, solutions = parts(path)
        assert len(checks) == len(solutions) >= 3
        cells = nbformat.read(path, as_version=4).cells
        sources = [cell.source for cell in cells if cell.cell_type == "code"]
        for check, solution in zip(checks, solutions, strict=True):
            name, function = last_call(check)
            assert name == f"check_{function}"
            assert last_call(solution) == (name, f"{function}_solution")
            number = path.stem[:2]
            grade_id = f"{number}-{function.replace('_', '-')}"
            assert metadata(check)["grade_id"] == grade_id
            assert metadata(solution)["grade_id"] == f"{grade_id}-solution"
            answer = sources[sources.index(check.source) - 1]
            assert [node.name for node in ast.parse(answer).body] == [function]
            assert "# your code" in answer and len(answer.splitlines()) <= 5
            assert sources[sources.index(check.source) + 1] == solution.source
        assert "from unetlib.exercise import exercise" in checks[0].source
