"""Every planted fault of a dataset is found, nothing else is said, only bad pairs are moved."""

import csv
import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from loopback import tree
from PIL import Image, ImageOps
from scipy.ndimage import grey_dilation, grey_erosion

from unetlib.data.check import ADVICE, ERRORS, examine
from unetlib.data.images import load_image
from unetlib.data.pairs import DataError
from unetlib.data.sources import open_source
from unetlib.data.synthetic import write_synthetic


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    """Drawn photos and masks, 26 in train and 14 in val."""
    folder = tmp_path_factory.mktemp("clean") / "data"
    write_synthetic(folder, 40, 96, val_fraction=0.3)
    (folder / "manifest.csv").unlink()
    return folder


@pytest.fixture
def data(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "data")


class Set:
    """The files of a set by number; what is planted, is planted at `number`."""

    def __init__(self, root, number=5):
        self.root, self.number = root, number

    def id(self, number=0, side="train"):
        return sorted(p.stem for p in (self.root / side / "masks").iterdir())[number]

    def image(self, number=None, side="train"):
        number = self.number if number is None else number
        return self.root / side / "images" / f"{self.id(number, side)}.jpg"

    def mask(self, number=None, side="train"):
        number = self.number if number is None else number
        return self.root / side / "masks" / f"{self.id(number, side)}.png"

    def add(self, change, id="sz", side="train"):
        """A photo and its mask once more, changed alike."""
        photo, mask = (change(Image.open(path)) for path in (self.image(), self.mask()))
        photo.save(self.root / side / "images" / f"{id}.jpg", quality=92)
        mask.save(self.root / side / "masks" / f"{id}.png")
        return f"{side}/images/{id}.jpg"


def mask_of(change):
    """Plants a mask made from the one that is there, uint8 (H, W)."""

    def plant(s):
        path = s.mask()
        made = change(np.array(Image.open(path).convert("L")))
        (made if isinstance(made, Image.Image) else Image.fromarray(np.uint8(made))).save(path)
        return path.name

    return plant


def content_of(which, change):
    def plant(s):
        path = getattr(s, which)()
        path.write_bytes(change(path.read_bytes()))
        return path.name

    return plant


def photo_as_mask(mode):
    def plant(s):
        photo = Image.open(s.image(6))
        (photo.quantize(256) if mode == "P" else photo.convert(mode)).save(s.mask())
        return s.mask().name

    return plant


def inverted(s):
    shares = [np.asarray(Image.open(s.mask(i)))[:20].mean() for i in range(10)]
    path = s.mask(int(np.argmin(shares)))  # nothing in the upper border, as is usual
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    return path.name


def label_map(mask):
    """A person in parts: hair, face, clothes, shoes."""
    colours = np.array([(128, 0, 0), (0, 128, 128), (192, 128, 0), (0, 0, 160)], np.uint8)
    rows = np.arange(len(mask)) * 4 // len(mask)
    return Image.fromarray(colours[rows][:, None] * (mask[..., None] > 127))


def trimap(mask):
    inner, outer = grey_erosion(mask, 7), grey_dilation(mask, 7)
    return np.where(inner > 250, 255, (outer > 5) * 128)


def same_stem(s):
    Image.open(s.image()).save(s.image().with_suffix(".png"))
    return s.image().name


def blank(s):
    Image.new("RGB", (96, 96), (90, 120, 200)).save(s.image())
    return s.image().name


def copied(side, change=lambda image: image, exact=False):
    def plant(s):
        name = s.add(change, side=side)
        if exact:
            shutil.copy(s.image(), s.root / name)
        return name

    return plant


def recoded(image):
    file = io.BytesIO()
    image.save(file, "PNG" if image.mode == "L" else "JPEG", quality=35)
    return Image.open(file)


def same_id(s):
    new = s.id(0, "val")
    for path in (s.image(), s.mask()):
        path.rename(path.with_stem(new))
    return new


def same_group(s):
    (s.root / "manifest.csv").write_text(f"id,group\n{s.id(3)},anna\n{s.id(3, 'val')},anna\n")
    return "anna"


def empty_val(s):
    for folder in ("images", "masks"):
        shutil.rmtree(s.root / "val" / folder)
        (s.root / "val" / folder).mkdir()
    return "val"


FAULTS = {
    "image without mask": ("image without mask", lambda s: s.mask().unlink() or "images/"),
    "mask without image": ("mask without image", lambda s: s.image().unlink() or "masks/"),
    "two of one stem": ("same stem", same_stem),
    "a text": (
        "not used",
        lambda s: (s.root / "train" / "images" / "notes.txt").write_text("hello") and "notes.txt",
    ),
    "no image": ("unreadable", content_of("image", lambda data: b"<html>404</html>")),
    "a photo cut off": ("unreadable", content_of("image", lambda data: data[: len(data) // 2])),
    "a mask cut off": ("unreadable", content_of("mask", lambda d: d[: len(d) // 2] + d[-12:])),
    "another shape": ("shape", mask_of(lambda m: m[10:])),
    "colour photo as mask": ("photo as mask", photo_as_mask("RGB")),
    "palette of a photo": ("photo as mask", photo_as_mask("P")),
    "label map": ("coloured mask", mask_of(label_map)),
    "labels 1, 2, 3": ("labels", mask_of(lambda m: (m > 127) * (1 + np.indices(m.shape)[0] // 32))),
    "labels in 16 bit": ("labels", mask_of(lambda m: Image.fromarray(np.uint16(m > 127) * 3))),
    "trimap": ("labels", mask_of(trimap)),
    "inverted": ("inverted mask", inverted),
    "all black": ("empty mask", mask_of(np.zeros_like)),
    "all white": ("full mask", mask_of(lambda m: np.full_like(m, 255))),
    "one colour": ("blank photo", blank),
    "the same file": ("same photo", copied("train", exact=True)),
    "re-encoded": ("near copy", copied("train", recoded)),
    "cropped": ("near copy", copied("train", lambda image: image.crop((2, 1, 95, 94)))),
    "mirrored": ("near copy", copied("train", ImageOps.mirror)),
    "the same file in val": ("same photo in train and val", copied("val", exact=True)),
    "smaller in val": ("near copy in train and val", copied("val", lambda i: i.resize((64, 64)))),
    "same id": ("same group in train and val", same_id),
    "same group": ("same group in train and val", same_group),
    "one mask for two": ("same mask", lambda s: shutil.copy(s.mask(5), s.mask(6)).name),
    "none in val": ("no pairs", empty_val),
}


def titles(report):
    return [issue.kind for issue in report.issues]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(data, fault):
    kind, plant = FAULTS[fault]
    named = plant(Set(data))
    report = examine(data)
    also = ["mask without image", kind] if kind == "same stem" else []
    assert titles(report) == [*also, kind], report.text()
    assert named in report.text() and kind in report.text()
    assert str(data) not in report.text()
    assert ("none of them" in report.text()) == (report.issues[0].kind not in ERRORS)


def test_every_kind_is_planted_and_a_clean_set_is_clean(clean, tmp_path):
    assert len(ADVICE) == 21
    planted = {kind for kind, _ in FAULTS.values()}
    assert planted == set(ADVICE) - {"not read"}  # that one is below
    report = examine(clean)
    assert report.issues == [] and "none of them would spoil" in report.text()
    assert {side: len(pairs) for side, pairs in report.pairs.items()} == {"train": 26, "val": 14}
    for name in ("images", "masks"):  # undivided
        shutil.copytree(clean / "train" / name, tmp_path / name)
    assert examine(tmp_path).issues == []


def test_sources_groups_and_kinds_of_masks(data, clean):
    Set(data).add(recoded, side="val")
    report = examine(open_source("folder", data))
    assert titles(report) == ["near copy in train and val"] and len(report.pairs["val"]) == 15
    FAULTS["cropped"][1](Set(data, 7))
    grouped = examine(f"folder:{data}?groups=(.)")  # of one group: expected to be alike
    assert "near copy" not in titles(grouped)
    with pytest.raises(ValueError, match="one source at a time"):
        examine(f"folder:{data} + folder:{clean}")
    with pytest.raises(DataError, match="no such folder"):
        examine(data / "nowhere")
    for path in (clean / "train" / "masks").iterdir():  # persons by number
        inside = np.asarray(Image.open(path)) > 127
        numbers = np.uint8(inside * (1 + np.indices(inside.shape)[1] // 48))
        Image.fromarray(numbers).save(data / "train" / "masks" / path.name)
    assert "labels" in titles(examine(f"folder:{data / 'train'}"))
    assert not {"labels", "unreadable"} & {*titles(examine(f"folder:{data}?mask_kind=labels"))}


def test_near_copies_that_the_split_by_names_would_tear_apart(data):
    for side in ("train", "val"):
        for name in ("images", "masks"):
            shutil.copytree(data / side / name, data / name, dirs_exist_ok=True)
        shutil.rmtree(data / side)
    train = open_source("folder", data).train[0]
    for number in range(20):
        shutil.copy(train.mask, data / "masks" / f"copy {number}.png")
        small = Image.open(train.image).resize((64 + number, 64 + number))
        small.save(data / "images" / f"copy {number}.jpg")
    (issue,) = examine(data).issues
    assert issue.kind == "near copy in train and val"
    val = {pair.image for pair in open_source("folder", data).val if pair.id.startswith("copy")}
    assert val and {pair.image for pair in issue.removable} == val


def test_real_photos(real_data):
    """No two of them are alike, whatever they have in common."""
    assert examine(f"pennfudan:{real_data / 'PennFudanPed'}").issues == []
    assert examine(real_data / "people").issues == []


def test_pictures(clean, data):
    FAULTS["smaller in val"][1](Set(data))
    FAULTS["a photo cut off"][1](Set(data, 9))  # not shown: it cannot be read
    assert [issue.kind for issue in examine(data).issues][-1] == "near copy in train and val"
    assert examine(data).figure().width == 1060  # both photos and their masks, in one row
    assert examine(clean).figure(4, 2).height > examine(clean).figure(4, 4).height


def test_a_manifest_stays_when_photos_that_it_names_are_gone(data):
    (data / "manifest.csv").write_text(f"id,group\n{Set(data).id(3)},anna\nnobody,anna\n")
    (issue,) = examine(data).issues
    assert issue.kind == "not used" and not issue.removable


# --- the command: pages, exit codes, quarantine ---------------------------------------------------


def test_quarantine_cures_and_can_be_undone(data, root, tmp_path, unetlib):
    faults = ["image without mask", "a photo cut off", "another shape", "a text", "all black"]
    for number, fault in enumerate([*faults, "two of one stem", "the same file"]):
        FAULTS[fault][1](Set(data, 2 * number))
    before, away = tree(data), tmp_path / "away"
    assert unetlib("check", data).returncode == 1
    for wrong in (data / "bad", tmp_path):  # in the dataset, there already
        inside = unetlib("check", data, "--quarantine", wrong)
        assert inside.returncode == 2 and tree(data) == before
        assert "quarantine" in inside.stderr and len(inside.stderr.splitlines()) == 1
    done = unetlib("check", data, "--quarantine", "away")
    assert done.returncode == 0 and "empty mask (1)" in done.stdout, done.stderr
    assert " 0 issues" in done.stdout.splitlines()[-1]
    page = root / "outputs" / "check" / "data.html"
    assert "image without mask" in page.read_text("utf-8")
    fine = unetlib("check", data)
    assert fine.returncode == 0 and "none of them would spoil" in fine.stdout, fine.stderr
    with open(away / "moved.csv", newline="", encoding="utf-8") as file:
        for source, target, reason in csv.reader(file):
            assert reason
            shutil.move(target, source)
    assert tree(data) == before


def test_links_to_folders_neither_hang_nor_move_what_lies_elsewhere(data, tmp_path, unetlib):
    images, other = data / "train" / "images", tmp_path / "other"
    other.mkdir()
    shutil.copy(Set(data).image(), other / "x.jpg")
    for name, target in (("a", images), ("b", images), ("more", other)):
        (images / name).symlink_to(target)
    Set(data).image(3).rename(images / os.fsdecode(b"x\xff.jpg"))
    done = unetlib("check", data, "--quarantine", tmp_path / "away")
    assert "more/x.jpg" in done.stdout and (other / "x.jpg").is_file(), done.stderr
    moved = (tmp_path / "away" / "moved.csv").read_bytes()
    assert moved.count(b"\n") == 2 and b"x\xff.jpg" in moved  # and its mask


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="such a file is Linux's")
def test_neither_a_disk_that_fails_nor_too_little_memory_is_damage(data, monkeypatch):
    disk, large = Set(data).image(5), Set(data).image(6)
    disk.unlink()
    disk.symlink_to("/proc/self/mem")  # it can be opened, and reading is an error

    def load(path, side):
        if path == large:
            raise MemoryError(f"{path}: out of memory")
        return load_image(path, side)

    monkeypatch.setattr("unetlib.data.check.load_image", load)
    report = examine(data)
    assert titles(report) == ["not read"] * 2
    assert not any(issue.removable for issue in report.issues)
    assert "Input/output error" in report.text() and "out of memory" in report.text()


@pytest.mark.skipif(not shutil.which("setpriv"), reason="root may read everything")
def test_a_folder_that_cannot_be_read_makes_no_file_a_lone_one(data, tmp_path):
    rights = "-dac_override,-dac_read_search" if os.geteuid() == 0 else "+all"
    (data / "train" / "masks").chmod(0)
    command = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", sys.executable, "-m"]
    command += ["unetlib", "check", data, "--quarantine", tmp_path / "away"]
    env = {**os.environ, "UNETLIB_ROOT": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    (data / "train" / "masks").chmod(0o755)
    assert done.returncode == 1 and done.stdout.count("train/masks: Permission denied") == 1, done
    assert "image without mask (26)" in done.stdout and not (tmp_path / "away").exists()
