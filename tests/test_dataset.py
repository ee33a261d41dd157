"""Tensors from pairs: right values, the same for any number of workers, small and odd sets."""

import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from unetlib.data import (
    DataError,
    ImageError,
    PairDataset,
    Preprocess,
    SeededSampler,
    default_workers,
    make_loaders,
    match_pairs,
    open_source,
)

SIZE = (16, 24)


@pytest.fixture
def source(make_pairs):
    return open_source("folder", make_pairs([f"p{i}" for i in range(20)]))


def batches(loader, epoch=None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    if epoch is not None:
        loader.sampler.set_epoch(epoch)
    return list(loader)


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


@pytest.mark.parametrize("cache", [True, False, "auto"])
def test_cache_changes_nothing(source, cache):
    ds = PairDataset(source.train, Preprocess(SIZE), "strong", seed=3, cache=cache)
    reference = PairDataset(source.train, Preprocess(SIZE), "strong", seed=3, cache=False)
    assert ds.cached == (cache is not False)
    for _ in range(2):  # decoded, then from memory
        for key in [(0, 0), (0, 1), (5, 0)]:
            assert all(torch.equal(a, b) for a, b in zip(ds[key], reference[key], strict=True))
    before = ds.arrays(0)[0].copy()
    for epoch in range(20):
        ds[(epoch, 0)]
    assert np.array_equal(ds.arrays(0)[0], before)


def test_auto_cache_respects_its_limit(source, monkeypatch):
    need = len(source.train) * SIZE[0] * SIZE[1] * 4
    for limit, cached in ((need, True), (need - 1, False)):
        monkeypatch.setattr("unetlib.data.dataset.CACHE_BYTES", limit)
        assert PairDataset(source.train, Preprocess(SIZE)).cached is cached


def test_augmentation_depends_on_seed_epoch_and_index_alone(source):
    def item(seed, epoch, index=0):
        return PairDataset(source.train, Preprocess(SIZE), "strong", seed)[(epoch, index)][0]

    ds = PairDataset(source.train, Preprocess(SIZE), "strong", 1)
    [ds[(e, i)] for e in range(3) for i in range(4)]  # history must not matter
    assert torch.equal(ds[(2, 0)][0], item(1, 2))
    assert not torch.equal(item(1, 2), item(1, 3))
    assert not torch.equal(item(1, 2), item(2, 2))


@pytest.mark.parametrize("spawn", [False, True])
def test_same_batches_for_any_number_of_workers(source, spawn):
    if spawn and sys.platform != "linux":
        pytest.skip("spawn is the default here, the other case tests it")
    alone, val = make_loaders(source, SIZE, 4, "strong", seed=7, workers=0)
    many, val_many = make_loaders(source, SIZE, 4, "strong", seed=7, workers=1 if spawn else 2)
    if spawn:
        many.multiprocessing_context = "spawn"
    first = batches(alone, 0)
    assert same(first, batches(many, 0))
    second = batches(alone, 1)
    assert same(second, batches(many, 1))  # the persistent workers know the epoch
    assert not same(first, second)
    assert same(batches(many, 0), first)
    if not spawn:
        assert same(batches(val), batches(val_many)) and same(batches(val), batches(val))


def test_sampler_is_a_permutation_per_epoch():
    sampler = SeededSampler(50, seed=4)
    first, second = list(sampler), list(sampler)
    assert sorted(i for _, i in first) == list(range(50)) == sorted(i for _, i in second)
    assert {e for e, _ in first} == {0} and {e for e, _ in second} == {1}
    assert [i for _, i in first] != [i for _, i in second]
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert [i for _, i in SeededSampler(50, 5)] != [i for _, i in first]
    assert list(SeededSampler(3, shuffle=False)) == [(0, 0), (0, 1), (0, 2)]


def test_batch_larger_than_the_set(source):
    train, val = make_loaders(source, SIZE, batch_size=1000, workers=0)
    assert [len(x) for x, _ in train] == [len(source.train)]
    assert [len(x) for x, _ in val] == [len(source.val)]


def test_no_train_batch_of_one_is_left_over(source):
    n = len(source.train)
    train, val = make_loaders(source, SIZE, batch_size=n - 1, workers=0)
    assert [len(x) for x, _ in train] == [n - 1]
    train, val = make_loaders(source, SIZE, batch_size=1, workers=0)
    assert len(train) == n and sum(len(x) for x, _ in val) == len(source.val)


def test_one_image(make_pairs):
    source = open_source("folder", make_pairs(["only"]), val_fraction=0)
    train, val = make_loaders(source, SIZE, batch_size=16, workers=0)
    (image, mask), *rest = train
    assert image.shape == (1, 3, *SIZE) and mask.shape == (1, 1, *SIZE) and rest == []
    assert val is None


@pytest.mark.parametrize("value", [0, 255])
def test_all_black_and_all_white_masks(make_pairs, value):
    root = make_pairs(["a"])
    Image.new("L", (32, 24), value).save(root / "masks" / "a.png")
    pairs, _ = match_pairs(root / "images", root / "masks")
    for augment in ("none", "standard", "strong"):
        _, mask = PairDataset(pairs, Preprocess(SIZE), augment)[(3, 0)]
        assert (mask == value / 255).all()


def test_mask_of_another_size_is_resized(make_pairs):
    root = make_pairs(["a"], height=240, width=320)
    big = PairDataset(match_pairs(root / "images", root / "masks")[0], Preprocess(SIZE))[0][1]
    mask = Image.open(root / "masks" / "a.png").resize((160, 120), Image.BOX)
    mask.save(root / "masks" / "a.png")
    small = PairDataset(match_pairs(root / "images", root / "masks")[0], Preprocess(SIZE))[0][1]
    assert (big - small).abs().max() < 0.03


def test_reduced_decoding_gives_nearly_the_same_picture(make_pairs, photo):
    root = make_pairs(["a"])
    Image.fromarray(photo(960, 1280)).save(root / "images" / "a.jpg", quality=95)
    pairs, _ = match_pairs(root / "images", root / "masks")
    image = PairDataset(pairs, Preprocess((96, 128))).arrays(0)[0]
    full = np.asarray(Image.open(root / "images" / "a.jpg").resize((128, 96), Image.BOX))
    assert np.abs(image.astype(int) - full).mean() < 1.5


@pytest.mark.parametrize("workers", [0, 1])
def test_file_damaged_after_opening_is_named(source, workers, monkeypatch):
    victim = source.train[3].image
    victim.write_bytes(victim.read_bytes()[:300])
    with pytest.raises(ImageError, match=victim.name):
        make_loaders(source, SIZE, 4, workers=workers)  # cached: before training starts
    monkeypatch.setattr("unetlib.data.dataset.CACHE_BYTES", 0)
    train, _ = make_loaders(source, SIZE, 4, workers=workers)
    with pytest.raises(ImageError, match=victim.name):
        list(train)


def test_mask_replaced_after_opening_by_one_of_another_shape(source):
    Image.new("L", (50, 50)).save(source.train[0].mask)
    with pytest.raises(DataError, match="another shape") as error:
        PairDataset(source.train, Preprocess(SIZE))[0]
    assert source.train[0].image.name in str(error.value)


def test_dataset_pickles_for_spawned_workers(source):
    ds = PairDataset(source.train, Preprocess(SIZE), "strong", 2).preload()
    copy = pickle.loads(pickle.dumps(ds))
    assert all(torch.equal(a, b) for a, b in zip(ds[(1, 2)], copy[(1, 2)], strict=True))


def test_bad_arguments(source):
    with pytest.raises(ValueError, match="batch_size"):
        make_loaders(source, SIZE, batch_size=0)
    with pytest.raises(ValueError, match="augmentation 'wild'"):
        make_loaders(source, SIZE, augment="wild")
    empty = type(source)("folder", source.root, (), ())
    with pytest.raises(DataError, match="no training pairs"):
        make_loaders(empty)


@pytest.mark.parametrize(
    "platform, notebook, device, n, cached, expected",
    [
        ("win32", False, "cuda", 1000, False, 0),
        ("darwin", True, "mps", 1000, False, 0),
        ("darwin", False, "mps", 1000, False, 4),
        ("linux", True, "cuda", 1000, True, 4),
        ("linux", False, "cpu", 1000, True, 0),
        ("linux", False, "cpu", 1000, False, 4),
        ("linux", False, "cuda", 5, True, 0),
    ],
)
def test_default_workers(monkeypatch, platform, notebook, device, n, cached, expected):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert default_workers(device, n, cached) == expected


def test_real_photos_load(real_data):
    for name, folder in (("folder", "people"), ("pennfudan", "PennFudanPed")):
        source = open_source(name, real_data / folder)
        train, val = make_loaders(source, 64, 16, "standard", workers=0)
        image, mask = next(iter(train))
        assert image.shape == (16, 3, 64, 64) and mask.shape == (16, 1, 64, 64)
        assert 0.02 < mask.mean() < 0.8 and len(val.dataset) == len(source.val)
