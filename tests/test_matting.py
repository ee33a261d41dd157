"""Cut-outs against exact mattes: colours, alpha, composites."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from unetlib.data.synthetic import generate_sample
from unetlib.matting import composite, cut_out, estimate_foreground, fit_cover, parse_color
from unetlib.matting.refine import apply_lines, guided_lines
from unetlib.predict import resize_soft

relaxed = settings(deadline=None, max_examples=40)
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


@relaxed
@given(softs, st.integers(0, 2**32 - 1))
def test_colours_of_the_edge_need_no_background_under_alpha_0(alpha, seed):
    image, other = np.random.default_rng(seed).integers(0, 256, (2, *alpha.shape, 3), np.uint8)
    other[alpha > 0] = image[alpha > 0]
    found, again = (estimate_foreground(i, alpha, background_kept=False) for i in (image, other))
    np.testing.assert_array_equal(found[alpha > 0], again[alpha > 0])
    np.testing.assert_array_equal(found[alpha == 1], image[alpha == 1])
    assert not found[alpha == 0].any()


yes = st.just(True)
ways = {"refine": st.just("none"), "largest": yes, "fill_holes": yes}
ways |= {"grow": st.floats(-3, 3), "feather": st.floats(0, 9)}
ways = st.fixed_dictionaries({}, optional=ways)


@relaxed
@given(softs, thresholds, st.integers(0, 2**32 - 1), ways, st.booleans())
def test_cut_out_invariants(soft, threshold, seed, how, with_own_alpha):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*soft.shape, 3), dtype=np.uint8)
    own = rng.integers(0, 256, soft.shape, dtype=np.uint8) if with_own_alpha else None
    image.flags.writeable = soft.flags.writeable = False  # the inputs are left alone
    cut = cut_out(image, soft, threshold, own_alpha=own, **how)
    assert cut.rgba.shape == (*soft.shape, 4) and cut.rgba.dtype == np.uint8
    assert cut.binary.dtype == np.uint8 and cut.soft.dtype == np.float32
    assert cut.soft.min() >= 0 and cut.soft.max() <= 1
    if how == {"refine": "none"} and own is None:
        np.testing.assert_allclose(cut.soft, soft, atol=1e-6)
    if own is not None:
        assert (cut.rgba[..., 3] <= own).all()
    np.testing.assert_array_equal(cut.binary, 255 * (cut.soft >= np.float32(threshold)))
    alpha = cut.rgba[..., 3] / 255
    np.testing.assert_array_equal(cut.binary == 255, alpha >= 0.5)
    assert (cut.rgba[cut.rgba[..., 3] == 0] == 0).all()
    solid = cut.rgba[..., 3] == 255
    if solid.all():
        np.testing.assert_array_equal(cut.rgba[..., :3], image)


def test_a_translucent_photo_keeps_its_own_colours():
    own = np.full((40, 50), 102, np.uint8)
    on_white = np.full((40, 50, 3), (219, 175, 233), np.uint8)
    cut = cut_out(on_white, np.ones((40, 50)), own_alpha=own)
    assert (cut.rgba[..., :3] == (255 - 36 / 0.4, 255 - 80 / 0.4, 255 - 22 / 0.4)).all()


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_alpha_by_hand(threshold):
    """0 → 0, threshold → 0.5, 1 → 1; 4 % at both ends are cut away, the rest is a straight line."""
    soft = np.float32([[0, 0.004, threshold / 2, threshold, (1 + threshold) / 2, 0.996, 1]])
    image = np.full((1, 7, 3), 90, np.uint8)
    alpha = cut_out(image, soft, threshold, refine="none").rgba[..., 3]
    steep = 255 / 0.92
    expected = [[0, 0, steep * (0.25 - 0.04), 128, steep * (0.75 - 0.04), 255, 255]]
    np.testing.assert_allclose(alpha, expected, atol=0.51)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"soft": np.zeros((5, 6))}, r"\(4, 6\).*\(5, 6\)"),
        ({"soft": np.full((4, 6), 3.0)}, "sigmoid"),
        ({"soft": np.full((4, 6), np.nan)}, "0…1"),
        ({"feather": -1}, "feather -1"),
        ({"grow": float("inf")}, "grow inf"),
        ({"own_alpha": np.zeros((4, 5), np.uint8)}, r"own_alpha.*\(4, 5\).*\(4, 6\)"),
        ({"own_alpha": np.zeros((4, 6))}, "own_alpha.*float64"),
    ],
)
def test_bad_requests_of_cut_out(how, words):
    with pytest.raises(ValueError, match=words):
        cut_out(np.zeros((4, 6, 3), np.uint8), **{"soft": np.zeros((4, 6)), **how})


def test_a_soft_mask_may_leave_its_range_by_rounding():
    soft = np.array([[-1e-5, 0.7, 1 + 1e-5]])
    for threshold in (0.3, 0.5, 1):
        got = cut_out(np.zeros((1, 3, 3), np.uint8), soft, threshold, refine="none").soft
        np.testing.assert_allclose(got, [[0, 0.7, 1]], atol=1e-6)


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


@pytest.mark.parametrize(("radius", "eps"), [(1, 1e-4), (3, 1e-2), (5, 1e-4)])
def test_the_guided_filter_is_the_papers(radius, eps):
    image, alpha, _, _ = scene(24, radius)
    rng = np.random.default_rng(radius)
    image = np.clip(image + rng.integers(-20, 20, image.shape), 0, 255).astype(np.uint8)
    mask = cv2.GaussianBlur(alpha, (0, 0), 4)
    found = apply_lines(guided_lines(image, mask, radius, eps), image)
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


shapes = arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)))


@relaxed
@given(shapes)
def test_largest_part_and_holes_are_scipys(on):
    ndimage = pytest.importorskip("scipy.ndimage")
    image = np.zeros((*on.shape, 3), np.uint8)
    whole = cut_out(image, np.asfortranarray(on, np.float32), refine="none", fill_holes=True)
    np.testing.assert_array_equal(whole.binary > 0, ndimage.binary_fill_holes(on))
    found = cut_out(image, np.float32(on), refine="none", largest=True).binary > 0
    labels, count = ndimage.label(on, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=2)[1:]
    kept = np.unique(labels[found])
    assert len(kept) == (count > 0) and all(sizes[kept - 1] == sizes.max())
    np.testing.assert_array_equal(found, np.isin(labels, kept))


def disc(radius, size=160, soft=6.0):
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    return np.clip((radius - np.hypot(y, x)) / soft + 0.5, 0, 1).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
@pytest.mark.parametrize("pixels", [-10, -2.5, 0.5, 3.25])
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
    cut_out(image, disc(50, soft=1), refine="none", feather=1e9)  # as soft as can be
    np.testing.assert_array_equal(soft.binary, hard.binary)

    def width(cut):
        row = cut.soft[80]
        return ((row > 0.16) & (row < 0.84)).sum() / 2  # two standard deviations

    assert width(soft) == pytest.approx(pixels, abs=1 + 0.1 * pixels)


@pytest.mark.parametrize("shape", [(1, 1), (20000, 10), (1, 9), (4, 1)])
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
@given(arrays(np.uint8, (3, 4, 4)), st.tuples(*[st.integers(0, 255)] * 3))
def test_composite_over_a_colour_is_pillows(rgba, colour):
    below = Image.new("RGBA", (4, 3), (*colour, 255))
    want = np.asarray(Image.alpha_composite(below, Image.fromarray(rgba)).convert("RGB"))
    got = composite(rgba, colour)
    assert got.shape == (3, 4, 3) and got.dtype == np.uint8
    assert np.abs(got.astype(int) - want).max() <= 1  # Pillow rounds in fixed point


def test_composite_colour_names_and_images(photo):
    rgba = np.zeros((10, 20, 4), np.uint8)
    rgba[:, :10] = (1, 2, 3, 255)
    np.testing.assert_array_equal(composite(rgba, "red")[0, [0, 19]], [[1, 2, 3], [255, 0, 0]])
    below = photo(10, 20)
    np.testing.assert_array_equal(composite(rgba, below)[:, 10:], below[:, 10:])
    assert parse_color(np.array([9, 8, 7], np.uint8)) == parse_color((9, 8, 7)) == (9, 8, 7)
    with pytest.raises(ValueError, match="cut-out"):
        composite(rgba[..., :3], "red")


def test_closed_form_is_pymattings():
    pymatting = pytest.importorskip("pymatting")
    image, alpha, _, _ = scene(96, 3)
    mask = coarse_mask(alpha, 32)
    trimap = np.where(mask > 0.95, 1.0, np.where(mask < 0.05, 0.0, 0.5))
    want = pymatting.estimate_alpha_cf(image / 255, trimap)
    assert np.abs(cut_out(image, mask, refine="closed-form").soft - want).max() < 0.01


@pytest.mark.parametrize("level", [0.5, 0.02, 0.98])
def test_closed_form_without_a_known_side_is_plain(level):
    pytest.importorskip("pymatting")
    mask = np.full((40, 40), level, np.float32)
    mask[:20] = np.clip(mask[:20], 0.3, 0.7)
    found = cut_out(scene(40, 0)[0], mask, refine="closed-form").soft
    np.testing.assert_array_equal(found, mask)


def test_a_mask_without_doubt_stays_and_one_without_a_figure_is_emptied():
    image, alpha, _, _ = scene(200, 1)
    for mask in (np.float32(alpha > 0.5), np.zeros_like(alpha), np.ones_like(alpha)):
        np.testing.assert_array_equal(cut_out(image, mask).soft, mask)
    assert not cut_out(image, np.full_like(alpha, 0.4)).soft.any()


def test_cover_fit_keeps_the_shape_and_the_middle():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255  # the middle square
    assert (fit_cover(image, 50, 50) == 255).mean() > 0.95
    assert fit_cover(image, 7, 40).shape == (7, 40, 3)


def test_fog_far_from_the_figure_goes_and_its_inside_becomes_solid():
    y, x = np.mgrid[:200, :300]
    distance = np.hypot(y - 100, x - 100)
    mask = np.clip((60 - distance) / 8 + 0.5, 0.12, 0.9).astype(np.float32)
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    found = cut_out(image, mask).soft
    assert not found[distance > 80].any()
    assert (found[distance < 40] == 1).all()
