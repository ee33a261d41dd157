"""Tensors from pairs: right values, the same for any number of workers, sampling, odd sets."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unetlib.data.dataset import EpochSampler, PairDataset, make_loaders, open_dataset
from unetlib.data.folders import CutOutPair
from unetlib.data.images import ImageError
from unetlib.data.pairs import DataError, Pair, Source
from unetlib.data.preprocess import Preprocess, to_array
from unetlib.data.sources import balance, open_source

ROOT = Path(__file__).resolve().parents[1]
SIZE = (16, 24)
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
some_weights = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60)


@pytest.fixture
def source(make_pairs) -> Source:
    return open_source("folder", make_pairs([f"p{i:02}" for i in range(20)]))


def test_the_course_draws_into_the_folder_of_a_clean_checkout(tmp_path, make_pairs):
    data = shutil.copytree(ROOT / "data", tmp_path / "data", ignore=lambda *_: ["train", "val"])
    kept = (data / "README.md").read_bytes()
    for size in (16, 24):  # drawings of other settings are replaced, nothing else is
        drawn = open_dataset(data, 10, size)
        assert drawn.name == "synthetic" and len(drawn.train + drawn.val) == 10
        assert Image.open(drawn.train[0].image).size == (size, size)
    assert (data / "README.md").read_bytes() == kept
    mine = open_dataset(make_pairs([f"p{i:02}" for i in range(20)]))
    assert mine.name == "folder" and len(mine.train + mine.val) == 20
    (tmp_path / "lone").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "lone" / "photo.png")
    with pytest.raises(DataError, match="images/ and masks/ .*unetlib prepare"):
        open_dataset(tmp_path / "lone")


def batches(loader, epoch=None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    if epoch is not None:
        loader.sampler.set_epoch(epoch)
    return [tuple(batch) for batch in loader]


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True)
    )


def test_item_against_the_files(source):
    preprocess = Preprocess((24, 32))  # the size of the files: nothing is resized
    ds = PairDataset(source.train, preprocess)
    for index in (0, -1):
        image, mask = ds[index]
        rgb = np.asarray(Image.open(source.train[index].image)) / 255
        expected = (rgb - preprocess.mean) / preprocess.std
        assert image.dtype == mask.dtype == torch.float32
        assert np.abs(image.numpy().transpose(1, 2, 0) - expected).max() < 1e-5
        matte = np.asarray(Image.open(source.train[index].mask)) / 255
        assert mask.shape == (1, 24, 32) and np.abs(mask[0].numpy() - matte).max() < 1e-6
        assert len(mask.unique()) > 4  # soft
    with pytest.raises(IndexError):
        ds[len(ds)]
    assert ds.pairs == source.train and ds.preprocess == preprocess


def test_the_cache_changes_nothing_and_decodes_once(source):
    assert not PairDataset(source.train * 160, Preprocess(512)).cached  # 2.7 GB
    ds = PairDataset(source.train, Preprocess(SIZE), "strong", seed=3)
    for index in range(len(ds)):
        ds.arrays(index)
    reference = PairDataset(source.train, Preprocess(SIZE), "strong", seed=3)
    reference.cached = False
    other = PairDataset(source.train, Preprocess(SIZE), "strong", seed=4)
    assert not torch.equal(other[0, 0][0], reference[0, 0][0])
    keys = [(0, 0), (0, 1), (5, 0), (5, 0, 1)]
    expected = [reference[key] for key in keys]
    before = ds.arrays(0)[0].copy()
    copy = pickle.loads(pickle.dumps(ds))  # as for a spawned worker
    for pair in source.train:
        pair.image.unlink()
    for _ in range(2):
        assert same([ds[key] for key in keys], expected)
        assert same([copy[key] for key in keys], expected)
    assert np.array_equal(ds.arrays(0)[0], before)
    with pytest.raises(FileNotFoundError, match=source.train[0].image.name):
        reference[0]


@pytest.mark.parametrize("cached", [True, False])
def test_same_batches_for_any_number_of_workers(source, cached, monkeypatch):
    alone, val = make_loaders(source, SIZE, 4, "strong", seed=7, workers=0)
    if not cached:
        monkeypatch.setattr("unetlib.data.dataset.MEMORY_BYTES", 0)
    many, val_many = make_loaders(source, SIZE, 4, "strong", seed=7, workers=2)
    first = batches(alone, 0)
    assert same(first, batches(many, 0))
    second = batches(alone)  # each pass is the next epoch
    assert same(second, batches(many, 1))  # the persistent workers know the epoch
    assert not same(first, second)
    assert same(batches(many, 0), first)
    assert same(batches(val), batches(val_many)) and same(batches(val), batches(val))


def test_batches_are_the_items(source):
    train, val = make_loaders(source, SIZE, 4, "standard", seed=1, workers=0)
    train.sampler.set_epoch(2)
    keys = list(train.sampler)
    for step, (images, masks) in enumerate(batches(train, 2)):
        items = [train.dataset[key] for key in keys[4 * step : 4 * step + 4]]
        assert torch.equal(images, torch.stack([image for image, _ in items]))
        assert torch.equal(masks, torch.stack([mask for _, mask in items]))
    assert sorted(key[1] for key in keys) == list(range(len(source.train)))  # each once
    image, mask = val.dataset.arrays(0)
    images, masks = next(iter(val))
    assert np.array_equal(images[0], to_array(image, val.dataset.preprocess))
    assert torch.equal(masks[0, 0], torch.from_numpy(mask / np.float32(255)))


def test_the_last_batch(source, make_pairs, tmp_path):
    n = len(source.train)
    for size, expected in ((1000, [n]), (n - 1, [n - 1]), (n, [n]), (1, [1] * n)):
        train, val = make_loaders(source, SIZE, size, workers=0)
        assert [len(x) for x, _ in train] == expected
        assert sum(len(x) for x, _ in val) == len(source.val)
    one = open_source("folder", make_pairs(["only"], tmp_path / "one"), val_fraction=0)
    train, val = make_loaders(one, SIZE, 16, workers=0)
    (image, mask), *rest = train
    assert image.shape == (1, 3, *SIZE) and mask.shape == (1, 1, *SIZE) and rest == []
    assert val is None


def test_bad_arguments_and_a_damaged_file_are_named_before_training_starts(source):
    with pytest.raises(ValueError, match="batch_size"):
        make_loaders(source, SIZE, batch_size=0)
    with pytest.raises(ValueError, match="augment: 'wild' is not one of"):
        make_loaders(source, SIZE, augment="wild")
    victim = source.train[3].image
    victim.write_bytes(victim.read_bytes()[:300])
    with pytest.raises(ImageError, match=victim.name):
        make_loaders(source, SIZE, 4, workers=2)


# --- how often photos come


def order_of(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert {key[0] for key in keys} == {epoch}
    assert len(set(keys)) == len(keys) == len(sampler)  # never twice with the same random numbers
    return [key[1] for key in keys]


@given(some_weights, st.integers(0, 3), st.integers(0, 2**40))
def test_each_comes_its_expected_number_of_times_rounded(weights, epoch, seed):
    sampler = EpochSampler(np.array(weights), seed)
    found = np.bincount(order_of(sampler, epoch), minlength=len(weights))
    expected = np.array(weights) / np.sum(weights) * len(weights)
    assert (np.floor(expected - 1e-9) <= found).all() and (found <= np.ceil(expected + 1e-9)).all()
    assert order_of(sampler, epoch) == order_of(EpochSampler(np.array(weights), seed), epoch)


def test_a_set_whose_masks_are_empty_is_refused(tmp_path, photo):
    for name, values in {"labels": [0, 2], "deep": [0, 255], "black": [0, 0]}.items():
        folder, kind = tmp_path / name, np.uint16 if name == "deep" else np.uint8
        (folder / "images").mkdir(parents=True), (folder / "masks").mkdir()
        for i in range(6):
            Image.fromarray(photo(20, 20, i)).save(folder / "images" / f"{i}.png")
            Image.fromarray(np.repeat(kind([values] * 20), 10, 1)).save(
                folder / "masks" / f"{i}.png"
            )
        for spec in (f"folder:{folder}", f"backgrounds:{folder}/images + folder:{folder}"):
            message = rf"no mask of folder has.*{name}.*mask_kind=labels"
            with pytest.raises(DataError, match=message):
                make_loaders(open_source(spec), SIZE, workers=0)
    train, _ = make_loaders(open_source(f"folder:{tmp_path}/labels?mask_kind=labels"), SIZE)
    assert next(iter(train))[1].max() == 1
    make_loaders(open_source(f"backgrounds:{tmp_path}/black/images"), SIZE)


def test_classes_come_equally_often(tmp_path):
    tags = [("hair",), (), ("hair", "glass"), ("glass", "hair"), (), ()]
    pairs = []
    for i, share in enumerate([10, 19, 25, 45, 55, 60]):  # fifths end at 20, 30, 40, 50
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.uint8([[255] * share + [0] * (100 - share)] * 10)).save(path)
        facts = {"tags": tags[i], "source": "ab"[i > 1], "weight": 1 + (i == 1)}
        pairs.append(Pair(str(i), path, path, **facts))

    def weights(sampling):
        return [pair.weight for pair in balance(pairs, sampling)]

    np.testing.assert_array_equal(weights("uniform"), [1, 2, 1, 1, 1, 1])
    np.testing.assert_allclose(weights("source"), [1 / 3, 2 / 3, 1 / 4, 1 / 4, 1 / 4, 1 / 4])
    np.testing.assert_allclose(weights("tags"), [1, 2 / 4, 1 / 2, 1 / 2, 1 / 4, 1 / 4])
    np.testing.assert_allclose(weights("foreground"), [1 / 3, 2 / 3, 1, 1, 1 / 2, 1 / 2])


# --- cut-outs over backgrounds


def corner(image: np.ndarray) -> str:
    """The background that is seen in the corner."""
    return next((n for n, c in COLOURS.items() if np.array_equal(image[0, 0], c)), "none of them")


@pytest.fixture
def cutouts(tmp_path) -> list[Pair]:
    """Three times two figures, soft ellipses: each figure before each background."""
    pairs, y, x = [], *np.mgrid[:64, :64] / 64 - 0.5
    for name, colour in COLOURS.items():
        Image.new("RGB", (60, 40), colour).save(tmp_path / f"{name}.png")
    for number in range(2):
        rgba = np.full((64, 64, 4), 255, np.uint8)
        far = np.hypot(y * (1 + number / 2), x)
        rgba[..., 3] = np.clip((0.35 - far) * 2500, 0, 255)
        rgba[rgba[..., 3] == 0, :3] = 0
        image = tmp_path / f"cut{number}.png"
        Image.fromarray(rgba).save(image)
        pairs += [
            CutOutPair(f"{number}~{name}", image, image, background=tmp_path / f"{name}.png")
            for name in COLOURS
        ]
    return pairs


def test_a_cutout_is_laid_over_its_background(cutouts):
    plain = PairDataset(cutouts, Preprocess(32))
    for index, name in enumerate([*COLOURS] * 2):
        image, mask = plain.arrays(index)
        assert corner(image) == name and (image[16, 16] == 255).all()
        assert mask[16, 16] == 255 and mask[0, 0] == 0
        alpha = mask[..., None] / 255  # white over the colour: no dark fringe in the edge
        expected = alpha * 255 + (1 - alpha) * COLOURS[name]
        assert np.abs(image - expected).max() <= 2
    # a photo with nothing in front
    pairs = [Pair("empty", cutouts[1].background, None), cutouts[0]]
    image, mask = PairDataset(pairs, Preprocess(32)).arrays(0)
    assert corner(image) == "green" and not mask.any()
    augmented = PairDataset(pairs, Preprocess(32), "standard")
    assert not any(augmented[(epoch, 0)][1].any() for epoch in range(5))
