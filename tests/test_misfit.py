"""Masks that do not fit their photos, in generated sets of pictures."""

import math
import warnings

import numpy as np
import pytest

from unetlib.data.misfit import GOOD, SIDE, judge, measure
from unetlib.data.synthetic import generate_sample

PLANTED = range(0, 40, 5)
PLANTS = {
    "mirrored": lambda m: m[:, ::-1],
    "upside down": lambda m: m[::-1],
    "turned by 180°": lambda m: m[::-1, ::-1],
    "turned by 90° to the right": lambda m: np.rot90(m),
    "turned by 90° to the left": lambda m: np.rot90(m, -1),
    "moved by 15 % to the left": lambda m: moved(m, 0, 15),
    "moved by 15 % to the right": lambda m: moved(m, 0, -15),
    "moved by 10 % to the bottom": lambda m: moved(m, -10, 0),
    "moved by 10 % to the top": lambda m: moved(m, 10, 0),
}


def moved(matte, down, right):
    """By per cent of the side; what comes in from outside is background."""
    h, w = matte.shape
    down, right = round(h * down / 100), round(w * right / 100)
    out = np.zeros_like(matte)
    out[max(0, down) : h + min(0, down), max(0, right) : w + min(0, right)] = matte[
        max(0, -down) : h + min(0, -down), max(0, -right) : w + min(0, -right)
    ]
    return out


@pytest.fixture(scope="module")
def samples():
    made = [generate_sample(3, i, 160) for i in range(40)]
    return [(s.image, np.rint(s.matte * 255).astype(np.uint8)) for s in made]


@pytest.fixture(scope="module")
def fits(samples):
    return [measure(*sample) for sample in samples]


def names(fits):
    return [f"{i}.png" for i in range(len(fits))]


def test_true_masks_are_left_in_peace(fits):
    median, wrong = judge(fits, names(fits))
    assert wrong == {}
    assert 0.75 < median < 0.9


@pytest.mark.parametrize("how", PLANTS)
def test_changed_masks_are_found_and_the_way_back_is_named(samples, fits, how):
    planted = list(fits)
    for i in PLANTED:
        photo, matte = samples[i]
        planted[i] = measure(photo, np.ascontiguousarray(PLANTS[how](matte)))
    _, wrong = judge(planted, names(fits))
    assert set(wrong) <= set(PLANTED)
    # what is right must never be called wrong, so not all that is wrong is found
    assert sum(why == how for why in wrong.values()) >= len(PLANTED) / 4
    assert sum(why != how for why in wrong.values()) <= 2


def test_exchanged_masks_are_named(samples, fits):
    right = untrue = 0
    for first in range(0, len(fits), 8):  # eight at a time, i with its partner i ^ 4
        planted = list(fits)
        for i in range(first, first + 8):
            planted[i] = measure(samples[i][0], samples[i ^ 4][1])
        for i, why in judge(planted, names(fits))[1].items():
            # the mask of i lies under the name of its partner
            meant = i in range(first, first + 8) and why.startswith(f"the mask of {i ^ 4}.png")
            right, untrue = right + meant, untrue + (not meant)
    assert right >= 0.4 * len(fits) and untrue <= 2


@pytest.mark.parametrize("how", ["moved by 15 % to the left", "mirrored", "upside down"])
def test_a_set_that_is_wrong_throughout_has_a_low_median(samples, how):
    wrong = [measure(p, np.ascontiguousarray(PLANTS[how](m))) for p, m in samples]
    assert judge(wrong, names(wrong))[0] < 0.65


def test_a_set_with_masks_one_off_has_a_low_median(samples):
    wrong = [measure(p, samples[i - 1][1]) for i, (p, _) in enumerate(samples)]
    assert judge(wrong, names(wrong))[0] < 0.65


def test_few_pairs_have_no_median(fits):
    known = [fit for fit in fits if not math.isnan(fit.score)]
    assert math.isnan(judge(known[:11], names(known[:11]))[0])
    assert judge(known[:12], names(known[:12]))[0] > 0.7
    assert math.isnan(judge([], [])[0]) and judge([], [])[1] == {}


def test_the_median_leaves_out_what_has_no_score(fits):
    known = [fit for fit in fits if not math.isnan(fit.score)]
    unknown = measure(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8))
    more = [unknown, *known, unknown]
    assert judge(more, names(more))[0] == np.median([fit.score for fit in known])


def test_brightness_and_contrast_hardly_matter(samples, fits):
    for (photo, matte), fit in zip(samples, fits, strict=True):
        pale = np.rint(photo * 0.5 + 90).astype(np.uint8)
        assert measure(pale, matte).score == pytest.approx(fit.score, abs=0.08, nan_ok=True)


def test_sizes_do_not_matter(samples, fits):
    for (photo, matte), fit in list(zip(samples, fits, strict=True))[:10]:
        large = matte.repeat(5, 0).repeat(3, 1)
        assert measure(photo, large).score == pytest.approx(fit.score, abs=0.03, nan_ok=True)


def test_only_suspects_keep_pictures(samples, fits):
    for fit in fits:
        assert fit.score < GOOD or fit.ranks is None and fit.border is None and not fit.better
    bad = measure(samples[0][0], samples[1][1])
    assert bad.score < GOOD
    assert bad.ranks.shape == (SIDE, SIDE) and bad.ranks.dtype == np.uint8
    assert bad.border.nbytes == SIDE * SIDE // 8


def points(n):
    matte = np.zeros((90, 70), np.uint8)
    matte[40, 30 : 30 + n] = 255
    return matte


@pytest.mark.parametrize(
    "matte", [points(0), ~points(0), points(3), ~points(3), np.zeros((1, 1), np.uint8)]
)
@pytest.mark.parametrize("size", [(1, 1), (200, 130)])
def test_what_cannot_be_told_has_no_score(matte, size):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = measure(photo, matte)
        assert math.isnan(fit.score) and fit.better == "" and fit.ranks is None
        assert judge([fit] * 20, ["x"] * 20)[1] == {}


def test_a_plain_photo_has_no_score(disc):
    grey = np.full((130, 140, 3), 77, np.uint8)
    assert math.isnan(measure(grey, disc(130, 140)).score)


def test_a_small_thing_is_no_suspect(samples):
    """Few border pixels fit better elsewhere by chance."""
    matte = np.zeros((160, 160), np.uint8)
    for i, (photo, _) in enumerate(samples):
        small = matte.copy()
        small[20 + i : 40 + i, 30:50] = 255
        fit = measure(photo, small)
        assert fit.better == "" and fit.ranks is None


def test_a_very_soft_border_has_no_score(samples):
    ramp = np.broadcast_to(np.linspace(0, 255, 160).astype(np.uint8), (160, 160))
    assert math.isnan(measure(samples[0][0], ramp).score)
