"""Datasets opened by name, and every way in which a folder can disappoint."""

import shutil

import numpy as np
import pytest
from PIL import Image

from unetlib import paths
from unetlib.data import (
    DataError,
    PairDataset,
    Preprocess,
    load_mask,
    open_settings,
    open_source,
    split_fraction,
)
from unetlib.data.sources import SOURCES


def ids(pairs) -> set[str]:
    return {p.id for p in pairs}


TWENTY = [f"p{i}" for i in range(20)]


def test_images_and_masks_are_split_by_hash(make_pairs):
    root = make_pairs(TWENTY)
    source = open_source("folder", root, val_fraction=0.3, seed=5)
    assert ids(source.val) == {i for i in TWENTY if split_fraction(i, 5) < 0.3}
    assert ids(source.train) == set(TWENTY) - ids(source.val)
    assert source.name == "folder" and source.root == root and source.skipped == ()
    make_pairs(["new"], root / "more")
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        shutil.copy(root / "more" / folder / f"new.{suffix}", root / folder)
        (root / folder / f"p0.{suffix}").unlink()
    again = open_source("folder", root, val_fraction=0.3, seed=5)
    assert ids(again.val) - {"new"} == ids(source.val) - {"p0"}


def test_train_and_val_folders_are_used_as_they_are(make_pairs, tmp_path, photo):
    make_pairs(["a", "b", "sub/c"], tmp_path / "train")
    make_pairs(["x"], tmp_path / "val", height=30, width=40)
    source = open_source("folder", tmp_path, val_fraction=0.9)
    assert ids(source.train) == {"a", "b", "sub/c"} and ids(source.val) == {"x"}


def test_relative_root_is_below_the_working_directory_or_the_project(
    make_pairs, tmp_path, monkeypatch
):
    make_pairs(TWENTY, tmp_path / "project" / "data")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path / "project"))
    for here in ("elsewhere", "project"):
        monkeypatch.chdir(tmp_path / here)
        for root in ("data", None, ""):
            assert open_source("folder", root).root.resolve() == tmp_path / "project" / "data"


def test_tags_come_from_the_manifest(make_pairs):
    root = make_pairs(TWENTY)
    text = "id,source,tags\np0,x,hair;glass\np1,x,\nother,x,hair\n"
    (root / "manifest.csv").write_text(text, encoding="utf-8")
    source = open_source("folder", root)
    tags = {p.id: p.tags for p in source.train + source.val}
    assert tags["p0"] == ("hair", "glass") and tags["p1"] == () and tags["p2"] == ()


def test_mask_kind_reaches_every_pair(make_pairs):
    root = make_pairs(TWENTY)
    for id in TWENTY:
        Image.fromarray(np.full((24, 32), 7, np.uint8)).save(root / "masks" / f"{id}.png")
    pair = open_source("folder", root, mask_kind="labels").train[0]
    assert load_mask(pair.mask, kind=pair.mask_kind).min() == 1


# --- disappointments -----------------------------------------------------------------------------


def message_of(*args, **kwargs) -> str:
    with pytest.raises(DataError) as error:
        open_source(*args, **kwargs)
    return str(error.value)


def test_unknown_source_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'pennfudan'"):
        open_source("penfudan")
    assert {"synthetic", "folder", "pennfudan", "aisegment", "coco", "duts", "pet"} < set(SOURCES)


@pytest.mark.parametrize("name, expected", [("folder", "masks"), ("pennfudan", "PedMasks")])
def test_no_such_folder_empty_folder_and_a_file(tmp_path, name, expected):
    missing = message_of(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in missing and expected in missing
    (tmp_path / "empty").mkdir()
    empty = message_of(name, tmp_path / "empty")
    assert "empty" in empty and expected in empty and str(tmp_path / "empty") in empty
    (tmp_path / "file").write_bytes(b"x")
    assert "is a file" in message_of(name, tmp_path / "file")
    (tmp_path / "other" / "pictures").mkdir(parents=True)
    assert "pictures/" in message_of(name, tmp_path / "other")


def test_no_usable_pair_says_why(make_pairs):
    root = make_pairs(["a", "b"])
    (root / "masks" / "a.png").unlink()
    (root / "images" / "b.jpg").write_bytes(b"")
    message = message_of("folder", root)
    assert "no usable pair" in message and "a.jpg" in message and "0 bytes" in message
    for file in [*root.glob("*/*")]:
        file.unlink()
    assert "no usable pair" in message_of("folder", root)
    (root / "masks").rmdir()
    assert "masks" in message_of("folder", root)


def test_half_of_a_split_without_pairs(make_pairs, tmp_path):
    make_pairs(["a"], tmp_path / "train")
    assert "val" in message_of("folder", tmp_path)
    (tmp_path / "val" / "images").mkdir(parents=True)
    assert "masks" in message_of("folder", tmp_path)
    (tmp_path / "val" / "masks").mkdir()
    assert str(tmp_path / "val") in message_of("folder", tmp_path)


def test_one_image_and_small_sets(make_pairs):
    root = make_pairs(["only"])
    assert "val_fraction=0" in message_of("folder", root)
    source = open_source("folder", root, val_fraction=0)
    assert len(source.train) == 1 and source.val == ()
    make_pairs(["only", "two"])
    message = message_of("folder", root, val_fraction=0.0001)
    works = float(message.split("val_fraction=")[2].split()[0])
    source = open_source("folder", root, val_fraction=works)
    assert len(source.train) == len(source.val) == 1


def test_same_id_in_train_and_val_is_refused(make_pairs, tmp_path):
    make_pairs(["a", "b"], tmp_path / "train")
    make_pairs(["b", "c"], tmp_path / "val")
    message = message_of("folder", tmp_path)
    assert "'b'" in message and "1 ids" in message


def test_same_photo_under_another_name_is_left_out_of_val(make_pairs, tmp_path):
    make_pairs(["a", "b"], tmp_path / "train")
    make_pairs(["x", "c"], tmp_path / "val", height=30, width=40)
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        copy = tmp_path / "val" / folder / f"x.{suffix}"
        shutil.copy(tmp_path / "train" / folder / f"a.{suffix}", copy)
    source = open_source("folder", tmp_path)
    assert ids(source.val) == {"c"} and ids(source.train) == {"a", "b"}
    assert [s.path.name for s in source.skipped] == ["x.jpg"]
    assert "same photo as 'a' in train" in source.describe()


def test_skipped_files_are_described(make_pairs):
    root = make_pairs(TWENTY)
    (root / "masks" / "p3.png").unlink()
    (root / "images" / "._p4.jpg").write_bytes(b"x")
    text = open_source("folder", root).describe()
    assert "2 skipped" in text and "images/p3.jpg: image without mask" in text


# --- synthetic -----------------------------------------------------------------------------------


def test_synthetic_is_written_and_read_as_a_folder(tmp_path):
    args = {"count": 24, "size": 48, "seed": 3, "val_fraction": 0.3, "progress": False}
    source = open_source("synthetic", tmp_path / "data", **args)
    assert source.name == "synthetic" and len(source.train) + len(source.val) == 24
    assert all(split_fraction(p.id, 3) < 0.3 for p in source.val)
    assert not any(split_fraction(p.id, 3) < 0.3 for p in source.train)
    assert {t for p in source.train for t in p.tags} & {"hair", "texture"}
    assert open_source("synthetic", tmp_path / "data", **args) == source
    assert ids(open_source("folder", tmp_path / "data").val) == ids(source.val)


# --- Penn-Fudan ----------------------------------------------------------------------------------


def pennfudan(folder, count=12):
    """A set in the layout of Penn-Fudan, with instance ids as masks."""
    root = folder / "PennFudanPed"
    (root / "PNGImages").mkdir(parents=True)
    (root / "PedMasks").mkdir()
    for i in range(count):
        mask = np.zeros((20, 30), np.uint8)
        mask[5:15, 3:8], mask[5:15, 12:18] = 1, 2
        Image.fromarray(np.full((20, 30, 3), i * 9, np.uint8)).save(root / f"PNGImages/F{i}.png")
        Image.fromarray(mask).save(root / f"PedMasks/F{i}_mask.png")
    return root


def test_pennfudan_layout(tmp_path):
    root = pennfudan(tmp_path)
    for given in (root, tmp_path):
        source = open_source("pennfudan", given)
        assert source.root == root and len(source.train) + len(source.val) == 12
    mask = load_mask(source.train[0].mask, kind=source.train[0].mask_kind)
    assert set(np.unique(mask)) == {0, 1} and mask.sum() == 50 + 60


def test_pennfudan_without_a_root_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path))
    assert "download=True" in message_of("pennfudan", download=False)
    pennfudan(tmp_path)
    assert open_source("pennfudan").root == tmp_path / "PennFudanPed"


# --- real photos ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, folder, count", [("folder", "people", 232), ("pennfudan", "PennFudanPed", 136)]
)
def test_real_photos_open(real_data, name, folder, count):
    source = open_source(name, real_data / folder)
    assert len(source.train) + len(source.val) == count and source.skipped == ()
    assert 0.1 < len(source.val) / count < 0.3
    assert not ids(source.train) & ids(source.val)
    for pair in source.val[:5]:
        mask = load_mask(pair.mask, kind=pair.mask_kind)
        assert 0.005 < mask.mean() < 0.95


# --- places --------------------------------------------------------------------------------------


def test_paths(tmp_path, monkeypatch):
    monkeypatch.delenv("UNETLIB_ROOT", raising=False)
    assert (paths.project_root() / "unetlib").is_dir()
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path))
    assert paths.resolve("outputs/x") == tmp_path / "outputs" / "x"
    assert paths.resolve(tmp_path.parent) == tmp_path.parent
    assert paths.resolve("~/x").is_absolute() and "~" not in str(paths.resolve("~/x"))
    (tmp_path / "a.jpg").write_bytes(b"")
    assert paths.find_input("a.jpg") == tmp_path / "a.jpg"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "a.jpg").write_bytes(b"")
    assert paths.find_input("a.jpg") == tmp_path / "here" / "a.jpg"
    with pytest.raises(FileNotFoundError) as error:
        paths.find_input("b.jpg")
    assert str(tmp_path / "b.jpg") in str(error.value) and str(tmp_path / "here") in str(
        error.value
    )


def test_backgrounds_need_no_masks_and_have_no_foreground(make_pairs, tmp_path):
    photos = make_pairs([f"sky-{n}" for n in range(12)]) / "images"
    source = open_source(f"backgrounds:{photos}")
    assert len(source.train) + len(source.val) == 12 and source.val
    dataset = PairDataset(source.train, Preprocess(16))
    assert dataset[0][1].sum() == 0
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no photo in"):
        open_source(f"backgrounds:{empty}")


def test_what_is_excluded_is_in_neither_half(make_pairs):
    root = make_pairs([f"photo-{n}" for n in range(20)])
    given = ("folder", str(root), "data", 2, 32, 0)
    whole = open_settings(*given)
    unwanted = [whole.train[0].id, whole.val[0].id]
    left = open_settings(*given, exclude=" ".join(unwanted))
    ids = {pair.id for pair in (*left.train, *left.val)}
    assert ids == {pair.id for pair in (*whole.train, *whole.val)} - set(unwanted)
    with pytest.raises(DataError, match="exclude: no photo of folder has the id 'nobody'"):
        open_settings(*given, exclude="nobody")


def test_val_fraction_of_a_training(make_pairs):
    root = make_pairs([f"photo-{n}" for n in range(20)])
    given = ("folder", str(root), "data", 2, 32, 0)
    assert not open_settings(*given, val_fraction=0.0).val
    assert len(open_settings(*given, val_fraction=0.6).val) > len(open_settings(*given).val)
