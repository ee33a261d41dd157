"""Exercises: what a check says of right answers, wrong ones and broken ones."""

import re
import textwrap

import cv2
import numpy as np
import pytest
import torch

from unetlib import checks, losses
from unetlib.checks import MIME, UNTOUCHED, exercise
from unetlib.data.pairs import split_fraction
from unetlib.matting import estimate_foreground
from unetlib.metrics import count


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


def iou_in_place(a, b):
    union = np.logical_or(a, b).sum()
    a &= b
    return np.array([a.sum() / union]) if union else torch.tensor(1)


def depth_3_backwards(x, levels, ups, decoder, head):
    features, bottom = [], levels.pop()
    for level in levels:
        features.append(level(x))
        x = torch.max_pool2d(features[-1], 2)
    x = bottom(x)
    while ups:
        x = decoder.pop(0)(torch.cat([features.pop(), ups.pop(0)(x)], 1))
    return head(x).detach().numpy()


@torch.inference_mode()
def validate_photo_by_photo(net, batches):
    net.train(False)
    masks = [(net(x).sigmoid() > 0.5, y >= 0.5) for x, y in batches]
    net.train()
    return torch.tensor(
        [count(*pair).iou()[k] for pair in masks for k in range(len(pair[0]))]
    ).mean()


def dice_in_a_loop(logits, target):
    losses_ = [losses.dice_loss(x[None], t[None]) for x, t in zip(logits, target, strict=True)]
    return (sum(losses_) / len(losses_)).reshape(1)


def cheapest_in_place(fp, fn, thresholds, cost, test):
    fn *= cost
    fn += fp
    best = fn[~test].mean(0).argmin()
    return [torch.tensor(thresholds[best]), fn[test].mean(0)[best]]


def focus_with_floats(photo, alpha):
    blurred, alpha = cv2.blur(photo.astype(np.float32), (15, 15)), alpha[..., None]
    return (alpha * photo + (1 - alpha) * blurred + 0.5).astype(np.uint8)


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (checks.iou, iou_in_place),
        (checks.mirrored_item, lambda d, i: [t.flip(2) if i > 2 else t for t in d[i % 3]]),
        (checks.depth_3, depth_3_backwards),
        (checks.dice_loss, dice_in_a_loop),
        (checks.validate, validate_photo_by_photo),
        (checks.which_run, lambda: ["c", "a", "b"]),
        (checks.choose_threshold, cheapest_in_place),
        (checks.foreground_colours, lambda photo, alpha: estimate_foreground(photo, alpha)),
        (checks.soft_focus, focus_with_floats),
        (checks.is_val, lambda name: split_fraction(name[: name.rindex("_")]) < 0.2),
    ],
)
def test_right_answers_may_differ_from_the_solutions(check, answer):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert check(answer).passed, check(answer).hint
    assert torch.equal(torch.get_rng_state(), before)  # the student's random numbers go on


def wrong_answers():
    """Typical mistakes, each with a word of the hint that it should get."""
    yield checks.iou, lambda a, b: 2 * (a & b).sum() / max(1, a.sum() + b.sum()), "Dice"
    yield checks.iou, lambda a, b: (a & b).mean(), "whole picture"
    yield checks.iou, lambda a, b: (a & b).sum() / max(1, (a | b).sum()), "two empty masks"
    yield checks.mirrored_item, lambda d, i: d[i % 3], "mirrored"
    yield checks.mirrored_item, lambda d, i: d[i] if i < 3 else (d[i - 3][0].flip(1), 0), "upside"
    flip = checks.mirrored_item, lambda d, i: d[i] if i < 3 else (d[i - 3][0].flip(-1), d[i - 3][1])
    yield *flip, "mask must be mirrored"
    yield checks.decoder_block, lambda x, s, up, conv: conv(torch.cat([up(x), s], 1)), "goes first"
    yield checks.decoder_block, lambda x, s, up, conv: conv(torch.cat([s, up(x)], 1)), "raised"
    yield checks.depth_3, lambda x, levels, ups, decoder, head: x, "head comes last"
    yield checks.depth_3, lambda *parts: depth_3_backwards(*parts).clip(0), "head comes last"
    yield checks.draw_mask, lambda rng: np.ones((64, 64), bool), "memorised"
    yield checks.dice_loss, lambda x, t: 1 - losses.dice_loss(x, t), "this is the score"
    yield checks.dice_loss, lambda x, t: losses.dice_loss(x, t).detach(), "no gradient"
    yield checks.validate, lambda net, batches: 0.0, "one IoU per photo"
    yield checks.which_run, lambda: "ABC", "eight drawings"
    yield checks.explain, lambda true, found: "missed", "spot"
    first = checks.choose_threshold, lambda fp, fn, thresholds, cost, test: (0.05, 1.0)
    yield *first, "another threshold is cheaper"
    yield checks.foreground_colours, lambda photo, alpha: photo, "fringe"
    yield checks.foreground_colours, lambda photo, alpha: photo + np.nan, "fringe"
    yield checks.soft_focus, lambda photo, alpha: photo, "only the blurred photo"
    yield checks.is_val, lambda name: split_fraction(name) < 0.2, "both sides"


@pytest.mark.parametrize(("check", "answer", "word"), [*wrong_answers()])
def test_typical_mistakes_get_their_hint(check, answer, word):
    verdict = check(answer)
    assert not verdict.passed and word in verdict.hint
