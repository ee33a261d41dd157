"""Published sets by their own layouts, with the faults that they have."""

import base64
import io
import json
import os
import subprocess
import sys
import time
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unetlib.data import DataError, load_mask, load_pair, open_source
from unetlib.data.layouts import below
from unetlib.data.published import LAYOUTS, PUBLISHED, detect
from unetlib.data.sources import find_pairs
from unetlib.data.supervisely import draw_annotation


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save(array, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def pair(root: Path, images: str, masks: str, name: str, suffix=".jpg", top=255, number=0):
    """A photo of 12 x 8 and a mask whose left third is foreground."""
    mask = np.zeros((8, 12), np.uint8)
    mask[:, :4] = top
    save(np.full((8, 12, 3), 20 + number), root / images / f"{name}{suffix}")
    save(mask, root / masks / f"{name}.png")


def ids(pairs) -> list[str]:
    return sorted(p.id for p in pairs)


def kinds(found) -> dict[str, str]:
    return {s.path.name: s.kind for s in found.skipped}


# --- folders of photos and masks -----------------------------------------------------------------

# name -> where a set has photos and masks of its sides, as published and as it is found elsewhere
FORMS = [
    ("duts", {"train": ("DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask"),
              "val": ("DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask")}),
    ("ecssd", {"": ("images", "ground_truth_mask")}),
    ("ecssd", {"": ("Image", "Mask")}),
    ("hku_is", {"": ("imgs", "gt")}),
    ("hku_is", {"": ("Imgs", "GT")}),
    ("pascal_s", {"": ("datasets/imgs/pascal", "datasets/masks/pascal")}),
    ("pascal_s", {"": ("Imgs", "GT")}),
    ("sod", {"": ("Imgs", "GT")}),
    ("sod", {"": ("images", "masks")}),
    ("p3m10k", {"train": ("train/blurred_image", "train/mask"),
                "val": ("validation/P3M-500-P/blurred_image", "validation/P3M-500-P/mask")}),
]  # fmt: skip


@pytest.mark.parametrize("name, sides", FORMS)
def test_layouts_with_their_faults(tmp_path, name, sides):
    root = tmp_path / "some folder" / LAYOUTS[name].title
    for side, (images, masks) in sides.items():
        for i in range(6):
            pair(root, images, masks, f"{side}n{i}", number=i + 40 * (side == "val"))
        save(np.zeros((8, 12, 3)), root / images / f"{side}lonely.jpg")
        save(np.zeros((8, 12)), root / masks / f"{side}orphan.png")
        (root / images / f"._{side}n1.jpg").write_bytes(b"Mac OS X")
        (root / masks / f"{side}notes.txt").write_bytes(b"see the paper")
        (root / images / "Thumbs.db").write_bytes(b"x")
        save(np.zeros((8, 12)), root / masks / f"{side}n5.png").write_bytes(b"")
    places = [root, root.parent]
    if name != "p3m10k":  # one folder of it named instead of the whole
        places.append(root / next(iter(sides.values()))[0].split("/")[0])
    for place in places:
        found = find_pairs(name, place)
        assert found.root in (root, root / "datasets")
        prefix = {("p3m10k", "val"): "P3M-500-P/"}
        assert {side: ids(p) for side, p in found.sides.items()} == {
            side: [f"{prefix.get((name, side), '')}{side}n{i}" for i in range(5)] for side in sides
        }
        for side in sides:
            assert {
                f"{side}lonely.jpg": "image without mask",
                f"{side}orphan.png": "mask without image",
                f"._{side}n1.jpg": "resource fork",
                f"{side}notes.txt": "unknown type",
                f"{side}n5.png": "unreadable",
            }.items() <= kinds(found).items()
        assert len(found.skipped) == 5 * len(sides)
    _, matte = load_pair(next(iter(found.sides.values()))[0])
    assert matte.mean() == pytest.approx(1 / 3)
    source = open_source(name, root)
    if "train" in sides:
        assert ids(source.train) == [f"trainn{i}" for i in range(5)] and len(source.val) == 5
    else:
        assert len(source.train) + len(source.val) == 5


def test_both_halves_of_the_validation_of_p3m_are_val(tmp_path):
    root = tmp_path / "P3M-10k"
    for i, half in enumerate(("P3M-500-P/blurred_image", "P3M-500-NP/original_image")):
        masks = f"validation/{half.split('/')[0]}/mask"
        pair(root, f"validation/{half}", masks, "p_1", number=i)
        pair(root, f"validation/{half}", masks, "p_2", number=i + 50)
    pair(root, "train/blurred_image", "train/mask", "p_1", number=99)
    source = open_source("p3m10k", root)
    assert ids(source.train) == ["p_1"]
    assert ids(source.val) == [f"P3M-500-{h}/p_{n}" for h in ("NP", "P") for n in (1, 2)]
    assert source.train[0].mask_kind == "matte"


def test_half_a_set_is_divided_by_hash_and_the_missing_half_is_named(tmp_path):
    for i in range(12):
        pair(tmp_path, "DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask", f"n{i}", number=i)
    save(np.zeros((8, 12, 3)), tmp_path / "DUTS-TE/DUTS-TE-Image/x.jpg")
    source = open_source("duts", tmp_path, val_fraction=0.4)
    assert len(source.train) + len(source.val) == 12 and len(source.val) > 0
    (skip,) = source.skipped
    assert skip.path.name == "DUTS-TE-Image" and "DUTS-TE-Mask" in skip.reason


def test_of_several_folders_the_one_that_is_named_is_read(tmp_path):
    for i, name in enumerate(("ECSSD", "SOD", "HKU-IS")):
        pair(tmp_path / name, "imgs", "gt", name, number=i)
    for name in ("ecssd", "sod", "hku_is"):
        assert find_pairs(name, tmp_path).root.name == LAYOUTS[name].title
    with pytest.raises(DataError, match="PASCAL-S"):  # none of them is taken for it
        find_pairs("pascal_s", tmp_path)
    pair(tmp_path / "old" / "SOD", "imgs", "gt", "x")
    assert find_pairs("sod", tmp_path).root == tmp_path / "SOD"
    pair(tmp_path / "SOD-copy", "imgs", "gt", "x")
    with pytest.raises(DataError, match="2 folders could be meant.*SOD-copy"):
        find_pairs("sod", tmp_path)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_what_is_not_there_is_explained(name, tmp_path):
    def message(*args, **kwargs) -> str:
        with pytest.raises(DataError) as error:
            find_pairs(name, *args, **kwargs)
        return str(error.value)

    text = message(None, download=False)
    assert "https://" in text or "http://" in text
    missing = message(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in missing and "Expected" in missing
    (tmp_path / "empty").mkdir()
    text = message(tmp_path / "empty")
    assert "the folder is empty" in text and str(tmp_path / "empty") in text
    (tmp_path / "file").write_bytes(b"x")
    assert "is a file" in message(tmp_path / "file")
    assert "Traceback" not in text and "{" not in text + missing


def test_sets_without_a_public_address_say_where_to_get_them(tmp_path):
    for name in ("hku_is", "pascal_s", "sod", "p3m10k", "supervisely"):
        for args in ({}, {"download": True}, {"download": True, "root": tmp_path}):
            with pytest.raises(DataError, match="Download it from http"):
                find_pairs(name, **args)


# --- Oxford-IIIT Pet -----------------------------------------------------------------------------


def pet(root: Path, trainval: str, test: str, names="Birman_1 Birman_2 pug_1 pug_2 pug_3"):
    for i, name in enumerate(names.split()):
        trimap = np.full((8, 12), 2, np.uint8)
        trimap[2:6, 2:8], trimap[3:5, 3:7] = 3, 1
        save(np.full((8, 12, 3), 20 + i), root / "images" / f"{name}.jpg")
        save(trimap, root / "annotations" / "trimaps" / f"{name}.png")
        (root / "annotations" / "trimaps" / f"._{name}.png").write_bytes(b"Mac OS X")
    for file, text in (("trainval", trainval), ("test", test)):
        (root / "annotations" / f"{file}.txt").write_text(text, encoding="utf-8")
    return root


def test_pet_is_divided_by_its_lists(tmp_path):
    root = pet(tmp_path / "oxford-iiit-pet", "Birman_1 8 1 1\npug_1 27 2 1\n",
               "Birman_2 8 1 1\npug_2 27 2 1\npug_3 27 2 1\n")  # fmt: skip
    for place in (tmp_path, root, root / "annotations"):
        source = open_source("pet", place)
        assert source.root == root
        assert {p.id: p.tags for p in source.train} == {
            "Birman_1": ("cat", "birman"),
            "pug_1": ("dog", "pug"),
        }
        assert ids(source.val) == ["Birman_2", "pug_2", "pug_3"]
        assert {s.kind for s in source.skipped} == {"resource fork"}
    photo, matte = load_pair(source.val[0])
    expected = np.zeros((8, 12))
    expected[2:6, 2:8], expected[3:5, 3:7] = 128 / 255, 1
    assert np.array_equal(matte, expected.astype(np.float32))
    hashed = open_source("pet", root, split="hash", val_fraction=0.4)
    assert ids(hashed.train) + ids(hashed.val) != ids(source.train) + ids(source.val)
    assert {p.tags for p in hashed.train + hashed.val} == {("cat", "birman"), ("dog", "pug")}


def test_faults_of_the_lists_of_pet_are_named(tmp_path):
    lists = "#Image CLASS-ID SPECIES BREED ID\nBirman_1 8 1 1\nghost_7 8 1 1\npug_1\n\n"
    root = pet(tmp_path, lists, "Birman_2 8 1 1\nBirman_1 8 1 1\npug_2 27 9 1\n")
    found = find_pairs("pet", root)
    assert ids(found.sides["train"]) == ["Birman_1"] and ids(found.sides["val"]) == ["Birman_2"]
    reasons = [s.reason for s in found.skipped if s.kind == "skipped"]
    assert len(reasons) == 7
    for part in (
        "line 3, 'ghost_7 8 1 1', has no photo",
        "line 4, 'pug_1', is not 'NAME CLASS",
        "line 2, 'Birman_1 8 1 1', has no photo, or is there twice",
        "line 3, 'pug_2 27 9 1', is not",
    ):
        assert sum(part in reason for reason in reasons) == 1, part
    unlisted = [s.path.stem for s in found.skipped if "in neither" in s.reason]
    assert sorted(unlisted) == ["pug_1", "pug_2", "pug_3"]


def test_pet_without_its_lists_is_divided_by_hash(tmp_path):
    root = pet(tmp_path, "", "")
    (root / "annotations" / "test.txt").unlink()
    assert ids(find_pairs("pet", root).sides[""]) == ids(find_pairs("pet", root).sides[""])
    assert len(find_pairs("pet", root).sides[""]) == 5


# --- Supervisely Person --------------------------------------------------------------------------


def bitmap(mask: np.ndarray, kind="RGBA") -> str:
    """A bitmap as Supervisely writes it: letters of a squeezed PNG."""
    if kind == "RGBA":
        image = Image.fromarray(np.dstack([mask * 255] * 4).astype(np.uint8))
        options = {}
    elif kind == "P":  # index 0 is transparent
        image, options = Image.fromarray(mask.astype(np.uint8)), {"transparency": 0}
        image = image.convert("P")
        image.putpalette([0, 0, 0, 255, 255, 255])
    else:
        image, options = Image.fromarray(mask.astype(bool)), {}
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return base64.b64encode(zlib.compress(file.getvalue())).decode()


def thing(title="person_bmp", mask=None, origin=(0, 0), exterior=(), interior=(), kind="RGBA"):
    item = {"classTitle": title, "bitmap": None,
            "points": {"exterior": [*exterior], "interior": [*interior]}}  # fmt: skip
    if mask is not None:
        item["bitmap"] = {"origin": list(origin), "data": bitmap(mask, kind)}
    return item


def annotation(file: Path, *things, size=(20, 30), tags=()) -> Path:
    content = {"size": {"height": size[0], "width": size[1]}, "tags": [*tags], "objects": [*things]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


@pytest.mark.parametrize("kind", ["RGBA", "P", "1"])
def test_bitmaps_and_polygons_are_drawn(tmp_path, kind):
    part = np.random.default_rng(0).random((6, 7)) < 0.5
    file = annotation(
        tmp_path / "a.json",
        thing(mask=part, origin=(10, 5), kind=kind),
        thing(mask=part, origin=(26, -2), kind=kind),  # cut off by the edges
        thing("person_poly", exterior=[[1, 12], [8, 12], [8, 18], [1, 18]],
              interior=[[[3, 14], [5, 14], [5, 16], [3, 16]]]),
        thing("neutral", mask=np.ones((20, 30))),
    )  # fmt: skip
    expected = np.zeros((20, 30), bool)
    expected[5:11, 10:17] = part
    expected[0:4, 26:30] |= part[2:, :4]
    expected[12:19, 1:9] = True  # the outline of a polygon belongs to it
    expected[14:17, 3:6] = False
    assert np.array_equal(draw_annotation(file), expected)


def inside_polygon(points, size):
    """Even-odd rule at the middle of each pixel, and whether it is over a pixel from each edge."""
    y, x = np.mgrid[: size[0], : size[1]]
    inside, away = np.zeros(size, bool), np.ones(size, bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / max(
            (x1 - x0) ** 2 + (y1 - y0) ** 2, 1
        )
        along = np.clip(along, 0, 1)
        away &= np.hypot(x0 + along * (x1 - x0) - x, y0 + along * (y1 - y0) - y) > 1
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside, away


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 19)), min_size=3, max_size=9),
       st.integers(-40, 40), st.integers(-40, 40))  # fmt: skip
def test_any_polygon_and_any_place(tmp_path, points, x, y):
    """The inside of a polygon, but for a pixel along the outline; bitmaps wherever they lie."""
    file = annotation(tmp_path / "p.json", thing("person_poly", exterior=points))
    drawn = draw_annotation(file)
    inside, certain = inside_polygon(np.array(points, float), (20, 30))
    assert np.array_equal(drawn[certain], inside[certain])
    block = np.ones((3, 4), bool)
    file = annotation(tmp_path / "b.json", thing(mask=block, origin=(x, y)))
    expected = np.zeros((120, 120), bool)
    expected[y + 50 : y + 53, x + 50 : x + 54] = True
    assert np.array_equal(draw_annotation(file), expected[50:70, 50:80])


def supervisely(root: Path) -> Path:
    """Two data sets with both forms of names, and everything that goes wrong."""
    left = np.ones((20, 10), bool)
    for i, (ds, form) in enumerate((("ds1", "{}.png.json"), ("ds12", "{}.json"))):
        for name in "abcde":
            save(np.full((20, 30, 3), 10 * i + ord(name)), root / ds / "img" / f"{name}.png")
            annotation(root / ds / "ann" / form.format(name), thing(mask=left))
    save(np.zeros((20, 30, 3)), root / "ds1/img/lonely.png")
    annotation(root / "ds1/ann/orphan.png.json")
    annotation(root / "ds1/ann/c.png.json", thing(mask=left), tags=[{"name": "not-marked-people"}])
    annotation(root / "ds1/ann/d.png.json", thing(mask=left), size=(20, 60))
    (root / "ds1/ann/e.png.json").write_text('{"size": {"height": 20', encoding="utf-8")
    annotation(root / "ds12/ann/b.png.json")  # beside b.json
    annotation(root / "ds12/ann/c.json", thing(mask=left), tags=["not-marked-people"])
    content = {"size": {"height": 20, "width": 30}, "tags": [], "objects": [{"classTitle": "person",
               "bitmap": {"origin": [0, 0], "data": "no letters"}}]}  # fmt: skip
    (root / "ds12/ann/d.json").write_text(json.dumps(content), encoding="utf-8")
    (root / "ds12/ann/._a.json").write_bytes(b"Mac OS X")
    (root / "meta.json").write_text("{}", encoding="utf-8")
    return root


def test_supervisely_with_its_faults(tmp_path, cache):
    root = supervisely(tmp_path / "data" / "Persons")
    for place in (root, root.parent, tmp_path):
        found = find_pairs("supervisely", place)
        assert found.root == root
        assert ids(found.sides[""]) == ["ds1/a", "ds1/b", "ds12/a", "ds12/b", "ds12/e"]
    assert ids(find_pairs("supervisely", root / "ds1" / "img").sides[""]) == ["ds1/a", "ds1/b"]
    reasons = {s.path.relative_to(root).as_posix(): s for s in found.skipped
               if s.path.is_relative_to(root)}  # fmt: skip
    assert {name: s.kind for name, s in reasons.items()} == {
        "ds1/img/lonely.png": "image without mask",
        "ds1/ann/orphan.png.json": "mask without image",
        "ds1/ann/c.png.json": "skipped",
        "ds1/ann/e.png.json": "unreadable",
        "ds12/ann/b.png.json": "same stem",
        "ds12/ann/c.json": "skipped",
        "ds12/ann/d.json": "unreadable",
    }
    assert "not all people" in reasons["ds12/ann/c.json"].reason
    (shape,) = (s for s in found.skipped if not s.path.is_relative_to(root))
    assert shape.kind == "shape" and "60 x 20" in shape.reason
    for p in found.sides[""]:
        _, matte = load_pair(p)
        assert np.array_equal(matte, np.repeat([[1.0, 0, 0]], 20, 0).repeat(10, 1))
        assert cache in p.mask.parents and p.mask_kind == "matte"


def test_masks_are_drawn_once_and_again_where_the_annotation_changed(tmp_path, cache):
    root = supervisely(tmp_path / "set")
    pairs = {p.id: p for p in find_pairs("supervisely", root).sides[""]}
    before = {id: p.mask.stat().st_mtime_ns for id, p in pairs.items()}
    os.utime(root / "ds1/ann/a.png.json", ns=(before["ds1/a"] + 10**9,) * 2)
    pairs["ds12/e"].mask.unlink()
    pairs["ds1/b"].mask.write_bytes(b"changed by hand")  # whole, as far as its time tells
    again = {p.id: p for p in find_pairs("supervisely", root).sides[""]}
    after = {id: p.mask.stat().st_mtime_ns for id, p in again.items()}
    assert after["ds1/a"] > before["ds1/a"] and after["ds12/e"] > before["ds12/e"]
    assert after["ds12/a"] == before["ds12/a"] and "ds1/b" not in again
    assert not [p for p in cache.rglob("*") if p.name.endswith(".part")]
    twin = supervisely(tmp_path / "other place")
    annotation(twin / "ds1/ann/a.png.json")
    empty = {p.id: p for p in find_pairs("supervisely", twin).sides[""]}["ds1/a"]
    assert load_mask(empty.mask).max() == 0 and load_mask(again["ds1/a"].mask).max() == 1


def test_a_full_disk_leaves_no_half_mask(tmp_path, cache, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("unetlib.data.rendered.write_whole", full)
    root = supervisely(tmp_path / "set")
    with pytest.raises(OSError, match="No space left"):
        find_pairs("supervisely", root)
    assert not [*cache.rglob("*.png")]


def test_a_killed_run_is_taken_up(tmp_path, cache):
    root = tmp_path / "set"
    blob = np.random.default_rng(0).random((200, 150)) < 0.5
    save(np.zeros((300, 200, 3)), root / "ds1/img/0.png")
    annotation(root / "ds1/ann/0.png.json", thing(mask=blob, origin=(20, 20)), size=(300, 200))
    for i in range(1, 150):
        os.link(root / "ds1/img/0.png", root / f"ds1/img/{i}.png")
        os.link(root / "ds1/ann/0.png.json", root / f"ds1/ann/{i}.png.json")
    code = "import sys; from unetlib.data.sources import find_pairs; find_pairs(*sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", code, "supervisely", root]) as process:
        deadline = time.monotonic() + 60
        while len([*cache.rglob("*.png")]) < 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    drawn = {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")}
    assert 10 <= len(drawn) < 150
    found = find_pairs("supervisely", root)
    assert len(found.sides[""]) == 150 and not found.skipped
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn
    expected = np.zeros((300, 200), np.float32)
    expected[20:220, 20:170] = blob
    assert all(np.array_equal(load_mask(p.mask), expected) for p in found.sides[""])


def test_names_in_any_script(tmp_path):
    name = "Žofie на пляже 2"
    save(np.zeros((20, 30, 3)), tmp_path / "ds1/img" / f"{unicodedata.normalize('NFC', name)}.png")
    annotation(tmp_path / "ds1/ann" / f"{unicodedata.normalize('NFD', name)}.png.json")
    (found,) = find_pairs("supervisely", tmp_path).sides[""]
    assert found.id == f"ds1/{unicodedata.normalize('NFC', name)}" and found.mask.is_file()


def test_the_version_on_kaggle(tmp_path):
    name = "supervisely_person_clean_2667_img"
    for i in range(4):
        pair(tmp_path / name / name, "images", "masks", f"ds10_{i}", ".png", top=1, number=i)
    for place in (tmp_path, tmp_path / name, tmp_path / name / name / "images"):
        found = find_pairs("supervisely", place)
        assert ids(found.sides[""]) == [f"ds10_{i}" for i in range(4)]
    assert load_pair(found.sides[""][0])[1].mean() == pytest.approx(1 / 3)  # 0 and 1 are read


# --- what is in a folder -------------------------------------------------------------------------


def test_detect(tmp_path):
    for name, sides in FORMS:
        root = tmp_path / "detect" / name / str(len(sides)) / LAYOUTS[name].title
        for images, masks in sides.values():
            (root / images).mkdir(parents=True, exist_ok=True)
            (root / masks).mkdir(parents=True, exist_ok=True)
        assert detect(root) == name and detect(root.parent) == name
    for folders, name in (
        ("PNGImages PedMasks", "pennfudan"),
        ("images annotations/trimaps", "pet"),
        ("ds1/img ds1/ann", "supervisely"),
        ("clip_img matting", "aisegment"),
        ("matting_human_half/clip_img matting_human_half/matting", "aisegment"),
        ("images masks", None),
        ("train/images train/masks val/images val/masks", None),
        ("imgs gt", None),
        ("images masks raw/PNGImages raw/PedMasks", None),
        ("train/images train/masks old/clip_img old/matting", None),
        ("raw/PNGImages raw/PedMasks", "pennfudan"),
        ("", None),
    ):
        root = tmp_path / f"x{folders.replace('/', '-')}"
        for folder in folders.split() or ["."]:
            (root / folder).mkdir(parents=True)
        assert detect(root) == name, folders
    (tmp_path / "c" / "annotations").mkdir(parents=True)
    (tmp_path / "c" / "annotations" / "instances_val2017.json").write_text("{}")
    assert detect(tmp_path / "c") == "coco"


def test_detect_and_open_real_photos(real_data):
    assert (
        detect(real_data / "PennFudanPed") == "pennfudan" and detect(real_data / "people") is None
    )
    assert len(find_pairs("pennfudan", real_data).sides[""]) == 136


def test_below(tmp_path):
    (tmp_path / "A" / "bC").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"")
    assert below(tmp_path, "a/Bc") == tmp_path / "A" / "bC"
    assert below(tmp_path, "x/y|file|a") == tmp_path / "A"
    assert below(tmp_path, "a/x|file") is None and below(tmp_path / "none", "a") is None
