"""The synthetic set: what a sample promises, and what writing it to a folder may and may not do."""

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import unetlib.data.synthetic.files as files
from unetlib.data.pairs import DataError, match_pairs
from unetlib.data.split import split_fraction
from unetlib.data.synthetic import TAGS, generate_sample, write_synthetic

COUNT = 160


@pytest.fixture(scope="module")
def samples():
    return [generate_sample(5, i, 96) for i in range(COUNT)]


def same(a, b) -> bool:
    return (
        np.array_equal(a.image, b.image) and np.array_equal(a.matte, b.matte) and a.tags == b.tags
    )


# one sample


@settings(max_examples=25, deadline=None)
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
    assert np.abs(shrunk - small.matte).mean() < 0.03
    shrunk = cv2.resize(large.background, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(float) - small.background).mean() < 12


def test_the_image_is_the_composite_with_noise(samples):
    for s in samples:
        a = s.matte.astype(np.float64)[..., None]
        exact = a * s.foreground + (1 - a) * s.background
        assert np.abs(s.composite() - exact).max() <= 0.5 + 1e-3
        error = s.image.astype(float) - exact
        assert np.sqrt((error**2).mean()) < 14  # noise and JPEG only
        blurred = cv2.blur(error, (9, 9))
        assert np.abs(blurred.mean()) < 2  # and neither is a shift of the colours


def test_mattes_are_soft_and_figures_neither_tiny_nor_everything(samples):
    share = np.array([(s.matte > 0.5).mean() for s in samples])
    assert 0.3 < share.mean() < 0.5
    assert np.mean((share > 0.12) & (share < 0.68)) > 0.95
    assert share.min() > 0.08 and share.max() < 0.9
    for s in samples:
        between = (s.matte > 0) & (s.matte < 1)
        assert between.mean() > 0.005
        assert len(np.unique(s.matte)) > 20
    middle = [np.average(np.arange(96), weights=s.matte.sum(0)) for s in samples]
    assert np.std(middle) > 6  # not all in the centre


def test_negative_or_tiny_arguments_are_refused():
    for arguments in ((-1, 0, 64), (0, -1, 64), (0, 0, 8)):
        with pytest.raises(ValueError, match="0 or more"):
            generate_sample(*arguments)


# the tags, against measures that know nothing of the generator


def rough_edge(s):
    mask, disc = (s.matte > 0.5).astype(np.uint8), np.ones((5, 5), np.uint8)
    calm = cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc), cv2.MORPH_CLOSE, disc)
    return (mask != calm).sum() / (cv2.morphologyEx(calm, cv2.MORPH_GRADIENT, disc).sum() + 1)


def see_through(s):
    between = ((s.matte > 0.25) & (s.matte < 0.9)).astype(np.uint8)
    return cv2.erode(between, np.ones((3, 3), np.uint8)).sum() / (s.matte > 0.5).sum()


def highlight(s):
    hsv = cv2.cvtColor(s.image, cv2.COLOR_RGB2HSV)
    inside = cv2.erode((s.matte > 0.5).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return ((hsv[..., 2] > 225) & (hsv[..., 1] < 50) & inside).sum() / inside.sum()


def busy(s):
    grey = cv2.cvtColor(s.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    deviation = np.sqrt(np.maximum(cv2.blur(grey**2, (5, 5)) - cv2.blur(grey, (5, 5)) ** 2, 0))
    return deviation[cv2.dilate(s.matte, np.ones((5, 5))) < 0.02].mean()


@pytest.mark.parametrize(
    "tag, measure", list(zip(TAGS, (rough_edge, see_through, highlight, busy), strict=True))
)
def test_tags_are_true(samples, tag, measure):
    tagged = np.array([tag in s.tags for s in samples])
    assert 0.2 <= tagged.mean() <= 0.45
    value = np.array([measure(s) for s in samples])
    auc = (value[tagged][:, None] > value[~tagged]).mean()
    assert auc > 0.9, f"{tag}: {auc:.3f}"


def test_transparency_is_a_real_share_of_the_matte(samples):
    share = {
        t: [see_through(s) for s in samples if ("transparency" in s.tags) is t]
        for t in (True, False)
    }
    assert np.quantile(share[True], 0.1) > 0.05 > np.quantile(share[False], 0.95)


# the folder


def contents(root):
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def write(root, count=24, size=32, **arguments):
    return write_synthetic(root, count, size, progress=False, **({"workers": 1} | arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("set"))


def test_files_are_the_samples(folder):
    rows = list(csv.DictReader(io.StringIO((folder / "manifest.csv").read_text())))
    assert [r["id"] for r in rows] == [f"synthetic-{i:06d}" for i in range(24)]
    for i, row in enumerate(rows):
        s = generate_sample(0, i, 32)
        assert row["source"] == "synthetic" and row["tags"] == ";".join(s.tags)
        assert float(row["foreground_share"]) == pytest.approx(s.matte.mean(), abs=1e-4)
        mask = Image.open(folder / row["split"] / "masks" / f"{row['id']}.png")
        assert mask.mode == "L"
        assert np.array_equal(np.asarray(mask), np.rint(s.matte * 255))
        image = Image.open(folder / row["split"] / "images" / f"{row['id']}.jpg")
        assert np.abs(np.asarray(image).astype(int) - s.image).mean() < 4
    stamp = json.loads((folder / "synthetic.json").read_text())
    assert (stamp["seed"], stamp["size"], stamp["count"]) == (0, 32, 24)


def test_the_split_is_the_hash_of_the_id(folder):
    ids = {}
    for split in ("train", "val"):
        pairs, skipped = match_pairs(folder / split / "images", folder / split / "masks")
        assert not skipped
        ids[split] = {p.id for p in pairs}
        assert all((split_fraction(i, 0) < 0.2) == (split == "val") for i in ids[split])
    assert not ids["train"] & ids["val"] and len(ids["train"] | ids["val"]) == 24


def test_growing_keeps_every_file(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "set")
    before = {p: p.stat().st_mtime_ns for p in root.rglob("synthetic-*")}
    write(root, 30)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(list(root.rglob("*.jpg"))) == len(list(root.rglob("*.png"))) == 30
    write(root, 24)
    assert contents(root) == contents(folder)


def test_up_to_date_changes_nothing(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    write(folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_same_bytes_for_any_number_of_workers(folder, tmp_path):
    assert contents(write(tmp_path, workers=2)) == contents(folder)


def test_other_arguments_replace_own_files_only(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "set")
    (root / "README.md").write_text("mine")
    (root / "train" / "images" / ".gitkeep").touch()
    write(root, 20, seed=1, size=48)
    assert (root / "README.md").read_text() == "mine"
    assert (root / "train" / "images" / ".gitkeep").exists()
    fresh = contents(write(tmp_path / "fresh", 20, seed=1, size=48))
    assert {k: v for k, v in contents(root).items() if "synthetic" in k} == {
        k: v for k, v in fresh.items() if "synthetic" in k
    }


def test_a_moved_split_moves_files(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "set")
    write(root, val_fraction=0.5)
    ids = [p.stem for p in (root / "val" / "images").iterdir()]
    assert sorted(ids) == sorted(
        i for i in (files.name(k) for k in range(24)) if split_fraction(i, 0) < 0.5
    )
    assert not {p.stem for p in (root / "train" / "images").iterdir()} & set(ids)


def foreign_photo(root):
    path = root / "train" / "images" / "holiday.jpg"
    Image.new("RGB", (32, 32), "red").save(path)
    return path


def foreign_photo_with_our_name(root):
    path = next((root / "val" / "images").iterdir())
    Image.new("RGB", (32, 32), "red").save(path)
    return path


def our_photo_under_another_name(root):
    path = root / "val" / "images" / "copy.jpg"
    return shutil.copy(next((root / "val" / "images").glob("*.jpg")), path)


def foreign_folder(root):
    path = root / "train" / "masks" / "more"
    path.mkdir()
    return path


def foreign_manifest(root):
    path = root / "manifest.csv"
    path.write_text("id,label\n1,cat\n")
    return path


@pytest.mark.parametrize(
    "intrude",
    [
        foreign_photo,
        foreign_photo_with_our_name,
        our_photo_under_another_name,
        foreign_folder,
        foreign_manifest,
    ],
)
def test_files_of_others_are_refused_and_left_alone(folder, tmp_path, intrude):
    root = shutil.copytree(folder, tmp_path / "set")
    path = intrude(root)
    before = contents(root)
    for arguments in ({}, {"seed": 1}, {"count": 5}):
        with pytest.raises(DataError) as error:
            write(root, **arguments)
        assert str(path) in str(error.value) and "folder" in str(error.value)
    assert contents(root) == before


def test_it_goes_on_after_an_error_in_the_middle(folder, tmp_path, monkeypatch):
    real, calls = files.write_whole, []

    def full_disk(path, content):
        calls.append(path)
        if len(calls) == 20:
            raise OSError(28, "No space left on device")
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_whole", full_disk)
        with pytest.raises(OSError, match="No space"):
            write(tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    half = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("synthetic-*.*")}
    assert len(half) == 19
    write(tmp_path)
    assert contents(tmp_path) == contents(folder)
    assert (
        sum(p.stat().st_mtime_ns == t for p, t in half.items()) >= 18
    )  # only one half sample redone


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX kill")
def test_it_goes_on_after_a_kill(tmp_path):
    code = (
        "import sys\nfrom unetlib.data.synthetic import write_synthetic\n"
        f"write_synthetic({str(tmp_path)!r}, 400, 64, workers=1, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        while process.poll() is None and len(list(tmp_path.rglob("*.png"))) < 10:
            pass
    finally:
        process.kill()
        process.wait()
    there = len(list(tmp_path.rglob("*.png")))
    assert 10 <= there < 400 and not (tmp_path / "synthetic.json").exists()
    (tmp_path / "train" / "images" / ".synthetic-000399.jpg.1.part").write_bytes(b"begun")
    write(tmp_path, 30, 64)
    assert contents(tmp_path) == contents(write(tmp_path.parent / "whole", 30, 64))


def test_a_deleted_file_comes_back(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "set")
    next((root / "train" / "masks").iterdir()).unlink()
    assert contents(write(root)) == contents(folder)


def test_dead_workers_are_replaced_by_this_process(folder, tmp_path):
    # a script without a __main__ guard: its workers fail while they start
    code = (
        "from unetlib.data.synthetic import write_synthetic\n"
        f"write_synthetic({str(tmp_path)!r}, 24, 32, workers=2, progress=False)"
    )
    script = tmp_path.parent / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "__main__" in done.stderr
    assert contents(tmp_path) == contents(folder)


def test_arguments_that_make_no_set(tmp_path):
    for arguments in ({"count": 0}, {"val_fraction": 1.0}, {"val_fraction": -0.1}):
        with pytest.raises(ValueError, match="count"):
            write(tmp_path, **arguments)
    with pytest.raises(DataError, match="larger count"):
        write(tmp_path, 1)
    assert not list(tmp_path.iterdir())
