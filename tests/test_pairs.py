"""Folders of photos and masks under every name, skips that are named, and splits that hold."""

import os
import shutil
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unetlib.data.folders import find_folder, folder_pairs
from unetlib.data.images import ImageError
from unetlib.data.pairs import DataError, Pair, split_fraction, split_pairs
from unetlib.data.sources import open_source

TWENTY = [f"p{i}" for i in range(20)]


def match(root):
    return folder_pairs(root / "images", root / "masks")


def ids(pairs) -> set[str]:
    return {p.id for p in pairs}


def both(source) -> tuple[set[str], set[str]]:
    return ids(source.train), ids(source.val)


@pytest.fixture
def cutout(photo, disc):
    """cutout(path, seed) writes an RGBA picture whose alpha is a soft disc."""

    def make(path, seed=0, height=24, width=32):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.dstack([photo(height, width, seed), disc(height, width)])).save(path)

    return make


def test_pairs_by_exact_stem(make_pairs):
    names = ["1", "10", "a.b.c", "v1.2", "deep/er/1", "sp ace", "é"]
    root = make_pairs(names)
    decomposed = unicodedata.normalize("NFD", "é")  # as macOS stores it
    os.rename(root / "masks" / "é.png", root / "masks" / f"{decomposed}.png")
    pairs, skipped = match(root)
    assert [p.id for p in pairs] == sorted(names) and skipped == []
    assert all(p.image.is_file() and p.mask.is_file() for p in pairs)
    assert [p.mask.stem for p in pairs[:-1]] == [p.image.stem for p in pairs[:-1]]


@pytest.mark.parametrize(
    ("name", "mask"), [("img_7", "mask_7"), ("7", "007"), ("IMG_7", "img_7"), ("7", "7.jpg")]
)
def test_usual_affixes_of_masks_are_seen_through(make_pairs, name, mask):
    root = make_pairs([name, "b"])
    (root / "masks" / f"{mask}.png").parent.mkdir(parents=True, exist_ok=True)
    os.rename(root / "masks" / f"{name}.png", root / "masks" / f"{mask}.png")
    pairs, skipped = match(root)
    assert ids(pairs) == {name, "b"} and skipped == []
    assert {p.mask.stem for p in pairs} == {Path(mask).name, "b"}


def test_same_stem_twice_is_skipped_on_both_sides(make_pairs, photo):
    root = make_pairs(["a", "b", "c"])
    Image.fromarray(photo()).save(root / "images" / "a.png")
    Image.new("L", (32, 24)).save(root / "masks" / "b.bmp")
    pairs, skipped = match(root)
    why = {f"{s.path.parent.name}/{s.path.name}": s.kind for s in skipped}
    assert ids(pairs) == {"c"} and len(why) == 6  # nothing vanishes without being named
    assert why["images/a.jpg"] == why["masks/b.bmp"] == "same stem"
    assert why["masks/a.png"] == "mask without image" and why["images/b.jpg"][:5] == "image"


def test_litter_of_operating_systems(make_pairs):
    root = make_pairs(["a"])
    for name in ("._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "images" / name).write_bytes(b"x")
    (root / "images" / "notes.txt").write_text("mine", encoding="utf-8")
    (root / "images" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    for hidden in (".ipynb_checkpoints", "__MACOSX"):
        (root / "images" / hidden).mkdir()
        Image.new("L", (4, 4)).save(root / "images" / hidden / "a.png")
    pairs, skipped = match(root)
    assert ids(pairs) == {"a"} and {s.path.name for s in skipped} == {"notes.txt", "gone.jpg"}


@pytest.mark.parametrize(
    ("image", "mask", "fits"),
    [
        ((601, 401), (300, 200), True),  # rounded down
        ((601, 401), (301, 201), True),  # and up
        ((600, 400), (600, 388), False),  # cropped by 3 %
        ((600, 400), (400, 600), False),  # turned
    ],
)
def test_masks_may_be_resized_but_not_cropped(tmp_path, image, mask, fits):
    for name, size in (("images", image), ("masks", mask)):
        (tmp_path / name).mkdir()
        Image.new("L", size).save(tmp_path / name / "a.png")
    pairs, skipped = match(tmp_path)
    assert bool(pairs) == fits and [s.kind for s in skipped] == ([] if fits else ["shape"])


# where photos and masks of train and of val lie; without {side}: not divided
LAYOUTS = {
    "carvana": ("imgs/{i}.jpg", "masks/{i}_mask.gif"),
    "singular": ("image/{i}.jpg", "mask/{i}.png"),
    "capitals": ("Images/{i}.JPG", "Masks/{i}.PNG"),
    "saliency": ("Imgs/{i}.jpg", "GT/{i}.png"),
    "one folder": ("{i}.jpg", "{i}_mask.png"),
    "masks among images": ("images/{i}.jpg", "images/{i}-mask.png"),
    "archive": ("archive/data/images/{i}.jpg", "archive/data/masks/{i}.png"),
    "ultralytics": ("images/{side}/{i}.jpg", "masks/{side}/{i}.png"),
    "valid": ("{side}/images/{i}.jpg", "{side}/masks/{i}.png"),
    "test": ("{side}/imgs/{i}.jpg", "{side}/labels/{i}.png"),
    "coco": ("images/{side}2017/{i}.jpg", "masks/{side}2017/{i}.png"),
    "kaggle": ("{side}_images/{i}.jpg", "{side}_masks/{i}.png"),
    "avif": ("images/{i}.avif", "masks/{i}.png"),
    "jfif": ("images/{i}.jfif", "masks/{i}.jfif_mask.png"),
    "kaggle's carvana": ("{side}/{i}.jpg", "{side}_masks/{i}_mask.gif"),
    "roboflow": ("{side}/{i}.jpg", "{side}/{i}_mask.png"),
    "masks below the photos": ("{i}.jpg", "mask/{i}_GT.png"),
    "segments": ("img/{i}.ppm", "annotations/{i}-binary-seg.png"),
    "matting": ("fgr/{i}.webp", "pha/{i}.pgm"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_other_tools(name, tmp_path, photo, disc):
    places, val = LAYOUTS[name], name if name in ("valid", "test") else "val"
    divided = "{side}" in places[0]
    for i in range(12):
        for place, picture in zip(places, (photo(seed=i), disc()), strict=True):
            path = tmp_path / place.format(i=i, side="train" if i < 8 else val)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    source = open_source("folder", tmp_path)
    train, held = (sorted(int(p.image.stem) for p in s) for s in (source.train, source.val))
    assert sorted(train + held) == list(range(12)) and held
    assert train == list(range(8)) or not divided
    assert source.train[0].load()[1].mean() == pytest.approx(disc().mean() / 255, abs=0.02)
    assert source.skipped == ()
    assert "such as " in source.describe()


def test_test_beside_val_is_left_alone(make_pairs, tmp_path):
    for side, names in (("train", "ab"), ("val", "cd"), ("test", "ef")):
        make_pairs(names, tmp_path / side, height=20 + ord(names[0]) % 9)
    assert both(open_source("folder", tmp_path)) == ({"a", "b"}, {"c", "d"})
    assert "test: part of neither train nor val" in open_source("folder", tmp_path).describe()
    shutil.rmtree(tmp_path / "val")
    shutil.rmtree(tmp_path / "test")
    train, val = both(open_source("folder", tmp_path, val_fraction=0.5))  # one half is no division
    assert train | val == {"a", "b"} and train and val


def test_names_that_differ_in_case_or_form_only(make_pairs):
    """What belongs together is clear for some; the rest is listed, and nothing is refused."""
    root = make_pairs(["IMG_1", "img_1", "a", "é"])
    (root / "masks" / "é.png").rename(root / "masks" / "e\u0301.png")
    (root / "masks" / "a.png").rename(root / "masks" / "A.png")
    assert ids(open_source("folder", root, val_fraction=0).train) == {"IMG_1", "img_1", "a", "é"}
    make_pairs(["e\u0301", "b", "B"], root)
    (root / "masks" / "b.png").unlink()
    (root / "masks" / "B.png").rename(root / "masks" / "b_mask.png")
    pairs, skipped = match(root)
    assert ids(pairs) == {"IMG_1", "img_1", "a"} and len(skipped) == 6


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="HEIC can be read here")
def test_heic_without_its_package_is_no_damage(make_pairs):
    root = make_pairs(TWENTY)
    for id in TWENTY[:3]:
        content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)
        (root / "images" / f"{id}.jpg").rename(root / "images" / f"{id}.HEIC")
        (root / "images" / f"{id}.HEIC").write_bytes(content)
    source = open_source("folder", root)
    assert len(source.train) + len(source.val) == 17
    assert {s.kind for s in source.skipped} == {"not read"}
    assert "p1.HEIC: to read HEIC photos: pip install pillow-heif" in source.describe()
    for path in [*root.glob("images/*.jpg")]:
        path.unlink()
    with pytest.raises(DataError, match="pip install pillow-heif"):
        open_source("folder", root)


def test_half_of_a_division_without_masks_is_refused(make_pairs, tmp_path):
    make_pairs("ab", tmp_path / "train")
    (tmp_path / "val" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match="no usable pair for val in"):
        open_source("folder", tmp_path)
    (tmp_path / "val").rename(tmp_path / "test")  # as in competitions
    assert len(open_source("folder", tmp_path).train) == 1


def test_cutouts_are_the_masks_of_their_photos(make_pairs, cutout, disc):
    root = make_pairs(TWENTY)
    (root / "masks").rename(root / "cutouts")  # plain masks where cut-outs should be
    with pytest.raises(ImageError, match=r"p\d+\.png.*alpha"):
        open_source("folder", root).train[0].load()
    for id in TWENTY:
        cutout(root / "cutouts" / f"{id}.png")
    matte = open_source("folder", root).train[0].load()[1]
    assert np.array_equal(np.rint(matte * 255), disc())


@pytest.mark.parametrize("name", ["{}.png", "{}_foreground.png", "{}.out.png"])
def test_photos_and_cutouts_side_by_side(make_pairs, cutout, tmp_path, name, disc):
    root = make_pairs(TWENTY, tmp_path / "made") / "images"
    with pytest.raises(DataError, match="cutouts/"):
        open_source("folder", root)
    for id in TWENTY:
        cutout(root / name.format(id))
    shutil.copy(root / "p0.jpg", root / "lonely.jpg")
    source = open_source("folder", root)
    assert set.union(*both(source)) == set(TWENTY)
    assert {s.path.name: s.kind for s in source.skipped} == {"lonely.jpg": "image without mask"}
    assert np.array_equal(np.rint(source.val[0].load()[1] * 255), disc())


def test_cutouts_are_laid_over_backgrounds_of_their_own_side(cutout, photo, tmp_path):
    for k in range(12):
        cutout(tmp_path / "cutouts" / f"figure{k}.png", k, 50, 40)
    with pytest.raises(DataError, match="no such folder: .*backgrounds"):
        find_folder(tmp_path)
    (tmp_path / "walls").mkdir()
    for k in range(40):
        Image.fromarray(photo(50, 40, 100 + k)).save(tmp_path / "walls" / f"wall{k}.png")
    spec = f"folder:{tmp_path}?backgrounds={tmp_path / 'walls'}"
    source = open_source(spec, val_fraction=0.3)
    figures = [{p.image.name for p in side} for side in (source.train, source.val)]
    walls = [{p.background.name for p in side} for side in (source.train, source.val)]
    assert len(figures[0] | figures[1]) == 12 and not figures[0] & figures[1]
    assert walls[0] and walls[1] and not walls[0] & walls[1] and len(walls[0] | walls[1]) == 40
    assert len(ids(source.train)) == len(source.train) > len(figures[0])
    assert open_source(spec, val_fraction=0.3) == source


def fake(names) -> list[Pair]:
    return [Pair(id, Path(f"{id}.jpg"), Path(f"{id}.png")) for id in names]


def test_split_fraction_is_the_same_on_every_machine():
    # the first 12 hex digits that `printf 0:FudanPed00001 | sha256sum` prints
    assert split_fraction("FudanPed00001", 0) == int("674a06681ebb", 16) / 2**48
    assert split_fraction("1", 0) != split_fraction("1", 1) != split_fraction("10", 1)


def test_split_shares_and_small_sets():
    pairs = fake(str(i) for i in range(2000))
    assert len(split_pairs(pairs, 0.2)[1]) / 2000 == pytest.approx(0.2, abs=0.03)
    assert ids(split_pairs(pairs, 0.1)[1]) < ids(split_pairs(pairs, 0.2)[1])
    train, val = split_pairs(pairs, 0.5, seed=3)
    assert ids(val) == {p.id for p in pairs if split_fraction(p.id, 3) < 0.5}
    assert ids(train) == ids(pairs) - ids(val)
    assert split_pairs(pairs, 0) == (pairs, [])
    assert all(split_pairs(fake("ab"), 1e-9)) and all(split_pairs(fake("ab"), 0.999))
    with pytest.raises(DataError, match=r"one group \('a'\).*--val-fraction 0"):
        split_pairs(fake("a"), 0.2)
    with pytest.raises(ValueError, match="val_fraction"):
        split_pairs(fake("ab"), 1)


@pytest.mark.parametrize("groups", ["folder", "^(g[0-9]+)/", "^g[0-9]+"])
def test_groups_stay_together(make_pairs, groups):
    root = make_pairs([f"g{g}/{i}" for g in range(8) for i in range(4)])
    source = open_source("folder", root, groups=groups, val_fraction=0.4)
    train, val = ({p.id.split("/")[0] for p in side} for side in (source.train, source.val))
    assert train and val and not train & val
    assert {p.group for p in source.train} == train
    with pytest.raises(ValueError, match="no regular expression"):
        open_source("folder", root, groups="(a")


@pytest.mark.parametrize(
    ("encoding", "separator"),
    [("utf-8", ","), ("utf-8-sig", ";"), ("utf-8", "\t"), ("utf-16", ";"), ("utf-8", "|")],
)
def test_groups_of_a_manifest_as_any_spreadsheet_saves_it(make_pairs, separator, encoding):
    root = make_pairs(TWENTY)
    rows = [f"{id}{separator}person-{n // 5}" for n, id in enumerate(TWENTY)]
    rows[0] = rows[0].replace("p0", "p0.jpg")  # with its suffix
    head = ["id" if separator == "," else "\r\nFilename", " Group"]
    text = "\r\n".join(["sep=;"] * (separator == ";") + [separator.join(head), *rows])
    (root / "manifest.csv").write_text(text, encoding=encoding)
    source = open_source("folder", root, val_fraction=0.4)
    train, val = ({p.group for p in side} for side in (source.train, source.val))
    assert not train & val and train | val == {f"person-{n}" for n in range(4)}


def test_a_manifest_whose_numbers_a_spreadsheet_has_changed(make_pairs):
    root = make_pairs([f"{n:03}" for n in range(20)])
    rows = [f"{n},person-{n // 5}," for n in range(20)]  # 001 became 1; the last column is empty
    (root / "manifest.csv").write_text("\n".join(["id,group,", *rows]))
    source = open_source("folder", root, val_fraction=0.4)
    assert {p.group for p in source.train + source.val} == {f"person-{n}" for n in range(4)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"photo;group\nx1;a\n", "columns photo, group"),
        (b"id;group;photographer\nx1;a;b\n", "photographer"),
        (b"id,group\n\xff\xe9,\x81\n", "manifest.csv is no text in UTF-8"),
    ],
)
def test_manifests_that_cannot_be_used(make_pairs, content, words):
    root = make_pairs(TWENTY)
    (root / "manifest.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        open_source("folder", root)
