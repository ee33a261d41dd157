"""The synthetic set: what a sample promises, and what writing it to a folder may and may not do."""

import csv
import io
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import tree
from PIL import Image

from unetlib.data.pairs import DataError
from unetlib.data.synthetic import TAGS, generate_sample, write_synthetic


@pytest.fixture(scope="module")
def samples():
    return [generate_sample(5, i, 80) for i in range(100)]


def same(a, b) -> bool:
    return np.array_equal(a.image, b.image) and np.array_equal(a.matte, b.matte)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(32, 512))
def test_any_seed_index_and_size(seed, index, size):
    s = generate_sample(seed, index, size)
    assert s.image.shape == (size, size, 3) and s.image.dtype == np.uint8
    assert s.matte.shape == (size, size) and s.matte.dtype == np.float32
    assert s.matte.min() >= 0 and s.matte.max() <= 1
    assert 0.05 < s.matte.mean() < 0.95
    assert set(s.tags) <= set(TAGS)
    levels = s.matte * 255
    assert np.abs(levels - np.rint(levels)).max() < 1e-4  # an 8-bit PNG keeps it exactly


def test_depends_on_seed_and_index_alone():
    first = generate_sample(3, 7, 64)
    generate_sample(1, 1, 64)  # another one in between
    np.random.seed(0)
    cv2.setRNGSeed(9)
    assert same(first, generate_sample(3, 7, 64))
    assert not same(first, generate_sample(3, 8, 64))
    assert not same(first, generate_sample(4, 7, 64))


@pytest.mark.parametrize("index", range(0, 12))
def test_other_sizes_show_the_same_picture(index):
    small, large = generate_sample(0, index, 64), generate_sample(0, index, 192)
    assert small.tags == large.tags
    shrunk = cv2.resize(large.matte, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk - small.matte).mean() < 0.04  # a strand is a canvas pixel or wider
    shrunk = cv2.resize(large.background, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(float) - small.background).mean() < 12


def test_the_image_is_the_composite_with_noise_and_no_tag_is_rare_or_common(samples):
    """What a tag means is held by the difficulties, in test_evaluate.py."""
    for tag in TAGS:
        assert 0.2 <= np.mean([tag in s.tags for s in samples]) <= 0.45
    for s in samples:
        a = s.matte.astype(np.float64)[..., None]
        exact = a * s.foreground + (1 - a) * s.background
        assert np.abs(s.composite() - exact).max() <= 0.5 + 1e-3
        error = s.image.astype(float) - exact
        assert np.sqrt((error**2).mean()) < 14  # noise and JPEG only
        blurred = cv2.blur(error, (9, 9))
        assert np.abs(blurred.mean()) < 2  # and neither is a shift of the colours


def write(root, count=24, size=32, **arguments):
    return write_synthetic(root, count, size, **arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("set"))


def test_files_are_the_samples(folder):
    rows = list(csv.DictReader(io.StringIO((folder / "manifest.csv").read_text())))
    assert [r["id"] for r in rows] == [f"synthetic-{i:06d}" for i in range(24)]
    for i, row in enumerate(rows):
        s = generate_sample(0, i, 32)
        assert row["source"] == "synthetic" and row["tags"] == ";".join(s.tags)
        mask = Image.open(folder / row["split"] / "masks" / f"{row['id']}.png")
        assert mask.mode == "L"
        assert np.array_equal(np.asarray(mask), np.rint(s.matte * 255))
        image = Image.open(folder / row["split"] / "images" / f"{row['id']}.jpg")
        assert np.abs(np.asarray(image).astype(int) - s.image).mean() < 4


def test_a_killed_drawing_goes_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)  # as under pythonw.exe, and in services
    root = shutil.copytree(folder, tmp_path / "set")
    images = root / "train" / "images"
    (images / "synthetic-000000.jpg").rename(images / ".synthetic-000000.jpg.77.part")
    for path in [root / "manifest.csv", *root.glob("*/masks/*[258].png")]:
        path.unlink()
    assert tree(write(root)) == tree(folder)


def test_other_arguments_replace_own_files_only(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "set")
    (root / "README.md").write_text("mine")
    (root / "train" / "images" / ".gitkeep").touch()
    write(root, 20, seed=1, size=48, val_fraction=0.4)
    assert (root / "README.md").read_text() == "mine"
    assert (root / "train" / "images" / ".gitkeep").exists()
    fresh = tree(write(tmp_path / "fresh", 20, seed=1, size=48, val_fraction=0.4))
    assert {k: v for k, v in tree(root).items() if "synthetic" in k} == {
        k: v for k, v in fresh.items() if "synthetic" in k
    }


@pytest.mark.parametrize("name", ["holiday.jpg", "synthetic-1 copy.jpg"])
def test_files_of_others_are_refused_and_left_alone(folder, tmp_path, name):
    root = shutil.copytree(folder, tmp_path / "set")
    path = root / "train" / "images" / name
    Image.new("RGB", (32, 32), "red").save(path)
    before = tree(root)
    for arguments in ({}, {"seed": 1}, {"count": 5}):
        with pytest.raises(DataError, match="folder") as error:
            write(root, **arguments)
        assert str(path) in str(error.value)
    assert tree(root) == before
    (root / "synthetic.json").unlink()  # then nothing says that the other files are ours
    path.unlink()
    with pytest.raises(DataError):
        write(root)


def test_arguments_that_make_no_set(tmp_path):
    for arguments in ((-1, 0, 64), (0, -1, 64), (0, 0, 8)):
        with pytest.raises(ValueError, match="0 or more"):
            generate_sample(*arguments)
    for arguments in ({"count": 0}, {"val_fraction": 1.0}, {"val_fraction": -0.1}):
        with pytest.raises(ValueError, match="count"):
            write(tmp_path, **arguments)
    with pytest.raises(DataError, match="larger count"):
        write(tmp_path, 1)
    assert not list(tmp_path.iterdir())
