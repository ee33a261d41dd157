"""Photos as files: what a cut-out carries on, what kinds there are, and files written."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from unetlib.data.images import ImageError, load_image
from unetlib.data.photo import Photo, encode, open_photo, read_photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def file_of(image: Image.Image, format: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_profile_and_resolution_are_read_and_carried(photo, format):
    source = file_of(Image.fromarray(photo(40, 60)), format, icc_profile=SRGB, dpi=(300, 150))
    found = open_photo(source)
    assert found.icc == SRGB and found.dpi == pytest.approx((300, 150), abs=0.1)
    for array in (found.rgb, np.dstack([found.rgb, np.full((40, 60), 9, np.uint8)])):
        again = Image.open(io.BytesIO(encode(array, "png", found)))
        assert again.info["icc_profile"] == SRGB
        assert again.info["dpi"] == pytest.approx((300, 150), abs=0.1)
        np.testing.assert_array_equal(np.asarray(again), array)
        webp = Image.open(io.BytesIO(encode(array, "webp", found)))
        assert webp.info["icc_profile"] == SRGB and webp.size == (60, 40)
    mask = Image.open(io.BytesIO(encode(found.rgb[..., 0], "png", found)))
    assert "icc_profile" not in mask.info  # a mask has no colours


def test_resolution_is_turned_with_the_photo(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    source = file_of(Image.fromarray(photo(20, 30)), "JPEG", exif=exif, dpi=(300, 200))
    found = open_photo(source)
    assert found.rgb.shape == (30, 20, 3) and found.dpi == pytest.approx((200, 300))
    square = file_of(Image.fromarray(photo(20, 20)), "JPEG", exif=exif, dpi=(300, 200))
    assert open_photo(square).dpi == pytest.approx((200, 300))


def test_a_photo_without_them_has_none(photo):
    assert open_photo(file_of(Image.fromarray(photo()), "TIFF")).dpi is None
    found = open_photo(photo())
    assert found.icc is None and found.dpi is None and found.alpha is None and found.name == ""


def test_a_profile_for_other_colours_than_rgb_is_left_behind(photo):
    grey = file_of(Image.fromarray(photo()).convert("L"), "PNG", icc_profile=SRGB)
    assert open_photo(grey).icc is None  # the result is RGB, the profile was made for grey
    other = file_of(Image.fromarray(photo()), "PNG", icc_profile=LAB)
    assert open_photo(other).icc is None


def test_cmyk_with_a_profile_that_is_none_is_converted_plainly(photo):
    cmyk = Image.fromarray(photo(20, 30)).convert("CMYK")
    plain = open_photo(file_of(cmyk, "TIFF"))
    broken = open_photo(file_of(cmyk, "TIFF", icc_profile=b"no profile at all"))
    np.testing.assert_array_equal(plain.rgb, broken.rgb)
    assert broken.icc is None
    np.testing.assert_array_equal(plain.rgb, np.asarray(cmyk.convert("RGB")))


def test_its_own_transparency():
    rgba = np.zeros((6, 8, 4), np.uint8)
    rgba[:, :4] = (200, 10, 10, 255)
    rgba[:, 4] = (200, 10, 10, 128)
    for source in (rgba, file_of(Image.fromarray(rgba), "PNG"), Image.fromarray(rgba)):
        found = open_photo(source)
        np.testing.assert_array_equal(found.alpha, rgba[..., 3])
        assert (found.rgb[:, 5:] == 255).all()  # white below
        np.testing.assert_array_equal(found.rgb[0, 0], [200, 10, 10])
        assert abs(int(found.rgb[0, 4, 1]) - 132) <= 1  # (10 + 255) / 2
    palette = Image.fromarray(rgba).quantize(8)
    assert open_photo(file_of(palette, "GIF", transparency=0)).alpha is not None
    opaque = np.dstack([rgba[..., :3], np.full((6, 8), 255, np.uint8)])
    assert open_photo(opaque).alpha is None


def test_upright_with_its_transparency():
    rgba = np.zeros((10, 20, 4), np.uint8)
    rgba[:, :5, 3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    found = open_photo(file_of(Image.fromarray(rgba), "PNG", exif=exif))
    assert found.rgb.shape == (20, 10, 3) and found.alpha.shape == (20, 10)
    assert (found.alpha[:5] == 255).all() and (found.alpha[5:] == 0).all()


def test_an_animation_is_its_first_frame(photo):
    frames = [Image.fromarray(photo(20, 30, n)) for n in range(3)]
    for format in ("GIF", "WEBP", "PNG"):
        data = file_of(frames[0], format, save_all=True, append_images=frames[1:])
        off = np.abs(read_photo(data).astype(int) - np.asarray(frames[0])).mean()
        assert off < 12, format  # 256 colours, or lossy


def test_sixteen_bits():
    deep = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    found = read_photo(file_of(Image.fromarray(deep), "PNG"))
    assert np.abs(found[..., 0].astype(float) - deep / 257).max() <= 1


def test_the_name_of_what_was_opened(tmp_path, photo):
    path = tmp_path / "a b.png"
    Image.fromarray(photo()).save(path)
    with path.open("rb") as file:
        for source in (path, str(path), file, Image.open(path)):
            assert open_photo(source).name == str(path)
    assert open_photo(path.read_bytes()).name == ""
    with pytest.raises(ImageError, match="nowhere.jpg"):
        open_photo("nowhere.jpg")


def test_a_photo_is_opened_once():
    one = Photo(np.zeros((2, 2, 3), np.uint8), name="x")
    assert open_photo(one) is one


def test_a_picture_of_ours_is_not_changed_through_its_copy(photo):
    picture = Image.fromarray(photo())
    found = load_image(picture)
    found.paste("red", (0, 0, 5, 5))
    np.testing.assert_array_equal(np.asarray(picture), photo())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from(["png", "webp"]))
def test_masks_are_kept_to_the_bit(height, width, format):
    mask = np.random.default_rng(height).integers(0, 256, (height, width), dtype=np.uint8)
    found = np.asarray(Image.open(io.BytesIO(encode(mask, format))).convert("L"))
    np.testing.assert_array_equal(found, mask)
    soft = mask.astype(np.float32) / 255
    assert encode(soft, format) == encode(mask, format)


def test_webp_keeps_alpha_to_the_bit_and_colours_nearly(photo):
    rgba = np.dstack([photo(60, 80), np.random.default_rng(0).integers(0, 256, (60, 80), "u1")])
    rgba[..., 3] |= 1
    found = np.asarray(Image.open(io.BytesIO(encode(rgba, "webp"))))
    np.testing.assert_array_equal(found[..., 3], rgba[..., 3])
    assert np.abs(found[..., :3].astype(int) - rgba[..., :3]).mean() < 5


@pytest.mark.parametrize(
    ("array", "format", "words"),
    [
        (np.zeros((2, 2, 3), np.uint8), "jpg", "png or webp"),
        (np.zeros((2, 16384, 3), np.uint8), "webp", "16384×2.*16383.*png"),
        (np.zeros((0, 2), np.uint8), "png", "PNG"),
    ],
)
def test_what_cannot_be_written(array, format, words):
    with pytest.raises(ValueError, match=words):
        encode(array, format)
