"""The doctor: every planted fault is found, and nothing else is said."""

import csv
import hashlib
import io
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from unetlib.app.doctor import picture, quarantine, suspects, write_page
from unetlib.data import DataError, open_source
from unetlib.data.doctor import examine
from unetlib.data.faults import KINDS, SEVERITIES
from unetlib.data.sources import find_pairs
from unetlib.data.split import split_fraction
from unetlib.data.synthetic import write_synthetic


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    """Drawn photos and masks, 41 in train and 19 in val."""
    folder = tmp_path_factory.mktemp("clean") / "data"
    return write_synthetic(folder, 60, 96, val_fraction=0.3, workers=1, progress=False)


@pytest.fixture
def data(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "data")


class Set:
    """The files of a set by number."""

    def __init__(self, root):
        self.root = root
        self.train = sorted(p.stem for p in (root / "train" / "images").glob("[!.]*.jpg"))
        self.val = sorted(p.stem for p in (root / "val" / "images").iterdir())

    def image(self, number=0, side="train"):
        return self.root / side / "images" / f"{getattr(self, side)[number]}.jpg"

    def mask(self, number=0, side="train"):
        return self.root / side / "masks" / f"{getattr(self, side)[number]}.png"

    def read(self, number=0, side="train"):
        return Image.open(self.image(number, side)), Image.open(self.mask(number, side))

    def add(self, photo, mask, id="zz", side="train"):
        photo.convert("RGB").save(self.root / side / "images" / f"{id}.jpg", quality=92)
        mask.save(self.root / side / "masks" / f"{id}.png")
        return f"{side}/images/{id}.jpg"


def mask_of(change):
    """Plants a mask made from the one that is there (uint8 (H, W))."""

    def plant(s):
        path = s.mask(5)
        change(np.array(Image.open(path).convert("L"))).save(path)
        return path.name

    return plant


def photo_of(change):
    def plant(s):
        path = s.image(5)
        path.write_bytes(change(path.read_bytes()))
        return path.name

    return plant


def delete(which):
    def plant(s):
        getattr(s, "mask" if which == "image" else "image")(5).unlink()
        return getattr(s, which)(5).name

    return plant


def beside(name, content=b"hello"):
    def plant(s):
        (s.root / "train" / "images" / name).write_bytes(content)
        return name

    return plant


def same_stem(s):
    Image.open(s.image(5)).save(s.image(5).with_suffix(".png"))
    return s.image(5).name


def cut_mask(s):
    path = s.mask(5)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[-12:])  # the end mark is there
    return path.name


def repaired(data):
    """A JPEG of which the second half is lost and whose end mark was put back."""
    return data[: len(data) // 2] + b"\xff\xd9"


def on_its_side(s):
    photo, mask = s.read(5)
    box = (0, 0, 96, 64)
    photo.crop(box).save(s.image(5))
    mask.crop(box).transpose(Image.Transpose.ROTATE_90).save(s.mask(5))
    return s.mask(5).name


def photo_as_mask(mode):
    def plant(s):
        photo = Image.open(s.image(6))
        (photo.quantize(256) if mode == "P" else photo.convert(mode)).save(s.mask(5))
        return s.mask(5).name

    return plant


def label_map(mask):
    """A person in parts: hair, face, clothes."""
    parts = np.zeros((*mask.shape, 3), np.uint8)
    for i, colour in enumerate(((128, 0, 0), (0, 128, 128), (192, 128, 0))):
        parts[i * 32 : (i + 1) * 32] = colour
    return Image.fromarray(parts * (mask[..., None] > 127))


def many_colours(mask):
    colours = np.random.default_rng(0).integers(0, 2, (6, 6, 3)) * 200 + 30
    colours += np.arange(108).reshape(6, 6, 3) % 25
    big = cv2.resize(colours.astype(np.uint8), mask.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return Image.fromarray(big * (mask[..., None] > 127))


def grey(function):
    return mask_of(lambda mask: Image.fromarray(function(mask).astype(np.uint8)))


def deep_labels(mask):
    return Image.fromarray((mask > 127).astype(np.uint16) * 3)


def trimap(mask):
    inner, outer = (f(mask, np.ones((7, 7), np.uint8)) for f in (cv2.erode, cv2.dilate))
    return np.where(inner > 250, 255, (outer > 5) * 128)


def inverted(s):
    shares = [np.asarray(s.read(i)[1])[:20].mean() for i in range(10)]
    path = s.mask(int(np.argmin(shares)))  # nothing in the upper border, as is usual
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    return path.name


def speckles(mask):
    noise = np.random.default_rng(1).random(mask.shape) < 0.06
    return np.where(noise, 255 - mask, mask)


def jpeg_mask(s):
    Image.open(s.mask(5)).save(s.mask(5).with_suffix(".jpg"), quality=90)
    s.mask(5).unlink()
    return s.mask(5).stem


def copied(to, change=lambda image: image, exact=False):
    """A photo of train and its mask once more, changed."""

    def plant(s):
        photo, mask = s.read(5)
        s.add(change(photo), change(mask), side=to)
        if exact:
            shutil.copy(s.image(5), s.root / to / "images" / "zz.jpg")
        return f"{to}/images/zz.jpg"

    return plant


def recoded(image):
    if image.mode == "L":
        return image
    file = io.BytesIO()
    image.save(file, "JPEG", quality=35)
    return Image.open(file)


def cropped(image):
    return image.crop((3, 2, 94, 93))


def mirrored(image):
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def brighter(image):
    return image if image.mode == "L" else ImageEnhance.Brightness(image).enhance(1.2)


def smaller(image):
    return image.resize((64, 64), Image.Resampling.LANCZOS)


def same_id(s):
    photo, mask = s.read(5)
    name = s.val[0]
    (s.root / "train" / "images" / s.image(5).name).rename(s.root / "train/images" / f"{name}.jpg")
    (s.root / "train" / "masks" / s.mask(5).name).rename(s.root / "train/masks" / f"{name}.png")
    (s.root / "manifest.csv").unlink()
    return name


def manifest_with(column, values):
    """A manifest with one more column: values(set, index, id, side)."""

    def plant(s):
        ids = [(id, side) for side in ("train", "val") for id in getattr(s, side)]
        rows = [f"{id},{values(s, n, id, side)}\n" for n, (id, side) in enumerate(ids)]
        (s.root / "manifest.csv").write_text(f"id,{column}\n" + "".join(rows), "utf-8")
        return ""

    return plant


def other_size(s, n, id, side):
    return "40x40" if n == 7 else "96x96"


def lost_row(s):
    for path in (s.image(5), s.mask(5)):
        path.unlink()
    return s.image(5).stem


def in_other_case(s):
    for number, name in ((5, "Photo"), (6, "photo")):
        s.image(number).rename(s.image(number).with_stem(name))
        s.mask(number).rename(s.mask(number).with_stem(name))
    (s.root / "manifest.csv").unlink()
    if len(list((s.root / "train" / "images").glob("[Pp]hoto.jpg"))) < 2:
        pytest.skip("this file system does not tell them apart")
    return "Photo.jpg"


def same_mask(s):
    shutil.copy(s.mask(5), s.mask(6))
    return s.mask(6).name


def plain_photo(s):
    Image.new("RGB", (96, 96), (90, 120, 200)).save(s.image(5))
    return s.image(5).name


def sized(width, height):
    def plant(s):
        photo, mask = s.read(5)
        photo.resize((width, height)).save(s.image(5))
        mask.resize((width, height)).save(s.mask(5))
        return s.image(5).name

    return plant


def few_val(s):
    for number in range(3, len(s.val)):
        s.image(number, "val").unlink()
        s.mask(number, "val").unlink()
    (s.root / "manifest.csv").unlink()
    return "3 photos"


def no_val(s):
    for folder in ("images", "masks"):
        shutil.rmtree(s.root / "val" / folder)
        (s.root / "val" / folder).mkdir()
    (s.root / "manifest.csv").unlink()
    return "val"


def few_train(s):
    for number in range(3, len(s.train)):
        s.image(number).unlink()
        s.mask(number).unlink()
    (s.root / "manifest.csv").unlink()
    return "3 photos"


def holed(data):
    """A JPEG with a part that never reached the disk."""
    middle = len(data) // 2
    return data[:middle] + bytes(128) + data[middle + 128 :]


def exchanged(s):
    Image.open(s.mask(5)).convert("RGB").save(s.image(5), quality=90)
    return s.image(5).name


def all_moved(s):
    for side in ("train", "val"):
        for number in range(len(getattr(s, side))):
            mask = np.roll(np.array(Image.open(s.mask(number, side))), 16, 1)
            Image.fromarray(mask).save(s.mask(number, side))
    return "of 60 masks"


def prepared(change):
    """A manifest as `prepare` writes it, but for the sides that `change` gives (None: no row)."""

    def plant(s):
        rows, sides = [], change(s)
        for side in ("train", "val"):
            for number, id in enumerate(getattr(s, side)):
                digest = hashlib.sha256(s.image(number, side).read_bytes()).hexdigest()
                if listed := sides.get(id, side):
                    rows.append(f"{id},{listed},{digest}\n")
        (s.root / "manifest.csv").write_text("id,split,sha256\n" + "".join(rows), "utf-8")
        return s.image(5).name

    return plant


def mask_in(width):
    return mask_of(lambda mask: Image.fromarray(mask).resize((width, width)))


FAULTS = {
    "image without mask": ("image without mask", delete("image")),
    "mask without image": ("mask without image", delete("mask")),
    "two of one stem": ("same stem", same_stem),
    "a text": ("unknown type", beside("notes.txt")),
    "a resource fork": ("resource fork", beside("._synthetic-000000.jpg")),
    "an empty file": ("unreadable", photo_of(lambda data: b"")),
    "no image": ("unreadable", photo_of(lambda data: b"<html>404</html>")),
    "a photo cut off": ("unreadable", photo_of(lambda data: data[: len(data) // 2])),
    "a photo cut off and closed": ("grey end", photo_of(repaired)),
    "a photo with a hole": ("unreadable", photo_of(holed)),
    "a mask as photo": ("mask as photo", exchanged),
    "a mask moved": ("mask beside its photo", grey(lambda m: np.roll(m, 16, 1))),
    "all masks moved": ("masks beside their photos", all_moved),
    "three pixels": ("hardly a mask", grey(lambda m: np.pad([[255] * 3], ((40, 55), (40, 53))))),
    "three in train": ("few train photos", few_train),
    "not listed": ("not in the manifest", prepared(lambda s: {s.train[5]: None})),
    "moved by hand": ("another side in the manifest", prepared(lambda s: {s.train[5]: "val"})),
    "a mask cut off": ("unreadable", cut_mask),
    "another shape": ("another shape", grey(lambda m: m[10:])),
    "on its side": ("lies on its side", on_its_side),
    "mask of half the size": ("mask of another size", mask_in(48)),
    "mask of a quarter of the size": ("small mask", mask_in(24)),
    "colour photo as mask": ("photo as mask", photo_as_mask("RGB")),
    "grey photo as mask": ("photo as mask", photo_as_mask("L")),
    "opaque alpha": ("photo as mask", photo_as_mask("RGBA")),
    "GIF of a photo": ("photo as mask", photo_as_mask("P")),
    "label map": ("coloured mask", mask_of(label_map)),
    "dozens of colours": ("coloured mask", mask_of(many_colours)),
    "labels 1, 2, 3": ("labels", grey(lambda m: (m > 127) * (1 + np.indices(m.shape)[0] // 32))),
    "label 15 with border 255": ("labels", grey(lambda m: (m > 127) * 15 + (m == 128) * 240)),
    "labels in 16 bit": ("labels", mask_of(deep_labels)),
    "trimap": ("labels", grey(trimap)),
    "inverted": ("inverted mask", inverted),
    "all black": ("empty mask", grey(np.zeros_like)),
    "all white": ("full mask", grey(lambda m: np.full_like(m, 255))),
    "the same file": ("same photo", copied("train", exact=True)),
    "re-encoded": ("near copy", copied("train", recoded)),
    "cropped": ("near copy", copied("train", cropped)),
    "mirrored": ("near copy", copied("train", mirrored)),
    "brighter": ("near copy", copied("train", brighter)),
    "smaller": ("near copy", copied("train", smaller)),
    "the same file in val": ("same photo in train and val", copied("val", exact=True)),
    "cropped in val": ("near copy in train and val", copied("val", cropped)),
    "mirrored in val": ("near copy in train and val", copied("val", mirrored)),
    "same id": ("same id in train and val", same_id),
    "same group": (
        "same group in train and val",
        manifest_with(
            "group", lambda s, n, id, side: "anna" if id in (s.train[3], s.val[3]) else id
        ),
    ),
    "case": ("names differ in case", in_other_case),
    "one mask for two": ("same mask", same_mask),
    "one colour": ("blank photo", plain_photo),
    "tiny": ("tiny photo", sized(24, 24)),
    "long": ("long photo", sized(400, 64)),
    "JPEG mask": ("JPEG mask", jpeg_mask),
    "row without files": ("missing, but in the manifest", lost_row),
    "changed size": ("changed since the manifest", manifest_with("size", other_size)),
    "speckles": ("speckled mask", grey(speckles)),
    "three in val": ("few val photos", few_val),
    "none in val": ("no pairs", no_val),
    "a speck": ("unlike the others", grey(lambda m: np.pad([[255] * 4] * 4, (40, 52)))),
}


def test_clean_sets_are_clean(clean, tmp_path):
    checkup = examine(clean)
    assert checkup.findings == [] and checkup.count("error") == 0
    assert checkup.pairs == {"train": 41, "val": 19} and len(checkup.looks) == 60
    assert "nothing found" in checkup.text() and "Nothing was found" in checkup.verdict()
    for name in ("images", "masks"):  # undivided
        shutil.copytree(clean / "train" / name, tmp_path / name)
    assert examine(tmp_path).findings == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(data, fault):
    kind, plant = FAULTS[fault]
    named = plant(Set(data))
    checkup = examine(data)
    assert [f.kind for f in checkup.findings if f.kind != kind] == []
    assert len(checkup.findings) == (3 if fault == "two of one stem" else 1), checkup.text()
    assert named in checkup.text() and kind in checkup.text()
    assert str(data) not in checkup.findings[0].reason


def test_every_kind_is_planted():
    assert {kind for kind, _ in FAULTS.values()} == set(KINDS) - {"skipped"}
    assert {severity for severity, _ in KINDS.values()} == set(SEVERITIES)


# --- what is not a fault --------------------------------------------------------------------------


def test_an_opened_source_is_examined_as_it_was_divided(data, clean, tmp_path):
    (data / "manifest.csv").unlink()
    s = Set(data)
    s.add(*map(recoded, s.read(3)), id="copy", side="val")
    checkup = examine(open_source("folder", data))
    assert [f.kind for f in checkup.findings] == ["near copy in train and val"]
    assert checkup.pairs == {"train": 41, "val": 20}
    both = open_source(f"folder:{data} + folder:{clean}")
    kinds = {f.kind for f in examine(both).findings}
    assert "same photo" in kinds and "same photo in train and val" not in kinds
    with pytest.raises(ValueError, match="one source at a time"):
        quarantine(examine(both), tmp_path / "away")


def test_near_copies_that_a_split_by_names_would_tear_apart(data):
    (data / "manifest.csv").unlink()
    for name in ("images", "masks"):
        shutil.move(data / "train" / name, data / name)
    shutil.rmtree(data / "train")
    shutil.rmtree(data / "val")
    pairs = find_pairs("folder", data).sides[""]
    sides = {p.id: "val" if split_fraction(p.id) < 0.2 else "train" for p in pairs}
    torn = next(i for i in map("copy{}".format, range(99)) if split_fraction(i) < 0.2)
    kept = next(i for i in map("copy{}".format, range(99)) if split_fraction(i) >= 0.2)
    original = next(p for p in pairs if sides[p.id] == "train")
    for id, kind in ((kept, "near copy"), (torn, "near copy in train and val")):
        photo = Image.open(original.image).convert("RGB")
        photo.save(data / "images" / f"{id}.jpg", quality=40 + len(kind))
        shutil.copy(original.mask, data / "masks" / f"{id}.png")
        (found,) = [f for f in examine(data).findings if f.kind.startswith("near copy")]
        assert found.kind == kind
    assert "split by their names" in found.reason and str(found.moves[0]).endswith(f"{torn}.jpg")
    groups = "".join(f"{i},anna\n" for i in (original.id, kept, torn))
    (data / "manifest.csv").write_text("id,group\n" + groups, "utf-8")
    assert not [f for f in examine(data).findings if f.kind.startswith("near copy")]


def test_near_copies_of_one_group_are_expected_on_one_side(data):
    s = Set(data)
    for side, id in (("train", "zz"), ("val", "yy")):
        s.add(*map(cropped if side == "train" else recoded, s.read(5)), id=id, side=side)
    groups = f"id,group\nzz,anna\n{s.train[5]},anna\nyy,anna\n"
    (data / "manifest.csv").write_text(groups, "utf-8")
    kinds = {f.kind for f in examine(data).findings}
    assert kinds == {"near copy in train and val", "same group in train and val"}
    for path in (data / "val").glob("*/yy.*"):
        path.unlink()
    (data / "manifest.csv").write_text(groups.replace("yy,anna\n", ""), "utf-8")
    assert examine(data).findings == []


def test_many_copies_are_one_finding(data):
    s = Set(data)
    for number in range(6):
        photo, mask = s.read(5)
        box = (number % 3, number // 3, 94, 95)
        s.add(photo.crop(box), mask.crop(box), id=f"copy{number}")
    (finding,) = examine(data).findings
    assert (
        finding.kind == "near copy" and len(finding.pairs) == 7 and "and 3 more" in finding.reason
    )


def test_masks_are_judged_as_they_are_read(tmp_path, clean):
    for name in ("images", "masks"):
        shutil.copytree(clean / "train" / name, tmp_path / name)
    s = Set(clean)
    ids, palette = s.train, [0, 0, 0, 200, 30, 30, 30, 200, 30]
    for number, id in enumerate(ids):  # persons by number
        inside = np.asarray(Image.open(s.mask(number))) > 127
        mask = Image.fromarray((inside * (1 + np.indices(inside.shape)[1] // 48)).astype(np.uint8))
        if number % 2:
            mask.putpalette(palette)
        mask.save(tmp_path / "masks" / f"{id}.png")
    assert examine(tmp_path, mask_kind="labels").findings == []
    assert examine(tmp_path, "folder?mask_kind=labels").findings == []
    found = examine(tmp_path).findings
    assert {f.kind for f in found} == {"labels"} and len(found) == len(ids[::2])


def test_cutouts_before_backgrounds(tmp_path, clean):
    s = Set(clean)
    (tmp_path / "cutouts").mkdir()
    (tmp_path / "backgrounds").mkdir()
    for number in range(12):
        photo, mask = s.read(number)
        photo.putalpha(mask.convert("L"))
        photo.save(tmp_path / "cutouts" / f"{number}.png")
        Image.open(s.image(20 + number)).save(tmp_path / "backgrounds" / f"{number}.jpg")
    assert examine(tmp_path).findings == []
    broken = tmp_path / "backgrounds" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:900])
    (finding,) = examine(tmp_path).findings
    assert finding.kind == "unreadable" and "backgrounds/3.jpg" in finding.reason


def test_names_in_any_script(data):
    s = Set(data)
    for number, name in ((1, "фото 1"), (2, "写真"), (3, "e\u0301te\u0301 #%&")):
        for path in (s.image(number), s.mask(number)):
            path.rename(path.with_stem(name))
    (data / "manifest.csv").unlink()
    assert examine(data).findings == []


def test_real_photos(real_data):
    assert examine(real_data / "PennFudanPed").findings == []
    people = examine(real_data / "people")
    assert people.count("error") == 0
    speckled = {f.pairs[0].id for f in people.kinds()["speckled mask"]}
    assert speckled == {"67", "110", "111", "154", "268"}  # looked at: they are
    assert set(people.kinds()) == {"speckled mask", "mask of another size"}


# --- what cannot be examined ----------------------------------------------------------------------


def test_folders_that_are_no_dataset(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        examine(tmp_path / "nowhere")
    with pytest.raises(DataError, match="empty"):
        examine(tmp_path)
    with pytest.raises(ValueError, match="Did you mean 'pennfudan'"):
        examine(tmp_path, "penfudan")
    with pytest.raises(ValueError, match="one source"):
        examine(tmp_path, "folder + pennfudan")


def test_a_folder_of_orphans_only(data):
    shutil.rmtree(data / "val")
    for path in (data / "train").rename(data / "all").glob("masks/*"):
        path.unlink()
    checkup = examine(data / "all")
    assert {f.kind for f in checkup.findings} == {"no pairs", "image without mask"}
    assert checkup.count("error") == 1 and checkup.pairs == {"": 0}
    picture(checkup)


# --- pictures, pages, quarantine ------------------------------------------------------------------


@pytest.fixture
def ill(data):
    """A set with several faults, some of which overlap."""
    for number, fault in enumerate(
        ["inverted", "image without mask", "mask without image", "a photo cut off",
         "another shape", "a text", "all black", "grey photo as mask", "two of one stem",
         "the same file", "mirrored in val", "a resource fork"]
    ):  # fmt: skip
        s = Set(data)
        start = number and 10 + number
        s.train = s.train[start:] + s.train[:start]
        FAULTS[fault][1](s)
        for side in ("train", "val"):
            for path in (data / side).glob("*/zz.*"):
                path.rename(path.with_stem(f"copy {number}"))
    return data


def test_picture_and_page(ill, clean, tmp_path):
    for root in (ill, clean):
        checkup = examine(root)
        assert picture(checkup)._repr_png_()[:4] == b"\x89PNG"
        page = write_page(checkup, tmp_path / "a" / "page.html").read_text("utf-8")
        assert "http://" not in page and "https://" not in page  # self-contained
        assert all(f.reason.replace("'", "&#39;") in page for f in checkup.findings)
        assert checkup.verdict() in page
    shown = list(suspects(examine(ill), 8))
    kinds = [finding.kind for _, finding, _ in shown]
    assert kinds == ["photo as mask", "inverted mask", "empty mask",
                     *["near copy in train and val"] * 2, *["same photo"] * 2]  # fmt: skip
    assert len(list(suspects(examine(ill), 3))) == 3
    assert all(tile.dtype == np.uint8 and tile.ndim == 3 for tile, *_ in shown)


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("far", [False, True], ids=["same disk", "another disk"])
def test_quarantine_moves_and_can_be_undone(ill, tmp_path, monkeypatch, far):
    before, away = contents(ill), tmp_path / "away"
    link = ill / "train" / "images" / "._link.jpg"
    link.symlink_to(ill / "manifest.csv")
    if far:
        rename = os.rename

        def refuse(a, b):
            if not str(a).endswith(".part"):
                raise OSError(18, "Invalid cross-device link")
            rename(a, b)

        monkeypatch.setattr(os, "rename", refuse)
    in_the_way = away / "train" / "images" / "notes.txt"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_bytes(b"mine")
    moved = quarantine(examine(ill), away)
    assert in_the_way.read_bytes() == b"mine"
    again = examine(ill)
    assert {f.kind for f in again.findings} <= {"missing, but in the manifest"}, again.text()
    assert len(again.looks) > 40 and quarantine(again, away) == []
    with open(away / "moved.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["from"] for row in rows] == [str(path) for path in moved]
    assert all(row["reason"] for row in rows)
    assert (away / "train" / "images" / "._link.jpg").is_symlink()
    assert not list(away.rglob("*.part"))
    for row in rows:
        shutil.move(row["to"], row["from"])
    link.unlink()
    assert contents(ill) == before


WHOLE = ("no pairs", "masks beside their photos")  # no file is to blame
CURED = [f for f, (kind, _) in FAULTS.items() if KINDS[kind][0] == "error" and kind not in WHOLE]


@pytest.mark.parametrize(
    "fault", [*CURED, "image without mask", "two of one stem", "the same file"]
)
def test_after_quarantine_the_set_is_clean(data, tmp_path, fault):
    FAULTS[fault][1](Set(data))
    count = len(list(data.rglob("*.*")))
    moved = quarantine(examine(data), tmp_path / "away")
    again = examine(data)
    assert {f.kind for f in again.findings} <= {"missing, but in the manifest"}
    assert 1 <= len(moved) <= 3 and len(list(data.rglob("*.*"))) == count - len(moved)
    assert again.pairs["train"] >= 40 and again.pairs["val"] >= 18


def test_quarantine_keeps_the_train_photo_and_the_first_of_copies(data, tmp_path):
    s = Set(data)
    for number, side in enumerate(["train", "train", "val"]):
        id = f"zz{number}"
        s.add(*s.read(5), id=id, side=side)
        shutil.copy(s.image(5), data / side / "images" / f"{id}.jpg")
    moved = quarantine(examine(data), tmp_path / "away")
    assert {p.stem for p in moved} == {"zz0", "zz1", "zz2"} or s.train[5] in {p.stem for p in moved}
    assert len(moved) == 6 and examine(data).findings[1:] == []
    same = [p for p in (data / "train/images").iterdir() if p.stem in ("zz0", "zz1", s.train[5])]
    assert len(same) == 1 and not (data / "val" / "images" / "zz2.jpg").exists()


def test_quarantine_within_the_dataset_is_refused(ill):
    checkup, before = examine(ill), contents(ill)
    with pytest.raises(DataError, match="within"):
        quarantine(checkup, ill / "train" / "bad")
    assert contents(ill) == before


COMMAND = """
import sys
from unetlib.app import cli
assert not {"numpy", "PIL", "torch"} & set(sys.modules)  # --help is instant
try:
    cli.main(["check", *sys.argv[1:]])
finally:
    assert "torch" not in sys.modules
"""


def test_exit_codes_of_the_command(ill, clean, tmp_path):
    def run(*args):
        return subprocess.run(
            [sys.executable, "-c", COMMAND, *map(str, args)], capture_output=True, text=True,
            encoding="utf-8", env={**os.environ, "UNETLIB_ROOT": str(tmp_path)}, cwd=tmp_path,
        )  # fmt: skip

    fine = run(clean)
    assert fine.returncode == 0 and "Nothing was found" in fine.stdout, fine.stderr
    assert (tmp_path / "outputs" / "check" / "data.html").is_file()
    page = tmp_path / "page.html"
    bad = run("data", "--html", page, "--jobs", 1)
    assert bad.returncode == 1 and "inverted mask (1)" in bad.stdout and page.is_file()
    inside = run(ill, "--quarantine", ill / "bad")
    assert inside.returncode == 2 and "within" in inside.stderr
    healed = run(ill, "--html", page, "--quarantine", "away")
    assert healed.returncode == 0 and "would spoil training" in healed.stdout, healed.stderr
    assert run(ill, "--html", page).returncode == 0
    for wrong in (["nowhere"], [tmp_path / "outputs"], [ill, "--source", "nothing"], ["--jobs", 0]):
        answer = run(*wrong)
        assert answer.returncode == 2 and "Traceback" not in answer.stderr, answer
