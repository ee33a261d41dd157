"""The whole way of one photo, against a network whose answer is known: red is foreground."""

import io

import numpy as np
import pytest
from PIL import Image
from test_predict import redness

from unetlib.cutting import Recipe, cut_photo, over_background, read_background, remove_background
from unetlib.matting import cut_out
from unetlib.predict import Predictor


@pytest.fixture
def predictor() -> Predictor:
    return redness()


def disc(height=64, width=64) -> np.ndarray:
    """A red disc in the upper left of a blue photo."""
    y, x = np.mgrid[:height, :width]
    photo = np.full((height, width, 3), (10, 20, 90), np.uint8)
    photo[np.hypot(y - height / 3, x - width / 3) < height / 5] = (250, 20, 30)
    return photo


def test_one_call_from_bytes_to_bytes(predictor):
    file = io.BytesIO()
    Image.fromarray(disc()).save(file, "PNG")
    rgba = np.asarray(Image.open(io.BytesIO(remove_background(file.getvalue(), predictor))))
    red = disc()[..., 0] > 100
    assert rgba.shape == (64, 64, 4)
    assert ((rgba[..., 3] >= 128) == red).mean() > 0.99
    assert (rgba[~red][rgba[~red][:, 3] == 0] == 0).all()
    assert remove_background(disc(), predictor, format="webp")[8:12] == b"WEBP"


def test_it_is_what_its_steps_are(predictor):
    recipe = Recipe(threshold=0.4, refine="none", grow=1, feather=2, size=96)
    cut = cut_photo(disc(80, 50), predictor, recipe)
    soft = predictor.predict(disc(80, 50), size=96)
    by_hand = cut_out(disc(80, 50), soft, 0.4, refine="none", grow=1, feather=2)
    np.testing.assert_array_equal(cut.cutout.rgba, by_hand.rgba)
    np.testing.assert_array_equal(cut.picture, by_hand.rgba)


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        (" #0a4678 ", (10, 70, 120)),
        (" 1, 2 ,3", (1, 2, 3)),
        ("SteelBlue", (70, 130, 180)),
        ("blur", (128, 128, 128)),
        ("blur:0.1", (128, 128, 128)),
        ("white@0.5", (192, 192, 192)),
        ("1,2,3@1", (1, 2, 3)),
    ],
)
def test_backgrounds_as_people_write_them(text, colour):
    background, grey = read_background(text), np.full((8, 8, 3), 128, np.uint8)
    rgba = np.zeros((8, 8, 4), np.uint8)
    assert np.abs(over_background(rgba, grey, background).astype(int) - colour).max() <= 1
    assert read_background(background) is background
    assert all(read_background(t) is None for t in ("", None, " Transparent "))


@pytest.mark.parametrize(
    "text",
    ["bleu", "blur:2", "blur:x", "white@2", "white@", "nowhere/beach.jpg", "0.5,0,0"]
    + ["#12", "0,0", "0,0,256", "-1,0,0", "1,2,x", "#0a467880"],
)
def test_what_is_no_background_shows_what_is(text):
    with pytest.raises(ValueError, match=f"background '{text}' is not found") as caught:
        read_background(text)
    assert "#0a4678" in str(caught.value) and "blur" in str(caught.value)


def test_each_background_by_hand(predictor, tmp_path):
    photo = disc()
    clear = cut_photo(photo, predictor).cutout.rgba
    far, inside = clear[..., 3] == 0, clear[..., 3] == 255
    assert far.sum() > 2000 and inside.sum() > 200

    def over(background):
        picture = cut_photo(photo, predictor, Recipe(background=background)).picture
        assert picture.shape == photo.shape  # no semi-transparent pixel is left
        np.testing.assert_array_equal(picture[inside], clear[inside][:, :3])
        return picture[far]

    assert (over("0,255,0") == (0, 255, 0)).all()
    Image.new("RGB", (30, 90), (0, 200, 0)).save(tmp_path / "a @ b.png")
    assert (over(str(tmp_path / "a @ b.png")) == (0, 200, 0)).all()
    grey = over("grey")
    assert (grey == grey[:, :1]).all() and abs(int(grey[0, 0]) - 25) <= 1  # luma of (10, 20, 90)
    np.testing.assert_allclose(
        over("white@0.5"), np.broadcast_to([132, 138, 172], grey.shape), atol=1
    )
    np.testing.assert_allclose(over("blur"), np.broadcast_to([10, 20, 90], grey.shape), atol=3)


def test_crop(predictor):
    photo = disc(300, 400)
    cut = cut_photo(photo, predictor, Recipe(crop=True))
    rows, cols = np.nonzero(cut_photo(photo, predictor).cutout.rgba[..., 3])
    height, width = cut.picture.shape[:2]
    assert 0 <= height - (np.ptp(rows) + 1) <= 8 and 0 <= width - (np.ptp(cols) + 1) <= 8
    for kind in ("mask_binary", "mask_soft", "foreground"):
        assert cut.output(kind).shape[:2] == (height, width)
    inside = cut.picture[..., 3] == 255
    assert (cut.picture[inside][:, 0] > 200).all()
    empty = cut_photo(np.zeros((30, 40, 3), np.uint8), predictor, Recipe(crop=True))
    assert empty.picture.shape == (30, 40, 4) and not empty.picture.any()  # nothing to crop to


def test_its_own_transparency_stays(predictor):
    rgba = np.dstack([np.full((64, 64, 3), (250, 0, 0), np.uint8), np.full((64, 64), 255, "u1")])
    rgba[:32, :, 3] = 0
    rgba[40, :, 3] = 100
    alpha = cut_photo(rgba, predictor).cutout.rgba[..., 3]
    assert (alpha[:32] == 0).all() and (alpha[45:] == 255).all() and (alpha[40] <= 100).all()


def test_comparison(predictor):
    cut = cut_photo(disc(), predictor)
    three = cut.output("comparison")
    assert three.shape == (64, 192, 3) and three.dtype == np.uint8
    np.testing.assert_array_equal(three[:, :64], disc())
    assert (three[..., 128:, :][cut.cutout.rgba[..., 3] == 0] >= 200).all()  # the board
