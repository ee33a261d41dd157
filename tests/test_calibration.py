"""Probabilities and means, judged: histograms, calibration, the bootstrap; against torchmetrics,
scikit-learn's definitions in NumPy, SciPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize, special, stats

from unetlib.metrics import SCORES, count, interval, paired
from unetlib.metrics.bootstrap import limits, resampled_sums
from unetlib.metrics.histogram import STEPS, Histogram

relaxed = settings(deadline=None, max_examples=100)
ANY = st.floats(0, 1, width=32) | st.integers(0, STEPS).map(lambda k: float(np.float32(k / STEPS)))


def drawn(seed=0, size=(200, 300), sharpness=2.0):
    """Probabilities from logits that are `sharpness` times too large, and the truth."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-0.5, 1.5, size)
    truth = rng.random(size) < special.expit(logit)
    return special.expit(logit * sharpness).astype(np.float32), truth


@relaxed
@given(arrays(np.float32, 20, elements=ANY), arrays(bool, 20), st.sampled_from([15, 100, 255]))
def test_counts_fall_as_in_a_comparison(soft, truth, steps):
    histogram = Histogram.of(soft[None], truth[None])
    tp, fp = histogram.at_or_above(steps)
    for k in range(steps + 1):
        mask = soft >= np.float32(k / steps)
        assert (tp[k], fp[k]) == ((mask & truth).sum(), (mask & ~truth).sum())
    assert (histogram.coarse(steps)[:, ::-1].cumsum(axis=1)[:, ::-1] == [fp, tp]).all()
    assert histogram.logits.sum() == histogram.pixels.sum() == 20
    assert histogram.total.sum() == pytest.approx(soft.sum(dtype=float))


def test_histograms_add_up():
    soft, truth = drawn(size=(331, 401))  # more than a chunk, and no multiple of one
    whole, parts = Histogram.of(soft, truth), Histogram()
    for rows in (slice(0, 7), slice(7, 300), slice(300, None)):
        parts += Histogram.of(soft[rows], truth[rows])
    np.testing.assert_array_equal(whole.pixels, parts.pixels)
    np.testing.assert_array_equal(whole.logits, parts.logits)
    np.testing.assert_allclose(whole.total, parts.total)


def test_like_torchmetrics():
    from torchmetrics.functional.classification import (
        binary_auroc,
        binary_average_precision,
        binary_calibration_error,
        binary_f1_score,
        binary_fbeta_score,
        binary_jaccard_index,
    )

    soft, truth = drawn()
    byte = np.rint(soft * 255).astype(np.float32) / np.float32(255)  # of an 8-bit mask: all exact
    target = torch.from_numpy(truth).int()
    histogram = Histogram.of(byte, truth)
    probability = torch.from_numpy(byte).double()
    auc, ap = binary_auroc(probability, target), binary_average_precision(probability, target)
    assert histogram.auc() == pytest.approx(auc.item(), abs=1e-6)
    assert histogram.average_precision() == pytest.approx(ap.item(), abs=1e-6)
    exact = Histogram.of(soft, truth)  # of other masks: those of probabilities in steps of 1/5100
    stepped = torch.from_numpy(np.floor(soft.astype(np.float64) * STEPS) / STEPS)
    for probability, close in ((stepped, 1e-6), (torch.from_numpy(soft).double(), 3e-4)):
        ap, auc = (score(probability, target) for score in (binary_average_precision, binary_auroc))
        assert exact.average_precision() == pytest.approx(ap.item(), abs=close)
        assert exact.auc() == pytest.approx(auc.item(), abs=close)
    for bins in (10, 15, 30):
        error = binary_calibration_error(torch.from_numpy(soft).double(), target, bins)
        assert exact.reliability(bins)[1] == pytest.approx(error.item(), abs=1e-6)
    counts = count((soft >= 0.5)[None], truth[None])
    guess = torch.from_numpy(soft >= 0.5).int()
    assert counts.iou().item() == pytest.approx(
        binary_jaccard_index(guess, target).item(), abs=1e-6
    )
    assert counts.dice().item() == pytest.approx(binary_f1_score(guess, target).item(), abs=1e-6)
    f_beta = binary_fbeta_score(guess, target, beta=0.3**0.5).item()
    assert counts.f_beta().item() == pytest.approx(f_beta, abs=1e-6)


def test_f_beta_where_nothing_is_found():
    masks = np.array([[[0, 0]], [[1, 0]], [[0, 0]], [[1, 1]]])
    truth = np.array([[[0, 0]], [[0, 0]], [[1, 0]], [[1, 0]]])
    p, r = 0.5, 1.0
    assert count(masks, truth).f_beta().tolist() == [1, 0, 0, 1.3 * p * r / (0.3 * p + r)]


@pytest.mark.parametrize("bins", [1, 7, 15, 16])
def test_reliability_by_hand(bins):
    soft, truth = drawn()
    soft.flat[:50] = 1.0
    table, error = Histogram.of(soft, truth).reliability(bins)
    place = np.minimum(np.floor(np.floor(soft.astype(float) * STEPS) * bins / STEPS), bins - 1)
    gaps = 0.0
    for index in range(bins):
        inside = place == index
        assert table["pixels"][index] == inside.sum()
        assert table["share"][index] == pytest.approx(inside.mean())
        assert table["confidence"][index] == pytest.approx(soft[inside].mean(dtype=float))
        assert table["accuracy"][index] == pytest.approx(truth[inside].mean())
        gaps += inside.mean() * abs(soft[inside].mean(dtype=float) - truth[inside].mean())
    assert error == pytest.approx(gaps, abs=1e-9)


def test_a_calibrated_model_has_no_error_and_an_empty_bin_no_accuracy():
    soft, truth = drawn(size=(1000, 1000), sharpness=1)
    assert Histogram.of(soft, truth).reliability()[1] < 2e-3
    assert Histogram.of(*drawn()).reliability()[1] > 0.05
    table, error = Histogram.of(np.full((2, 2), 0.5, np.float32), np.eye(2) > 0).reliability(2)
    assert error == 0 and math.isnan(table["accuracy"][0]) and table["accuracy"][1] == 0.5
    for bins, histogram in ((0, Histogram.of(soft, truth)), (5, Histogram())):
        with pytest.raises(ValueError, match="bins must|no pixels"):
            histogram.reliability(bins)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 2.0, 4.0])
def test_temperature_is_that_of_an_optimiser(sharpness):
    soft, truth = drawn(sharpness=sharpness)
    logit = special.logit(np.clip(soft.astype(float), 2.0**-24, 1 - 2.0**-24))

    def loss(temperature):
        return np.logaddexp(0, np.where(truth, -logit, logit) / temperature).mean()

    best = optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    found = Histogram.of(soft, truth).temperature()
    assert found == pytest.approx(best, rel=2e-3)
    assert found == pytest.approx(sharpness, rel=0.03)
    assert loss(found) <= loss(best) + 1e-7


def test_temperature_of_probabilities_that_tell_nothing_or_everything():
    truth = np.eye(8) > 0
    right = np.where(truth, 0.9, 0.1).astype(np.float32)
    assert Histogram.of(right, truth).temperature() == pytest.approx(0.01, rel=1e-3)
    assert Histogram.of(1 - right, truth).temperature() == pytest.approx(100, rel=1e-3)
    assert Histogram.of(np.full((8, 8), 0.5, np.float32), truth).temperature() == 1


@pytest.mark.parametrize(("fill", "missing"), [(False, "foreground"), (True, "background")])
def test_one_class_only_is_said(fill, missing):
    histogram = Histogram.of(drawn(size=(20, 20))[0], np.full((20, 20), fill))
    for name, score in (("AUC", histogram.auc), ("temperature", histogram.temperature)):
        with pytest.warns(UserWarning, match=f"{name} is undefined: no pixel.*is {missing}"):
            assert math.isnan(score())
    if not fill:
        with pytest.warns(UserWarning, match="average precision is undefined"):
            assert math.isnan(histogram.average_precision())
        assert [len(column) for column in histogram.curve()] == [0, 0, 0]
    else:
        assert histogram.average_precision() == 1
    assert histogram.reliability()[1] > 0


def test_precision_and_recall_curve_like_torchmetrics():
    from torchmetrics.functional.classification import binary_precision_recall_curve

    soft, truth = drawn(size=(40, 50))
    soft = np.rint(soft * 51).astype(np.float32) / np.float32(51)
    expected = binary_precision_recall_curve(torch.from_numpy(soft), torch.from_numpy(truth).int())
    precision, recall, threshold = (values.numpy()[::-1] for values in expected)
    found = Histogram.of(soft, truth).curve()
    np.testing.assert_allclose(found[0], precision[1:], atol=1e-6)  # theirs begins at recall 0
    np.testing.assert_allclose(found[1], recall[1:], atol=1e-6)
    np.testing.assert_allclose(found[2], threshold, atol=1e-6)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_bootstrap_like_scipy(confidence):
    values = np.random.default_rng(1).beta(5, 2, 60)
    low, high = interval(values, confidence, resamples=20_000, seed=3)
    theirs = stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=20_000, method="percentile",
        random_state=0,
    ).confidence_interval  # fmt: skip
    width = high - low
    assert low == pytest.approx(theirs.low, abs=0.04 * width)
    assert high == pytest.approx(theirs.high, abs=0.04 * width)
    assert (low, high) == interval(values, confidence, resamples=20_000, seed=3)
    assert (low, high) != interval(values, confidence, resamples=20_000, seed=4)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        low, high = interval(rng.normal(0.7, 0.1, 50), 0.9, 400, seed)
        covered += low <= 0.7 <= high
    assert 0.84 < covered / 300 < 0.95


def test_resamples_are_means_of_drawn_images():
    values = np.eye(5)  # a column says how often its image was drawn
    sums = resampled_sums(values, 3000, seed=1)
    assert sums.shape == (3000, 5) and (sums.sum(axis=1) == 5).all()
    assert sums.mean(axis=0) == pytest.approx(np.ones(5), abs=0.06)
    assert sums.var(axis=0) == pytest.approx(np.full(5, 4 / 5), abs=0.1)  # binomial
    assert limits(np.arange(101), 0.9) == pytest.approx([5, 95])
    assert interval([0.25]) == (0.25, 0.25)


def test_paired_tells_a_real_gain_from_luck():
    rng = np.random.default_rng(0)
    hardness = rng.normal(0.7, 0.2, 100)  # what both models share is not what they differ in
    a = hardness + rng.normal(0, 0.01, 100)
    b = hardness + 0.01 + rng.normal(0, 0.01, 100)
    gain, low, high, better = paired(a, b)
    assert gain == pytest.approx((b - a).mean()) and 0 < low < gain < high and better > 0.99
    assert paired(a, b, higher_is_better=False)[3] == pytest.approx(1 - better)
    gain, low, high, better = paired(a, hardness + rng.normal(0, 0.01, 100))
    assert low < 0 < high
    assert paired(a, a) == (0, 0, 0, 0.5)
    theirs = interval(b - a)
    assert paired(a, b)[1:3] == theirs


def test_bootstrap_refuses_what_cannot_be_meant():
    with pytest.raises(ValueError, match="at least one image"):
        interval([])
    with pytest.raises(ValueError, match=r"same images, got \(3,\) and \(2,\)"):
        paired([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="between 0 and 1, such as 0.95, got 95"):
        interval([1, 2], confidence=95)
    with pytest.raises(ValueError, match="resamples must be at least 1"):
        interval([1, 2], resamples=0)


def test_the_catalogue_explains_every_score_in_a_line():
    for name, score in SCORES.items():
        texts = (score.label, score.definition, score.blind_to, score.source)
        assert all(text and "\n" not in text and len(text) < 100 for text in texts), name
        assert score.higher_is_better == (name != "mae")
        assert any(char.isdigit() for char in score.source[-4:])  # the year
    assert len({score.label for score in SCORES.values()}) == len(SCORES)
