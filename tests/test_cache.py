"""Decoded pairs on disk: decoded once, again when a file changes, and never wrong or half."""

import hashlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unetlib.data import (
    DataError,
    PairDataset,
    Preprocess,
    cache,
    dataset,
    match_pairs,
    open_source,
)
from unetlib.data.pairs import Pair

SIZE = (16, 24)
RECORD = cache._HEAD + 16 * 24 * 4
BUILD = """
import sys, time
from unetlib.data import PairDataset, Preprocess, dataset, match_pairs
root, folder, pause = sys.argv[1:]
decode = dataset.decode
dataset.decode = lambda *args: (time.sleep(float(pause)), decode(*args))[1]
pairs, _ = match_pairs(f"{root}/images", f"{root}/masks")
print("ready", flush=True)
PairDataset(pairs, Preprocess((16, 24)), cache="disk", cache_dir=folder).preload()
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


@pytest.fixture
def pairs(make_pairs, tmp_path) -> list[Pair]:
    root = make_pairs([f"p{i:02}" for i in range(12)], tmp_path / "set")
    return match_pairs(root / "images", root / "masks")[0]


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The ids of what is decoded from now on."""
    ids: list[str] = []
    decode = dataset.decode
    monkeypatch.setattr(dataset, "decode", lambda p, size: ids.append(p.id) or decode(p, size))
    return ids


def on_disk(pairs, folder=None, size=SIZE) -> PairDataset:
    return PairDataset(pairs, Preprocess(size), cache="disk", cache_dir=folder)


def content(ds: PairDataset) -> list[np.ndarray]:
    return [np.dstack(ds.arrays(i)) for i in range(len(ds))]


def same(ds: PairDataset, pairs) -> bool:
    reference = content(PairDataset(pairs, Preprocess(ds.preprocess.size), cache="none"))
    return all(np.array_equal(a, b) for a, b in zip(content(ds), reference, strict=True))


def files(folder: Path) -> tuple[Path, Path]:
    (rows,), (listed,) = folder.glob("*.rows"), folder.glob("*.list")
    return rows, listed


def test_row_against_pillow(tmp_path, photo, disc):
    """2 x 2 means, worked out with NumPy, for files of twice the size; the files' own pixels for
    files of that size."""
    pair = Pair("a", tmp_path / "a.png", tmp_path / "m.png")
    for factor in (1, 2, 4):
        shape = (SIZE[0] * factor, SIZE[1] * factor)
        Image.fromarray(photo(*shape)).save(pair.image)
        Image.fromarray(disc(*shape)).save(pair.mask)
        both = np.dstack([Image.open(pair.image), Image.open(pair.mask)]).astype(float)
        expected = both.reshape(SIZE[0], factor, SIZE[1], factor, 4).mean((1, 3))
        row = cache.decode(pair, SIZE)
        assert row.dtype == np.uint8 and row.shape == (*SIZE, 4)
        assert np.abs(row - expected).max() <= (0 if factor == 1 else 1)  # rounded at each halving


@pytest.mark.parametrize("shape", [(50, 70), (33, 47), (100, 31), (8, 12)])
def test_any_other_size_looks_as_resize_makes_it(tmp_path, photo, disc, shape):
    pair = Pair("a", tmp_path / "a.png", tmp_path / "m.png")
    Image.fromarray(photo(*shape)).save(pair.image)
    Image.fromarray(disc(*shape)).save(pair.mask)
    both = np.dstack([Image.open(pair.image), Image.open(pair.mask)])
    expected = cache.resize(both, SIZE).astype(int)
    row = cache.decode(pair, SIZE)
    assert np.abs(row - expected)[..., :3].mean() < 3 and np.abs(row - expected).mean() < 6


def test_decoded_once(pairs, own_cache, decoded):
    assert same(on_disk(pairs).preload(), pairs)
    before = [path.read_bytes() for path in files(own_cache)]
    decoded.clear()
    ds = on_disk(pairs).preload()
    content(ds)
    assert decoded == [] and ds.cached
    assert [path.read_bytes() for path in files(own_cache)] == before
    assert len(before[0]) == len(pairs) * RECORD


def test_rows_are_written_without_preload_too(pairs, decoded):
    content(on_disk(pairs))
    decoded.clear()
    content(on_disk(pairs))
    assert decoded == []


@pytest.mark.parametrize("which", ["image", "mask"])
@pytest.mark.parametrize("differs", ["size", "time"])
def test_changed_file_is_decoded_again(pairs, decoded, which, differs):
    victim = getattr(pairs[5], which)
    os.truncate(victim, victim.stat().st_size + 500)  # zeros at the end, which no reader minds
    on_disk(pairs).preload()
    before = victim.stat()
    Image.open(victim).rotate(180).save(victim, quality=95)
    if differs == "time":
        assert victim.stat().st_size < before.st_size
        os.truncate(victim, before.st_size)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns + (differs == "time")))
    decoded.clear()
    ds = on_disk(pairs).preload()
    assert decoded == ["p05"] and same(ds, pairs)


def test_rows_of_earlier_versions_are_still_found(pairs):
    """A row is found by the paths and the kind of mask, checked by these, sizes and times."""
    for pair in pairs[:3]:
        facts = b"\0".join([os.fsencode(pair.image), os.fsencode(pair.mask), b"auto"])
        key = hashlib.blake2b(facts, digest_size=16).hexdigest().encode()
        assert cache._key(pair) == key and cache.FORMAT == 1
        both = [os.stat(path) for path in (pair.image, pair.mask)]
        facts = [1, key, *(n for s in both for n in (s.st_size, s.st_mtime_ns))]
        stamp = hashlib.blake2b(repr(facts).encode(), digest_size=16).digest()
        assert cache._stamp(pair, key) == stamp


def test_other_kind_of_mask_is_another_row(pairs, decoded):
    on_disk(pairs).preload()
    labels = [Pair(p.id, p.image, p.mask, (), "labels") for p in pairs]
    assert same(on_disk(labels).preload(), labels)
    decoded.clear()
    assert same(on_disk(pairs).preload(), pairs) and same(on_disk(labels).preload(), labels)
    assert len(decoded) == 2 * len(pairs)  # by same() itself


def test_new_photos_leave_the_others_in_place(pairs, own_cache, decoded, make_pairs):
    on_disk(pairs[3:9]).preload()
    decoded.clear()
    assert same(on_disk(pairs[::-1]).preload(), pairs[::-1])
    assert sorted(decoded[:6]) == sorted(p.id for p in [*pairs[:3], *pairs[9:]])
    on_disk(pairs, size=(8, 8)).preload()
    assert len(list(own_cache.glob("*.rows"))) == 2  # one for each size, one for train and val


def test_another_format_is_made_again(pairs, monkeypatch, decoded):
    on_disk(pairs).preload()
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    decoded.clear()
    assert same(on_disk(pairs).preload(), pairs) and len(decoded) == 2 * len(pairs)


def test_killed_build_goes_on(pairs, tmp_path, decoded):
    root, folder = tmp_path / "set", tmp_path / "rows"
    build = subprocess.Popen(
        [sys.executable, "-c", BUILD, root, folder, "0.1"], stdout=subprocess.PIPE
    )
    assert build.stdout.readline() == b"ready\n"
    while not (folder.is_dir() and any(p.stat().st_size > 2 * RECORD for p in folder.iterdir())):
        assert build.poll() is None
        time.sleep(0.01)
    build.send_signal(signal.SIGKILL)
    build.wait()
    ds = on_disk(pairs, folder).preload()
    assert 0 < len(decoded) < len(pairs)
    assert same(ds, pairs)


def test_two_processes_build_at_once(pairs, tmp_path, decoded):
    command = [sys.executable, "-c", BUILD, tmp_path / "set", tmp_path / "rows", "0.02"]
    builds = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    for build in builds:
        build.communicate()
        assert build.returncode == 0
    ds = on_disk(pairs, tmp_path / "rows").preload()
    assert decoded == [] and same(ds, pairs)


def test_pair_listed_twice_keeps_its_first_row(pairs, own_cache, decoded):
    on_disk(pairs).preload()
    _, listed = files(own_cache)
    lines = listed.read_bytes().split(b"\n")[1:]
    listed.write_bytes(listed.read_bytes() + b"".join(b"\n" + line for line in reversed(lines)))
    decoded.clear()
    content(on_disk(pairs).preload())
    assert decoded == []


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    which=st.integers(0, 1),
    share=st.floats(0, 1),
    how=st.sampled_from(["cut", "flip", "zero", "insert", "remove"]),
)
def test_damage_is_never_seen(pairs, tmp_path, which, share, how):
    """Whatever happens to the two files, what comes out is what the photos hold."""
    folder = tmp_path / "rows"
    shutil.rmtree(folder, ignore_errors=True)
    on_disk(pairs, folder).preload()
    victim = files(folder)[which]
    data = bytearray(victim.read_bytes())
    at = int(share * (len(data) - 1))
    if how == "cut":
        del data[at:]
    elif how == "flip":
        data[at] ^= 0x10
    elif how == "zero":
        data[at : at + 4096] = bytes(len(data[at : at + 4096]))
    elif how == "insert":
        data[at:at] = b"\nabc\n"
    victim.write_bytes(data)
    if how == "remove":
        victim.unlink()
    opened_before = on_disk(pairs, folder)
    assert same(opened_before, pairs) and same(opened_before, pairs)
    assert same(on_disk(pairs, folder).preload(), pairs)


def test_pickled_for_a_spawned_worker(pairs, decoded):
    ds = pickle.loads(pickle.dumps(on_disk(pairs).preload()))
    decoded.clear()
    content(ds)
    assert decoded == []


def test_place_of_the_cache(pairs, own_cache, tmp_path):
    on_disk(pairs)
    assert own_cache.is_dir()
    on_disk(pairs, tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").glob("set-*-16x24.list"))
    PairDataset(pairs, Preprocess(SIZE), cache_dir=tmp_path / "third").preload()  # "auto"
    assert len(list((tmp_path / "third").iterdir())) == 2


def test_folder_that_cannot_be_written(pairs, tmp_path, own_cache):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/below.*Not a directory.*cache_dir.*cache='none'"):
        on_disk(pairs, tmp_path / "file" / "below")
    own_cache.parent.mkdir()
    own_cache.touch()
    with pytest.warns(UserWarning, match=r"decoded.*File exists.*every epoch.*cache_dir"):
        ds = on_disk(pairs).preload()
    assert not ds.cached and same(ds, pairs)


def test_no_room_for_the_cache(pairs, tmp_path, monkeypatch, own_cache):
    usage = namedtuple("usage", "total used free")
    need = len(pairs) * RECORD
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, need - 1))
    with pytest.raises(DataError, match="0.00 GB are free"):
        on_disk(pairs, tmp_path / "rows").preload()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, need + 10**9 - 1))
    with pytest.warns(UserWarning, match="1.00 GB are free"):
        ds = on_disk(pairs).preload()  # leaves a GB for others
    assert not ds.cached and same(ds, pairs) and not list(own_cache.glob("*.rows"))
    assert on_disk(pairs, tmp_path / "rows").preload().cached


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_disk_full_while_building(pairs, tmp_path, own_cache):
    for folder in (tmp_path / "rows", own_cache):
        on_disk(pairs, folder if folder != own_cache else None)
        (listed,) = folder.glob("*.list")
        listed.with_suffix(".rows").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device.*make room"):
        on_disk(pairs, tmp_path / "rows").preload()
    with pytest.warns(UserWarning, match="No space left on device"):
        ds = on_disk(pairs).preload()
    assert not ds.cached and same(ds, pairs)


def test_list_cut_short_by_a_full_disk(pairs, tmp_path, monkeypatch):
    listed = cache.DiskRows._listed
    monkeypatch.setattr(cache.DiskRows, "_listed", lambda self: listed(self)[:-1])
    with pytest.raises(DataError, match="No space left on device"):
        on_disk(pairs, tmp_path / "rows")


def test_missing_photo_is_named(pairs):
    ds = on_disk(pairs)
    pairs[2].image.unlink()
    with pytest.raises(ValueError, match="p02.jpg: cannot be read"):
        ds.preload()
    with pytest.raises(ValueError, match="p02.jpg: cannot be read"):
        on_disk(pairs).preload()


def test_unknown_kind(pairs):
    with pytest.raises(
        ValueError, match="no cache 'disc': use one of auto, memory, disk, none. Did"
    ):
        PairDataset(pairs, Preprocess(SIZE), cache="disc")


def test_progress_of_a_long_build_goes_to_stderr(pairs, capsys, monkeypatch):
    on_disk(pairs).preload()
    assert capsys.readouterr().err == ""  # quick: nothing to say
    decode = dataset.decode
    monkeypatch.setattr(dataset, "decode", lambda *args: (time.sleep(0.25), decode(*args))[1])
    on_disk(pairs, size=(8, 8)).preload()
    shown = capsys.readouterr()
    assert "decoding photos" in shown.err and shown.out == ""


def test_real_photos(real_data, tmp_path):
    source = open_source("pennfudan", real_data / "PennFudanPed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = on_disk(source.val, tmp_path, (64, 64)).preload()
    assert same(ds, source.val)
