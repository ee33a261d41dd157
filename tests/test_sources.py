"""Datasets by name: specs, published sets in their layouts and from the network, settings."""

import io
import json
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from loopback import tree
from PIL import Image

from unetlib.data.pairs import DataError, split_fraction
from unetlib.data.sources import (
    Term,
    absolute_spec,
    find_pairs,
    open_settings,
    open_source,
    published,
    read_spec,
)
from unetlib.paths import ATTEMPTS, DownloadError

TWENTY = [f"p{i}" for i in range(20)]


def ids(pairs) -> set[str]:
    return {p.id for p in pairs}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(mode, value, format="PNG", size=(6, 4)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, value).save(file, format)
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_tags_and_mask_kind_reach_the_pairs(make_pairs):
    root = make_pairs(TWENTY)
    text = "id,source,tags\np0,x,hair;glass\np1,x,\nother,x,hair\n"
    (root / "manifest.csv").write_text(text, encoding="utf-8")
    (root / "masks" / "p3.png").unlink()
    source = open_source("folder", root, mask_kind="labels")
    tags = {p.id: p.tags for p in source.train + source.val}
    assert tags["p0"] == ("hair", "glass") and tags["p1"] == () and tags["p2"] == ()
    assert {p.mask_kind for p in source.train} == {"labels"}
    said = source.describe()
    assert "2 skipped:\n  images/p3.jpg: image without mask" in said
    assert (
        "manifest.csv: 1 of 3 ids are of no photo, such as 'other'" in said
        and "such as images/p" in said
    )


@pytest.mark.parametrize("name", ["folder", "pennfudan", "sod"])
def test_what_is_no_dataset_says_what_is_expected_and_found(name, tmp_path):
    (tmp_path / "empty" / "pictures").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"x")
    for place, words in (
        ("nowhere", "no such folder: .*nowhere"),
        ("empty/pictures", "no photos with masks in .*Expected are .*Found: nothing"),
        ("empty", "Found: pictures"),
        ("file", "no such folder: .*file"),
    ):
        with pytest.raises(DataError, match=words):
            open_source(name, tmp_path / place)


def test_same_id_in_train_and_val_is_refused_and_the_same_photo_left_out(make_pairs, tmp_path):
    make_pairs(["a", "b"], tmp_path / "train")
    make_pairs(["b", "c"], tmp_path / "val", height=30)
    with pytest.raises(DataError, match="1 ids are in both.*'b'"):
        open_source("folder", tmp_path)
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        (tmp_path / "val" / kind / f"b.{suffix}").unlink()
        copy = tmp_path / "val" / kind / f"x.{suffix}"
        shutil.copy(tmp_path / "train" / kind / f"a.{suffix}", copy)
    source = open_source("folder", tmp_path)
    assert ids(source.val) == {"c"} and ids(source.train) == {"a", "b"}
    assert "val/images/x.jpg: same photo as 'a' in train" in source.describe()


def test_backgrounds_have_no_foreground(make_pairs, tmp_path):
    photos = make_pairs([f"sky-{n}" for n in range(12)]) / "images"
    source = open_source(f"backgrounds:{photos}")
    assert len(source.train) + len(source.val) == 12 and source.val
    assert source.train[0].load()[1].sum() == 0
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no usable pair for train in"):
        open_source(f"backgrounds:{tmp_path / 'empty'}")


def test_synthetic_is_written_and_read_as_a_folder(tmp_path):
    args = {"count": 24, "size": 48, "seed": 3, "val_fraction": 0.3}
    source = open_source("synthetic", tmp_path / "data", **args)
    assert source.name == "synthetic" and len(source.train) + len(source.val) == 24
    assert all(split_fraction(p.id, 3) < 0.3 for p in source.val)
    assert not any(split_fraction(p.id, 3) < 0.3 for p in source.train)
    assert open_source(f"synthetic:{tmp_path}/data?count=24&size=48", seed=3, val_fraction=0.3)
    assert ids(open_source("folder", tmp_path / "data").val) == ids(source.val)


def test_reading_a_spec(make_pairs, tmp_path, monkeypatch):
    spec = "2*folder:my photos?groups=(.+)_[0-9]+ + synthetic:~/c?count=3&size=6 + hku-is"
    assert read_spec(spec) == [
        Term("folder", "my photos", {"groups": "(.+)_[0-9]+"}, 2),
        Term("synthetic", "~/c", {"count": "3", "size": "6"}),
        Term("hku_is"),
    ]
    make_pairs(TWENTY, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    absolute = absolute_spec("0.5*folder:mine?groups=folder + pennfudan")
    assert absolute == f"0.5*folder:{tmp_path}/mine?groups=folder + pennfudan"


@pytest.mark.parametrize(
    "spec, words",
    [
        ("penfudan", "Did you mean 'pennfudan'"),
        ("folder:x + ", "form|is not"),
        ("", "is not"),
        ("folder:", "its folder is empty"),
        ("0*folder", "is not"),
        ("folder:x?b", "is not .*KEY=VALUE"),
        ("folder:x?colour=red", "takes groups=TEXT, mask_kind=auto\\|.*, not 'colour=red'"),
        ("folder:x?colour=", "takes .*, not 'colour='"),
        ("folder:x?seed=1&root=2", "not 'seed=1'"),
        ("folder:x?groups=[0-9]*([0-9])", "no photos with masks"),
        ("synthetic:x?count=much", "count=NUMBER.*not 'count=much'"),
        ("synthetic:x?size=0", "not 'size=0'"),
        ("folder:x?mask_kind=yes", "mask_kind=auto.*not 'mask_kind=yes'"),
        ("folder:x?groups=123", "no photos with masks"),
    ],
)
def test_specs_that_cannot_be_read(spec, words, tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        open_source(spec)


def test_several_sources_with_weights(make_pairs, tmp_path):
    few = make_pairs(TWENTY, tmp_path / "few")
    many = make_pairs([f"q{k}" for k in range(60)], tmp_path / "many", height=30)
    source = open_source(f"3*folder:{few} + folder:{many}", val_fraction=0.25, seed=1)
    names = {p.source for p in source.train}
    assert names == {"folder", "folder-2"} and source.root == tmp_path
    share = {n: sum(p.weight for p in source.train if p.source == n) for n in names}
    assert share["folder"] / sum(share.values()) == pytest.approx(0.75)
    alone = open_source("folder", few, val_fraction=0.25, seed=1)
    assert {i for i in ids(source.val) if i.startswith("folder/")} == {
        f"folder/{i}" for i in ids(alone.val)
    }
    copies = shutil.copytree(few, tmp_path / "copies")
    for id in TWENTY[:9]:  # another division, so that the same photos are on both sides
        for kind, suffix in (("images", "jpg"), ("masks", "png")):
            (copies / kind / f"{id}.{suffix}").rename(copies / kind / f"other-{id}.{suffix}")
    plain = open_source(f"folder:{few} + folder:{copies}", val_fraction=0.4)
    content = [{p.image.read_bytes() for p in side} for side in (plain.train, plain.val)]
    assert content[0] and not content[0] & content[1]
    assert any("same photo as" in skip.reason for skip in plain.skipped)
    assert {p.weight for p in plain.train} == {1.0}
    with pytest.raises(ValueError, match="several sources have a folder each"):
        open_source("folder + pet", few)


def test_settings_of_the_notebooks(make_pairs, root, tmp_path):
    mine = make_pairs(TWENTY, tmp_path / "mine, not synthetic")
    drawn = open_settings("synthetic", "", "drawn", 12, 32, 0)
    assert drawn.root == root / "drawn" and len(drawn.train) + len(drawn.val) == 12
    both = open_settings(f"folder:{mine} + 2 * synthetic", "", "drawn", 12, 32, 0)
    assert len(both.train) + len(both.val) == 32
    assert len(open_source("synthetic", root / "drawn", seed=9).train) == len(drawn.train)  # kept
    given_ = ("synthetic", str(mine), "data", 2, 32, 0)
    whole = open_settings(*given_)
    assert whole.name == "folder" and len(whole.train) + len(whole.val) == 20
    assert not open_settings(*given_, val_fraction=0.0).val
    unwanted = [whole.train[0].id, whole.val[0].id]
    left = open_settings(*given_, exclude=" ".join(unwanted))
    assert ids((*left.train, *left.val)) == set(TWENTY) - set(unwanted)
    with pytest.raises(DataError, match="exclude: no photo of folder has the id 'nobody'"):
        open_settings(*given_, exclude="nobody")


# name -> folders of photos and masks, how a mask is called, values of its mask, foreground or not
FORMS = [
    ("duts", "DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask", "{}", 255),
    ("ecssd", "images", "ground_truth_mask", "{}", 255),
    ("hku_is", "imgs", "gt", "{}", 255),
    ("pascal_s", "datasets/imgs/pascal", "datasets/masks/pascal", "{}", 255),
    ("pascal_s", "Imgs", "GT", "{}", 255),
    ("sod", "Imgs", "GT", "{}", 255),
    ("p3m10k", "train/blurred_image", "train/mask", "{}", 255),
    ("pennfudan", "PNGImages", "PedMasks", "{}_mask", 3),
    ("supervisely", "images", "masks", "{}", 1),
    ("pet", "images", "annotations/trimaps", "{}", 1),
]


@pytest.mark.parametrize("name, images, masks, form, value", FORMS)
def test_layouts_of_published_sets(tmp_path, name, images, masks, form, value):
    place = tmp_path / "unpacked" / "set"
    for i in range(8):
        mask = np.full((8, 12), 2 if name == "pet" else 0, np.uint8)
        mask[:, :4] = value
        (place / images).mkdir(parents=True, exist_ok=True)
        (place / masks).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), (20 * i, 9, 9)).save(place / images / f"n{i}.jpg")
        Image.fromarray(mask).save(place / masks / f"{form.format(f'n{i}')}.png")
    (place / images / "lonely.jpg").write_bytes((place / images / "n0.jpg").read_bytes())
    for root in (place, place.parent):
        source = open_source(name, root, val_fraction=0.4)
        assert ids(source.train) | ids(source.val) == {f"n{i}" for i in range(8)} and source.val
        assert [s.kind for s in source.skipped] == ["image without mask"]
        assert source.train[0].load()[1].mean() == pytest.approx(1 / 3, abs=0.01)


GROUPS = {"1803151818": 7, "1803201916": 5, "1803241125": 6, "1803290444": 2}


def test_aisegment(tmp_path, monkeypatch):
    """From kagglehub's cache, where everything is there twice; groups are never split."""
    pytest.importorskip("kagglehub")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    hub = tmp_path / "datasets/laurentmih/aisegmentcom-matting-human-datasets"
    files = {"matting/1803201916/._matting_00000000": b"Mac OS X"}
    for g, (group, count) in enumerate(GROUPS.items()):
        for i in range(count):
            name = f"{i % 2:08}/{group}-{i:08}"
            photo = picture("RGB", (g * 40, i * 20, 99), "JPEG")
            files[f"clip_img/{group}/clip_{name}.jpg"] = photo
            files[f"matting/{group}/matting_{name}.png"] = picture("LA", (200, 0 if i else 255))
    write(hub / "versions" / "1", files | {f"matting_human_half/{n}": d for n, d in files.items()})
    (hub / "1.complete").write_bytes(b"")
    source = open_source("aisegment", seed=1, val_fraction=0.4)
    assert Counter(p.group for p in source.train + source.val) == GROUPS
    train, val = ({p.group for p in side} for side in (source.train, source.val))
    assert train and val and not train & val and not source.skipped
    for pair in source.train:  # the alpha, though all of it is bright
        assert pair.load()[1].mean() == pair.id.endswith("-00000000")


def test_archives_are_downloaded_once(server, tmp_path):
    names = [f"{i:04}" for i in range(12)]
    photos = {f"images/{n}.jpg": picture("RGB", (200, 9, 9), "JPEG") + n.encode() for n in names}
    server.files["/images.zip"] = zipped(photos)
    server.files["/gt.zip"] = zipped({f"gt/{n}.png": picture("L", 255) for n in names})
    urls = {f"{server.address}/{n}.zip": n for n in ("images", "gt")}
    facts = {"page": "http://example.org/set", "urls": urls}
    server.plans["/gt.zip"] = ["404"] * ATTEMPTS + ["drop", "ok"]
    with pytest.raises(DownloadError, match="404"):
        published(facts)
    for _ in range(2):
        found = published(facts)
        assert len(found.sides[""]) == 12 and found.skipped == []
    assert server.paths.count("/images.zip") == 1 and server.paths.count("/gt.zip") == ATTEMPTS + 2
    mine = write(tmp_path / "mine", photos)
    before = tree(mine)
    with pytest.raises(DataError, match="download it from http://example.org"):
        published(facts, mine)
    assert tree(mine) == before


H, W = 20, 30


def box(x: int, y: int, w: int, h: int) -> list[float]:
    """A polygon that covers exactly these pixels."""
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def person(segmentation, area, crowd=0, category=1) -> dict:
    return {"category_id": category, "iscrowd": crowd, "area": area, "segmentation": segmentation}


RUNS = {"size": [H, W], "counts": [200, 300, 100]}  # columns first, beginning with background
# number of the photo -> its annotations
COCO = {
    1: [person([box(0, 0, 15, 20)], 300)],
    2: [person([box(0, 0, 15, 10), box(15, 0, 3, 10)], 180)],  # two parts
    3: [person([box(0, 0, 15, 20)], 300), person([box(20, 0, 4, 4)], 16)],  # two people
    5: [person(RUNS, 300, crowd=1)],
    6: [person([box(0, 0, 5, 20)], 100)],  # 0.17
    7: [person([box(0, 0, 25, 20)], 500)],  # 0.83
    9: [person([box(0, 0, 15, 20)], 300), person([box(0, 0, 9, 9)], 81, category=18)],  # a dog
    10: [person(RUNS, 300)],
}


def test_coco_photos_with_one_person_of_the_right_size(tmp_path, cache, capfd):
    pytest.importorskip("pycocotools")
    photos = {f"train2017/{i}.jpg": picture("RGB", (i, 99, 9), "JPEG", (W, H)) for i in COCO}
    images = [{"id": i, "file_name": f"../../{i}.jpg", "height": H, "width": W} for i in COCO]
    people = [{"image_id": i, **one} for i, all in COCO.items() for one in all]
    people = [{"id": n, **one} for n, one in enumerate(people, 1)]
    content = {"images": images, "annotations": people}
    content["categories"] = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    file = {"annotations/instances_train2017.json": json.dumps(content).encode()}
    root = write(tmp_path / "coco", file | photos)
    (root / "train2017" / "9.jpg").unlink()  # 1, 2, 9 and 10 are as they should be
    found = find_pairs("coco", root)
    assert ids(found.sides["train"]) == {"1", "2", "10"}
    mattes = {p.id: p.load()[1] for p in found.sides["train"]}
    by_hand = np.zeros(H * W)
    by_hand[200:500] = 1
    assert np.array_equal(mattes["10"], by_hand.reshape(W, H).T)
    assert mattes["2"][:10, :18].all() and mattes["2"].sum() == 180
    assert capfd.readouterr().out == ""
    assert all(cache in pair.mask.parents for pair in found.sides["train"])
    shutil.rmtree(root / "annotations")
    with pytest.raises(DataError, match="no usable pair for train in .*coco"):
        open_source("coco", root)
