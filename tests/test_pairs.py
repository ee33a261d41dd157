"""Matching by stem, skips that are named, shapes, and a split that never moves."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unetlib.data.pairs import (
    DataError,
    Pair,
    Skipped,
    Source,
    check_shape,
    match_pairs,
)
from unetlib.data.split import split_fraction, split_pairs


def match(root, **args):
    return match_pairs(root / "images", root / "masks", **args)


def reasons(skipped) -> dict[str, str]:
    return {s.path.name: s.reason for s in skipped}


def test_pairs_by_exact_stem(make_pairs):
    ids = ["1", "10", "a.b.c", "v1.2", "deep/er/1", "sp ace", "grün"]
    pairs, skipped = match(make_pairs(ids))
    assert [p.id for p in pairs] == sorted(ids) and skipped == []
    for pair in pairs:
        assert pair.image.name == pair.id.split("/")[-1] + ".jpg" and pair.image.is_file()
        assert pair.mask.is_file() and pair.mask.name == pair.image.stem + ".png"


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sets(st.from_regex(r"[a-c0-2]([a-c0-2._ -]{0,3}[a-c0-2])?", fullmatch=True), max_size=6),
    st.sets(st.from_regex(r"[a-c0-2]([a-c0-2._ -]{0,3}[a-c0-2])?", fullmatch=True), max_size=6),
)
def test_matching_is_set_intersection(tmp_path_factory, photos, masks):
    root = tmp_path_factory.mktemp("match")
    for folder, stems in (("images", photos), ("masks", masks)):
        (root / folder).mkdir()
        for stem in stems:
            Image.new("L", (4, 4)).save(root / folder / f"{stem}.png")
    pairs, skipped = match(root)
    assert {p.id for p in pairs} == photos & masks
    alone = {("images", s) for s in photos - masks} | {("masks", s) for s in masks - photos}
    assert {(s.path.parent.name, s.path.name[:-4]) for s in skipped} == alone


def test_image_without_mask_and_mask_without_image_are_named(make_pairs):
    root = make_pairs(["1", "2", "10"])
    (root / "masks" / "1.png").unlink()
    (root / "images" / "2.jpg").unlink()
    pairs, skipped = match(root)
    assert [p.id for p in pairs] == ["10"]
    assert set(reasons(skipped)) == {"1.jpg", "2.png"}
    assert "image without mask" in reasons(skipped)["1.jpg"]
    assert "mask without image" in reasons(skipped)["2.png"]


def test_same_stem_twice_is_skipped_on_both_sides(make_pairs, photo):
    root = make_pairs(["a", "b", "c"])
    Image.fromarray(photo()).save(root / "images" / "a.png")
    Image.new("L", (32, 24)).save(root / "masks" / "b.bmp")
    pairs, skipped = match(root)
    assert [p.id for p in pairs] == ["c"]
    why = {f"{s.path.parent.name}/{s.path.name}": s.reason for s in skipped}
    assert len(why) == len(skipped) == 6  # nothing vanishes without being named
    assert "same stem as a.png" in why["images/a.jpg"]
    assert "same stem as a.jpg" in why["images/a.png"]
    assert "same stem as b.png" in why["masks/b.bmp"] and "same stem" in why["masks/b.png"]
    assert "its image is there twice" in why["masks/a.png"]
    assert "its mask is there twice" in why["images/b.jpg"]


def test_litter_of_operating_systems(make_pairs):
    root = make_pairs(["a"])
    (root / "images" / "._a.jpg").write_bytes(b"\x00\x05\x16\x07")
    (root / "masks" / "._a.png").write_bytes(b"\x00\x05\x16\x07")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "images" / name).write_bytes(b"x")
    (root / "images" / "notes.txt").write_text("mine", encoding="utf-8")
    for hidden in (".ipynb_checkpoints", "__MACOSX"):
        (root / "images" / hidden).mkdir()
        Image.new("L", (4, 4)).save(root / "images" / hidden / "a.png")
    pairs, skipped = match(root)
    assert [p.id for p in pairs] == ["a"]
    assert sorted(s.path.name for s in skipped) == ["._a.jpg", "._a.png", "notes.txt"]
    assert "macOS" in reasons(skipped)["._a.jpg"] and "type" in reasons(skipped)["notes.txt"]


def test_suffixes_in_capitals_and_mask_suffix(make_pairs):
    root = make_pairs(["a", "b"])
    os.rename(root / "images" / "a.jpg", root / "images" / "a.JPG")
    os.rename(root / "masks" / "a.png", root / "masks" / "a_mask.PNG")
    pairs, skipped = match(root, mask_suffix="_mask", mask_kind="labels")
    assert [(p.id, p.mask_kind) for p in pairs] == [("a", "labels")]
    assert "does not end in '_mask'" in reasons(skipped)["b.png"]
    assert "b_mask" in reasons(skipped)["b.jpg"]


def test_accents_match_however_they_are_stored(make_pairs):
    root = make_pairs([unicodedata.normalize("NFC", "é")])
    decomposed = unicodedata.normalize("NFD", "é")
    os.rename(root / "masks" / "é.png", root / "masks" / f"{decomposed}.png")
    assert [p.id for p in match(root)[0]] == ["é"]


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def test_unusable_files_are_skipped_by_name(make_pairs, photo):
    root = make_pairs([*"abcdefg"])
    (root / "images" / "a.jpg").write_bytes(b"")
    (root / "images" / "b.jpg").write_text("hello, I am text", encoding="utf-8")
    cut(root / "images" / "c.jpg", 0.8)
    cut(root / "masks" / "d.png", 0.8)
    for id, suffix in (("e", "webp"), ("f", "gif")):
        (root / "images" / f"{id}.jpg").unlink()
        Image.fromarray(photo(24, 32)).save(root / "images" / f"{id}.{suffix}")
        cut(root / "images" / f"{id}.{suffix}", 0.7)
    pairs, skipped = match(root)
    assert [p.id for p in pairs] == ["g"]
    why = reasons(skipped)
    assert set(why) == {"a.jpg", "b.jpg", "c.jpg", "d.png", "e.webp", "f.gif"}
    assert "empty" in why["a.jpg"] and "not an image" in why["b.jpg"]
    assert all("damaged" in why[n] for n in ("c.jpg", "d.png", "e.webp", "f.gif"))


def test_bytes_behind_the_end_of_a_jpeg_are_no_damage(make_pairs):
    root = make_pairs(["a"])
    with open(root / "images" / "a.jpg", "ab") as file:
        file.write(b"maker's trailer" * 40)
    pairs, skipped = match(root)
    assert len(pairs) == 1 and skipped == []


# --- shapes --------------------------------------------------------------------------------------


def test_mask_of_another_shape_names_both_files(make_pairs):
    root = make_pairs(["a", "b"])
    Image.new("L", (32, 32)).save(root / "masks" / "b.png")
    with pytest.raises(DataError) as error:
        match(root)
    message = str(error.value)
    assert str(root / "images" / "b.jpg") in message and str(root / "masks" / "b.png") in message
    assert "32 x 24" in message and "32 x 32" in message


def test_mask_lying_on_its_side_gets_a_hint():
    with pytest.raises(DataError, match="EXIF"):
        check_shape(Path("a.jpg"), (400, 300), Path("a.png"), (300, 400))


SIDES = st.integers(100, 6000)


@given(SIDES, SIDES, st.floats(0.05, 8), *[st.sampled_from([np.floor, np.ceil, np.rint])] * 2)
def test_any_rounding_of_a_resize_is_accepted(w, h, scale, round_w, round_h):
    mask = (max(1, int(round_w(w * scale))), max(1, int(round_h(h * scale))))
    check_shape(Path("a"), (w, h), Path("b"), mask)
    check_shape(Path("a"), mask, Path("b"), (w, h))


@given(SIDES, SIDES, st.floats(0.25, 4), st.floats(0.03, 0.9), st.booleans())
def test_a_crop_is_refused(w, h, scale, crop, first):
    """What is cut off is at least 3 % and 5 pixels of one side of the smaller picture."""
    kept = (w * (1 - crop), h) if first else (w, h * (1 - crop))
    mask = tuple(max(1, round(n * scale)) for n in kept)
    lost = (w, h)[not first] * crop * min(1, scale)
    shorter = min(*mask, w, h)
    if lost < 5 or shorter < 100:
        return
    with pytest.raises(DataError):
        check_shape(Path("a"), (w, h), Path("b"), mask)


# --- splits --------------------------------------------------------------------------------------


def fake(ids) -> list[Pair]:
    return [Pair(id, Path(f"{id}.jpg"), Path(f"{id}.png")) for id in ids]


def test_split_fraction_is_the_same_on_every_machine():
    # the first 12 hex digits that `printf 0:FudanPed00001 | sha256sum` prints
    assert split_fraction("FudanPed00001", 0) == int("674a06681ebb", 16) / 2**48
    assert split_fraction("1", 0) != split_fraction("1", 1) != split_fraction("10", 1)


@given(st.sets(st.text(min_size=1, max_size=6), min_size=2, max_size=40), st.integers(0, 99))
def test_split_is_a_partition_that_adding_does_not_move(ids, seed):
    pairs = fake(sorted(ids))
    try:
        train, val = split_pairs(pairs, 0.5, seed)
        fewer_train, fewer_val = split_pairs(pairs[:-1], 0.5, seed)
    except DataError:
        return
    assert {p.id for p in train} | {p.id for p in val} == ids
    assert not {p.id for p in train} & {p.id for p in val}
    assert set(fewer_train) <= set(train) and set(fewer_val) <= set(val)


def test_split_shares():
    pairs = fake(str(i) for i in range(2000))
    for fraction in (0.1, 0.2, 0.5):
        assert len(split_pairs(pairs, fraction)[1]) / 2000 == pytest.approx(fraction, abs=0.03)
    assert {p.id for p in split_pairs(pairs, 0.1)[1]} < {p.id for p in split_pairs(pairs, 0.2)[1]}
    assert split_pairs(pairs, 0) == (pairs, [])


@given(st.integers(2, 12), st.sampled_from([0.001, 0.2, 0.999]), st.integers(0, 50))
def test_one_sided_split_says_what_would_work(n, fraction, seed):
    pairs = fake(str(i) for i in range(n))
    try:
        split_pairs(pairs, fraction, seed)
    except DataError as error:
        message = str(error)
        assert f"of {n} pairs" in message and str(fraction) in message
        works = float(message.split("val_fraction=")[2].split()[0])
        assert all(split_pairs(pairs, works, seed))


def test_one_image():
    with pytest.raises(DataError, match=r"only 1 usable pair.*val_fraction=0"):
        split_pairs(fake(["a"]), 0.2)
    assert split_pairs(fake(["a"]), 0)[1] == []


@pytest.mark.parametrize("fraction", [-0.1, 1, 20])
def test_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match="val_fraction"):
        split_pairs(fake("ab"), fraction)


def test_describe_names_five_and_counts_the_rest():
    root = Path("data")
    skipped = tuple(Skipped(root / "images" / f"{i}.jpg", "image without mask") for i in range(8))
    text = Source("folder", root, tuple(fake("ab")), tuple(fake("c")), skipped).describe()
    assert "2 train + 1 val" in text and "8 skipped" in text
    assert "images/4.jpg: image without mask" in text and "images/5.jpg" not in text
    assert text.endswith("and 3 more")
