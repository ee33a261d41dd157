"""PNG files as other programs read them: every value, the chunks, the size."""

import io
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from unetlib.data import png
from unetlib.data.png import write_png

shapes = st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(
    lambda hw: st.sampled_from([hw, (*hw, 3), (*hw, 4)])
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def read(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return np.asarray(image)


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(name, content) of a PNG file, its check sums checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = [], 8
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        content = data[at + 8 : at + 8 + length]
        (check,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert check == zlib.crc32(name + content)
        found.append((name, content))
        at += 12 + length
    return found


@settings(max_examples=150, deadline=None)
@given(arrays(np.uint8, shapes))
def test_every_value_comes_back(array):
    data = write_png(array)
    np.testing.assert_array_equal(read(data), array)
    assert [name for name, _ in chunks(data)] == [b"IHDR", b"IDAT", b"IEND"]


@pytest.mark.parametrize("threads", [1, 3, None])
@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_many_bands_make_one_stream(channels, threads, monkeypatch):
    monkeypatch.setattr(png, "BAND", 5000)
    array = np.concatenate([noise(40, 333, *channels), np.zeros((41, 333, *channels), np.uint8)])
    array[60:70] = 7
    data = write_png(array, threads=threads)
    np.testing.assert_array_equal(read(data), array)
    np.testing.assert_array_equal(cv2_read(data), array)
    # zlib itself sees one stream, with nothing behind it and the right Adler-32 at its end
    unpack = zlib.decompressobj()
    raw = unpack.decompress(dict(chunks(data))[b"IDAT"])
    assert unpack.eof and not unpack.unused_data
    assert len(raw) == array.shape[0] * (1 + array[0].size)


def cv2_read(data: bytes) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    turn = {2: None, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
    kind = turn[2 if found.ndim == 2 else found.shape[2]]
    return found if kind is None else cv2.cvtColor(found, kind)


def test_the_file_does_not_depend_on_the_threads(monkeypatch):
    monkeypatch.setattr(png, "BAND", 3000)
    array = noise(100, 50, 4)
    assert write_png(array, threads=1) == write_png(array, threads=4)


def test_from_several_threads_at_once():
    arrays_ = [noise(200, 300, 4, seed=n) for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for data, array in zip(pool.map(write_png, arrays_), arrays_, strict=True):
            np.testing.assert_array_equal(read(data), array)


def test_views_and_other_layouts():
    array = noise(30, 40, 4)
    for view in (array[::2, ::-1], array[..., :3], array.transpose(1, 0, 2), array[3:, :, 1]):
        np.testing.assert_array_equal(read(write_png(view)), view)


def test_chunks_stand_before_the_pixels():
    data = write_png(noise(4, 5), [(b"tEXt", b"Title\0hello")])
    assert [name for name, _ in chunks(data)] == [b"IHDR", b"tEXt", b"IDAT", b"IEND"]
    assert Image.open(io.BytesIO(data)).info["Title"] == "hello"


@pytest.mark.parametrize(
    "array", [np.zeros((0, 4), np.uint8), np.zeros((4, 4)), np.zeros(4, np.uint8)]
)
def test_what_is_no_picture(array):
    with pytest.raises(ValueError, match="uint8"):
        write_png(array)
    with pytest.raises((ValueError, KeyError)):
        write_png(np.zeros((4, 4, 2), np.uint8))


@pytest.mark.parametrize("name", ["astronaut", "cat", "coffee"])
def test_cut_outs_of_photos_are_about_as_small_as_pillows(name):
    from skimage import data

    photo = getattr(data, name)()
    height, width = photo.shape[:2]
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((y - height / 2) / height, (x - width / 2) / width)
    alpha = np.rint(255 * np.clip((0.4 - distance) * 30, 0, 1)).astype(np.uint8)
    rgba = np.dstack([photo * (alpha > 0)[..., None], alpha])
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "PNG")
    assert len(write_png(rgba)) < 1.06 * len(file.getvalue())


def test_flat_pictures_are_tiny():
    assert len(write_png(np.zeros((2000, 3000, 4), np.uint8))) < 60_000


def test_memory_does_not_grow_with_copies_of_the_picture():
    code = """
import resource, sys, numpy as np
from unetlib.data.png import write_png
array = np.zeros((5000, 5000, 4), np.uint8)
array[:] = np.arange(5000)[:, None, None] % 251
unit = 1024 if sys.platform != "darwin" else 1 << 20
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
before = peak(); write_png(array); print(peak() - before)
"""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60  # MB; the picture has 100
