"""Cut-outs against exact mattes: colours, alpha, composites."""

import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from unetlib.data.synthetic import generate_sample
from unetlib.matting import (
    chequerboard,
    colours,
    composite,
    cut_out,
    cutout,
    estimate_foreground,
    fit_cover,
    multilevel_colours,
    parse_color,
    refine,
    soft_to_alpha,
)
from unetlib.matting.refine import along, guided_lines, without_fog
from unetlib.predict import resize_soft

relaxed = settings(deadline=None, max_examples=60)
unit = st.floats(0, 1, width=32)
softs = arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=unit)
thresholds = st.floats(0.01, 0.99)


def scene(size: int, seed: int):
    """image, alpha, foreground, background of a mixture whose parts are known exactly."""
    rng = np.random.default_rng(seed)
    blobs = cv2.GaussianBlur(rng.random((size, size), np.float32), (0, 0), size / 12)
    alpha = cv2.GaussianBlur((blobs > 0.5).astype(np.float32), (0, 0), size / 40)

    def picture(cells):
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)

    front, back = picture(4), picture(6)
    image = np.rint(alpha[..., None] * front + (1 - alpha[..., None]) * back).astype(np.uint8)
    return image, alpha, front, back


@pytest.mark.parametrize("size", [96, 256])
@pytest.mark.parametrize("seed", range(4))
def test_estimated_colours_composite_better_than_raw_ones(size, seed):
    image, alpha, front, _ = scene(size, seed)
    new = np.array([10.0, 200, 30])
    a = alpha[..., None]
    edge = (alpha > 0.02) & (alpha < 0.98)

    def error(colours):
        return np.abs((a * colours + (1 - a) * new) - (a * front + (1 - a) * new))[edge].mean()

    assert error(estimate_foreground(image, alpha).astype(float)) < 0.75 * error(
        image.astype(float)
    )


def test_a_red_disc_on_green_keeps_no_green():
    y, x = np.mgrid[:120, :120]
    alpha = np.clip((40 - np.hypot(y - 60, x - 60)) / 8 + 0.5, 0, 1).astype(np.float32)[..., None]
    image = np.rint(alpha * [220, 20, 20] + (1 - alpha) * [20, 220, 20]).astype(np.uint8)
    rgba = cut_out(image, alpha[..., 0]).rgba
    fringe = (rgba[..., 3] > 25) & (rgba[..., 3] < 230)
    assert fringe.sum() > 500
    raw = np.abs(image[fringe].astype(int) - [220, 20, 20]).mean()  # the photo's edge is greenish
    assert np.abs(rgba[fringe][:, :3].astype(int) - [220, 20, 20]).mean() < 0.4 * raw
    on_white = composite(rgba, "white").astype(int)
    assert (on_white[..., 1] - on_white[..., 0]).max() <= 10  # nowhere greener than red


@relaxed
@given(softs, st.integers(0, 2**32 - 1))
def test_colours_are_the_photos_own_where_alpha_is_one(alpha, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*alpha.shape, 3), dtype=np.uint8)
    before = image.copy()
    colours = estimate_foreground(image, alpha)
    assert colours.dtype == np.uint8 and colours.shape == image.shape
    np.testing.assert_array_equal(colours[alpha == 1], image[alpha == 1])
    np.testing.assert_array_equal(image, before)  # the input is left alone


@relaxed
@given(softs, st.integers(0, 2**32 - 1))
def test_colours_of_the_edge_need_no_background_under_alpha_0(alpha, seed):
    image, other = np.random.default_rng(seed).integers(0, 256, (2, *alpha.shape, 3), np.uint8)
    other[alpha > 0] = image[alpha > 0]
    found, again = (estimate_foreground(i, alpha, background_kept=False) for i in (image, other))
    np.testing.assert_array_equal(found[alpha > 0], again[alpha > 0])
    for array, given_ in ((found, image), (again, other)):
        solid = (alpha == 0) | (alpha == 1)
        np.testing.assert_array_equal(array[solid], given_[solid])


@pytest.mark.parametrize("seed", range(4))
def test_the_background_learned_from_the_edge_does_as_well(seed):
    image, alpha, front, _ = scene(128, seed)
    cut = image * (alpha > 0)[..., None]  # black where nothing is seen
    edge, a = (alpha > 0.02) & (alpha < 0.98), alpha[..., None]

    def error(colours):
        return np.abs(a * (colours.astype(float) - front))[edge].mean()

    found = error(estimate_foreground(cut, alpha, background_kept=False))
    assert found < 0.75 * error(image)
    assert found < 1.1 * error(estimate_foreground(image, alpha))


ways = st.fixed_dictionaries(
    {},
    optional={
        "refine": st.just("none"),
        "largest": st.just(True),
        "fill_holes": st.just(True),
        "grow": st.floats(-3, 3),
        "feather": st.floats(0, 9),
    },
)


@relaxed
@given(softs, thresholds, st.integers(0, 2**32 - 1), ways, st.booleans())
def test_cut_out_invariants(soft, threshold, seed, how, with_own_alpha):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*soft.shape, 3), dtype=np.uint8)
    own = rng.integers(0, 256, soft.shape, dtype=np.uint8) if with_own_alpha else None
    before = soft.copy(), image.copy()
    cut = cut_out(image, soft, threshold, own_alpha=own, **how)
    np.testing.assert_array_equal(soft, before[0])  # the inputs are left alone
    np.testing.assert_array_equal(image, before[1])
    assert cut.rgba.shape == (*soft.shape, 4) and cut.rgba.dtype == np.uint8
    assert cut.binary.dtype == np.uint8 and cut.soft.dtype == np.float32
    assert cut.soft.min() >= 0 and cut.soft.max() <= 1
    if how == {"refine": "none"} and own is None:
        np.testing.assert_array_equal(cut.soft, soft)
    if own is not None:
        assert (cut.rgba[..., 3] <= own).all()
    np.testing.assert_array_equal(cut.binary, 255 * (cut.soft >= np.float32(threshold)))
    alpha = cut.rgba[..., 3] / 255
    np.testing.assert_array_equal(cut.binary == 255, alpha >= 0.5)
    assert (cut.rgba[cut.rgba[..., 3] == 0] == 0).all()
    solid = cut.rgba[..., 3] == 255
    if solid.all():
        np.testing.assert_array_equal(cut.rgba[..., :3], image)
    assert cut.foreground_share == (cut.binary > 0).mean()


@relaxed
@given(thresholds, st.lists(unit, min_size=2, max_size=30))
def test_alpha_rises_with_soft(threshold, values):
    soft = np.sort(np.array(values, np.float32))[None]
    alpha = soft_to_alpha(soft, threshold)
    assert alpha.dtype == np.float32 and alpha.min() >= 0 and alpha.max() <= 1
    assert (np.diff(alpha) >= -1e-6).all()
    image = np.zeros((*soft.shape, 3), np.uint8)
    rgba = cut_out(image, soft, threshold, refine="none").rgba
    assert (np.diff(rgba[..., 3].astype(int)) >= 0).all()


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_alpha_by_hand(threshold):
    """0 → 0, threshold → 0.5, 1 → 1; haze of up to 2 % vanishes, 98 % and more is solid."""
    soft = np.array([[0, 0.004, threshold, 0.996, 1]], np.float32)
    alpha = soft_to_alpha(soft, threshold)
    np.testing.assert_allclose(alpha, [[0, 0, 0.5, 1, 1]], atol=1e-6)
    half = np.array([[threshold / 2, (1 + threshold) / 2]], np.float32)
    np.testing.assert_allclose(soft_to_alpha(half, threshold, haze=0), [[0.25, 0.75]], atol=1e-6)


def test_haze_vanishes_and_the_inside_is_solid():
    soft = np.array([[0.01, 0.02, 0.03, 0.97, 0.98, 0.99]], np.float32)
    np.testing.assert_array_equal(soft_to_alpha(soft), [[0, 0, 0, 1, 1, 1]])


def test_thresholds_at_the_ends():
    soft = np.array([[0, 0.5, 1]], np.float32)
    image = np.full((1, 3, 3), 9, np.uint8)
    np.testing.assert_array_equal(cut_out(image, soft, 0).binary, [[255, 255, 255]])
    np.testing.assert_array_equal(cut_out(image, soft, 1).binary, [[0, 0, 255]])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_masks(value, photo):
    image = photo(20, 30)
    cut = cut_out(image, np.full((20, 30), value, np.float32))
    assert cut.foreground_share == value
    want = np.dstack([image * int(value), np.full((20, 30), 255 * int(value), np.uint8)])
    np.testing.assert_array_equal(cut.rgba, want)


@pytest.mark.parametrize(
    ("soft", "threshold", "words"),
    [
        (np.zeros((5, 6)), 0.5, r"\(4, 6\).*\(5, 6\)"),
        (np.full((4, 6), 3.0), 0.5, "sigmoid"),
        (np.full((4, 6), np.nan), 0.5, "0…1"),
        (np.zeros((4, 6)), 1.5, "1.5"),
        (np.zeros((4, 6)), float("nan"), "threshold"),
    ],
)
def test_bad_input_to_cut_out(soft, threshold, words):
    with pytest.raises(ValueError, match=words):
        cut_out(np.zeros((4, 6, 3), np.uint8), soft, threshold)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"refine": "guide"}, "guided, closed-form, none"),
        ({"feather": -1}, "feather -1"),
        ({"feather": float("nan")}, "feather nan"),
        ({"grow": float("inf")}, "grow inf"),
        ({"own_alpha": np.zeros((4, 5), np.uint8)}, r"own_alpha.*\(4, 6\).*\(4, 5\)"),
        ({"own_alpha": np.zeros((4, 6))}, "own_alpha.*float64"),
    ],
)
def test_bad_requests_of_cut_out(how, words):
    with pytest.raises(ValueError, match=words):
        cut_out(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6)), **how)


def test_photos_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="float64"):
        cut_out(np.zeros((4, 6, 3)), np.zeros((4, 6)))


def guided_filter_by_hand(image, mask, radius, eps):
    """He, Sun, Tang 2013, equations 19 and 20, a window at a time in float64."""
    image, mask = np.float64(image) / 255, np.float64(mask)
    h, w = mask.shape
    around = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="symmetric")
    padded = np.pad(mask, radius, mode="symmetric")
    a, b = np.empty((h, w, 3)), np.empty((h, w))
    side = 2 * radius + 1
    for y in range(h):
        for x in range(w):
            colours = around[y : y + side, x : x + side].reshape(-1, 3)
            values = padded[y : y + side, x : x + side].ravel()
            spread = np.cov(colours.T, bias=True) + eps * np.eye(3)
            together = (colours * values[:, None]).mean(axis=0) - colours.mean(0) * values.mean()
            a[y, x] = np.linalg.solve(spread, together)
            b[y, x] = values.mean() - a[y, x] @ colours.mean(axis=0)
    lines = np.pad(np.dstack([a, b]), ((radius, radius), (radius, radius), (0, 0)), "symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(lines, (side, side), (0, 1))
    mean = windows.mean(axis=(-1, -2))
    return (mean[..., :3] * image).sum(axis=2) + mean[..., 3]


@pytest.mark.parametrize("radius", [1, 3, 5])
@pytest.mark.parametrize("eps", [1e-4, 1e-2])
def test_the_guided_filter_is_the_papers(radius, eps):
    image, alpha, _, _ = scene(40, radius)
    rng = np.random.default_rng(radius)
    image = np.clip(image + rng.integers(-20, 20, image.shape), 0, 255).astype(np.uint8)
    mask = cv2.GaussianBlur(alpha, (0, 0), 4)
    found = along(guided_lines(image, mask, radius, eps), image)
    want = np.clip(guided_filter_by_hand(image, mask, radius, eps), 0, 1)
    np.testing.assert_allclose(found, want, atol=2e-3)


def coarse_mask(alpha, size, blur=0.8):
    """What a network of that working size would say at best."""
    small = cv2.resize(alpha, (size, size), interpolation=cv2.INTER_AREA)
    return resize_soft(cv2.GaussianBlur(small, (0, 0), blur), *alpha.shape)


def edge_error(alpha, colours, sample, behind):
    """Of the composite over `behind`, within 10 px of the true edge, of 255."""
    inside = (sample.matte >= 0.5).astype(np.uint8)
    away = sum(cv2.distanceTransform(m, cv2.DIST_L2, 5) for m in (inside, 1 - inside))
    a, m = alpha[..., None], sample.matte[..., None]
    found = a * colours + (1 - a) * behind
    return np.abs(found - (m * sample.foreground + (1 - m) * behind))[away <= 10].mean()


@pytest.mark.parametrize(("size", "working", "share"), [(256, 96, 0.95), (640, 96, 0.75)])
def test_refinement_and_colours_lower_the_edge_error(size, working, share):
    """More where the mask is far smaller than the photo, less in hair. With real networks by 30 %
    in the mean, see benchmarks/edge_quality.py."""
    rows = []
    for i in range(6):
        sample = generate_sample(31, i, size)
        behind = generate_sample(32, i, size).background
        soft = coarse_mask(sample.matte, working)
        rgba = cut_out(sample.image, soft).rgba
        plain = edge_error(soft, sample.image, sample, behind)
        rows.append((plain, edge_error(rgba[..., 3] / 255, rgba[..., :3], sample, behind)))
    plain, ours = np.mean(rows, axis=0)
    assert ours < share * plain


@pytest.mark.parametrize("size", [300, 900])
def test_tiles_make_no_seams(size, monkeypatch):
    image, alpha, _, _ = scene(size, 5)
    soft = coarse_mask(alpha, 64)
    tiled = cut_out(image, soft)

    def one(height, width, side=0):
        return [(slice(0, height), slice(0, width))]

    for module in (refine, colours, cutout):
        monkeypatch.setattr(module, "tiles", one)
    whole = cut_out(image, soft)
    # OpenCV warps to 1/32 of a pixel of the reduced size, where the tile starts in it included.
    assert np.abs(tiled.soft - whole.soft).max() < 0.02
    assert np.abs(tiled.rgba.astype(int) - whole.rgba)[..., 3].max() <= 6
    np.testing.assert_array_equal(
        colours.multilevel_colours(image, tiled.rgba[..., 3])[tiled.binary > 0],
        cv2.copyTo(tiled.rgba[..., :3], tiled.rgba[..., 3])[tiled.binary > 0],
    )


def test_a_mask_without_doubt_stays():
    image, alpha, _, _ = scene(200, 1)
    for mask in (np.float32(alpha > 0.5), np.zeros_like(alpha), np.ones_like(alpha)):
        np.testing.assert_array_equal(refine.guided(image, mask), mask)
    assert not refine.guided(image, np.full_like(alpha, 0.4)).any()  # nobody there


def test_a_mask_uncertain_everywhere_is_refined():
    image, alpha, _, _ = scene(200, 1)
    soft = 0.3 + 0.4 * cv2.GaussianBlur(alpha, (0, 0), 3)
    cut = cut_out(image, soft)
    assert ((cut.binary > 0) == (alpha > 0.5)).mean() > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_multilevel_colours_are_nearly_pymattings(seed):
    pymatting = pytest.importorskip("pymatting")
    image, alpha, front, _ = scene(200, seed)
    alpha8 = np.rint(alpha * 255).astype(np.uint8)
    edge = (alpha8 > 25) & (alpha8 < 255)
    reference = 255 * pymatting.estimate_foreground_ml(image / 255, alpha8 / 255.0)
    found = multilevel_colours(image, alpha8)
    ours, theirs, raw = (
        np.abs(c - front.astype(float))[edge].mean()
        for c in (found, reference, image.astype(float))
    )
    assert ours < 1.15 * theirs and ours < 0.5 * raw


@relaxed
@given(arrays(np.uint8, st.tuples(st.integers(1, 90), st.integers(1, 9))), st.integers(0, 99))
def test_multilevel_colours_change_the_edge_only(alpha, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*alpha.shape, 3), dtype=np.uint8)
    before = image.copy()
    found = multilevel_colours(image, alpha)
    np.testing.assert_array_equal(found[alpha == 255], before[alpha == 255])
    assert not found[alpha == 0].any()  # invisible, but it would cost bytes and leak the old one
    np.testing.assert_array_equal(image, before)


def test_closed_form_is_pymattings():
    pymatting = pytest.importorskip("pymatting")
    image, alpha, _, _ = scene(96, 3)
    mask = coarse_mask(alpha, 32)
    trimap = np.where(mask > 0.95, 1.0, np.where(mask < 0.05, 0.0, 0.5))
    want = pymatting.estimate_alpha_cf(image / 255, trimap)
    found = refine.closed_form(image, mask)
    assert np.abs(found - want).max() < 0.01
    cut = cut_out(image, mask, refine="closed-form")
    np.testing.assert_array_equal(cut.soft, found)


def test_closed_form_of_a_large_photo_is_solved_smaller():
    pytest.importorskip("pymatting")
    _, blobs, front, back = scene(1200, 3)
    alpha = cv2.GaussianBlur(np.float32(blobs > 0.5), (0, 0), 1.5)
    image = np.rint(alpha[..., None] * front + (1 - alpha[..., None]) * back).astype(np.uint8)
    soft = coarse_mask(alpha, 160)
    seen = []

    def solve(photo, trimap):
        seen.append(trimap.size)
        return cv2.resize(alpha, trimap.shape[::-1], interpolation=cv2.INTER_AREA).astype(float)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pymatting.estimate_alpha_cf", solve)
        found = refine.closed_form(image, soft)
    assert len(seen) == 1 and 0.9e6 < seen[0] <= 1.01e6
    assert found.shape == soft.shape
    assert np.abs(found - alpha).mean() < 0.5 * np.abs(soft - alpha).mean()


@pytest.mark.parametrize("level", [0.5, 0.02, 0.98, 0.0, 1.0])
def test_closed_form_without_a_known_side_is_plain(level):
    pytest.importorskip("pymatting")
    image = scene(40, 0)[0]
    mask = np.full((40, 40), level, np.float32)
    mask[:20] = np.clip(mask[:20], 0.3, 0.7)
    found = cut_out(image, mask, refine="closed-form").soft
    np.testing.assert_array_equal(found, mask)


def test_closed_form_that_cannot_be_solved_is_plain(monkeypatch):
    pytest.importorskip("pymatting")

    def fail(*_):
        raise ValueError("conjugate gradient did not converge")

    monkeypatch.setattr("pymatting.estimate_alpha_cf", fail)
    image, alpha, _, _ = scene(64, 0)
    mask = coarse_mask(alpha, 24)
    np.testing.assert_array_equal(refine.closed_form(image, mask), mask)


def test_closed_form_without_pymatting_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymatting", None)
    with pytest.raises(RuntimeError, match=r"unetlib\[matting\]"):
        cut_out(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6)), refine="closed-form")


shapes = arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)))


@relaxed
@given(shapes)
def test_largest_part_is_scipys(on):
    ndimage = pytest.importorskip("scipy.ndimage")
    image = np.zeros((*on.shape, 3), np.uint8)
    cut = cut_out(image, np.float32(on), refine="none", largest=True)
    labels, count = ndimage.label(on, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=2)[1:]
    kept = np.unique(labels[cut.binary > 0])
    if count:
        assert len(kept) == 1 and sizes[kept[0] - 1] == sizes.max()
        np.testing.assert_array_equal(cut.binary > 0, labels == kept[0])
    else:
        assert not len(kept)


@relaxed
@given(shapes)
def test_holes_are_scipys(on):
    ndimage = pytest.importorskip("scipy.ndimage")
    image = np.zeros((*on.shape, 3), np.uint8)
    cut = cut_out(image, np.float32(on), refine="none", fill_holes=True)
    np.testing.assert_array_equal(cut.binary > 0, ndimage.binary_fill_holes(on))


def disc(radius, size=160, soft=6.0):
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    return np.clip((radius - np.hypot(y, x)) / soft + 0.5, 0, 1).astype(np.float32)


def test_the_largest_part_keeps_its_soft_edge_and_holes_lose_theirs():
    image = np.zeros((160, 160, 3), np.uint8)
    ring = disc(60) - disc(20)
    np.testing.assert_allclose(
        cut_out(image, ring, refine="none", fill_holes=True).soft, disc(60), atol=1e-6
    )
    soft = np.maximum(disc(60), np.roll(disc(5, 160), (70, 70), (0, 1)))
    kept = cut_out(image, soft, refine="none", largest=True).soft
    np.testing.assert_array_equal(kept, disc(60))


@pytest.mark.parametrize("threshold", [0.3, 0.5])
@pytest.mark.parametrize("pixels", [-10, -2.5, -1, 0.5, 1, 3.25, 12])
def test_grow_moves_the_contour(pixels, threshold):
    image = np.zeros((160, 160, 3), np.uint8)

    def radius(grow):
        cut = cut_out(image, disc(50), threshold, refine="none", grow=grow)
        return np.sqrt((cut.rgba[..., 3] / 255.0).sum() / np.pi)

    assert radius(pixels) - radius(0) == pytest.approx(pixels, rel=0.06, abs=0.12)


@pytest.mark.parametrize("pixels", [1, 5, 20])
def test_feather_softens_around_the_same_contour(pixels):
    image = np.zeros((160, 160, 3), np.uint8)
    hard = cut_out(image, disc(50, soft=1), refine="none")
    soft = cut_out(image, disc(50, soft=1), refine="none", feather=pixels)
    np.testing.assert_array_equal(soft.binary, hard.binary)

    def width(cut):
        row = cut.soft[80]
        return ((row > 0.16) & (row < 0.84)).sum() / 2  # two standard deviations

    assert width(soft) == pytest.approx(pixels, abs=1 + 0.1 * pixels)


def test_own_transparency_is_a_limit():
    image, alpha, _, _ = scene(96, 2)
    own = np.full(alpha.shape, 255, np.uint8)
    own[:, :30], own[:, 30:60] = 0, 100
    cut = cut_out(image, alpha, own_alpha=own)
    free = cut_out(image, alpha)
    assert (cut.rgba[..., 3] <= own).all() and not cut.binary[:, :60].any()
    np.testing.assert_array_equal(cut.rgba[:, 60:, 3], free.rgba[:, 60:, 3])
    assert (cut.rgba[:, :30] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (20000, 10), (3, 5000), (1, 9), (4, 1)])
@pytest.mark.parametrize("value", [None, 0.0, 0.5, 1.0])
def test_photos_of_odd_shapes(shape, value):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    soft = rng.random(shape, np.float32) if value is None else np.full(shape, value, np.float32)
    for how in ({}, {"largest": True, "fill_holes": True, "grow": 1.5, "feather": 3}):
        cut = cut_out(image, soft, **how)
        assert cut.rgba.shape == (*shape, 4)
        np.testing.assert_array_equal(cut.binary == 255, cut.rgba[..., 3] >= 128)


@relaxed
@given(
    arrays(np.uint8, (3, 4, 4)),
    st.tuples(*[st.integers(0, 255)] * 3),
)
def test_composite_over_a_colour_is_pillows(rgba, colour):
    below = Image.new("RGBA", (4, 3), (*colour, 255))
    want = np.asarray(Image.alpha_composite(below, Image.fromarray(rgba)).convert("RGB"))
    got = composite(rgba, colour)
    assert got.shape == (3, 4, 3) and got.dtype == np.uint8
    assert np.abs(got.astype(int) - want).max() <= 1  # Pillow rounds in fixed point


def test_composite_transparent_colour_names_and_images(photo):
    rgba = np.zeros((10, 20, 4), np.uint8)
    rgba[:, :10] = (1, 2, 3, 255)
    clear = composite(rgba)
    np.testing.assert_array_equal(clear, rgba)
    assert clear is not rgba
    np.testing.assert_array_equal(composite(rgba, "red")[0, [0, 19]], [[1, 2, 3], [255, 0, 0]])
    below = photo(10, 20)
    np.testing.assert_array_equal(composite(rgba, below)[:, 10:], below[:, 10:])
    with pytest.raises(ValueError, match="cut-out"):
        composite(rgba[..., :3], "red")


@relaxed
@given(*[st.integers(1, 40)] * 4)
def test_cover_fit_fills_the_frame(h, w, height, width):
    out = fit_cover(np.full((h, w, 3), 77, np.uint8), height, width)
    assert out.shape == (height, width, 3) and (out == 77).all()


def test_cover_fit_keeps_the_shape_and_the_middle():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255  # the middle square
    assert (fit_cover(image, 50, 50) == 255).mean() > 0.95


def test_chequerboard():
    board = chequerboard(50, 70, cell=10)
    assert board.shape == (50, 70, 3) and board.dtype == np.uint8
    assert (board[0, 0] != board[0, 10]).all() and (board[0, 0] == board[10, 10]).all()


@pytest.mark.parametrize(
    ("color", "rgb"),
    [
        ("#0a4678", (10, 70, 120)),
        ("#fff", (255, 255, 255)),
        ("0,255,0", (0, 255, 0)),
        (" 1, 2 ,3", (1, 2, 3)),
        ("SteelBlue", (70, 130, 180)),
        ("rgb(1, 2, 3)", (1, 2, 3)),
        ("#0a4678ff", (10, 70, 120)),
        ((9, 8, 7), (9, 8, 7)),
        (np.array([9, 8, 7], np.uint8), (9, 8, 7)),
    ],
)
def test_colours(color, rgb):
    assert parse_color(color) == rgb


@pytest.mark.parametrize(
    "color", ["", "bleu", "#12", "0,0", "0,0,256", "-1,0,0", "1,2,x", "#0a467880", (1, 2), None, 5]
)
def test_colours_that_are_none_show_what_is_accepted(color):
    with pytest.raises(ValueError, match=r"#0a4678.*0,255,0.*white"):
        parse_color(color)


def test_fog_far_from_the_figure_goes_and_its_inside_becomes_solid():
    y, x = np.mgrid[:200, :300]
    distance = np.hypot(y - 100, x - 100)
    mask = np.clip((60 - distance) / 8 + 0.5, 0.12, 0.9).astype(np.float32)
    found = without_fog(mask)
    assert not found[distance > 80].any()
    assert (found[distance < 40] == 1).all()
    near = abs(distance - 60) < 5  # the contour and its soft edge stay
    assert np.array_equal(found[near], mask[near])
    assert np.array_equal(found >= 0.5, mask >= 0.5)


@pytest.mark.parametrize(("value", "left"), [(0.2, 0), (0.7, 1)])
def test_a_mask_without_a_contour_is_nobody_or_everything(value, left):
    assert (without_fog(np.full((40, 50), value, np.float32)) == left).all()
