"""Near copies: the hash against imagehash, the search against all pairs, and what is found."""

import io
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from unetlib.data import twins
from unetlib.data.images import load_image
from unetlib.data.synthetic import generate_sample


@pytest.fixture(scope="module")
def photos():
    return [Image.fromarray(generate_sample(7, i, 160).image) for i in range(60)]


def small(image) -> np.ndarray:
    return twins.thumbnail(np.asarray(image))


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def cut(image, left, top, right, bottom):
    """Without these per cents of its sides."""
    w, h = image.size
    return image.crop(
        tuple(round(x) for x in (w * left / 100, h * top / 100, w - w * right / 100,
                                 h - h * bottom / 100))
    )  # fmt: skip


CHANGES = {
    "re-encoded": (lambda p: jpeg(p, 30), 1.0),
    "half the size": (lambda p: p.resize((80, 80), Image.Resampling.LANCZOS), 1.0),
    "other shape": (lambda p: p.resize((160, 120)), 1.0),
    "brighter": (lambda p: ImageEnhance.Brightness(p).enhance(1.25), 0.98),
    "darker": (lambda p: ImageEnhance.Brightness(p).enhance(0.7), 1.0),
    "more contrast": (lambda p: ImageEnhance.Contrast(p).enhance(1.3), 1.0),
    "other gamma": (lambda p: p.point([int(255 * (i / 255) ** 0.7) for i in range(256)] * 3), 1.0),
    "mirrored": (lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 1.0),
    "cropped by 3 %": (lambda p: cut(p, 3, 3, 3, 3), 0.95),
    "cropped on two sides": (lambda p: cut(p, 5, 5, 0, 0), 0.9),
    "all of it": (
        lambda p: jpeg(cut(ImageEnhance.Brightness(p).enhance(1.1), 3, 2, 0, 4), 50),
        0.9,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_photos_are_found_among_others(photos, change):
    function, share = CHANGES[change]
    thumbs = np.stack([small(p) for p in photos] + [small(function(p)) for p in photos])
    links = twins.near_copies(thumbs)
    n = len(photos)
    assert all(j == i + n for i, j, *_ in links)  # nothing else is alike
    assert len(links) >= share * n
    assert all(link[3] == (change == "mirrored") for link in links)
    assert all(twins.ALIKE <= link[2] <= 1.001 for link in links)


def test_different_photos_are_not_alike(photos):
    assert twins.near_copies(np.stack([small(p) for p in photos])) == []


@pytest.mark.parametrize("name, folder", [("people", "images"), ("PennFudanPed", "PNGImages")])
def test_real_photos(real_data, name, folder):
    files = sorted((real_data / name / folder).iterdir())
    photos = [load_image(path, 256) for path in files]
    thumbs = np.stack([small(p) for p in photos])
    assert twins.near_copies(thumbs) == []
    cropped = np.stack([small(jpeg(cut(p, 3, 2, 2, 3), 60)) for p in photos])
    links = twins.near_copies(np.concatenate([thumbs, cropped]))
    assert all(j == i + len(files) for i, j, *_ in links) and len(links) >= 0.98 * len(files)


def test_hash_has_the_distances_of_imagehash(photos):
    imagehash = pytest.importorskip("imagehash")
    pictures = photos + [cut(p, 4, 0, 2, 3) for p in photos] + [jpeg(p, 20) for p in photos]
    bits, mirrored = twins.hashes(np.stack([small(p) for p in pictures]))
    theirs = np.stack([imagehash.phash(p).hash.reshape(64) for p in pictures])
    rows, columns = np.triu_indices(len(pictures), 1)
    ours, other = ((x[rows] != x[columns]).sum(1) for x in (bits, theirs))
    assert np.corrcoef(ours, other)[0, 1] > 0.95
    assert np.abs(ours - other).mean() < 3
    flipped = [p.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for p in photos]
    theirs = np.stack([imagehash.phash(p).hash.reshape(64) for p in flipped])
    assert (mirrored[: len(photos)] != theirs).sum(1).mean() < 4


pictures = st.integers(0, 2**32 - 1).map(
    lambda seed: cv2.resize(
        np.random.default_rng(seed).integers(0, 256, (7, 7)).astype(np.uint8), (32, 32)
    )
)


@given(pictures, st.floats(0.4, 1), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_likeness_ignores_light_and_direction(picture, contrast, brightness):
    other = np.rint(picture * contrast * 0.8 + brightness).astype(np.uint8)
    there = twins.likeness(picture[None], other[None])[0]
    back = twins.likeness(other[None], picture[None])[0]
    assert there == pytest.approx(back, abs=1e-4) and there > 0.97
    assert twins.likeness(picture[None], picture[None])[0] == pytest.approx(1, abs=1e-4)
    bits, mirrored = twins.hashes(np.stack([picture, picture[:, ::-1]]))
    assert (bits[0] != mirrored[1]).sum() <= 2 and (bits[1] != mirrored[0]).sum() <= 2


def test_flat_pictures_are_like_none():
    flat = np.full((5, 32, 32), 90, np.uint8)
    assert twins.near_copies(flat) == []
    assert twins.near_copies(flat[:0]) == [] and twins.near_copies(flat[:1]) == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_search_finds_what_comparing_all_finds(seed, n):
    rng = np.random.default_rng(seed)
    base = rng.random((1, 64)) < 0.5
    bits, other = ((base ^ (rng.random((n, 64)) < 0.2)) for _ in range(2))
    block, twins._BLOCK = twins._BLOCK, 16
    try:
        found = [pair for ij in twins._candidates(bits, other) for pair in zip(*ij, strict=True)]
    finally:
        twins._BLOCK = block
    distance = (bits[:, None] != other[None]).sum(2)
    rows, columns = np.nonzero(np.triu(distance <= twins.RADIUS, 1))
    assert sorted(found) == sorted(zip(rows, columns, strict=True))


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=20))
def test_groups_are_what_is_connected(links):
    reach = np.eye(13, dtype=bool)
    for i, j in links:
        reach[i, j] = reach[j, i] = True
    for _ in range(4):
        reach = (reach.astype(int) @ reach) > 0
    linked = {k for link in links for k in link}
    expected = sorted({tuple(np.flatnonzero(reach[i])) for i in linked})
    assert [tuple(g) for g in twins.groups(links)] == expected


def test_thousands_of_copies_of_one_photo_are_quick_and_small():
    noise = np.random.default_rng(0).integers(-3, 4, (6000, 32, 32))
    picture = cv2.resize(
        np.random.default_rng(1).integers(30, 220, (6, 6)).astype(np.uint8), (32, 32)
    )
    thumbs = np.clip(picture + noise, 0, 255).astype(np.uint8)
    tracemalloc.start()
    links = twins.near_copies(thumbs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert twins.groups(links) == [list(range(6000))]
    assert len(links) < 2 * len(thumbs)
    assert peak < 100e6  # a table of all pairs would take 144 MB in float32
