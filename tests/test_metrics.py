"""Scores against hand-computed cases, torchmetrics, SciPy and PySODMetrics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage, stats

from unetlib.metrics import Counts, count
from unetlib.scores import (
    SALIENCY,
    THRESHOLDS,
    curves,
    histogram,
    paired,
    reliability,
    saliency_scores,
)

relaxed = settings(deadline=None, max_examples=40)
NAMES = ("iou", "dice", "accuracy", "precision", "recall", "f_beta")


@st.composite
def mask_pairs(draw):
    """Two bool batches (N, H, W), often with empty and full masks among them."""
    shape = draw(array_shapes(min_dims=3, max_dims=3, max_side=6))
    batches = []
    for _ in range(2):
        masks = draw(arrays(bool, shape))
        for i in range(shape[0]):
            masks[i] = draw(st.sampled_from([masks[i], masks[i], False, True]))
        batches.append(masks)
    return batches


def as_dict(counts: Counts) -> dict:
    return {name: getattr(counts, name).tolist() for name in ("tp", "fp", "fn", "tn")}


def test_by_hand():
    truth = np.array([[[0, 1, 1], [0, 1, 1], [0, 0, 0]]])
    guess = np.array([[[0, 0, 1], [0, 1, 1], [0, 1, 1]]])
    counts = count(guess, truth)
    assert as_dict(counts) == {"tp": [3], "fp": [2], "fn": [1], "tn": [3]}
    expected = [3 / 6, 6 / 9, 6 / 9, 3 / 5, 3 / 4, 1.3 * 0.6 * 0.75 / (0.3 * 0.6 + 0.75)]
    assert [getattr(counts, name)().item() for name in NAMES] == pytest.approx(expected)


@pytest.mark.parametrize(("guess", "truth", "score"), [(0, 0, 1), (1, 0, 0), (0, 1, 0), (1, 1, 1)])
def test_empty_and_full_masks(guess, truth, score):
    guess, truth = np.full((1, 4, 5), guess), np.full((1, 4, 5), truth)
    counts = count(guess, truth)
    assert {getattr(counts, name)().item() for name in NAMES} == {score}
    assert curves(guess[0], truth[0] > 0, [0.5])[1] == score


@relaxed
@given(mask_pairs())
def test_against_torchmetrics(pair):
    from torchmetrics.functional import classification as tm

    guess, truth = (torch.from_numpy(masks).int() for masks in pair)
    pooled = Counts(*(kind.sum(keepdims=True) for kind in count(guess, truth)))
    functions = {
        "iou": tm.binary_jaccard_index,
        "dice": tm.binary_f1_score,
        "precision": tm.binary_precision,
        "recall": tm.binary_recall,
        "f_beta": lambda p, t: tm.binary_fbeta_score(p, t, beta=0.3**0.5),
        "accuracy": tm.binary_accuracy,
    }
    for name, theirs in functions.items():
        if guess.any() or truth.any():  # torchmetrics scores an empty pair 0
            found = getattr(pooled, name)().item()
            assert found == pytest.approx(theirs(guess, truth).item(), abs=1e-6), name


@pytest.mark.parametrize("kind", ["bool", "uint8", "int64", "float32"])
def test_numpy_and_torch_of_any_type_agree(kind):
    rng = np.random.default_rng(0)
    guess, truth = (rng.random((3, 1, 8, 9)) > 0.5 for _ in range(2))
    expected = as_dict(count(guess, truth))
    tensor = torch.from_numpy(guess.astype(kind))
    assert as_dict(count(guess.astype(kind), truth.astype(kind))) == expected
    assert as_dict(count(tensor, torch.from_numpy(truth))) == expected
    assert as_dict(count(tensor.bfloat16(), truth)) == expected


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (torch.tensor([0.2, 0.9]), "from 0.2 to 0.9"),  # probabilities
        (torch.tensor([-3.0, 4.0]), "from -3 to 4"),  # logits
        (np.array([0, 255], np.uint8), "from 0 to 255"),  # a mask file as it is
        (np.array([0.0, np.nan]), "nan"),
    ],
)
def test_masks_that_were_not_thresholded_are_refused(values, said):
    bad, good = values.reshape(1, 1, 2), torch.zeros(1, 1, 2, dtype=torch.bool)
    for name, pair in (("prediction", (bad, good)), ("target", (good, bad))):
        with pytest.raises(ValueError, match=f"^{name} holds values.*{said}.*threshold"):
            count(*pair)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2, 3\) and \(1, 3, 2\)"):
        count(np.ones((1, 2, 3)), np.ones((1, 3, 2)))
    with pytest.raises(ValueError, match=r"mask\[None\]"):
        count(np.ones((2, 3)), np.ones((2, 3)))


@relaxed
@given(st.data(), st.sampled_from([1, 5, 12]))
def test_boundary_iou_like_scipy(data, scale):
    """As in Cheng et al.: a rim is what erosions by 3x3 take away, the border being background."""
    shape = data.draw(array_shapes(min_dims=2, max_dims=2, max_side=16))
    blocks = np.ones((scale, scale), bool)
    mask, truth = (np.kron(data.draw(arrays(bool, shape)), blocks) for _ in range(2))
    width, square = max(1, round(0.02 * math.hypot(*mask.shape))), np.ones((3, 3))
    first, second = (
        m & ~ndimage.binary_erosion(m, square, iterations=width, border_value=0)
        for m in (mask, truth)
    )
    union = (first | second).sum()
    expected = (first & second).sum() / union if union else 1.0
    both = (np.float32(mask), truth), (np.float32(truth), mask)
    assert [curves(*one, [0.5])[1] for one in both] == [expected, expected]


def test_saliency_is_that_of_pysodmetrics():
    """Against its formulas where they are short, and against its own code."""
    sod = pytest.importorskip("py_sod_metrics")
    rng = np.random.default_rng(0)
    truth = ndimage.gaussian_filter(rng.normal(size=(40, 50)), 6) > 0
    soft = np.clip(truth * 0.7 + 0.3 * rng.random(truth.shape), 0, 1).astype(np.float32)
    found = saliency_scores(soft, truth)
    assert list(found) == list(SALIENCY)
    e = sod.Emeasure()
    e.step(soft.astype(float), truth, normalize=False)
    assert found["e_measure"] == pytest.approx(e.get_results()["em"]["curve"].mean(), abs=1e-6)
    perfect = saliency_scores(truth.astype(np.float32), truth)
    assert perfect["s_measure"] == pytest.approx(1) and perfect["weighted_f"] == pytest.approx(1)
    assert all(found[name] < perfect[name] for name in found)
    assert saliency_scores(np.zeros((9, 9), np.float32), np.zeros((9, 9), bool))["s_measure"] == 1


# at and between thresholds, which float32 does not hold exactly
ANY = st.floats(0, 1, width=32) | st.integers(0, 300).map(lambda k: float(np.float32(k / 300)))


@relaxed
@given(arrays(np.float32, (5, 4), elements=ANY), arrays(bool, (5, 4)))
def test_the_curves_are_those_of_comparisons(soft, truth):
    counts, boundary = curves(soft, truth)
    for k, threshold in enumerate(THRESHOLDS):
        mask = soft >= threshold.astype(np.float32)
        expected = count(mask[None], truth[None])
        assert [pixels[k] for pixels in counts] == [pixels.item() for pixels in expected]
        assert boundary[k] == curves(np.float32(mask), truth, [0.5])[1]
    assert histogram(soft, truth)[2].sum() == pytest.approx(soft.sum(dtype=float))


@pytest.mark.parametrize("bins", [10, 15, 30])
def test_calibration_like_torchmetrics(bins):
    from torchmetrics.functional import classification as tm

    rng = np.random.default_rng(0)
    soft = rng.beta(0.6, 0.9, (200, 300)).astype(np.float32)
    truth = rng.random(soft.shape) < soft**2
    whole = histogram(soft[:7], truth[:7]) + histogram(soft[7:], truth[7:])
    target = torch.from_numpy(truth).int()
    error = tm.binary_calibration_error(torch.from_numpy(soft).double(), target, bins)
    assert reliability(whole, bins)[1] == pytest.approx(error.item(), abs=1e-6)


def test_reliability_by_hand():
    soft = np.array([[0.1, 0.3, 0.3, 1.0]], np.float32)
    table, error = reliability(histogram(soft, np.array([[0, 1, 0, 1]]) > 0), 4)
    assert table["high"].tolist() == [0.25, 0.5, 0.75, 1]
    assert table["share"].tolist() == [0.25, 0.5, 0, 0.25]
    np.testing.assert_allclose(table["confidence"], [0.1, 0.3, np.nan, 1], rtol=1e-6)
    np.testing.assert_allclose(table["accuracy"], [0, 0.5, np.nan, 1])
    assert error == pytest.approx((0.1 + 2 * 0.2) / 4)


def test_bootstrap_like_scipy():
    values = np.random.default_rng(1).beta(5, 2, 60)
    mean, low, high, share = paired(np.zeros(60), values)
    assert mean == pytest.approx(values.mean()) and share == 1
    settings = {"n_resamples": 20_000, "method": "percentile", "random_state": 0}
    theirs = stats.bootstrap((values,), np.mean, **settings).confidence_interval
    assert [low, high] == pytest.approx([*theirs], abs=0.04 * (high - low))


def test_paired_tells_a_real_gain_from_luck():
    rng = np.random.default_rng(0)
    hardness = rng.normal(0.7, 0.2, 100)  # what both models share is not what they differ in
    a = hardness + rng.normal(0, 0.01, 100)
    b = hardness + 0.01 + rng.normal(0, 0.01, 100)
    gain, low, high, better = paired(a, b)
    assert gain == pytest.approx((b - a).mean()) and 0 < low < gain < high and better > 0.99
    _, low, high, _ = paired(a, hardness + rng.normal(0, 0.01, 100))
    assert low < 0 < high
    assert paired(a, a) == (0, 0, 0, 0.5)
    with pytest.raises(ValueError, match=r"shapes \(2,\) \(3,\)"):
        paired([1, 2, 3], [1, 2])
