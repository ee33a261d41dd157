"""Cut-outs against exact mattes: colours, alpha, composites."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from unetlib.matting import (
    chequerboard,
    composite,
    cut_out,
    estimate_foreground,
    fit_cover,
    parse_color,
    soft_to_alpha,
)

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


@relaxed
@given(softs, thresholds, st.integers(0, 2**32 - 1))
def test_cut_out_invariants(soft, threshold, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*soft.shape, 3), dtype=np.uint8)
    cut = cut_out(image, soft, threshold)
    assert cut.rgba.shape == (*soft.shape, 4) and cut.rgba.dtype == np.uint8
    assert cut.binary.dtype == np.uint8 and cut.soft.dtype == np.float32
    np.testing.assert_array_equal(cut.soft, soft)
    np.testing.assert_array_equal(cut.binary, 255 * (soft >= np.float32(threshold)))
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
    rgba = cut_out(np.zeros((*soft.shape, 3), np.uint8), soft, threshold).rgba
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


def test_photos_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="float64"):
        cut_out(np.zeros((4, 6, 3)), np.zeros((4, 6)))


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
