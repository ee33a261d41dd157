"""Scores against hand-computed cases, float64 NumPy, torchmetrics, scikit-image and invariants."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unetlib.metrics import Counts, count, scores

relaxed = settings(deadline=None)  # first calls load libraries, and machines can be busy
NAMES = ("iou", "dice", "accuracy", "precision", "recall")


@st.composite
def mask_pairs(draw):
    """Two bool batches (N, H, W), often with empty and full masks among them."""
    shape = draw(array_shapes(min_dims=3, max_dims=3, max_side=6))
    batches = []
    for _ in range(2):
        masks = draw(arrays(bool, shape))
        for i in range(shape[0]):
            match draw(st.sampled_from(["as drawn", "as drawn", "empty", "full"])):
                case "empty":
                    masks[i] = False
                case "full":
                    masks[i] = True
        batches.append(masks)
    return batches


def as_dict(counts: Counts) -> dict:
    return {name: getattr(counts, name).tolist() for name in ("tp", "fp", "fn", "tn")}


def test_by_hand():
    truth = np.array([[[0, 1, 1], [0, 1, 1], [0, 0, 0]]])
    guess = np.array([[[0, 0, 1], [0, 1, 1], [0, 1, 1]]])
    counts = count(guess, truth)
    assert as_dict(counts) == {"tp": [3], "fp": [2], "fn": [1], "tn": [3]}
    assert counts.iou().item() == 3 / 6
    assert counts.dice().item() == 6 / 9
    assert counts.accuracy().item() == 6 / 9
    assert counts.precision().item() == 3 / 5
    assert counts.recall().item() == 3 / 4


@pytest.mark.parametrize(
    ("guess", "truth", "expected"),
    [
        (0, 0, {"iou": 1, "dice": 1, "accuracy": 1, "precision": 1, "recall": 1}),
        (1, 0, {"iou": 0, "dice": 0, "accuracy": 0, "precision": 0, "recall": 0}),
        (0, 1, {"iou": 0, "dice": 0, "accuracy": 0, "precision": 0, "recall": 0}),
        (1, 1, {"iou": 1, "dice": 1, "accuracy": 1, "precision": 1, "recall": 1}),
    ],
)
def test_empty_and_full_masks(guess, truth, expected):
    counts = count(np.full((1, 4, 5), guess), np.full((1, 4, 5), truth))
    assert {name: getattr(counts, name)().item() for name in NAMES} == expected


@relaxed
@given(mask_pairs())
def test_against_float64_numpy(pair):
    guess, truth = pair
    counts = count(guess, truth)
    for i, (p, t) in enumerate(zip(guess, truth, strict=True)):
        union = np.logical_or(p, t).sum()
        if union == 0:
            assert all(getattr(counts, name)()[i] == 1.0 for name in NAMES)
            continue
        both = float(np.logical_and(p, t).sum())
        assert counts.iou()[i].item() == both / union
        assert counts.dice()[i].item() == 2 * both / (p.sum() + t.sum())
        assert counts.accuracy()[i].item() == np.mean(p == t)
        assert counts.precision()[i].item() == (both / p.sum() if p.any() else 0.0)
        assert counts.recall()[i].item() == (both / t.sum() if t.any() else 0.0)


@relaxed
@given(mask_pairs())
def test_invariants(pair):
    guess, truth = pair
    counts, swapped = count(guess, truth), count(truth, guess)
    iou, dice = counts.iou(), counts.dice()
    assert ((iou >= 0) & (iou <= dice) & (dice <= 1)).all()
    torch.testing.assert_close(dice, 2 * iou / (1 + iou), rtol=0, atol=1e-15)
    assert torch.equal(iou, swapped.iou()) and torch.equal(dice, swapped.dice())
    assert torch.equal(counts.precision(), swapped.recall())
    assert (counts.tp + counts.fp + counts.fn + counts.tn == guess[0].size).all()
    assert torch.equal((iou == 1), torch.tensor((guess == truth).all((1, 2))))
    assert iou.dtype == torch.float64 and counts.tp.dtype == torch.int64


@relaxed
@given(mask_pairs(), st.randoms(use_true_random=False))
def test_pooled_is_the_sum_and_order_does_not_matter(pair, random):
    guess, truth = pair
    counts = count(guess, truth)
    one = count(guess.reshape(1, 1, -1), truth.reshape(1, 1, -1))  # all images as one big one
    assert as_dict(counts.pooled()) == as_dict(one)
    order = list(range(len(guess)))
    random.shuffle(order)
    shuffled = count(guess[order], truth[order])
    assert torch.equal(shuffled.iou(), counts.iou()[order])
    for name, value in scores(shuffled).items():
        assert math.isclose(value, scores(counts)[name], abs_tol=1e-12)
    parts = [count(guess[i : i + 1], truth[i : i + 1]) for i in range(len(guess))]
    assert as_dict(Counts.cat(parts)) == as_dict(counts)


@relaxed
@given(mask_pairs())
def test_against_torchmetrics(pair):
    from torchmetrics.functional.classification import (
        binary_accuracy,
        binary_f1_score,
        binary_jaccard_index,
        binary_precision,
        binary_recall,
    )

    guess, truth = (torch.from_numpy(masks).int() for masks in pair)
    pooled = count(guess, truth).pooled()
    assert pooled.accuracy().item() == pytest.approx(binary_accuracy(guess, truth).item(), abs=1e-6)
    if guess.any() or truth.any():  # torchmetrics scores an empty pair 0
        for mine, theirs in (
            (pooled.iou(), binary_jaccard_index),
            (pooled.dice(), binary_f1_score),
            (pooled.precision(), binary_precision),
            (pooled.recall(), binary_recall),
        ):
            assert mine.item() == pytest.approx(theirs(guess, truth).item(), abs=1e-6)


@relaxed
@given(mask_pairs())
def test_against_scikit_image(pair):
    from skimage.measure import intersection_coeff  # share of the first mask inside the second

    guess, truth = pair
    counts = count(guess, truth)
    for i, (p, t) in enumerate(zip(guess, truth, strict=True)):
        if p.any() and t.any():
            assert counts.precision()[i].item() == pytest.approx(intersection_coeff(p, t))
            assert counts.recall()[i].item() == pytest.approx(intersection_coeff(t, p))


@pytest.mark.parametrize("kind", ["bool", "uint8", "uint16", "int64", "float32", "float64"])
def test_numpy_and_torch_of_any_type_agree(kind):
    rng = np.random.default_rng(0)
    guess, truth = (rng.random((3, 1, 8, 9)) > 0.5 for _ in range(2))
    expected = as_dict(count(guess, truth))
    assert as_dict(count(guess.astype(kind), truth.astype(kind))) == expected
    if kind != "uint16":
        torch_guess = torch.from_numpy(guess.astype(kind))
        assert as_dict(count(torch_guess, torch.from_numpy(truth))) == expected
        assert as_dict(count(torch_guess, truth)) == expected


@pytest.mark.parametrize(
    ("values", "range_said"),
    [
        (torch.tensor([0.2, 0.9]), "from 0.2 to 0.9"),  # probabilities
        (torch.tensor([-3.0, 4.0]), "from -3 to 4"),  # logits
        (np.array([0, 255], np.uint8), "from 0 to 255"),  # a mask file as it is
        (np.array([0.0, np.nan]), "nan"),
        (torch.tensor([-1, 1]), "from -1 to 1"),
    ],
)
@pytest.mark.parametrize("where", ["prediction", "target"])
def test_masks_that_were_not_thresholded_are_refused(values, range_said, where):
    bad, good = values.reshape(1, 1, 2), torch.zeros(1, 1, 2, dtype=torch.bool)
    pair = (bad, good) if where == "prediction" else (good, bad)
    with pytest.raises(
        ValueError, match=f"^{where} holds values other than 0 and 1.*threshold"
    ) as e:
        count(*pair)
    assert range_said in str(e.value)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2, 3\) and \(1, 3, 2\)"):
        count(np.ones((1, 2, 3)), np.ones((1, 3, 2)))
    with pytest.raises(ValueError, match=r"mask\[None\]"):
        count(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(TypeError, match="prediction must be a torch tensor or a NumPy array"):
        count([[[1]]], np.ones((1, 1, 1)))


def test_scores():
    truth = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    guess = truth.clone()
    truth[0, 0, :2] = guess[0, 0, :1] = True  # 8 pixels, half of them found; the second is empty
    got = scores(count(guess, truth))
    assert got == {
        "iou": (0.5 + 1) / 2,
        "dice": (2 / 3 + 1) / 2,
        "accuracy": (0.75 + 1) / 2,
        "precision": 1.0,
        "recall": (0.5 + 1) / 2,
        "pooled_iou": 0.5,
        "pooled_dice": 2 / 3,
    }


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        scores(count(np.ones((0, 2, 2)), np.ones((0, 2, 2))))
    with pytest.raises(ValueError, match="at least one batch"):
        Counts.cat([])


def test_counts_of_large_sets_do_not_overflow():
    million = torch.tensor([2_000_000_000] * 4)
    pooled = Counts(million, million, million, million).pooled()
    assert pooled.tp.item() == 8_000_000_000
    assert pooled.iou().item() == 1 / 3
