"""Photos and masks of every kind people have, and files that are none."""

import errno
import io
import os
import struct
import subprocess
import sys
import warnings
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features

from unetlib.cutting import encode, to_srgb
from unetlib.data.images import (
    MAX_PIXELS,
    SUFFIXES,
    ImageError,
    Photo,
    image_size,
    load_image,
    load_mask,
    open_photo,
)
from unetlib.data.preprocess import Preprocess, to_array

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
    9: [RED, GREEN, BLUE, WHITE],  # there is no such orientation
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
    assert image_size(path) == image.size == ((20, 40) if 4 < orientation < 9 else (40, 20))
    assert load_mask(path).shape == image.size[::-1]


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


def test_16_bit_photos_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.tif"))[..., 0], np.rint(ramp / 257))
    rgb = np.linspace(0, 65535, 8 * 8 * 3).astype(np.uint16).reshape(8, 8, 3)
    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1])
    found = np.asarray(load_image(tmp_path / "a.png")).astype(float)
    assert np.abs(found - rgb / 257).max() <= 1


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


def file_of(image: Image.Image, format: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def jpeg_bytes(size=(64, 48)) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return file_of(Image.fromarray(noise), "JPEG")


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims to be huge."""
    data = bytearray(file_of(Image.new("L", (100, 100)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


BAD = {
    "empty.jpg": (b"", "not an image"),
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


@pytest.mark.parametrize("size", [(15_000, 15_000), (60_000, 60_000), (200_001, 1000)])
def test_decompression_bomb_is_refused_from_its_header(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bomb(*size))
    for load in (load_image, load_mask, image_size):
        with pytest.raises(ImageError, match=f"{path}.*200 megapixels|{path}.*exceeds limit"):
            load(path)
    # a small GIF whose first frame is large
    frame = b"," + struct.pack("<HHHHB", 0, 0, *(min(n, 65535) for n in size), 0) + b"\x02\x01\0;"
    path.write_bytes(b"GIF89a" + struct.pack("<HH", 9, 9) + b"\x80\0\0" + bytes(6) + frame)
    for load in (load_image, open_photo, image_size) if size[1] > 9999 else ():
        with (
            warnings.catch_warnings(action="error"),
            pytest.raises(ImageError, match="are more than"),
        ):
            load(path)
    path.write_bytes(png_bomb(20_000, MAX_PIXELS // 20_000))  # Pillow's own limit is lower
    assert image_size(path) == (20_000, MAX_PIXELS // 20_000)


def test_what_the_system_says_is_not_called_damage(tmp_path):
    """Whether the picture is sound nobody knows then."""
    with pytest.raises(FileNotFoundError, match="nothing.jpg"):
        load_image(tmp_path / "nothing.jpg")
    with pytest.raises(OSError, match=str(tmp_path)):
        image_size(tmp_path)

    class Unplugged(io.BytesIO):
        name = "photo.jpg"

        def read(self, n=-1):
            if self.tell() > 1000:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(min(n, 512))

    with pytest.raises(OSError, match="Input/output error") as error:
        load_image(Unplugged(jpeg_bytes((640, 480))))
    assert error.value.errno == errno.EIO


IN_LITTLE_MEMORY = """
import resource, sys
from unetlib.data.images import image_size, load_image
for path in sys.argv[1:]:
    image_size(path)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)
for path in sys.argv[1:]:
    try:
        load_image(path)
    except MemoryError as error:
        print(error)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="limited on Linux only")
def test_no_memory_is_never_called_damage(tmp_path):
    """Also where the decoder does: WebP's and that of progressive JPEGs."""
    paths = [tmp_path / name for name in ("a.jpg", "b.png", "c.webp", "d.tif")]
    for path in paths:
        Image.new("RGB", (8000, 6000)).save(path, progressive=True, compress_level=1, method=0)
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{path}: out of memory" for path in paths], done


@pytest.mark.parametrize("suffix", [s for s in sorted(SUFFIXES) if not s.startswith(".h")])
def test_every_type_of_the_list_is_read(tmp_path, suffix):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    corners().convert("L" if suffix == ".pgm" else "RGB").save(tmp_path / f"a{suffix}")
    assert load_image(tmp_path / f"a{suffix}").size == (40, 20)


@pytest.fixture
def hard():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 8:22] = True
    return mask


def palette_image(indices, colours, **info) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette([v for c in colours for v in c])
    image.info |= info
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
        "16-bit": Image.fromarray(grey.astype(np.uint16) * 257),
        "float": Image.fromarray(hard.astype(np.float32)),
        "32-bit": Image.fromarray(hard.astype(np.int32) * 255),
        "palette of 256 greys": Image.fromarray(grey).convert("P"),
        "grey palette": palette_image(hard * 3, [(0, 0, 0), RED, RED, WHITE]),
        "VOC palette": palette_image(hard * 15, [(0, 0, 0)] + [(192, 128, 128)] * 254),
        "transparent palette": palette_image(hard, [(9, 9, 9), (10,) * 3], transparency=0),
        "black is not first": palette_image(~hard, [(200, 30, 30), (0, 0, 0)]),
        "no black": palette_image(hard, [GREEN, RED]),
    }


VARIANTS = list(mask_variants(np.zeros((2, 2), bool)))


@pytest.mark.parametrize("name", VARIANTS)
def test_masks_of_every_kind(tmp_path, hard, name):
    image = mask_variants(hard)[name]
    path = tmp_path / ("mask.tif" if image.mode in "FI" else "mask.png")
    image.save(path)
    mask = load_mask(path)
    assert mask.dtype == np.float32 and np.array_equal(mask, hard)
    assert np.array_equal(load_mask(path, kind="labels"), hard != (name == "black is not first"))


@pytest.mark.parametrize("bits", [8, 16])
def test_dozens_of_greys_stay_soft(tmp_path, bits):
    top = 2**bits - 1
    matte = np.linspace(0, top, 60).astype(np.uint8 if bits == 8 else np.uint16).reshape(6, 10)
    Image.fromarray(matte).save(tmp_path / "a.png")
    mask = load_mask(tmp_path / "a.png")
    assert len(np.unique(mask)) == 60
    assert np.abs(mask - matte / top).max() < 1e-6
    assert np.array_equal(mask >= 0.5, matte >= top / 2)


def test_wrong_kind_and_nan():
    with pytest.raises(ValueError, match="auto, matte, labels"):
        load_mask(Image.new("L", (4, 4)), kind="binary")
    with pytest.raises(ImageError, match="not numbers"):
        load_mask(Image.fromarray(np.full((4, 4), np.nan, np.float32)))


@pytest.mark.parametrize("size", [(24, 32), (17, 64)])
def test_to_array_against_torchvision(photo, size):
    from torchvision.transforms import functional as F

    p = Preprocess(size, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    rgb = photo(24, 32)
    x = torch.from_numpy(to_array(rgb, p))
    scaled = F.resize(Image.fromarray(rgb), size, F.InterpolationMode.LANCZOS)
    expected = F.normalize(F.to_tensor(scaled), p.mean, p.std)
    assert x.dtype == torch.float32 and x.shape == (3, *size) and x.is_contiguous()
    assert torch.allclose(x, expected, atol=1e-5)


def test_sizes_of_preprocess():
    assert Preprocess([96, 128]).size == (96, 128) and Preprocess(64).size == (64, 64)
    for bad in ({"size": (0, 4)}, {"size": (4, 4, 3)}, {"size": 8, "std": (1, 1, 0)}):
        with pytest.raises(ValueError):
            Preprocess(**bad)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = SRGB.replace(b"rXYZ", b"....").replace(b"bXYZ", b"rXYZ").replace(b"....", b"bXYZ")
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_the_profile_is_read_and_carried(photo, format):
    source = file_of(Image.fromarray(photo(40, 60)), format, icc_profile=SRGB)
    found = open_photo(source)
    assert found.icc == SRGB and found.frames == 1
    for array in (found.rgb, np.dstack([found.rgb, np.full((40, 60), 9, np.uint8)])):
        again = Image.open(io.BytesIO(encode(array, "png", found)))
        assert again.info["icc_profile"] == SRGB
        np.testing.assert_array_equal(np.asarray(again), array)
        webp = Image.open(io.BytesIO(encode(array, "webp", found)))
        assert webp.info["icc_profile"] == SRGB and webp.size == (60, 40)
    mask = Image.open(io.BytesIO(encode(found.rgb[..., 0], "png", found)))
    assert "icc_profile" not in mask.info  # a mask has no colours
    screen = to_srgb(Photo(found.rgb, icc=SWAPPED))  # its red is what others call blue
    assert screen.icc is None and np.abs(screen.rgb[..., ::-1] - 1.0 * found.rgb).max() <= 2
    assert to_srgb(damaged := Photo(found.rgb, icc=b"none")) is damaged
    damaged = Photo(found.rgb, icc=SRGB + b"more")
    assert np.array_equal(Image.open(io.BytesIO(encode(found.rgb, "png", damaged))), found.rgb)
    with pytest.raises(ValueError, match="1000001 x 1 pixels are too many"):
        encode(np.zeros((1, 1_000_001), np.uint8))


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


@pytest.mark.parametrize(
    ("array", "format", "words"),
    [
        (np.zeros((2, 2, 3), np.uint8), "jpg", "png or webp"),
        (np.zeros((2, 16384, 3), np.uint8), "webp", "16383"),
        (np.zeros((0, 2), np.uint8), "png", "empty|PNG"),
    ],
)
def test_what_cannot_be_written(array, format, words):
    with pytest.raises(ValueError, match=words):
        encode(array, format)
