"""Photos and masks of every kind people have, and files that are none."""

import io
import os
import struct
import threading
import warnings
import zlib

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unetlib.data import images
from unetlib.data.images import (
    MAX_PIXELS,
    ImageError,
    binarize,
    image_size,
    load_image,
    resize,
)
from unetlib.data.masks import load_mask
from unetlib.data.preprocess import Preprocess, to_tensor

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners() -> Image.Image:
    """40 x 20 picture whose four quarters are red, green / blue, white."""
    array = np.zeros((20, 40, 3), np.uint8)
    array[:10, :20], array[:10, 20:] = RED, GREEN
    array[10:, :20], array[10:, 20:] = BLUE, WHITE
    return Image.fromarray(array)


def seen(image: Image.Image) -> list[tuple]:
    """Colours in the middle of the four quarters, rounded to 0 / 255."""
    a = np.asarray(image)
    h, w = a.shape[:2]
    spots = [(h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, w // 4), (3 * h // 4, 3 * w // 4)]
    return [tuple(int(v > 127) * 255 for v in a[y, x]) for y, x in spots]


# the stored picture is corners(); what a viewer must show, from the EXIF standard's table
UPRIGHT = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied_to_photo_and_mask(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    corners().save(path, exif=exif)
    image = load_image(path)
    assert seen(image) == UPRIGHT[orientation]
    assert image_size(path) == image.size == ((40, 20) if orientation < 5 else (20, 40))
    assert load_mask(path).shape == image.size[::-1]


def test_exif_orientation_survives_decoding_at_reduced_size(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    corners().resize((1600, 800)).save(path, exif=exif)
    image = load_image(path, max_side=300)
    assert image.size == (200, 400)  # a quarter: the smallest step that keeps >= 300
    assert seen(image) == UPRIGHT[6]


def test_broken_exif_does_not_cost_the_photo(tmp_path):
    corners().save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow says so, too
        assert load_image(tmp_path / "a.jpg").size == (40, 20)


@pytest.mark.parametrize("size, max_side", [((1000, 500), 250), ((501, 999), 124), ((64, 48), 500)])
def test_reduced_decoding_never_goes_below_what_was_asked(tmp_path, size, max_side):
    path = tmp_path / "a.jpg"
    corners().resize(size).save(path)
    image = load_image(path, max_side=max_side)
    assert max(image.size) >= min(max_side, max(size))
    assert max(image.size) < 2 * max_side + 2 or image.size == size
    assert abs(image.size[0] / image.size[1] / (size[0] / size[1]) - 1) < 0.02
    corners().resize(size).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", max_side=max_side).size == size


def test_multi_picture_phone_jpeg_is_read_and_reduced(tmp_path):
    big = corners().resize((800, 400))
    big.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[big])
    assert seen(load_image(tmp_path / "a.jpg")) == UPRIGHT[1]
    assert load_image(tmp_path / "a.jpg", max_side=100).size == (100, 50)


def test_cmyk_photo(tmp_path):
    corners().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert Image.open(tmp_path / "a.jpg").mode == "CMYK"
    assert seen(load_image(tmp_path / "a.jpg")) == UPRIGHT[1]


def test_palette_photo(tmp_path):
    corners().quantize(16).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert seen(load_image(tmp_path / "a.png")) == UPRIGHT[1]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_photo_is_scaled_not_clipped(tmp_path, suffix):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / f"a.{suffix}")
    rgb = np.asarray(load_image(tmp_path / f"a.{suffix}"))
    assert np.array_equal(rgb[..., 0], np.rint(ramp / 257)) and rgb.shape == (8, 8, 3)


def test_16_bit_colour_photo(tmp_path):
    rgb = np.linspace(0, 65535, 8 * 8 * 3).astype(np.uint16).reshape(8, 8, 3)
    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1])
    found = np.asarray(load_image(tmp_path / "a.png")).astype(float)
    assert np.abs(found - rgb / 257).max() <= 1


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_float_photo(tmp_path, top):
    ramp = np.linspace(0, top, 64).astype(np.float32).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    rgb = np.asarray(load_image(tmp_path / "a.tif"))
    assert np.array_equal(rgb[..., 1], np.rint(ramp / top * 255))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "P", "I", "YCbCr", "HSV"])
def test_every_mode_becomes_rgb(mode):
    image = load_image(corners().convert(mode))
    assert image.mode == "RGB" and image.size == (40, 20)


def test_transparent_areas_are_put_on_white(tmp_path):
    image = corners().convert("RGBA")
    alpha = np.zeros((20, 40), np.uint8)
    alpha[:, :20] = 255
    alpha[:, 20:30] = 51  # 20 % green on 80 % white
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "a.png")
    a = np.asarray(load_image(tmp_path / "a.png"))
    assert tuple(a[0, 0]) == RED and tuple(a[0, 39]) == WHITE
    assert np.abs(a[0, 25].astype(int) - (204, 255, 204)).max() <= 1
    gif = corners().quantize(8)
    gif.info["transparency"] = gif.getpixel((0, 0))
    gif.save(tmp_path / "a.gif", transparency=gif.getpixel((0, 0)))
    assert tuple(np.asarray(load_image(tmp_path / "a.gif"))[0, 0]) == WHITE


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (16, 8), c) for c in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    assert (
        np.abs(np.asarray(load_image(tmp_path / f"a.{suffix}"))[4, 8].astype(int) - RED).max() < 4
    )


def test_accepts_bytes_files_and_pictures(tmp_path):
    path = tmp_path / "a.png"
    corners().save(path)
    sources = [path, str(path), path.read_bytes(), memoryview(path.read_bytes()), corners()]
    with open(path, "rb") as file:
        for source in [*sources, file, io.BytesIO(path.read_bytes())]:
            assert seen(load_image(source)) == UPRIGHT[1]
        assert not file.closed  # the caller's file is the caller's to close
    os.rename(path, tmp_path / "b.png")  # no handle is left open (Windows)
    mine = corners()
    assert load_image(mine) is not mine


# --- files that cannot be used -------------------------------------------------------------------


def jpeg_bytes(size=(64, 48)) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


BAD = {
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"this is not a photo, just a text file", "not an image"),
    "truncated.jpg": (jpeg_bytes()[:-400], "truncated"),
    "header_only.jpg": (jpeg_bytes()[:200], "damaged"),
    "half.png": (png_bomb(30, 30)[:60], "damaged"),
    "page.png": (b"<html><body>404</body></html>", "not an image"),
    "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("load", [load_image, load_mask])
def test_bad_files_are_named(tmp_path, name, load):
    content, reason = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as error:
        load(path)
    assert str(path) in str(error.value)
    with pytest.raises(ImageError, match=reason):
        load(content)


def test_missing_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "nothing.jpg", tmp_path):
        with pytest.raises(ImageError, match="cannot be read") as error:
            load_image(path)
        assert str(path) in str(error.value)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 400), st.binary(min_size=1, max_size=8), st.sampled_from(["JPEG", "PNG", "GIF"])
)
def test_damaged_bytes_give_a_picture_or_an_image_error(position, junk, format):
    file = io.BytesIO()
    corners().save(file, format)
    content = bytearray(file.getvalue())
    position %= len(content)
    content[position : position + len(junk)] = junk
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for load in (load_image, load_mask, image_size):
            try:
                load(bytes(content))
            except ImageError as error:
                assert "the given" in str(error)


@pytest.mark.parametrize("size", [(15_000, 15_000), (60_000, 60_000), (200_001, 1000)])
def test_decompression_bomb_is_refused_from_its_header(tmp_path, monkeypatch, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bomb(*size))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for load in (load_image, load_mask, image_size):
            with pytest.raises(ImageError) as error:
                load(path)
            message = str(error.value)
            assert str(path) in message and f"{size[0]} x {size[1]}" in message
            assert f"{MAX_PIXELS:,}" in message
    assert limit == Image.MAX_IMAGE_PIXELS


def test_large_photo_below_our_limit_passes_without_pillows_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    corners().save(tmp_path / "a.png")
    results = []

    def work():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            results.append(load_image(tmp_path / "a.png").size)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(40, 20)] * 4


def test_the_limit_is_the_product_of_the_sides(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 40 * 20)
    load_image(corners())
    monkeypatch.setattr(images, "MAX_PIXELS", 40 * 20 - 1)
    with pytest.raises(ImageError, match="799"):
        load_image(corners())


# --- masks ---------------------------------------------------------------------------------------


@pytest.fixture
def hard():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 8:22] = True
    return mask


def palette_image(indices, colours) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette([v for c in colours for v in c])
    return image


def mask_variants(hard):
    grey = hard.astype(np.uint8) * 255
    rgb = np.repeat(grey[..., None], 3, 2)
    photo = np.random.default_rng(0).integers(0, 256, (*hard.shape, 3), dtype=np.uint8)
    opaque = np.full_like(grey, 255)
    return {
        "1-bit": Image.fromarray(grey).convert("1"),
        "grey": Image.fromarray(grey),
        "labels 0/1": Image.fromarray(hard.astype(np.uint8)),
        "rgb": Image.fromarray(rgb),
        "one colour": Image.fromarray(rgb * np.array([0, 1, 0], np.uint8)),
        "rgba matte": Image.fromarray(np.dstack([photo, grey])),
        "opaque rgba": Image.fromarray(np.dstack([rgb, opaque])),
        "la matte": Image.merge("LA", [Image.fromarray(photo[..., 0]), Image.fromarray(grey)]),
        "opaque la": Image.merge("LA", [Image.fromarray(grey), Image.fromarray(opaque)]),
        "16-bit": Image.fromarray(grey.astype(np.uint16) * 257),
        "16-bit 0/1": Image.fromarray(hard.astype(np.uint16)),
        "grey palette": palette_image(hard * 3, [(0, 0, 0), RED, RED, WHITE]),
        "VOC palette": palette_image(hard * 15, [(0, 0, 0)] + [(192, 128, 128)] * 254),
        "black is not first": palette_image(~hard, [(200, 30, 30), (0, 0, 0)]),
        "no black": palette_image(hard, [GREEN, RED]),
    }


VARIANTS = list(mask_variants(np.zeros((2, 2), bool)))


@pytest.mark.parametrize("name", VARIANTS)
def test_masks_of_every_kind(tmp_path, hard, name):
    path = tmp_path / "mask.png"
    image = mask_variants(hard)[name]
    image.save(path)
    mask = load_mask(path)
    assert mask.dtype == np.float32 and mask.shape == hard.shape
    assert np.array_equal(mask, hard.astype(np.float32))


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_float_and_32_bit_masks(tmp_path, hard, top):
    Image.fromarray(hard.astype(np.float32) * np.float32(top)).save(tmp_path / "a.tif")
    assert np.array_equal(load_mask(tmp_path / "a.tif"), hard)
    Image.fromarray(hard.astype(np.int32) * int(top)).save(tmp_path / "b.tif")
    assert np.array_equal(load_mask(tmp_path / "b.tif"), hard)


def test_transparent_palette_is_read_as_alpha(tmp_path, hard):
    image = palette_image(hard, [(9, 9, 9), (10, 10, 10)])
    image.save(tmp_path / "a.png", transparency=0)
    assert np.array_equal(load_mask(tmp_path / "a.png"), hard)


def test_voc_void_is_background(hard):
    indices = hard * 15
    indices[0] = 255
    image = palette_image(indices, [(0, 0, 0)] + [(192, 128, 128)] * 255)
    assert np.array_equal(load_mask(image), hard)
    assert np.array_equal(load_mask(image, kind="labels"), hard)


def test_instance_ids(tmp_path, hard):
    ids = hard.astype(np.uint8)
    ids[8:12, 8:12] = 7
    Image.fromarray(ids).save(tmp_path / "a.png")
    assert np.array_equal(load_mask(tmp_path / "a.png", kind="labels"), hard)
    Image.fromarray(ids.astype(np.uint16) * 900).save(tmp_path / "b.png")
    assert np.array_equal(load_mask(tmp_path / "b.png", kind="labels"), hard)


@pytest.mark.parametrize("value, expected", [(0, 0), (255, 1)])
def test_all_black_and_all_white_masks(value, expected):
    mask = load_mask(Image.new("L", (6, 4), value))
    assert mask.shape == (4, 6) and (mask == expected).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_dozens_of_greys_stay_soft(tmp_path, bits):
    top = 2**bits - 1
    matte = np.linspace(0, top, 60).astype(np.uint8 if bits == 8 else np.uint16).reshape(6, 10)
    Image.fromarray(matte).save(tmp_path / "a.png")
    mask = load_mask(tmp_path / "a.png")
    assert len(np.unique(mask)) == 60
    assert np.abs(mask - matte / top).max() < 1e-6
    assert np.array_equal(binarize(mask), matte >= top / 2)


def test_noise_of_a_black_jpeg_mask_is_not_a_label(tmp_path):
    array = np.zeros((16, 16), np.uint8)
    array[4, 4] = 1
    Image.fromarray(array).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    mask = load_mask(tmp_path / "a.jpg")
    assert mask.max() <= 2 / 255
    assert load_mask(Image.fromarray(array), kind="matte").max() == pytest.approx(1 / 255)


def test_mask_is_averaged_when_resized(hard):
    mask = load_mask(Image.fromarray(hard), size=(10, 15))
    by_hand = hard.reshape(10, 2, 15, 2).mean(axis=(1, 3))
    assert mask.shape == (10, 15) and np.allclose(mask, by_hand, atol=1e-6)


def test_wrong_kind_and_nan():
    with pytest.raises(ValueError, match="auto, matte, labels"):
        load_mask(Image.new("L", (4, 4)), kind="binary")
    with pytest.raises(ImageError, match="not numbers"):
        load_mask(Image.fromarray(np.full((4, 4), np.nan, np.float32)))


# --- tensors -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(*[st.integers(1, 40)] * 4, st.sampled_from([(), (3,)]))
def test_resize_keeps_range_and_constants(h, w, new_h, new_w, channels):
    noise = np.random.default_rng(h * 41 + w).random((h, w, *channels)).astype(np.float32)
    out = resize(noise, (new_h, new_w))
    assert out.shape == (new_h, new_w, *channels)
    assert noise.min() - 1e-6 <= out.min() and out.max() <= noise.max() + 1e-6
    assert np.allclose(resize(np.full_like(noise, 0.25), (new_h, new_w)), 0.25)


def test_resize_of_a_panorama():
    assert resize(np.zeros((8, 40_000, 3), np.uint8), (16, 16)).shape == (16, 16, 3)


@pytest.mark.parametrize("size", [(24, 32), (17, 64)])
def test_to_tensor_against_torchvision(photo, size):
    from torchvision.transforms import functional as F

    p = Preprocess(size, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    rgb = photo(24, 32)
    x = to_tensor(rgb, p)
    scaled = F.resize(Image.fromarray(rgb), size, F.InterpolationMode.LANCZOS)
    expected = F.normalize(F.to_tensor(scaled), p.mean, p.std)
    assert x.dtype == torch.float32 and x.shape == (3, *size) and x.is_contiguous()
    assert torch.allclose(x, expected, atol=1e-5)


def test_a_large_photo_is_scaled_as_by_lanczos_alone(photo):
    rgb = photo(1300, 2111, 3)
    rgb[::2, ::3] //= 2  # detail that a bad filter turns into a pattern
    found = to_tensor(rgb, Preprocess((96, 128), (0.0,) * 3, (1 / 255,) * 3)).numpy()
    expected = np.asarray(Image.fromarray(rgb).resize((128, 96), Image.Resampling.LANCZOS))
    assert np.abs(found.transpose(1, 2, 0) - expected).mean() < 1


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), "u1")])
def test_to_tensor_refuses_what_is_no_8_bit_rgb(bad):
    with pytest.raises(ValueError, match="uint8"):
        to_tensor(bad, Preprocess((4, 4)))


def test_preprocess_goes_through_json_and_back():
    import json

    p = Preprocess([96, 128], [0.5] * 3, [0.25] * 3)
    assert p.size == (96, 128) and hash(p)
    assert Preprocess.from_dict(json.loads(json.dumps(p.to_dict()))) == p
    assert Preprocess(64).size == (64, 64)
    for bad in ({"size": (0, 4)}, {"size": (4, 4, 3)}, {"size": 8, "std": (1, 1, 0)}):
        with pytest.raises(ValueError):
            Preprocess(**bad)
