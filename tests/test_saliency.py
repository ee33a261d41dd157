"""Saliency and edge scores against PySODMetrics, SciPy, scikit-image, hand computation."""

import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from unetlib.metrics import SCORES
from unetlib.metrics.boundary import (
    band_width,
    boundary_accuracy,
    boundary_iou,
    boundary_scores,
)
from unetlib.metrics.image import image_scores
from unetlib.metrics.saliency import _spread, e_measure, s_measure, weighted_f

relaxed = settings(deadline=None, max_examples=150)
SALIENCY = ("e_measure", "e_max", "e_adaptive", "f_max", "f_adaptive", "s_measure", "weighted_f")
# binary fractions: their means are exact, so that a tie with the adaptive threshold is one for all
DYADIC = st.sampled_from([0.0, 1 / 64, 0.25, 0.375, 0.5, 0.75, 63 / 64, 1.0])


def pysodmetrics(soft, truth) -> dict:
    """The scores of one image."""
    sod = pytest.importorskip("py_sod_metrics")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        kinds = sod.Fmeasure(), sod.Emeasure(), sod.Smeasure(), sod.WeightedFmeasure(), sod.MAE()
        for measure in kinds:
            measure.step(soft.astype(np.float64), truth, normalize=False)
    f, e, s, weighted, mae = kinds
    found = {
        "e_measure": e.changeable_ems[0].mean(),
        "e_max": e.changeable_ems[0].max(),
        "e_adaptive": e.adaptive_ems[0],
        "f_max": f.changeable_fms[0].max(),
        "f_adaptive": f.adaptive_fms[0],
        "s_measure": s.sms[0],
        "weighted_f": weighted.weighted_fms[0],
        "mae": mae.maes[0],
    }
    if np.isnan(found["s_measure"]):  # a quadrant without pixels
        found["s_measure"] = s_measure_of_quadrants_with_pixels(s, soft.astype(np.float64), truth)
    return {name: float(value) for name, value in found.items()}


def s_measure_of_quadrants_with_pixels(sod, soft, truth) -> float:
    y, x = np.argwhere(truth).mean(axis=0).round().astype(int) + 1
    region = 0.0
    for rows in (slice(None, y), slice(y, None)):
        for columns in (slice(None, x), slice(x, None)):
            if (part := soft[rows, columns]).size:
                region += sod.ssim(part, truth[rows, columns]) * part.size / truth.size
    return max(0, 0.5 * sod.object(soft, truth) + 0.5 * region)


def check(soft, truth):
    ours, _ = image_scores(soft, truth.astype(np.float32))
    for name, expected in pysodmetrics(soft, truth).items():
        assert ours[name] == pytest.approx(expected, abs=1e-4), name
        assert 0 <= ours[name] <= most(name, truth)


def most(name, truth):
    """Of a score: 1, but the E-measure of small images is a little more."""
    return truth.size / max(1, truth.size - 1) + 1e-12 if name.startswith("e_") else 1


def smooth(rng, height, width, sigma):
    field = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), sigma)
    return field / field.std()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["smooth", "noise", "8 bit"])
def test_like_pysodmetrics(seed, kind):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 120, 2)
    truth = smooth(rng, height, width, 9) > rng.uniform(-1, 1)
    if kind == "noise":
        truth, soft = rng.random((height, width)) < 0.3, rng.random((height, width), np.float32)
    else:
        soft = 1 / (1 + np.exp(-3 * smooth(rng, height, width, 5) - 3 * truth + 1.5))
        soft = np.rint(soft * 255) / np.float32(255) if kind == "8 bit" else soft
    check(soft.astype(np.float32), truth)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, None])
@pytest.mark.parametrize("mask", ["empty", "full", "first pixel", "last pixel", "pixel", "half"])
@pytest.mark.parametrize("shape", [(1, 2), (5, 1), (7, 9), (64, 48)])
def test_like_pysodmetrics_where_nothing_is_usual(shape, mask, value):
    truth = np.zeros(shape, bool)
    truth[{"full": ..., "half": slice(shape[0] // 2)}.get(mask, ())] = mask in ("full", "half")
    if "pixel" in mask:
        where = {"first pixel": 0, "last pixel": -1}.get(mask, truth.size // 2)
        truth.flat[where] = True
    soft = np.full(shape, value or 0, np.float32)
    if value is None:
        soft = np.random.default_rng(0).random(shape, np.float32)
    check(soft, truth)


@relaxed
@given(st.data())
def test_like_pysodmetrics_on_any_small_mask(data):
    shape = data.draw(array_shapes(min_dims=2, max_dims=2, max_side=9))
    if shape != (1, 1):
        check(data.draw(arrays(np.float32, shape, elements=DYADIC)), data.draw(arrays(bool, shape)))


@pytest.mark.parametrize("truth", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_pixel_is_right_or_wrong(truth, value):
    """PySODMetrics divides by 0 here."""
    ours, _ = image_scores(np.full((1, 1), value, np.float32), np.full((1, 1), truth, np.float32))
    right = float(truth == bool(value))
    assert ours["s_measure"] == 1 - ours["mae"] == right
    assert ours["boundary_iou"] == ours["boundary_accuracy"] == right
    assert e_measure(truth and value, (not truth) and value, int(truth), 1) == right


def test_even_quadrants_whose_mean_is_no_float():
    """0.3 over and over: a rounded variance must not look like a texture."""
    truth = np.zeros((40, 30), bool)
    truth[10:30, 10:20] = True
    score = s_measure(np.full(truth.shape, 0.3, np.float32), truth)
    share = truth.mean()
    # mean m and no deviation: 2 m / (m^2 + 1), of 0.3 inside and of 0.7 outside
    evenness = share * 0.6 / 1.09 + (1 - share) * 1.4 / 1.49
    assert score == pytest.approx(0.5 * evenness, abs=1e-6)  # no quadrant is even in the truth


@relaxed
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20)))
def test_the_nearest_pixel_is_that_of_scipy(truth):
    """Around the object, as far as the window of weighted F reaches, ties included."""
    if truth.all() or not truth.any():
        return
    error = np.arange(truth.size, dtype=np.float32).reshape(truth.shape)
    _, nearest = ndimage.distance_transform_edt(~truth, return_indices=True)
    near = ndimage.maximum_filter(truth, 7, mode="constant")
    expected = np.where(truth, error, error[tuple(nearest)])
    np.testing.assert_array_equal(_spread(error, truth)[near], expected[near])


def test_weighted_f_by_hand():
    """An object of one pixel in the corner of 1x2; the prediction is right by a half everywhere."""
    soft, truth = np.array([[0.5, 0.5]], np.float32), np.array([[True, False]])
    weights = np.exp(-(np.arange(-3, 4) ** 2) / 50)
    middle = np.outer(weights, weights)[3] / weights.sum() ** 2
    missed = min(0.5, 0.5 * (middle[3] + middle[4]))  # both pixels have the error 0.5
    made_up = 0.5 * (2 - 0.5 ** (1 / 5))
    precision, recall = (1 - missed) / (1 - missed + made_up), 1 - missed
    assert weighted_f(soft, truth) == pytest.approx(
        2 * precision * recall / (precision + recall), abs=1e-6
    )


@relaxed
@given(st.data())
def test_scores_of_counts_do_not_care_where_pixels_are(data):
    shape = data.draw(array_shapes(min_dims=2, max_dims=2, max_side=9))
    soft = data.draw(arrays(np.float32, shape, elements=DYADIC))
    matte = data.draw(arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])))
    one, _ = image_scores(soft, matte)
    for turn in (np.fliplr, np.flipud, np.transpose):
        other, _ = image_scores(*(np.ascontiguousarray(turn(a)) for a in (soft, matte)))
        for name in one.keys() - {"s_measure", "weighted_f"}:  # they count from the top left
            assert one[name] == pytest.approx(other[name], abs=1e-12), name
    # what lies in memory in another order is the same picture
    strided, _ = image_scores(np.asfortranarray(soft), np.asfortranarray(matte))
    assert strided == pytest.approx(one, abs=1e-12)
    assert all(0 <= one[name] <= most(name, matte) for name in one.keys() & SCORES.keys())


@pytest.mark.parametrize("name", SALIENCY)
def test_the_truth_itself_is_perfect(name):
    truth = np.zeros((40, 50), np.float32)
    truth[5:30, 7:33] = 1
    ours, _ = image_scores(truth, truth)
    # one of 256 thresholds is 0, at which everything is foreground
    close = 4e-3 if name == "e_measure" else 1e-6
    assert ours[name] == pytest.approx(most(name, truth), abs=close)


def mask_to_boundary(mask, width):
    """As in Cheng et al.: what `width` erosions by 3x3 take away, the border being background."""
    square = np.ones((3, 3), bool)
    return mask & ~ndimage.binary_erosion(mask, square, iterations=width, border_value=0)


@relaxed
@given(st.data(), st.sampled_from([0.02, 0.1, 0.3]))
def test_boundary_scores_like_scipy(data, share):
    shape = data.draw(array_shapes(min_dims=2, max_dims=2, max_side=16))
    mask, truth = (data.draw(arrays(bool, shape)) for _ in range(2))
    width = max(1, round(share * (shape[0] ** 2 + shape[1] ** 2) ** 0.5))
    assert band_width(shape, share) == width
    first, second = mask_to_boundary(mask, width), mask_to_boundary(truth, width)
    union = (first | second).sum()
    expected = (first & second).sum() / union if union else 1.0
    assert boundary_iou(mask, truth, share) == expected == boundary_iou(truth, mask, share)
    if truth.any() and not truth.all():
        away = [ndimage.distance_transform_cdt(m, "chessboard") for m in (truth, ~truth)]
        near = (away[0] + away[1]) <= width
        assert boundary_accuracy(mask, truth, share) == (mask == truth)[near].mean()
    else:
        assert boundary_accuracy(mask, truth, share) == float((mask == truth).all())


def test_a_rim_of_one_pixel_is_that_of_scikit_image():
    from skimage.segmentation import find_boundaries

    rng = np.random.default_rng(3)
    mask, truth = (smooth(rng, 30, 30, 3) > 0 for _ in range(2))
    rims = [
        find_boundaries(np.pad(m, 1), connectivity=2, mode="inner")[1:-1, 1:-1]
        for m in (mask, truth)
    ]
    found = boundary_scores(mask, truth)
    assert band_width(truth.shape) == 1
    assert found["rim_both"] == (rims[0] & rims[1]).sum()
    assert found["rim_either"] == (rims[0] | rims[1]).sum()


def test_the_band_grows_with_the_image():
    small = np.zeros((200, 300), bool)
    small[50:150, 80:220] = True
    shifted = np.roll(small, 3, axis=1)
    large, large_shifted = (m.repeat(4, axis=0).repeat(4, axis=1) for m in (small, shifted))
    for score in (boundary_iou, boundary_accuracy):
        assert score(shifted, small) == pytest.approx(score(large_shifted, large), abs=0.02)
        assert score(shifted, small) < 0.92 < (shifted == small).mean()
    assert band_width((1000, 1000)) == 28 and band_width((3, 3)) == 1
