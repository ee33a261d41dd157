"""AISegment: its layout with its known faults, its split, and kagglehub in all moods."""

import io
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import serving, untouched
from PIL import Image

from unetlib.data import DataError, DownloadError, Pair, kaggle, load_pair, open_source
from unetlib.data.sources import find_pairs

MOUNTS = kaggle.MOUNTS
GROUPS = {"1803151818": 7, "1803201916": 5, "1803241125": 6, "1803290444": 2}


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch) -> Path:
    """No mounts, a cache and a home of our own, no login."""
    monkeypatch.setattr(kaggle, "MOUNTS", (str(tmp_path / "input"), str(tmp_path / "nested")))
    monkeypatch.setattr(kaggle, "WAIT", 0.01)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_KERNEL_RUN_TYPE",
                 "TBE_RUNTIME_ADDR"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub" / "datasets" / kaggle.OWNER / kaggle.SLUG


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as server:
        yield server


def files() -> dict[str, bytes]:
    """The archive in small: twice the same, the known broken files, orphans on both sides."""
    content = {}
    for g, (group, count) in enumerate(GROUPS.items()):
        for i in range(count):
            rgba = np.zeros((8, 6, 4), np.uint8)
            rgba[..., :3], rgba[: i + 1, :, 3] = 200, 255
            png, jpg = io.BytesIO(), io.BytesIO()
            Image.fromarray(rgba).save(png, "PNG")
            Image.new("RGB", (6, 8), (g * 40, i * 20, 99)).save(jpg, "JPEG")
            clip, stem = f"{i % 2:08}", f"{group}-{i:08}"
            content[f"clip_img/{group}/clip_{clip}/{stem}.jpg"] = jpg.getvalue()
            content[f"matting/{group}/matting_{clip}/{stem}.png"] = png.getvalue()
    last = "1803151818-00000099"
    content[f"clip_img/1803151818/clip_00000000/{last}.jpg"] = jpg.getvalue()
    content[f"matting/1803241125/matting_00000000/{last}.png"] = png.getvalue()
    content["matting/1803201916/._matting_00000000"] = b"\x00\x05\x16\x07Mac OS X"
    content["clip_img/1803241125/clip_00000000/._1803241125-00000005.jpg"] = b"\x00\x05\x16\x07"
    return content | {f"matting_human_half/{name}": data for name, data in content.items()}


def unpack(root: Path, content=None) -> Path:
    for name, data in (content or files()).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_the_layout_with_its_known_faults(tmp_path):
    root = unpack(tmp_path / "a" / "archive")
    half = unpack(tmp_path / "b", {n: d for n, d in files().items() if n.startswith("matting_h")})
    for place, base in (
        (root, root),
        (root.parent, root),
        (root / "clip_img", root),
        (root / "matting_human_half", root / "matting_human_half"),
        (half, half / "matting_human_half"),
    ):
        found = find_pairs("aisegment", place)
        assert found.root == base
        assert Counter(p.group for p in found.sides[""]) == GROUPS
        assert {s.path.relative_to(base).as_posix(): s.kind for s in found.skipped} == {
            "matting/1803201916/._matting_00000000": "resource fork",
            "clip_img/1803241125/clip_00000000/._1803241125-00000005.jpg": "resource fork",
            "clip_img/1803151818/clip_00000000/1803151818-00000099.jpg": "image without mask",
            "matting/1803241125/matting_00000000/1803151818-00000099.png": "mask without image",
        }
    first = found.sides[""][0]
    assert first.id == "1803151818/clip_00000000/1803151818-00000000"
    for i, p in enumerate(p for p in found.sides[""] if "1803290444" in p.id):
        _, matte = load_pair(p)  # the alpha, though all of it is bright
        assert matte[: i + 1].all() and not matte[i + 1 :].any()


def test_groups_are_never_split(tmp_path):
    root = unpack(tmp_path / "set")
    for args in ({"seed": 1, "val_fraction": 0.4}, {"split": "published"}):
        source = open_source("aisegment", root, **args)
        train, val = ({p.group for p in side} for side in (source.train, source.val))
        assert train and val and not train & val and train | val == set(GROUPS)
    assert len(source.val) in (5, 6)  # of 20 pairs, nearest to 20 * 10383 / 34425 = 6.03
    assert len(source.val) == 6


def pairs_of(sizes) -> list[Pair]:
    return [Pair(f"g{g}/{i}", Path("i"), Path("m"), group=f"g{g}")
            for g, n in enumerate(sizes) for i in range(n)]  # fmt: skip


def test_the_published_sizes_are_met_exactly():
    sizes = np.random.default_rng(3).integers(100, 2500, 40).tolist()
    sizes = [n for i, n in enumerate(sizes) if sum(sizes[: i + 1]) <= 34_425]
    pairs = pairs_of([*sizes, 34_425 - sum(sizes)])
    sides = kaggle.published(pairs)
    assert (len(sides["train"]), len(sides["val"])) == (24_042, 10_383)
    assert not {p.group for p in sides["train"]} & {p.group for p in sides["val"]}
    again = kaggle.published(pairs[::-1])
    assert {p.id for p in again["val"]} == {p.id for p in sides["val"]}


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9))
def test_no_choice_of_groups_comes_closer(sizes):
    """Against every subset, by brute force."""
    sides = kaggle.published(pairs_of(sizes))
    assert len(sides["train"]) + len(sides["val"]) == sum(sizes)
    assert not {p.group for p in sides["train"]} & {p.group for p in sides["val"]}
    wanted = round(sum(sizes) * 10_383 / 34_425)
    sums = {sum(n for i, n in enumerate(sizes) if bits >> i & 1) for bits in range(2 ** len(sizes))}
    sums -= {0, sum(sizes)}
    if sums:
        assert abs(len(sides["val"]) - wanted) == min(abs(n - wanted) for n in sums)
    else:
        assert not sides["val"]


def test_half_an_archive_is_no_set(tmp_path):
    root = unpack(tmp_path / "set", {n: d for n, d in files().items() if n.startswith("clip_img")})
    with pytest.raises(
        DataError, match=r"half of it.*By hand: download https://www.*Found: clip_img/"
    ):
        find_pairs("aisegment", root)


# --- where it comes from -------------------------------------------------------------------------


def test_mounts_come_first(tmp_path):
    unpack(tmp_path / "nested")
    assert find_pairs("aisegment").root == tmp_path / "nested"
    unpack(tmp_path / "input")
    assert find_pairs("aisegment").root == tmp_path / "input"
    slug = "aisegmentcom-matting-human-datasets"
    assert (f"/kaggle/input/{slug}", f"/kaggle/input/datasets/laurentmih/{slug}") == MOUNTS


@pytest.fixture
def hub():
    return pytest.importorskip("kagglehub")


def test_a_cached_copy_works_offline(hub, places, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    unpack(places / "versions" / "1")
    (places / "1.complete").write_bytes(b"")
    for args in ({}, {"download": False}, {"download": True}):
        assert find_pairs("aisegment", **args).root == places / "versions" / "1"


def test_without_a_network(hub, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="no connection to Kaggle.*By hand.*clip_img"):
        find_pairs("aisegment")
    with pytest.raises(DataError, match="download=True"):
        find_pairs("aisegment", download=False)


def test_without_kagglehub(monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(DataError, match=r'pip install "unetlib\[kaggle\]".*By hand'):
        find_pairs("aisegment")


@pytest.fixture
def shop(hub, server, monkeypatch):
    """Kaggle on the loopback: kagglehub's own code asks it."""
    kaggle_env = pytest.importorskip("kagglesdk.kaggle_env")
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.address)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z:
        for name, data in files().items():
            z.writestr(name, data)
    server.body = file.getvalue()
    return server


def test_it_is_downloaded_through_drops_and_only_once(shop, places, monkeypatch):
    monkeypatch.setattr("kagglehub.clients.CHUNK_SIZE", 1024)
    # what a request for the rest answers is not looked at by kagglehub: errors come before it
    shop.plan = ["503", "drop", "ok", "drop", "500", "ok", "ok"]
    for _ in range(2):
        assert Counter(p.group for p in find_pairs("aisegment").sides[""]) == GROUPS
    asked = len(shop.ranges)
    assert any(r and r.startswith("bytes=") for r in shop.ranges)
    find_pairs("aisegment")
    assert len(shop.ranges) == asked
    assert (places / "1.complete").exists() and not (places / "1.archive").exists()


@pytest.mark.parametrize("status, says", [("401", "login"), ("403", "login"), ("404", "404"),
                                          ("500", "500")])  # fmt: skip
def test_refusals_of_kaggle(shop, status, says):
    shop.plan = [status]
    with pytest.raises(DownloadError, match=f"(?s){says}.*By hand"):
        find_pairs("aisegment")
    assert len(shop.ranges) == (3 if status == "500" else 1)


def test_a_damaged_archive_says_which_file_to_delete(shop, places, tmp_path):
    (tmp_path / "mine.txt").write_bytes(b"precious")
    shop.body = shop.body[:-60]
    with (
        untouched(tmp_path),
        pytest.raises(DownloadError, match="incomplete or damaged: delete it"),
    ):
        find_pairs("aisegment")
    with pytest.raises(DownloadError) as error:
        find_pairs("aisegment")
    assert str(places / "1.archive") in str(error.value)
