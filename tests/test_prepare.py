"""Datasets put into one folder: what is in it, what a kill leaves, and what is never touched.

Results are read with Pillow, csv and hashlib, not with the library.
"""

import csv
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unetlib.app.prepare import prepare as command
from unetlib.data import DataError, Pair, Source, open_source
from unetlib.data.manifest import COLUMNS, target_ids
from unetlib.data.prepare import prepare

TWENTY = [f"p{i}" for i in range(20)]
ROOT = Path(__file__).resolve().parents[1]


def rows_of(root: Path) -> list[dict]:
    with open(root / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files_of(root: Path) -> dict[str, bytes]:
    """All files but the journal and manifest, by path below root."""
    return {
        p.relative_to(root).as_posix(): p.read_bytes() for p in root.glob("*/**/*") if p.is_file()
    }


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def put(source, root, *args, **kwargs):
    return prepare(source, root, *args, progress=False, **kwargs)


def check_manifest(root: Path, source: Source) -> None:
    """Every row against files that are read here by other means; no row or file is missing."""
    rows = rows_of(root)
    assert tuple(rows[0]) == COLUMNS
    keys = [(row["split"], row["id"]) for row in rows]
    assert keys == sorted(keys) and len({row["id"] for row in rows}) == len(rows)
    originals = {
        (hashlib.sha256(p.image.read_bytes()).hexdigest(), side)
        for side in ("train", "val")
        for p in getattr(source, side)
    }
    assert {(row["sha256"], row["split"]) for row in rows} == originals
    expected = set()
    for row in rows:
        [photo] = (root / row["split"] / "images").glob(glob_of(row["id"]) + ".*")
        mask = root / row["split"] / "masks" / f"{row['id']}.png"
        expected |= {photo, mask}
        assert "{}x{}".format(*Image.open(photo).size) == row["size"]
        with Image.open(mask) as grey:
            assert grey.mode == "L" and grey.format == "PNG"
            assert f"{np.asarray(grey).mean() / 255:.4f}" == row["foreground_share"]
    assert {p for p in root.glob("*/**/*") if p.is_file()} == expected


def glob_of(text: str) -> str:
    return "".join(f"[{c}]" if c in "[*?" else c for c in text)


# --- what comes out ------------------------------------------------------------------------------


def test_photos_and_grey_masks_are_linked(make_pairs, tmp_path):
    source = open_source("folder", make_pairs([*TWENTY, "deep/er/x"], tmp_path / "mine"))
    result = put(source, tmp_path / "out")
    assert result.made == 21 and not result.failed
    assert result.counts == {"photos linked": 21, "masks linked": 21}
    for side in ("train", "val"):
        for pair in getattr(source, side):
            assert os.path.samefile(pair.image, tmp_path / f"out/{side}/images/{pair.id}.jpg")
            assert os.path.samefile(pair.mask, tmp_path / f"out/{side}/masks/{pair.id}.png")
    check_manifest(tmp_path / "out", source)


def test_copies_where_asked_and_where_links_are_impossible(make_pairs, tmp_path, monkeypatch):
    source = open_source("folder", make_pairs(TWENTY, tmp_path / "mine"))
    assert put(source, tmp_path / "a", link=False).counts["photos copied"] == 20

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert put(source, tmp_path / "b").counts == {"photos copied": 20, "masks copied": 20}
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    pair = source.train[0]
    target = tmp_path / f"a/train/images/{pair.id}.jpg"
    assert target.read_bytes() == pair.image.read_bytes()
    assert not os.path.samefile(target, pair.image)


def test_a_link_to_a_photo_is_followed(make_pairs, tmp_path):
    root = make_pairs(TWENTY, tmp_path / "mine")
    (root / "store").mkdir()
    for photo in list((root / "images").iterdir()):
        photo.rename(root / "store" / photo.name)
        try:
            photo.symlink_to(Path("..", "store", photo.name))
        except OSError:
            pytest.skip("no symbolic links here")
    source = open_source("folder", root)
    put(source, tmp_path / "out")
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))
    check_manifest(tmp_path / "out", source)


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
    source = open_source("folder", tmp_path / "mine", val_fraction=0)
    result = put(source, tmp_path / "out", size=300)
    assert result.counts == {"photos resized": 3, "masks converted": 3}
    check_manifest(tmp_path / "out", source)
    folder = tmp_path / "out/train"
    sizes = {"turned": (200, 300), "small": (60, 40), "flat": (300, 1)}
    for id, wh in sizes.items():
        image, mask = (
            Image.open(folder / f"images/{id}.jpg"),
            Image.open(folder / f"masks/{id}.png"),
        )
        assert image.size == mask.size == wh and image.format == "JPEG"
        assert image.getexif().get(0x0112, 1) == 1
        assert image.layer[0][1:3] == (1, 1)  # no colour subsampling
    upright = Image.fromarray(photo(600, 900)).transpose(Image.Transpose.ROTATE_270)
    wanted = np.asarray(upright.resize((200, 300), Image.BOX)).astype(int)
    assert np.abs(pixels(folder / "images/turned.jpg") - wanted).mean() < 2
    upright = Image.fromarray(disc(600, 900)).transpose(Image.Transpose.ROTATE_270)
    wanted = np.asarray(upright.resize((200, 300), Image.BOX)).astype(int)
    assert np.abs(pixels(folder / "masks/turned.png") - wanted).max() <= 3


def test_masks_of_all_kinds_become_grey(tmp_path, photo, disc):
    matte, folder = disc(), tmp_path / "in"
    folder.mkdir()
    binary = (matte > 127).astype(np.uint8)
    palette = Image.fromarray(binary, "P")
    palette.putpalette([0, 0, 0, 200, 30, 30])
    trimap = np.full(matte.shape, 2, np.uint8)
    trimap[5:15, 5:20], trimap[15:17, 5:20] = 1, 3
    grey_of_trimap = np.array([0, 255, 0, 128], np.uint8)[trimap]
    rgba = Image.fromarray(np.dstack([photo(), matte]))
    cases = {  # mask, its kind, what must come out, whether it is linked
        "grey": (Image.fromarray(matte), "auto", matte, True),
        "labels": (Image.fromarray(binary * 3), "labels", binary * 255, False),
        "zero_one": (Image.fromarray(binary), "auto", binary * 255, False),
        "nearly_empty": (Image.fromarray(binary), "matte", binary * 0, False),
        "bilevel": (Image.fromarray(binary * 255).convert("1"), "auto", binary * 255, False),
        "palette": (palette, "auto", binary * 255, False),
        "rgb": (Image.fromarray(matte).convert("RGB"), "auto", matte, False),
        "alpha": (rgba, "alpha", matte, False),
        "deep": (Image.fromarray(matte.astype(np.uint16) * 257), "auto", matte, False),
        "trimap": (Image.fromarray(trimap), "trimap", grey_of_trimap, False),
        "none": (None, "auto", matte * 0, False),
    }
    pairs = []
    for number, (id, (mask, kind, _, _)) in enumerate(cases.items()):
        Image.fromarray(photo(seed=number)).save(folder / f"{id}.jpg")
        path = mask and folder / f"{id}.png"
        if mask:
            mask.save(path)
        pairs.append(Pair(id, folder / f"{id}.jpg", path, mask_kind=kind))
    source = Source("mine", folder, tuple(pairs), ())
    put(source, tmp_path / "out")
    check_manifest(tmp_path / "out", source)
    for pair in pairs:
        _, _, wanted, linked = cases[pair.id]
        path = tmp_path / f"out/train/masks/{pair.id}.png"
        assert np.array_equal(pixels(path), wanted), pair.id
        assert linked == bool(pair.mask and os.path.samefile(path, pair.mask)), pair.id
    again = open_source("folder", tmp_path / "out", val_fraction=0)
    from unetlib.data import load_mask

    for pair in again.train:  # as `auto` reads it
        wanted = cases[pair.id][2] / np.float32(255)
        assert np.allclose(load_mask(pair.mask, kind=pair.mask_kind), wanted), pair.id


def test_cutouts_are_laid_over_their_backgrounds(tmp_path, photo, disc):
    for folder in ("cutouts", "backgrounds"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 0] = 200
    for i in range(6):
        cutout = np.dstack([red, disc(40, 60)])
        cutout[0, 0, :3] = i
        Image.fromarray(cutout).save(tmp_path / f"mine/cutouts/c{i}.png")
    for i in range(2):
        blue = np.full((50, 70, 3), (0, 0, 150 + i), np.uint8)
        Image.fromarray(blue).save(tmp_path / f"mine/backgrounds/b{i}.png")
    source = open_source("folder", tmp_path / "mine", val_fraction=0.4)
    result = put(source, tmp_path / "out")
    assert result.counts == {"photos composited": 6, "masks converted": 6}
    check_manifest(tmp_path / "out", source)
    for row in rows_of(tmp_path / "out"):
        image = Image.open(tmp_path / f"out/{row['split']}/images/{row['id']}.jpg")
        assert image.format == "JPEG" and image.size == (60, 40)
        values = np.asarray(image).astype(int)
        assert np.abs(values[20, 30] - (200, 0, 0)).max() < 8 and values[2, 2, 2] > 140
        mask = pixels(tmp_path / f"out/{row['split']}/masks/{row['id']}.png")
        assert np.array_equal(mask, disc(40, 60))
        assert row["group"]
    assert len(put(source, tmp_path / "small", size=30).failed) == 0
    assert {row["size"] for row in rows_of(tmp_path / "small")} == {"30x20"}


def test_groups_tags_and_split_survive(make_pairs, tmp_path):
    ids = [f"film{i}/frame {j}" for i in range(8) for j in range(3)]
    root = make_pairs(ids, tmp_path / "mine")
    lines = ["id,tags", *(f"{id},{'hair;glass' if 'film1' in id else ''}" for id in ids)]
    (root / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    source = open_source("folder", root, groups="folder", val_fraction=0.3)
    put(source, tmp_path / "out")
    again = open_source("folder", tmp_path / "out")
    for side in ("train", "val"):
        facts = {p.id: (p.group, p.tags, p.source) for p in getattr(source, side)}
        assert {p.id: (p.group, p.tags, p.source) for p in getattr(again, side)} == facts
    assert {row["tags"] for row in rows_of(tmp_path / "out")} == {"", "hair;glass"}


def test_without_val(make_pairs, tmp_path):
    source = open_source("folder", make_pairs(["a", "b"], tmp_path / "mine"), val_fraction=0)
    put(source, tmp_path / "out")
    assert len(open_source("folder", tmp_path / "out", val_fraction=0).train) == 2


def test_the_split_is_rebuilt_from_the_manifest(make_pairs, tmp_path):
    """Also of several sources of the same name, whose ids are the same, and of changed ids."""
    odd = ["Twin", "twin", "what? no", "con"] if os.name == "posix" else []
    first = make_pairs([*TWENTY, *odd], tmp_path / "a")
    make_pairs([f"x{i}" for i in range(20)], tmp_path / "other", height=30, width=40)
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        (tmp_path / "b" / folder).mkdir(parents=True)
        for i in range(20):  # p0 ... p19 again, with other photos
            shutil.copy(tmp_path / f"other/{folder}/x{i}.{suffix}",
                        tmp_path / f"b/{folder}/p{i}.{suffix}")  # fmt: skip
    spec = f"folder:{first} + folder:{tmp_path / 'b'}?groups=(.)$"  # divided otherwise than a
    source = open_source(spec, seed=7, val_fraction=0.3)
    halves = [{p.id.split("/")[1] for p in source.val if p.id.startswith(name)}
              for name in ("folder/", "folder-2/")]  # fmt: skip
    assert halves[0] - halves[1] and halves[1] - halves[0]
    put(source, tmp_path / "out")
    again = open_source(spec, split=str(tmp_path / "out/manifest.csv"))
    assert {p.id for p in again.val} == {p.id for p in source.val}
    assert {p.id for p in again.train} == {p.id for p in source.train}
    assert not again.skipped
    alone = open_source("folder", tmp_path / "b", split=str(tmp_path / "out/manifest.csv"))
    assert {f"folder-2/{p.id}" for p in alone.val} == {
        p.id for p in source.val if p.id.startswith("folder-2")
    }


# --- names ---------------------------------------------------------------------------------------

NAMES = ["Großer Hund", "狗 在 公园", "كلب", "собака", "café", "A", "a", "what?", "what*", "a:b",
         "end.", "end ", "NUL", "com1.x", "x" * 200, "x" * 199 + "y", "d/" * 60 + "deep", "D/1",
         "d/1",
         "back\\slash", "tab\there", "quo\"te", "com,ma", "p.jpg"]  # fmt: skip
WINDOWS = set('<>:"|?*\\') | {chr(n) for n in range(32)}


def check_target(target: str) -> None:
    assert len(target.encode()) < 160 and target == unicodedata.normalize("NFC", target)
    for part in target.split("/"):
        assert part and not set(part) & WINDOWS
        assert part[-1] not in ". " and part[0] != "." and part != "__MACOSX"
        assert part.split(".")[0].strip().lower() not in {"con", "prn", "aux", "nul", "com1"}


def test_names_of_all_kinds(tmp_path, photo, disc):
    """The files are called 0.jpg, 1.jpg, ...: no file system of ours holds all these ids."""
    pairs, folder = [], tmp_path / "in"
    folder.mkdir()
    for number, id in enumerate(NAMES):
        Image.fromarray(photo(seed=number)).save(folder / f"{number}.jpg")
        Image.fromarray(disc()).save(folder / f"{number}.png")
        pairs.append(Pair(id, folder / f"{number}.jpg", folder / f"{number}.png"))
    source = Source("mine", folder, tuple(pairs[:12]), tuple(pairs[12:]))
    put(source, tmp_path / "out", size=16)
    check_manifest(tmp_path / "out", source)
    ids = {row["id"] for row in rows_of(tmp_path / "out")}
    assert {"Großer Hund", "狗 在 公园", "كلب", "собака", "A", "com,ma", "D/1"} <= ids
    assert "a" not in ids
    again = open_source("folder", tmp_path / "out")
    assert {p.id for p in again.train + again.val} == ids and not again.skipped


PIECES = st.sampled_from([*NAMES[:14], *"aAbBéE.", "e\u0301", "..", "CON", "ß", "ss", ".x", ""])
IDS = st.lists(st.lists(PIECES, min_size=1, max_size=3).map("/".join), unique=True, max_size=12)


@settings(deadline=None, max_examples=300)
@given(IDS.map(lambda ids: [id for id in ids if id]), st.randoms(), st.integers(0, 12))
def test_targets_are_safe_apart_and_do_not_depend_on_order(ids, rng, count):
    targets = target_ids(ids, {})
    assert targets.keys() == set(ids)
    seen = {}
    for target in targets.values():
        check_target(target)
        for n in range(target.count("/") + 1):  # every folder above is spelled in one way only
            part = "/".join(target.split("/")[: n + 1])
            assert seen.setdefault(unicodedata.normalize("NFD", part).casefold(), part) == part
    assert len(set(targets.values())) == len(ids)
    rng.shuffle(ids)
    assert target_ids(ids, {}) == targets
    known = {id: targets[id] for id in ids[:count]}  # what a killed run has written
    assert target_ids(ids, known) == targets
    early = target_ids(ids[:count], {})  # a smaller set that has grown since
    later = target_ids(ids, early)
    assert early.items() <= later.items() and len(set(later.values())) == len(ids)


def test_many_names_in_linear_time():
    def seconds(n):
        start = time.process_time()
        target_ids([f"folder/Photo {i}?" for i in range(n)], {})
        return time.process_time() - start

    seconds(1000)
    assert seconds(100_000) < 30 * max(seconds(10_000), 0.02)


# --- again, and after a kill ---------------------------------------------------------------------


def snapshot(root: Path) -> dict:
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in root.rglob("*") if p.is_file()}


def test_again_does_nothing_and_new_changed_and_lost_files_are_made(make_pairs, tmp_path, photo):
    root, out = make_pairs(TWENTY, tmp_path / "mine"), tmp_path / "out"
    put(open_source("folder", root), out, size=20)
    before = snapshot(out)
    result = put(open_source("folder", root), out, size=20)
    assert (result.made, result.kept) == (0, 20) and snapshot(out) == before
    make_pairs(["new"], tmp_path / "more", height=30)
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        shutil.copy(tmp_path / f"more/{folder}/new.{suffix}", root / folder)
    Image.fromarray(photo(seed=99)).save(root / "images/p3.jpg")
    [lost] = out.glob("*/masks/p4.png")
    lost.unlink()
    source = open_source("folder", root)
    result = put(source, out, size=20)
    assert (result.made, result.kept) == (3, 18)
    check_manifest(out, source)
    put(source, tmp_path / "fresh", size=20)
    assert files_of(tmp_path / "fresh") == files_of(out)
    assert (tmp_path / "fresh/manifest.csv").read_bytes() == (out / "manifest.csv").read_bytes()


CHILD = """
import sys
from unetlib.data.prepare import prepare
from unetlib.data.sources import open_source
print("opened", flush=True)
prepare(open_source("folder", sys.argv[1]), sys.argv[2], int(sys.argv[3]), progress=False)
"""


def child(*args, **kwargs) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    kwargs |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", CHILD, *map(str, args)]
    return subprocess.Popen(command, env=environment, **kwargs)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("size", [0, 200])
def test_killed_at_any_moment_and_finished(tmp_path, photo, disc, size):
    mine = tmp_path / "mine"
    for folder in ("images", "masks"):
        (mine / folder).mkdir(parents=True)
    for i in range(150):
        Image.fromarray(photo(400, 300, i)).save(mine / f"images/Pic {i}.jpg")
        Image.fromarray(np.dstack([photo(400, 300, i), disc(400, 300)])).save(
            mine / f"masks/Pic {i}.png"
        )
    source = open_source("folder", mine)
    put(source, tmp_path / "whole", size)
    rng, counts = random.Random(size), [0]
    out = tmp_path / "out"
    for _ in range(5):
        process = child(mine, out, size)
        process.stdout.readline()
        done = count = sum(1 for _ in out.rglob("*.png"))
        while count < done + rng.randint(1, 20) and process.poll() is None:  # it has begun
            count = sum(1 for _ in out.rglob("*.png"))
            time.sleep(rng.uniform(0, 0.003))
        process.kill()
        process.communicate()
        counts.append(sum(1 for _ in out.rglob("*.png")))
    assert counts[1] < 150, "it was never cut off"
    assert counts == sorted(counts)
    result = put(source, out, size)
    assert result.made + result.kept == 150
    assert result.kept >= counts[-1] - 16  # all but what was under way
    assert (out / "manifest.csv").read_bytes() == (tmp_path / "whole/manifest.csv").read_bytes()
    assert files_of(out) == files_of(tmp_path / "whole")
    check_manifest(out, source)


def test_a_journal_that_ends_anywhere(make_pairs, tmp_path):
    """As if the kill had come after each byte of the journal's last lines."""
    source = open_source("folder", make_pairs(TWENTY[:6], tmp_path / "mine"), val_fraction=0.4)
    put(source, tmp_path / "out", workers=1)
    journal, manifest = tmp_path / "out/.prepare.jsonl", tmp_path / "out/manifest.csv"
    full, wanted = journal.read_bytes(), manifest.read_bytes()
    for length in range(len(full) - 300, len(full), 7):
        journal.write_bytes(full[:length])
        manifest.unlink()
        put(source, tmp_path / "out")
        assert manifest.read_bytes() == wanted
    check_manifest(tmp_path / "out", source)


# --- what is not ours, and what goes wrong -------------------------------------------------------


def refused(source, root, *args) -> str:
    before = snapshot(root)
    with pytest.raises(DataError) as error:
        put(source, root, *args)
    assert snapshot(root) == before
    assert "another folder" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["train/images/own.jpg", "val/notes.txt", "manifest.csv"])
def test_files_of_others_are_not_touched(make_pairs, tmp_path, name):
    source = open_source("folder", make_pairs(TWENTY, tmp_path / "mine"))
    own = tmp_path / "out" / name
    own.parent.mkdir(parents=True)
    own.write_bytes(b"x")
    assert f"{own} is not prepared" in refused(source, tmp_path / "out")


def test_files_of_others_where_ours_would_be_are_not_touched(make_pairs, tmp_path):
    source = open_source("folder", make_pairs(TWENTY, tmp_path / "mine"))
    own = tmp_path / f"out/train/images/{source.train[0].id}.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"x")
    assert f"{own} is not prepared" in refused(source, tmp_path / "out")
    own.unlink()
    put(source, tmp_path / "out")
    (tmp_path / "out/.prepare.jsonl").unlink()  # then nothing says that these are ours
    refused(source, tmp_path / "out")


def test_a_file_between_ours_is_not_touched(make_pairs, tmp_path):
    source = open_source("folder", make_pairs(TWENTY, tmp_path / "mine"))
    put(source, tmp_path / "out")
    own = tmp_path / "out/val/images/own.jpg"
    own.write_bytes(b"x")
    assert str(own) in refused(source, tmp_path / "out")
    own.rename(own.with_name(".hidden"))  # as .DS_Store
    assert put(source, tmp_path / "out").kept == 20


def test_another_source_size_or_split(make_pairs, tmp_path):
    source = open_source("folder", make_pairs(TWENTY, tmp_path / "mine"))
    out = tmp_path / "out"
    put(source, out)
    assert "size 0, not 64" in refused(source, out, 64)
    other = open_source("folder", make_pairs(TWENTY, tmp_path / "other", height=30))
    assert "other" in refused(other, out)
    assert "side" in refused(open_source("folder", tmp_path / "mine", seed=1), out)
    [kept] = out.glob("*/images/p7.jpg")
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        (tmp_path / f"mine/{folder}/p7.{suffix}").unlink()
    assert str(kept) in refused(open_source("folder", tmp_path / "mine"), out)


def test_what_a_killed_process_of_our_number_left_is_not_written_through(make_pairs, tmp_path):
    root = make_pairs(TWENTY, tmp_path / "mine")
    source = open_source("folder", root)
    before = files_of(tmp_path)
    for pair in source.train:
        part = tmp_path / f"out/train/images/.{pair.id}.jpg.{os.getpid()}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        os.link(pair.image, part)
    put(source, tmp_path / "out", size=20)
    assert before.items() <= files_of(tmp_path).items()
    check_manifest(tmp_path / "out", source)


def test_the_synthetic_set_is_not_touched(make_pairs, tmp_path):
    open_source("synthetic", tmp_path / "data", count=12, size=32, progress=False)
    source = open_source("folder", make_pairs(TWENTY, tmp_path / "mine"))
    assert "synthetic" in refused(source, tmp_path / "data")


def test_unreadable_pairs_are_left_out_and_named(make_pairs, tmp_path):
    root = make_pairs(TWENTY, tmp_path / "mine", 100, 120)
    source = open_source("folder", root)
    photo = root / "images/p5.jpg"
    photo.write_bytes(photo.read_bytes()[:900])
    (root / "masks/p6.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (root / "images/p8.jpg").unlink()
    for size in (0, 50):
        out = tmp_path / f"out{size}"
        result = put(source, out, size)
        assert {skip.path.stem for skip in result.failed} == {"p5", "p6", "p8"}
        assert result.made == len(rows_of(out)) == 17
        assert len(list(out.rglob("*.png"))) == len(list(out.rglob("*.jpg"))) == 17
        text = result.describe()
        assert "3 left out" in text and str(photo) in text and "masks/p6.png" in text
    make_pairs(TWENTY, root, 100, 120)  # repaired
    assert put(open_source("folder", root), out, 50).made >= 3
    assert len(rows_of(out)) == 20


def test_not_one_usable_pair(make_pairs, tmp_path):
    root = make_pairs(["a", "b"], tmp_path / "mine")
    source = open_source("folder", root, val_fraction=0)
    for photo in (root / "images").iterdir():
        photo.write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)no usable pair.*a\.jpg"):
        put(source, tmp_path / "out")
    with pytest.raises(DataError, match="no usable pair"):
        put(Source("folder", root, (), ()), tmp_path / "out2")


def test_disk_full_halfway(tmp_path, photo, disc):
    """On a file system of 400 KB, where root may mount one."""
    disk, mine = tmp_path / "disk", tmp_path / "mine"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True
        ).returncode
    ):
        pytest.skip("no small file system can be mounted here")
    try:
        for folder in ("images", "masks"):
            (mine / folder).mkdir(parents=True)
        for i in range(40):
            Image.fromarray(photo(300, 300, i)).save(mine / f"images/{i}.jpg", quality=95)
            Image.fromarray(disc(300, 300)).save(mine / f"masks/{i}.png")
        source = open_source("folder", mine)
        with pytest.raises(OSError, match=r"No space left.* of 40 pairs are done.*run the same"):
            put(source, disk / "out")
        assert not list(disk.rglob("*.part"))
        done = len(list(disk.rglob("*.png")))
        assert 3 < done < 40
        subprocess.run([mount, "-o", "remount,size=4m", disk], check=True)
        result = put(source, disk / "out")
        assert result.kept >= done - 8 and result.made + result.kept == 40
        check_manifest(disk / "out", source)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_no_file_may_grow(make_pairs, tmp_path):
    """Without a right to mount: a limit on the length of files, which stops the journal."""
    resource = pytest.importorskip("resource", reason="no such limit here")
    root = make_pairs(TWENTY, tmp_path / "mine")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))

    process = child(root, tmp_path / "out", 0, preexec_fn=limit)
    _, error = process.communicate()
    assert process.returncode == 1 and "pairs are done and stay" in error.splitlines()[-1]
    source = open_source("folder", root)
    result = put(source, tmp_path / "out")
    assert result.kept > 3 and result.made > 3
    check_manifest(tmp_path / "out", source)


def test_real_photos(real_data, tmp_path):
    for spec, count in (("folder:{}/people", 232), ("pennfudan:{}/PennFudanPed", 136)):
        source = open_source(spec.format(real_data))
        out = tmp_path / source.name
        assert put(source, out, size=160).made == count
        check_manifest(out, source)
        again = open_source("folder", out)
        for side in ("train", "val"):
            assert {p.id for p in getattr(again, side)} == {p.id for p in getattr(source, side)}
        shares = [float(row["foreground_share"]) for row in rows_of(out)]
        assert min(shares) > 0 and max(shares) < 1


# --- the command ---------------------------------------------------------------------------------


def call(*args):
    return CliRunner().invoke(command, [str(a) for a in args])


def test_command(make_pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path / "project"))
    monkeypatch.chdir(tmp_path)
    root = make_pairs(TWENTY, tmp_path / "mine", 60, 80)
    done = call("folder:mine", "--size", 40, "--jobs", 1, "--val-fraction", 0.3)
    assert done.exit_code == 0, done.output
    out = tmp_path / "project/data"
    assert "20 pairs" in done.output and str(out) in done.output and "resized" in done.output
    assert {row["size"] for row in rows_of(out)} == {"40x30"}
    source = open_source("folder", root, val_fraction=0.3)
    assert {r["id"] for r in rows_of(out) if r["split"] == "val"} == {p.id for p in source.val}
    again = call("folder", "--root", "mine", "--size", 40, "--val-fraction", 0.3)
    assert again.exit_code == 0 and "20 kept" in again.output
    copied = call("folder:mine", "--copy", "--into", "copies", "--split", out / "manifest.csv")
    assert copied.exit_code == 0 and "20 photos copied" in copied.output
    vals = [{r["id"] for r in rows_of(o) if r["split"] == "val"}
            for o in (out, tmp_path / "copies")]  # fmt: skip
    assert vals[0] == vals[1]


@pytest.mark.parametrize("into", ["", "sub", "sub/deeper"])
def test_a_source_is_never_prepared_into_itself(make_pairs, tmp_path, into):
    root = make_pairs(TWENTY, tmp_path / "mine")
    source = open_source("folder", root)
    with pytest.raises(DataError, match="within the source"):
        put(source, root / "images" / into)
    beside = tmp_path / "beside"
    beside.mkdir()
    for id in TWENTY:  # photos and cut-outs in one folder
        photo = Image.open(root / "images" / f"{id}.jpg")
        photo.save(beside / f"{id}.jpg")
        photo.putalpha(Image.open(root / "masks" / f"{id}.png"))
        photo.save(beside / f"{id}_foreground.png")
    before = sorted(beside.rglob("*"))
    with pytest.raises(DataError, match="within the source"):
        put(open_source("folder", beside), beside / into)
    assert sorted(beside.rglob("*")) == before


def test_command_exit_codes(make_pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path))
    root = make_pairs(TWENTY, tmp_path / "mine", 100, 120)
    photo = root / "images/p5.jpg"
    content = photo.read_bytes()
    photo.write_bytes(content[:600] + bytes(len(content) - 602) + content[-2:])
    done = call(f"folder:{root}", "--into", tmp_path / "out", "--size", 50)
    if done.exit_code == 0:
        pytest.skip("this Pillow reads zeros in a JPEG")
    assert done.exit_code == 1 and str(photo) in done.output and "1 left out" in done.output
    assert isinstance(call("nosuch:x").exception, ValueError)
    assert isinstance(call(f"folder:{root}", "--into", root).exception, DataError)
    assert call(f"folder:{root}", "--size", "-3").exit_code == 2
