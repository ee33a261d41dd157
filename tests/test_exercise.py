"""Exercises: what a check says, and those at the end of the six notebooks."""

import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest
import torch

from unetlib.data import split_fraction
from unetlib.exercise import MIME, UNTOUCHED, exercise
from unetlib.losses import dice_loss
from unetlib.models import count_parameters

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


@exercise
def check_loud(answer):
    if answer() != 1:
        return "one"


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
    assert check_double(abs).hint == "two times two is four"
    assert check_double(lambda x: 2 * abs(x)).hint == "and below zero?"
    assert check_double.__name__ == "check_double" and check_double.__doc__


def test_the_data_beside_the_sentence():
    for verdict in (check_double(lambda x: 2 * x), check_double(lambda x: x)):
        bundle = verdict._repr_mimebundle_(include=None, exclude=None)
        assert bundle == {
            "text/plain": repr(verdict),
            MIME: {"exercise": "check_double", "passed": verdict.passed, "hint": verdict.hint},
        }
        assert json.loads(json.dumps(bundle)) == bundle


@pytest.mark.parametrize(
    "source",
    [
        "def f(x): return None  # your code",
        "def f(x): ...",
        "def f(x): return ...",
        "def f(x): raise NotImplementedError",
        "def f(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()",
        "def f(x): print(2 * x)",
    ],
)
def test_untouched_is_no_error(source):
    assert check_double(student(source)).hint == UNTOUCHED
    assert "Error" not in UNTOUCHED and "None" not in UNTOUCHED


def test_none_is_an_answer_where_the_check_says_so():
    @exercise
    def check_nothing(answer):
        if answer(1) is not None:
            return "None for one"

    assert check_nothing(lambda x: None).passed
    assert check_nothing(lambda x: x).hint == "None for one"
    # Something was returned once, so this one is not untouched.
    assert check_double(lambda x: 4 if x > 0 else None).hint == "and below zero?"


def test_errors_name_the_line_of_the_student():
    hint = check_double(student("def f(x):\n    return 1 / (x - x)")).hint
    assert hint == "your code raised ZeroDivisionError in line 2: division by zero"
    source = """
        import json
        def half(x):
            return json.loads("{")

        def f(x):
            return half(x)
    """
    hint = check_double(student(source)).hint
    assert hint.startswith("your code raised JSONDecodeError in line 3: "), hint
    assert "RecursionError in line 1" in check_double(student("def f(x): return f(x)")).hint
    wrong_call = check_double(student("def f(): return 4")).hint
    assert re.match(r"your code raised TypeError: f\(\) takes 0 positional", wrong_call)
    assert (
        "SystemExit in line 2" in check_double(student("def f(x):\n    raise SystemExit(0)")).hint
    )
    assert len(check_double(student("def f(x): raise ValueError('no' * 10**6)")).hint) == 300
    todo = student("def f(x): raise NotImplementedError('negative x')")
    assert check_double(todo).hint.endswith("NotImplementedError in line 1: negative x")


def test_the_same_error_again_is_told_from_one_that_the_check_expects():
    @exercise
    def check_strict(answer):
        try:
            answer(-1)
        except ValueError:
            return None if answer(4) - 2 == 0 else "the root of four"
        return "raise ValueError below zero"

    def root(x):
        if x < 0:
            raise ValueError(x)
        return x**0.5

    assert check_strict(root).passed
    assert check_strict(lambda x: 2).hint == "raise ValueError below zero"
    # Its errors were expected, so they are neither the reason nor a sign of an untouched answer.
    assert "cannot work with this str" in check_strict(lambda x: str(root(x))).hint

    @exercise
    def check_brave(answer):
        try:
            answer(-1)
        except ValueError:
            return "no error below zero, please"

    assert check_brave(root).hint == "no error below zero, please"


def test_what_the_check_cannot_work_with():
    @exercise
    def check_number(answer):
        if not np.isclose(answer(), 1):
            return "one"

    assert "cannot work with this str" in check_number(lambda: "one").hint
    assert "function" in check_number(3).hint and "int" in check_number(3).hint
    assert check_number(lambda: np.float32(1)).passed

    @exercise
    def check_alone(answer):
        return None if answer() == not_yet_defined else "no"  # noqa: F821

    hint = check_alone(lambda: 1).hint
    assert "cells above first" in hint and "not_yet_defined" in hint


def test_an_interrupt_is_not_swallowed():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_loud(stop)


def test_warnings_leave_stderr_alone(capsys):
    def warns():
        print("to see", file=sys.stderr)
        return 1

    assert check_loud(warns).passed
    assert capsys.readouterr() == ("to see\n", "")


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


def test_a_plain_terminal_shows_the_sentence():
    code = "from unetlib.exercise import *\ncheck = exercise(lambda f: f())\ncheck(lambda: 'hm')\n"
    command = [sys.executable, "-i", "-q"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == "not yet: hm\n"


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


def test_the_ids_are_unique_over_the_course():
    ids = [metadata(c)["grade_id"] for p in NOTEBOOKS for _, a, b in [parts(p)] for c in a + b]
    assert len(ids) == len(set(ids)) >= 36
    assert all(re.fullmatch(r"0[1-6]-[a-z-]+", name) for name in ids)


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

    def test_the_metadata_is_what_nbgrader_wants(self, path):
        _, checks, solutions = parts(path)
        keys = {"schema_version", "grade", "locked", "solution", "task", "grade_id"}
        for cell in checks:
            data = metadata(cell)
            assert set(data) == keys | {"points"} and data["schema_version"] == 3
            assert data["grade"] and data["locked"]
            assert not data["solution"] and not data["task"]
            assert data["points"] in (1, 2, 3)
        for cell in solutions:
            data = metadata(cell)
            assert set(data) == keys and data["schema_version"] == 3 and data["solution"]
            assert not data["grade"] and not data["locked"] and not data["task"]
            assert cell.metadata["jupyter"] == {"source_hidden": True}
            assert cell.metadata["tags"] == ["solution"]
        points = [metadata(cell)["points"] for cell in checks]
        assert points[0] == 1 and max(points) == 3  # a warm-up, and one that takes thought

    def test_no_solution_is_left_when_it_is_stripped(self, path):
        _, _, solutions = parts(path)
        for cell in solutions:
            ((indent, body),) = REGION.findall(cell.source)
            lines = [line.strip() for line in body.splitlines()]
            stub = textwrap.indent(DEFAULT_STUB, indent)
            left = REGION.sub(lambda region, stub=stub: stub, cell.source)
            tree = ast.parse(left)
            (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
            assert indent and len(tree.body) == 2 and len(function.body) == 1
            assert not [line for line in lines if len(line) > 3 and line in left]
            # What is left is a function without an answer, which every check forgives.
            space = {}
            exec(compile(ast.Module([function], []), "stub", "exec"), space)
            given = [None] * len(function.args.args)
            verdict = exercise(lambda f, given=given: f(*given))(space[function.name])
            assert verdict.hint == UNTOUCHED

    def test_no_check_looks_at_a_verdict(self, path):
        """Checks return None or a hint, and none of them asks another check or the text of one."""
        _, checks, _ = parts(path)
        for cell in checks:
            tree = ast.parse(cell.source)
            (check,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
            assert ast.unparse(check.decorator_list[0]) == "exercise"
            names = {node.id for node in ast.walk(check) if isinstance(node, ast.Name)}
            assert not {name for name in names if name.startswith("check_")}
            assert not re.search(r"not yet|correct", ast.unparse(check))
            for node in ast.walk(check):
                if isinstance(node, ast.Compare):
                    strings = [
                        side.value
                        for side in [node.left, *node.comparators]
                        if isinstance(side, ast.Constant) and isinstance(side.value, str)
                    ]
                    assert not strings, strings

    def test_the_stored_outputs(self, path):
        """Answers are open, solutions are right, both as text and as data."""
        _, checks, solutions = parts(path)
        for cell, passed in [*((c, False) for c in checks), *((c, True) for c in solutions)]:
            (output,) = cell.outputs
            data = output.data[MIME]
            assert output.output_type == "execute_result"
            assert data["exercise"] == last_call(cell)[0] and data["passed"] is passed
            assert output.data["text/plain"] == (
                "correct" if passed else f"not yet: {data['hint']}"
            )
            assert "Error" not in (data["hint"] or "")


def hand(x):
    """Stands for the network of notebook 02: takes multiples of 16 only, looks at places."""
    assert x.shape[-1] % 16 == x.shape[-2] % 16 == 0, "two sizes differ"
    grey = x.mean(1, keepdim=True)
    return grey + torch.nn.functional.avg_pool2d(grey, 16).repeat_interleave(
        16, 2
    ).repeat_interleave(16, 3)


def double_conv(channels_in, channels_out, channels_mid):
    first = torch.nn.Conv2d(channels_in, channels_mid, 3, bias=False)
    second = torch.nn.Conv2d(channels_mid, channels_out, 3, bias=False)
    norms = torch.nn.BatchNorm2d(channels_mid), torch.nn.BatchNorm2d(channels_out)
    return torch.nn.Sequential(first, norms[0], second, norms[1])


@pytest.fixture(scope="module")
def course():
    """All functions of the exercise cells; what they need of the cells above is given."""
    space = {"np": np, "torch": torch, "nn": torch.nn, "cv2": cv2, "dice_loss": dice_loss}
    space |= {"split_fraction": split_fraction, "count_parameters": count_parameters}
    space |= {"hand": hand, "double_conv": double_conv}
    space["pairs"] = []
    for path in NOTEBOOKS:
        _, checks, solutions = parts(path)
        for cell in checks + solutions:
            tree = ast.parse(cell.source)
            del tree.body[-1]
            exec(compile(tree, metadata(cell)["grade_id"], "exec"), space)
        space["pairs"] += [last_call(cell) for cell in solutions]
    return space


def test_solutions_are_right_and_untouched_answers_are_not(course):
    for check, solution in course["pairs"]:
        if check == "check_draw_mask":
            continue  # trains networks: the notebook itself does
        assert course[check](course[solution]).passed, check
        verdict = course[check](lambda *anything: None)
        assert verdict.hint == UNTOUCHED, check


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
def test_nonsense_never_makes_a_check_fail_or_pass(course):
    values = [0, -1.5, True, "text", b"", [], [1, 2], {}, (0,), np.nan, np.zeros((2, 2)), object()]
    values += [torch.zeros(3), np.zeros(4, complex), np.array("a"), range(3), float("inf"), print]
    for check, _ in course["pairs"]:
        for value in values:
            verdict = course[check](lambda *anything, value=value: value)
            assert isinstance(verdict.hint, str) and verdict.hint, (check, value)


def test_other_ways_to_say_it_are_right(course):
    s = {name: value for name, value in course.items() if name.endswith("_solution")}
    put_on, soft_focus = s["put_on_solution"], s["soft_focus_solution"]
    even, box = s["make_even_solution"], s["changed_box_solution"]

    def cheapest(probabilities, person, thresholds, cost):
        def total(t):
            return (
                cost * (person & (probabilities < t)).sum() + (~person & (probabilities > t)).sum()
            )

        return [float(min(thresholds, key=total))]

    def share_better(a, b, rng):
        wins = 0
        for _ in range(500):
            photos = rng.choice(len(a), len(a))
            wins += b[photos].sum() > a[photos].sum()
        return wins / 500

    def half_up(f, m, b):
        return (m[..., None] * f + (1 - m[..., None]) * b + 0.5).astype(np.uint8)

    others = {
        "soft_share": lambda m: sum(0.05 < a < 0.95 for a in np.ravel(m)) / m.size,
        "put_on": half_up,
        "is_val": lambda n: np.bool_(split_fraction("_".join(n.split("_")[:-1]), 3) < 0.2),
        "conv_parameters": lambda i, o, m: np.int64(9 * m * (i + o) + 2 * (m + o)),
        "smallest_depth": lambda p: float(np.ceil(np.log2((p + 4) / 9))),
        "optimiser_steps": lambda n, b, e: np.float32(e * max(1, n // b)),
        "my_dice_loss": lambda x, t: s["my_dice_loss_solution"](x, t).double().reshape(1),
        "balancing_weight": lambda f: np.float32(1 / f - 1),
        "f_beta": lambda p, r, b: torch.tensor((1 + b * b) / (1 / p + b * b / r)),
        "useless": lambda t: s["useless_solution"](t).astype(int).tolist(),
        "cheapest": cheapest,
        "share_better": share_better,
        "logit_of": lambda t: torch.logit(torch.tensor(t)),
        "soft_focus": lambda p, a: torch.from_numpy(soft_focus(p, a)),
        "stack": lambda t, b: torch.from_numpy(s["stack_solution"](t, b)),
        "make_even": lambda f: even(f).tolist(),
        "in_order": lambda names: tuple(sorted(names, key=lambda n: (len(n), n))),
        "changed_box": lambda a, b: box(a, b) and np.array(box(a, b)),
    }
    for name, other in others.items():
        verdict = course[f"check_{name}"](other)
        assert verdict.passed, (name, verdict)
    assert course["check_put_on"](lambda *a: torch.from_numpy(put_on(*a))).passed


def test_the_usual_mistakes_get_a_hint_of_their_own(course):
    """A wrong answer of each kind, and a word of the hint that it should get."""
    s = {name: value for name, value in course.items() if name.endswith("_solution")}
    put_on, dice, box = (s[f"{n}_solution"] for n in ("put_on", "my_dice_loss", "changed_box"))

    def bootstrap(a, b, rng, size=None, together=True):
        n, wins = size or len(a), 0
        for _ in range(1000):
            first = rng.integers(len(a), size=n)
            second = first if together else rng.integers(len(a), size=n)
            wins += b[second].mean() > a[first].mean()
        return wins / 1000

    def by_hand(x, crop_right=False):
        height, width = x.shape[-2:]
        y = hand(torch.nn.functional.pad(x, (0, -width % 16, 0, -height % 16)))
        return y[..., -height:, -width:] if crop_right else y

    def without_division(top, bottom):
        a, b = top[..., 3:] / 255, bottom[..., 3:] / 255
        seen = a * top[..., :3] + (1 - a) * b * bottom[..., :3]
        return np.rint(np.concatenate([seen, 255 * (a + b - a * b)], 2)).astype(np.uint8)

    mistakes = [
        ("soft_share", lambda m: ((m > 0.05) & (m < 0.95)).sum(), "how many"),
        ("soft_share", lambda m: 100 * ((m > 0.05) & (m < 0.95)).mean(), "percent"),
        ("soft_share", lambda m: (m > 0.05).mean(), "0.333"),
        ("put_on", lambda f, m, b: m * f + (1 - m) * b, "ValueError"),
        ("put_on", lambda f, m, b: put_on(b, m, f), "right side"),
        ("put_on", lambda f, m, b: put_on(f, m, b).astype(float), "uint8"),
        (
            "put_on",
            lambda f, m, b: (m[..., None] * f + (1 - m[..., None]) * b).astype("u1"),
            "rint",
        ),
        ("is_val", lambda n: split_fraction(n, 0) < 0.2, "both sides"),
        ("is_val", lambda n: split_fraction(n.split("_")[0], 0) < 0.2, "last part"),
        ("is_val", lambda n: split_fraction(n[:-2], 0) < 0.2, "both sides"),
        ("is_val", lambda n: split_fraction(n.rsplit("_", 1)[0], 0) < 0.5, "0.2"),
        ("conv_parameters", lambda i, o, m: 9 * m * (i + o), "batch norms"),
        ("conv_parameters", lambda i, o, m: 9 * m * (i + o) + 3 * (m + o), "no bias"),
        ("smallest_depth", lambda p: int(np.log2((p + 4) / 9)) + 1, "depth 4"),
        ("through_hand", by_hand, "cut back"),
        ("through_hand", lambda x: by_hand(x, crop_right=True), "where you padded"),
        ("through_hand", hand, "two sizes differ"),
        ("optimiser_steps", lambda n, b, e: e * -(-n // b), "fill no batch"),
        ("optimiser_steps", lambda n, b, e: e * (n // b), "only batch"),
        ("my_dice_loss", lambda x, t: 1 - dice(x, t), "score"),
        ("my_dice_loss", lambda x, t: dice(x[:1], t[:1]), "first image"),
        ("my_dice_loss", lambda x, t: dice(x.reshape(1, -1), t.reshape(1, -1)), "pooled"),
        ("my_dice_loss", lambda x, t: dice(x, t).item(), "tensor"),
        ("my_dice_loss", lambda x, t: dice((x > 0).float(), t), "gradient"),
        ("my_dice_loss", lambda x, t: dice(torch.logit(x.clamp(0.01, 0.99)), t), "sigmoid"),
        ("balancing_weight", lambda f: 1 / f, "whole picture"),
        ("balancing_weight", lambda f: f / (1 - f), "background 0.98"),
        ("f_beta", lambda p, r, b: (1 + b) * p * r / (b * p + r), "squared"),
        ("f_beta", lambda p, r, b: (1 + b**2) * p * r / (b**2 * r + p), "recall"),
        ("useless", lambda t: np.zeros_like(t), "at least one"),
        ("useless", lambda t: ~t, "too much"),
        ("useless", lambda t: np.arange(t.size).reshape(t.shape) == 0, "may be hit"),
        (
            "cheapest",
            lambda p, y, t, cost: t[np.argmin(abs(t - cost / (1 + cost)))],
            "down, not up",
        ),
        ("cheapest", lambda p, y, t, cost: 10, "place in the list"),
        ("cheapest", lambda p, y, t, cost: 0.5, "cheaper"),
        ("share_better", lambda a, b, rng: bootstrap(b, a, rng), "not a"),
        ("share_better", lambda a, b, rng: 100 * bootstrap(a, b, rng), "between 0 and 1"),
        ("share_better", lambda a, b, rng: bootstrap(a, b, rng, together=False), "same photos"),
        ("share_better", lambda a, b, rng: (b > a).mean(), "photo by photo"),
        ("share_better", lambda a, b, rng: b.mean() > a.mean(), "replacement"),
        ("share_better", lambda a, b, rng: bootstrap(a, b, rng, size=10), "all 60"),
        ("logit_of", lambda t: np.log((1 - t) / t), "higher logit"),
        ("logit_of", lambda t: np.log10(t / (1 - t)), "0.722"),
        ("soft_focus", lambda p, a: s["soft_focus_solution"](p, 1 - a), "other way round"),
        ("soft_focus", lambda p, a: s["soft_focus_solution"](p, a > 0.5), "half of each"),
        ("soft_focus", lambda p, a: p, "only the blurred"),
        ("stack", without_division, "divide"),
        ("stack", lambda t, b: np.where(t[..., 3:] > 127, t, b), "0.75"),
        ("make_even", lambda f: np.pad(f, ((0, 1), (0, 1), (0, 0)), mode="edge"), "(4, 8, 3)"),
        ("make_even", lambda f: np.pad(f, [(0, n % 2) for n in f.shape[:2]] + [(0, 0)]), "black"),
        ("in_order", sorted, "1000"),
        ("in_order", lambda names: names[:3], "every frame"),
        ("changed_box", lambda a, b: box(a, b) and np.take(box(a, b), [2, 3, 0, 1]), "rows first"),
        (
            "changed_box",
            lambda a, b: box(a, b) and np.subtract(box(a, b), [0, 1, 0, 1]),
            "exclusive",
        ),
        ("changed_box", lambda a, b: box(a, np.maximum(a, b)), "these four"),
    ]
    for name, wrong, word in mistakes:
        verdict = course[f"check_{name}"](wrong)
        assert not verdict.passed and word in verdict.hint, (name, word, verdict)
    assert {name for name, _, _ in mistakes} == {c[6:] for c, _ in course["pairs"]} - {"draw_mask"}


PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
NBGRADER = shutil.which("nbgrader", path=PLACES)


@pytest.mark.skipif(not NBGRADER, reason="nbgrader is not installed (pip install nbgrader)")
@pytest.mark.parametrize("ours", [False, True], ids=["its own settings", "the course's settings"])
def test_nbgrader_makes_the_student_version(tmp_path, ours):
    (tmp_path / "source" / "unet").mkdir(parents=True)
    for path in NOTEBOOKS:
        shutil.copy(path, tmp_path / "source" / "unet")
    if ours:
        shutil.copy(ROOT / "notebooks" / "nbgrader_config.py", tmp_path)
    done = subprocess.run(
        [NBGRADER, "generate_assignment", "unet", "--create"],
        cwd=tmp_path,
        env={**os.environ, "PATH": PLACES},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    trouble = [line for line in done.stderr.splitlines() if re.search("WARNING|ERROR", line)]
    assert all("No nbgrader_config.py file found" in line for line in trouble), trouble
    for path in NOTEBOOKS:
        release = nbformat.read(tmp_path / "release" / "unet" / path.name, as_version=4)
        _, checks, solutions = parts(path)
        cells = {metadata(cell).get("grade_id"): cell for cell in release.cells}
        assert all(cells[metadata(c)["grade_id"]].source == c.source for c in checks)
        for cell in solutions:
            left = cells[metadata(cell)["grade_id"]].source
            body = REGION.findall(cell.source)[0][1]
            assert "raise NotImplementedError" in left and ("later" in left) == ours
            assert body not in left and "SOLUTION" not in left


@pytest.mark.skipif(not NBGRADER, reason="nbgrader is not installed (pip install nbgrader)")
def test_nbgrader_gives_the_points(tmp_path):
    """Two exercises of 1 and 2 points: the first is solved, with a warning on the way."""
    head = "from unetlib.exercise import exercise\n\n@exercise\n"
    cells = []
    for name, points in (("one", 1), ("two", 2)):
        cells += [nbformat.v4.new_code_cell(f"def {name}():\n    return None")]
        source = f"def check_{name}(answer):\n    return None if answer() == {points} else 'no'\n"
        data = {"schema_version": 3, "grade": True, "locked": True, "solution": False}
        data |= {"task": False, "points": points, "grade_id": name}
        source = f"{head}{source}\ncheck_{name}({name})"
        cells += [nbformat.v4.new_code_cell(source, metadata={"nbgrader": data})]
    notebook = nbformat.v4.new_notebook(cells=cells)
    for folder in ("source/a", "submitted/ada/a"):
        (tmp_path / folder).mkdir(parents=True)
    nbformat.write(notebook, tmp_path / "source/a/x.ipynb")
    shutil.copy(ROOT / "notebooks" / "nbgrader_config.py", tmp_path)
    env = {**os.environ, "PATH": PLACES, "PYTHONPATH": str(ROOT)}

    def nbgrader(*arguments):
        command = [NBGRADER, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert not re.search("WARNING|ERROR", done.stderr.replace("[IPKernelApp] WARNING", ""))

    nbgrader("generate_assignment", "a", "--create")
    handed_in = nbformat.read(tmp_path / "release/a/x.ipynb", as_version=4)
    handed_in.cells[
        0
    ].source = "import warnings\n\ndef one():\n    warnings.warn('hm')\n    return 1"
    nbformat.write(handed_in, tmp_path / "submitted/ada/a/x.ipynb")
    nbgrader("autograde", "a")
    nbgrader("export")
    (row,) = csv.DictReader((tmp_path / "grades.csv").read_text(encoding="utf-8").splitlines())
    assert (row["student_id"], row["score"], row["max_score"]) == ("ada", "1.0", "3.0")
