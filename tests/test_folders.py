"""Photos of one's own in every way that people keep them, groups, and several sources at once."""

import csv
import hashlib
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unetlib.data import DataError, ImageError, load_mask, load_pair, open_source, split_fraction
from unetlib.data.sources import Term, absolute_spec, open_settings, read_spec

TWENTY = [f"p{i}" for i in range(20)]


def ids(pairs) -> set[str]:
    return {p.id for p in pairs}


@pytest.fixture
def cutout(photo, disc):
    """cutout(path, seed) writes an RGBA picture whose alpha is a soft disc."""

    def make(path, seed=0, height=24, width=32):
        path.parent.mkdir(parents=True, exist_ok=True)
        rgba = np.dstack([photo(height, width, seed), disc(height, width)])
        Image.fromarray(rgba).save(path)
        return rgba

    return make


# --- layouts -----------------------------------------------------------------------------------


def test_cutouts_are_the_masks_of_their_photos(make_pairs, cutout, disc):
    root = make_pairs(TWENTY)
    shutil.rmtree(root / "masks")
    for id in TWENTY:
        cutout(root / "cutouts" / f"{id}.png")
    source = open_source("folder", root)
    assert ids(source.train) | ids(source.val) == set(TWENTY)
    image, matte = load_pair(source.train[0])
    assert np.array_equal(np.rint(matte * 255), disc())
    assert np.array_equal(image, np.asarray(Image.open(source.train[0].image)))


@pytest.mark.parametrize("name", ["{}.png", "{}_foreground.png", "{}.out.png"])
def test_photos_and_cutouts_side_by_side(make_pairs, cutout, tmp_path, name, disc):
    root = make_pairs(TWENTY, tmp_path / "made") / "images"
    for id in TWENTY:
        cutout(root / name.format(id))
    (root / "lonely.jpg").write_bytes((root / "p0.jpg").read_bytes())
    cutout(root / "orphan.png")
    source = open_source("folder", root)
    assert ids(source.train) | ids(source.val) == set(TWENTY)
    assert {s.path.name: s.kind for s in source.skipped} == {
        "lonely.jpg": "image without mask",
        "orphan.png": "mask without image",
    }
    matte = load_pair(source.val[0])[1]
    assert np.array_equal(np.rint(matte * 255), disc())


def test_cutouts_without_alpha_are_named(make_pairs):
    root = make_pairs(TWENTY)
    (root / "masks").rename(root / "cutouts")  # plain masks where cut-outs should be
    with pytest.raises(ImageError, match=r"p\d+\.png.*alpha"):
        load_pair(open_source("folder", root).train[0])


def test_photos_without_any_cutout_say_what_is_expected(make_pairs):
    root = make_pairs(TWENTY) / "images"
    with pytest.raises(DataError, match="cutouts/"):
        open_source("folder", root)


# --- cut-outs before backgrounds ---------------------------------------------------------------


@pytest.fixture
def composed(cutout, photo, tmp_path):
    for k in range(12):
        cutout(tmp_path / "cutouts" / f"figure{k}.png", seed=k)
    (tmp_path / "backgrounds").mkdir()
    for k in range(40):
        picture = Image.fromarray(photo(50, 40, 100 + k))
        picture.save(tmp_path / "backgrounds" / f"wall{k}.png")
    return tmp_path


def test_cutouts_are_laid_over_backgrounds_of_their_own_side(composed):
    source = open_source("folder", composed, val_fraction=0.3)
    figures = [{p.image.name for p in side} for side in (source.train, source.val)]
    walls = [{p.background.name for p in side} for side in (source.train, source.val)]
    assert len(figures[0] | figures[1]) == 12 and not figures[0] & figures[1]
    assert walls[0] and walls[1] and not walls[0] & walls[1]
    assert len({p.id for p in source.train}) == len(source.train) > len(figures[0])
    again = open_source("folder", composed, val_fraction=0.3)
    assert again == source


def test_load_pair_is_the_mixture_of_both(composed, cutout, photo):
    rgba = cutout(composed / "cutouts" / "figure0.png", seed=3, height=50, width=40)
    solid, empty = rgba[..., 3] == 255, rgba[..., 3] == 0
    pair = next(
        p for p in open_source("folder", composed, val_fraction=0).train
        if p.image.name == "figure0.png"
    )  # fmt: skip
    behind = np.asarray(Image.open(pair.background))
    image, matte = load_pair(pair)
    assert image.shape == behind.shape and matte.dtype == np.float32
    assert np.array_equal(image[solid], rgba[solid, :3])
    assert np.array_equal(image[empty], behind[empty])
    assert np.array_equal(np.rint(matte * 255), rgba[..., 3])
    small, _ = load_pair(pair, max_side=25)
    assert small.shape == (25, 20, 3)


def test_backgrounds_from_elsewhere_and_none(composed, tmp_path):
    (composed / "backgrounds").rename(tmp_path / "walls")
    source = open_source("folder", composed, backgrounds=str(tmp_path / "walls"))
    assert source.train[0].background.parent == tmp_path / "walls"
    with pytest.raises(DataError, match="backgrounds"):
        open_source("folder", composed)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no photo in"):
        open_source("folder", composed, backgrounds=str(tmp_path / "empty"))


# --- groups and manifests ------------------------------------------------------------------------


def test_groups_stay_together(make_pairs, tmp_path):
    by_name = make_pairs([f"{n}_{k}" for n in TWENTY for k in range(3)], tmp_path / "a")
    by_folder = make_pairs([f"{n}/{k}" for n in TWENTY for k in range(3)], tmp_path / "b")
    for root, groups in ((by_name, "(.+)_[0-9]+"), (by_folder, "folder")):
        source = open_source("folder", root, groups=groups)
        sides = [{p.group for p in side} for side in (source.train, source.val)]
        assert sides[0] | sides[1] == set(TWENTY) and not sides[0] & sides[1]
        assert sides[1] == {n for n in TWENTY if split_fraction(n, 0) < 0.2}
    plain = open_source("folder", by_folder)
    assert {p.id.split("/")[0] for p in plain.train} & {p.id.split("/")[0] for p in plain.val}


@pytest.mark.parametrize("groups", ["(", "no brackets"])
def test_group_pattern_that_cannot_work(make_pairs, groups):
    with pytest.raises(ValueError, match="groups="):
        open_source("folder", make_pairs(TWENTY), groups=groups)


def test_one_group_cannot_be_split(make_pairs):
    root = make_pairs([f"a_{k}" for k in range(5)])
    with pytest.raises(DataError, match="1 group of 5 pairs"):
        open_source("folder", root, groups="(.+)_[0-9]+")


def test_a_manifest_decides_the_split(make_pairs, tmp_path):
    root = make_pairs(TWENTY)
    with open(tmp_path / "split.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "split"])
        table.writerows([[n, "val" if n in ("p3", "p7") else "train"] for n in TWENTY[:-1]])
    source = open_source("folder", root, split=str(tmp_path / "split.csv"))
    assert ids(source.val) == {"p3", "p7"} and ids(source.train) == set(TWENTY[:-1]) - {"p3", "p7"}
    assert [s.path.name for s in source.skipped] == ["p19.jpg"]
    (tmp_path / "other.csv").write_text("id,tags\np1,hair\n", encoding="utf-8")
    with pytest.raises(DataError, match="split"):
        open_source("folder", root, split=str(tmp_path / "other.csv"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="binary.csv"):
        open_source("folder", root, split=str(tmp_path / "binary.csv"))


def test_train_and_val_can_be_divided_anew(make_pairs, tmp_path):
    make_pairs(TWENTY[:15], tmp_path / "train")
    for number, id in enumerate(TWENTY[15:]):  # photos of their own
        make_pairs([f"x{number}", id], tmp_path / "val", height=40 + number)
    source = open_source("folder", tmp_path, split="hash")
    everything = ids(source.train) | ids(source.val)
    assert everything >= set(TWENTY[:15]) and ids(source.val) - {f"p{k}" for k in range(15, 20)}
    assert all(split_fraction(i, 0) < 0.2 for i in ids(source.val))


# --- several at once -----------------------------------------------------------------------------


def test_reading_a_spec():
    assert read_spec("pennfudan") == [Term("pennfudan")]
    terms = read_spec(r"2*folder:C:\my photos?mask_kind=labels&x=0.5 + 0.5 * pennfudan:~/a+b")
    assert terms == [
        Term("folder", r"C:\my photos", (("mask_kind", "labels"), ("x", 0.5)), 2.0),
        Term("pennfudan", "~/a+b", (), 0.5),
    ]


def test_a_spec_is_made_absolute(tmp_path, monkeypatch):
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = absolute_spec("0.5*folder:a b?groups=folder + pennfudan:nowhere")
    assert spec == f"0.5*folder:{tmp_path / 'a b'}?groups=folder + pennfudan:nowhere"
    assert read_spec(spec)[0].args == (("groups", "folder"),)


@pytest.mark.parametrize(
    "spec, words",
    [
        ("penfudan", "Did you mean 'pennfudan'"),
        ("folder:a + ", "form"),
        ("", "form"),
        ("0*folder", "above 0"),
        ("1e*folder", "above 0"),
        ("-1*folder", "above 0"),
        ("folder:a?b", "KEY=VALUE"),
        ("folder:x?colour=red", "colour"),
    ],
)
def test_specs_that_cannot_be_read(spec, words, tmp_path, monkeypatch):
    (tmp_path / "x" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        open_source(spec)


@given(st.text(max_size=40))
def test_any_text_is_a_spec_or_a_value_error(text):
    try:
        assert read_spec(text)
    except ValueError:
        return


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
    plain = open_source(f"folder:{few} + folder:{many}", val_fraction=0.25, seed=1)
    assert {p.weight for p in plain.train} == {1.0}
    same = open_source(f"folder:{few} + folder:{many}", val_fraction=0.25, seed=1, weights=[3, 1])
    assert same.train == source.train


def test_a_photo_in_two_collections_is_not_in_train_and_val(make_pairs, tmp_path):
    one = make_pairs(TWENTY, tmp_path / "one")
    for kind in ("images", "masks"):
        for file in (one / kind).iterdir():  # the same photos under other names
            (tmp_path / "two" / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / "two" / kind / f"other-{file.name}")
    source = open_source(f"folder:{one} + folder:{tmp_path / 'two'}", val_fraction=0.4)
    content = [
        {hashlib.sha256(p.image.read_bytes()).digest() for p in side}
        for side in (source.train, source.val)
    ]
    assert content[0] and not content[0] & content[1]
    assert any("same photo as" in s.reason for s in source.skipped)


def test_settings_of_the_notebooks(make_pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path))
    root = make_pairs(TWENTY, tmp_path / "mine")
    drawn = open_settings("synthetic", "", "drawn", 12, 32, 0)
    assert drawn.root == tmp_path / "drawn" and len(drawn.train) + len(drawn.val) == 12
    assert open_settings("synthetic", str(root), "drawn", 12, 32, 0).name == "folder"
    both = open_settings("folder:mine + synthetic", "", "drawn", 12, 32, 0)
    assert len(both.train) + len(both.val) == 32
    assert load_mask(both.val[0].mask).max() == 1
