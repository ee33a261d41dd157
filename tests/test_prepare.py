"""Datasets put into one folder: what is in it, what a kill leaves, and what is never touched.

Results are read with Pillow, csv and hashlib, not with the library.
"""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from unetlib.app.datasets import prepare
from unetlib.data.pairs import DataError
from unetlib.data.sources import open_source

TWENTY = [f"p{i}" for i in range(20)]


def call(*args) -> str:
    """What the command prints. Raises what it raises; an exit code over 1 is AssertionError."""
    done = CliRunner().invoke(prepare, [str(a) for a in args])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == ("0 were left out" not in done.output), done.output
    return done.output


def rows_of(root: Path) -> list[dict]:
    with open(root / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files_of(root: Path) -> dict[str, bytes]:
    found = (p for p in root.glob("*/**/*") if p.is_file())
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in found}


def check_manifest(root: Path, source) -> None:
    """Every row against files that are read here by other means; no row or file is missing."""
    rows = rows_of(root)
    assert tuple(rows[0]) == ("id", "source", "split", "group", "tags")
    originals = [(p.id, side) for side in ("train", "val") for p in getattr(source, side)]
    assert [(row["id"], row["split"]) for row in rows] == sorted(originals)
    expected = set()
    for row in rows:
        [photo] = (root / row["split"] / "images").glob(row["id"] + ".*")
        mask = root / row["split"] / "masks" / f"{row['id']}.png"
        expected |= {photo, mask}
        with Image.open(mask) as grey:
            assert grey.mode == "L" and grey.format == "PNG" and grey.size == Image.open(photo).size
    assert {p for p in root.glob("*/**/*") if p.is_file()} == expected


def test_photos_are_copied_and_masks_made_grey(make_pairs, tmp_path):
    root = make_pairs([*TWENTY, "deep/er/x"], tmp_path / "mine")
    mask = root / "masks" / "p3.png"
    inside = np.asarray(Image.open(mask)) > 127
    Image.fromarray(np.uint8(inside)).save(mask)  # 0 and 1: labels
    assert "21 pairs are in" in call(f"folder:{root}", "--into", tmp_path / "out")
    source = open_source("folder", root)
    check_manifest(tmp_path / "out", source)
    for side in ("train", "val"):
        for pair in getattr(source, side):
            copy = tmp_path / f"out/{side}/images/{pair.id}.jpg"
            assert copy.read_bytes() == pair.image.read_bytes()
            assert not os.path.samefile(copy, pair.image)
    [grey] = (tmp_path / "out").glob("*/masks/p3.png")
    np.testing.assert_array_equal(np.asarray(Image.open(grey)), inside * 255)


def test_resized_upright_and_of_one_size(tmp_path, photo, disc):
    """A photo that lies on its side by EXIF, one that is small already, one that is flat."""
    for folder in ("images", "masks"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    shapes = {"turned": (600, 900), "small": (40, 60), "flat": (3, 1000)}
    for id, (h, w) in shapes.items():
        exif = Image.Exif()
        exif[0x0112] = 6 if id == "turned" else 1
        Image.fromarray(photo(h, w)).save(tmp_path / f"mine/images/{id}.jpg", exif=exif, quality=95)
        mask = Image.fromarray(disc(h, w))
        mask = mask.transpose(Image.Transpose.ROTATE_270) if id == "turned" else mask
        mask.save(tmp_path / f"mine/masks/{id}.png")
    spec = f"folder:{tmp_path / 'mine'}"
    call(spec, "--into", tmp_path / "out", "--size", 300, "--val-fraction", 0)
    check_manifest(tmp_path / "out", open_source(spec, val_fraction=0))
    folder = tmp_path / "out/train"
    for id, wh in {"turned": (200, 300), "small": (60, 40), "flat": (300, 1)}.items():
        image = Image.open(folder / f"images/{id}.jpg")
        mask = Image.open(folder / f"masks/{id}.png")
        assert image.size == mask.size == wh and image.format == "JPEG"
        assert image.getexif().get(0x0112, 1) == 1
        assert image.layer[0][1:3] == (1, 1)  # no colour subsampling
    for made, of, most in (("images/turned.jpg", photo, 60), ("masks/turned.png", disc, 3)):
        upright = Image.fromarray(of(600, 900)).transpose(Image.Transpose.ROTATE_270)
        wanted = np.asarray(upright.resize((200, 300), Image.BOX)).astype(int)
        off = np.abs(np.asarray(Image.open(folder / made)) - wanted)
        assert off.mean() < 2 and off.max() <= most


def test_groups_tags_and_split_survive(make_pairs, tmp_path):
    ids = [f"film{i}/frame {j}" for i in range(8) for j in range(3)]
    root = make_pairs(ids, tmp_path / "mine")
    lines = ["id,tags", *(f"{id},{'hair;glass' if 'film1' in id else ''}" for id in ids)]
    (root / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    spec, out = f"folder:{root}?groups=folder", tmp_path / "out"
    call(spec, "--into", out, "--val-fraction", 0.3, "--seed", 5)
    source, again = open_source(spec, val_fraction=0.3, seed=5), open_source("folder", out)
    for side in ("train", "val"):
        facts = {(p.id, p.group, p.tags) for p in getattr(source, side)}
        assert {(p.id, p.group, p.tags) for p in getattr(again, side)} == facts


def test_what_is_done_is_kept_and_what_is_new_is_made(make_pairs, tmp_path):
    root, out = make_pairs(TWENTY, tmp_path / "mine"), tmp_path / "out"
    command = (f"folder:{root}", "--into", out, "--size", 20)
    call(*command)
    times = {path: (out / path).stat().st_mtime_ns for path in files_of(out)}
    make_pairs(["new"], root, 30, 50)
    assert "21 pairs are in" in call(*command)
    changed = {p for p in files_of(out) if times.get(p) != (out / p).stat().st_mtime_ns}
    assert {Path(path).stem for path in changed} == {"new"}
    check_manifest(out, open_source("folder", root))


def test_other_files_are_never_touched(make_pairs, tmp_path):
    root, out = make_pairs(TWENTY, tmp_path / "mine"), tmp_path / "out"
    own = out / "train" / "images" / "own.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    spec = f"folder:{root}"
    with pytest.raises(DataError, match="change --into"):
        call(spec, "--into", out)
    assert files_of(out) == {"train/images/own.jpg": b"mine"}
    own.unlink()
    call(spec, "--into", out)
    before = files_of(out)
    make_pairs(TWENTY, tmp_path / "other", 30, 40)
    for other in ((spec, "--size", 8), (f"folder:{tmp_path / 'other'}",), (spec, "--seed", 1)):
        with pytest.raises(DataError, match="--into"):
            call(*other, "--into", out)
    assert files_of(out) == before and len(list(root.rglob("*.*"))) == 40
    groups = "".join(f"{name},g{n // 4}\n" for n, name in enumerate(TWENTY))
    (root / "manifest.csv").write_text("id,group\n" + groups, encoding="utf-8")
    for target, words in ((out, "of an earlier split"), (root, "has files")):
        with pytest.raises(DataError, match=words):
            call(spec, "--into", target)
    assert files_of(out) == before and "group" in (root / "manifest.csv").read_text()


def test_unreadable_pairs_are_left_out_and_named(make_pairs, tmp_path):
    root = make_pairs(TWENTY, tmp_path / "mine", 100, 120)
    photo = root / "images/p5.jpg"
    photo.write_bytes(photo.read_bytes()[:900])
    for number, size in enumerate(([], ["--size", 50])):
        out = tmp_path / f"out{number}"
        text = call(f"folder:{root}", "--into", out, *size)
        assert "19 pairs are in" in text and "1 were left out" in text and str(photo) in text
        assert len(rows_of(out)) == 19 == len(list(out.rglob("*.png")))
    make_pairs(TWENTY, root, 100, 120)  # repaired
    call(f"folder:{root}", "--into", out, "--size", 50)
    assert len(rows_of(out)) == 20


def test_defaults_and_wrong_requests(make_pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path / "project"))
    monkeypatch.chdir(tmp_path)
    make_pairs(TWENTY, tmp_path / "mine", 60, 80)
    call("folder:mine", "--size", 40)
    photos = (tmp_path / "project/data").glob("*/images/*")
    assert {Image.open(path).size for path in photos} == {(40, 30)}
    for wrong in (["nosuch:x"], ["folder:mine", "--into", ""]):
        with pytest.raises(ValueError, match="nosuch|empty"):
            call(*wrong)
