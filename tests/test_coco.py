"""Portraits of COCO: which photos are taken, what their masks are, how they are fetched."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from loopback import serving, untouched
from PIL import Image

from unetlib.data import DataError, DownloadError, load_pair, open_source
from unetlib.data import coco as coco_module
from unetlib.data.sources import find_pairs

pycocotools = pytest.importorskip("pycocotools.mask")
H, W = 20, 30


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def box(x: int, y: int, w: int, h: int) -> list[float]:
    """A polygon that covers exactly these pixels."""
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def runs(mask: np.ndarray) -> dict:
    """The run-length code of the paper, by hand: columns first, beginning with background."""
    flat, counts, value = mask.T.reshape(-1), [0], 0
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def person(image: int, segmentation, crowd=0, category=1) -> dict:
    return {"image_id": image, "category_id": category, "iscrowd": crowd, "area": 1,
            "segmentation": segmentation}  # fmt: skip


RING = np.zeros((H, W), int)
RING[4:16, 3:27] = 1
RING[8:12, 10:20] = 0
# number of the photo -> its annotations; what is kept at the default shares is in KEPT
TRAIN = {
    1: [person(1, [box(0, 0, 15, 20)])],  # half of it
    2: [person(2, [box(0, 0, 15, 10), box(15, 0, 3, 10)])],  # two parts: 0.3
    3: [person(3, [box(0, 0, 15, 20)]), person(3, [box(20, 0, 4, 4)])],  # two people
    4: [person(4, [box(0, 0, 15, 20)]), person(4, runs(RING), crowd=1)],  # one and a crowd
    5: [person(5, runs(RING), crowd=1)],
    6: [person(6, [box(0, 0, 5, 20)])],  # 0.17
    7: [person(7, [box(0, 0, 25, 20)])],  # 0.83
    8: [person(8, [box(0, 0, 15, 20)], category=18)],  # a dog
    9: [person(9, [box(0, 0, 15, 20)]), person(9, [box(0, 0, 9, 9)], category=18)],
    10: [person(10, runs(RING))],
    11: [person(11, pycocotools.encode(np.asfortranarray(RING.astype(np.uint8))))],
    12: [],
    13: [person(13, [[1.0, 2.0, 3.0, 4.0]])],  # no polygon
    15: [person(15, {"size": [H, W], "counts": "AAAA"})],  # no run-length code
    16: [person(16, {"size": [H, W], "counts": [300, 301]})],
    14: [person(14, [box(0, 0, 6, 20)])],  # 0.2 exactly
}
KEPT = [1, 2, 9, 10, 11, 14]
VAL = {i: [person(i, [box(2, 2, 20, 15)])] for i in (101, 102)}


def name(number: int) -> str:
    return f"{number:012}.jpg"


def photo(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (W, H), (number * 20 % 256, number, 120)).save(file, "JPEG")
    return file.getvalue()


def instances(content: dict, side: str, address="http://127.0.0.1:9") -> bytes:
    images = [{"id": i, "file_name": name(i), "height": H, "width": W, "license": 1,
               "coco_url": f"{address}/{side}2017/{name(i)}",
               "flickr_url": f"{address}/flickr/{i}.jpg"} for i in content]  # fmt: skip
    annotations = [
        a | {"segmentation": a["segmentation"] | {"counts": a["segmentation"]["counts"].decode()}}
        if isinstance(a["segmentation"], dict) and isinstance(a["segmentation"]["counts"], bytes)
        else a
        for each in content.values() for a in each
    ]  # fmt: skip
    return json.dumps({"images": images, "annotations": annotations,
                       "categories": [{"id": 1, "name": "person"}]}).encode()  # fmt: skip


def local(root: Path, images="{}2017", sides=("train", "val")) -> Path:
    (root / "annotations").mkdir(parents=True)
    for side in sides:
        content = {"train": TRAIN, "val": VAL}[side]
        folder = root / images.format(side)
        folder.mkdir(parents=True)
        for number in content:
            (folder / name(number)).write_bytes(photo(number))
        file = root / "annotations" / f"instances_{side}2017.json"
        file.write_bytes(instances(content, side))
    return root


def numbers(pairs) -> list[int]:
    return [int(p.id) for p in pairs]


def test_photos_with_one_person_of_the_right_size(tmp_path, capfd):
    root = local(tmp_path / "coco")
    for place in (root, tmp_path, root / "annotations", root / "train2017"):
        source = open_source("coco", place)
        assert source.root == root
        assert numbers(source.train) == KEPT and numbers(source.val) == [101, 102]
        reasons = {s.path.name: s.reason for s in source.skipped}
        assert "three points" in reasons[name(13)] and "too short" in reasons[name(16)]
        assert len(reasons) == 2
    by_number = {int(p.id): load_pair(p)[1] for p in source.train}
    expected = np.zeros((H, W))
    expected[:, :15] = 1
    assert np.array_equal(by_number[1], expected) and np.array_equal(by_number[9], expected)
    expected[10:], expected[:10, 15:18] = 0, 1
    assert np.array_equal(by_number[2], expected)
    assert np.array_equal(by_number[10], RING) and np.array_equal(by_number[11], RING)
    assert "loading" not in capfd.readouterr().out  # what pycocotools would say


def test_the_shares_can_be_moved(tmp_path):
    root = local(tmp_path)
    taken = {}
    for low, high in ((0.0, 1.0), (0.2, 0.3), (0.31, 0.9), (0.9, 1.0)):
        found = find_pairs("coco", root, low=low, high=high)
        taken[low] = numbers(found.sides["train"])
    assert taken == {0.0: sorted([*KEPT, 6, 7]), 0.2: [2, 14], 0.31: [1, 7, 9, 10, 11], 0.9: []}
    assert numbers(find_pairs("coco", root, limit=2).sides["train"]) == [1, 2]


@pytest.mark.parametrize(
    "args", [{"low": 0.7, "high": 0.2}, {"low": -0.1}, {"high": 20}, {"low": 0.5, "high": 0.5},
             {"limit": 0}, {"limit": 2.5}, {"low": "x"}]
)  # fmt: skip
def test_shares_and_limits_that_make_no_sense(tmp_path, args):
    with pytest.raises(ValueError, match="low and high|limit"):
        find_pairs("coco", tmp_path, **args)


def test_other_places_of_the_photos_and_one_side_alone(tmp_path):
    root = local(tmp_path / "a", images="images/{}2017")
    assert numbers(find_pairs("coco", root).sides["train"]) == KEPT
    root = local(tmp_path / "b", sides=("train",))
    source = open_source("coco", root, val_fraction=0.4)
    assert sorted(numbers(source.train) + numbers(source.val)) == KEPT and source.val


def test_photos_that_are_missing_or_damaged_are_named(tmp_path):
    root = local(tmp_path)
    (root / "train2017" / name(2)).unlink()
    damaged = root / "train2017" / name(9)
    damaged.write_bytes(photo(9)[:-30])
    with Image.open(root / "train2017" / name(10)) as image:
        image.rotate(90, expand=True).save(root / "train2017" / name(10))
    found = find_pairs("coco", root)
    assert numbers(found.sides["train"]) == [1, 11, 14]
    by_name = {s.path.name: s for s in found.skipped}
    assert (
        by_name[name(2)].kind == "mask without image" and "download=True" in by_name[name(2)].reason
    )
    assert by_name[name(9)].kind == "unreadable"
    assert by_name["000000000010.png"].kind == "shape"


NONE = [b"", b"[]", b'{"images": []}', b"{", b'{"annotations": 3}', b"\xff\xfe"]


@pytest.mark.parametrize("content", [*NONE, b'{"images": [{"x": 1}], "annotations": []}'])
def test_annotations_that_are_none(tmp_path, content):
    root = local(tmp_path)
    (root / "annotations" / "instances_train2017.json").write_bytes(content)
    with pytest.raises(DataError, match="instances_train2017.json is not an instances file"):
        find_pairs("coco", root)


def test_names_in_the_annotations_lead_nowhere_else(tmp_path):
    root = local(tmp_path / "coco")
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(file.read_text().replace(name(1), "../../" + name(1)))
    (tmp_path / name(1)).write_bytes(photo(1))
    found = find_pairs("coco", root)
    assert found.sides["train"][0].image == root / "train2017" / name(1)


def test_the_annotations_are_read_once_and_again_when_they_change(tmp_path, monkeypatch):
    root = local(tmp_path)
    before = find_pairs("coco", root)
    monkeypatch.setattr(coco_module, "_slim", None)  # reading them again would fail
    assert find_pairs("coco", root) == before
    monkeypatch.undo()
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    file = root / "annotations" / "instances_train2017.json"
    file.write_bytes(instances({1: [person(1, [box(0, 0, 30, 10)])]}, "train"))
    later = before.sides["train"][0].mask.stat().st_mtime + 5
    os.utime(file, (later, later))
    (only,) = find_pairs("coco", root).sides["train"]
    _, matte = load_pair(only)
    assert matte[:10].all() and not matte[10:].any()


def test_without_pycocotools(tmp_path, monkeypatch):
    root = local(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pycocotools", None)
    with pytest.raises(DataError, match=r'pip install "unetlib\[coco\]"'):
        find_pairs("coco", root)


# --- from the network ----------------------------------------------------------------------------


@pytest.fixture
def online(server, monkeypatch):
    """The annotations and the photos that are kept, on the loopback."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as z:
        for side, content in (("train", TRAIN), ("val", VAL)):
            text = instances(content, side, server.address)
            z.writestr(f"annotations/instances_{side}2017.json", text)
            z.writestr(f"annotations/captions_{side}2017.json", "{}")
    server.files = {f"/train2017/{name(i)}": photo(i) for i in TRAIN}
    server.files |= {f"/val2017/{name(i)}": photo(i) for i in VAL}
    server.files["/trainval.zip"] = file.getvalue()
    monkeypatch.setattr(coco_module, "ANNOTATIONS_URL", f"{server.address}/trainval.zip")
    return server


def test_only_the_annotations_and_the_photos_that_are_kept_are_downloaded(online, cache):
    online.plans = {"/trainval.zip": ["drop", "ok"], f"/train2017/{name(2)}": ["drop", "503", "ok"]}
    source = open_source("coco")
    assert numbers(source.train) == KEPT and numbers(source.val) == [101, 102]
    photos = {p for p in online.paths if p.endswith(".jpg")}
    assert photos == {f"/train2017/{name(i)}" for i in KEPT} | {f"/val2017/{name(i)}" for i in VAL}
    assert source.root == cache / "coco"
    asked = len(online.paths)
    (cache / "coco" / "train2017" / name(9)).unlink()
    with untouched(cache):
        assert open_source("coco") == source
    assert online.paths[asked:] == [f"/train2017/{name(9)}"]


def test_errors_of_single_photos_are_listed_and_flickr_is_the_second_address(online, tmp_path):
    online.plans = {f"/train2017/{name(2)}": ["404"], f"/train2017/{name(9)}": ["403"]}
    online.files["/flickr/9.jpg"] = photo(9)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "train2017").mkdir()
    (mine / "train2017" / name(1)).write_bytes(photo(1))
    with untouched(mine):
        found = find_pairs("coco", mine, download=True)
    assert numbers(found.sides["train"]) == [1, 9, 10, 11, 14]
    (failed,) = (s for s in found.skipped if s.path.name == name(2))
    assert "404" in failed.reason and f"/train2017/{name(1)}" not in online.paths
    assert not (mine / "train2017" / name(2)).exists()


def test_a_limit_bounds_the_download(online):
    found = find_pairs("coco", limit=1)
    assert [numbers(p) for p in found.sides.values()] == [[1], [101]]
    assert sum(p.endswith(".jpg") for p in online.paths) == 2


def test_no_annotations_to_be_had(online):
    online.plans = {"/trainval.zip": ["404"]}
    with pytest.raises(DownloadError, match="404.*browser"):
        open_source("coco")
