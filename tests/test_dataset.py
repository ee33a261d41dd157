"""Tensors from pairs: right values, the same for any number of workers, small and odd sets."""

import os
import pickle
import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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
    to_tensor,
)
from unetlib.data.augment import build_augmentation, split_augmentation
from unetlib.data.batches import MOST_PIECES, ByteBatch

SIZE = (16, 24)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))


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


@pytest.mark.parametrize("cache", ["memory", "disk", "auto"])
def test_cache_changes_nothing(source, cache):
    ds = PairDataset(source.train, Preprocess(SIZE), "strong", seed=3, cache=cache)
    reference = PairDataset(source.train, Preprocess(SIZE), "strong", seed=3, cache="none")
    assert ds.cached and not reference.cached
    for _ in range(2):  # decoded, then from the cache
        for key in [(0, 0), (0, 1), (5, 0)]:
            assert all(torch.equal(a, b) for a, b in zip(ds[key], reference[key], strict=True))
    before = ds.arrays(0)[0].copy()
    for epoch in range(20):
        ds[(epoch, 0)]
    assert np.array_equal(ds.arrays(0)[0], before)


def test_auto_cache_respects_its_limit(source, monkeypatch, tmp_path):
    need = len(source.train) * SIZE[0] * SIZE[1] * 4
    rest = len(source.val) * SIZE[0] * SIZE[1] * 4
    folder = tmp_path / "cache" / "decoded"
    monkeypatch.setattr("unetlib.data.cache.MEMORY_BYTES", need)
    assert PairDataset(source.train, Preprocess(SIZE)).cached and not folder.exists()
    monkeypatch.setattr("unetlib.data.cache.MEMORY_BYTES", need + rest)
    make_loaders(source, SIZE, workers=0)
    assert not folder.exists()
    monkeypatch.setattr("unetlib.data.cache.MEMORY_BYTES", need + rest - 1)  # train and val count
    make_loaders(source, SIZE, workers=0)
    assert os.listdir(folder)
    monkeypatch.setattr("unetlib.data.cache.MEMORY_BYTES", need - 1)
    assert PairDataset(source.train, Preprocess((8, 96))).cached and len(os.listdir(folder)) == 3


def test_name_is_the_file(source):
    ds = PairDataset(source.train, Preprocess(SIZE))
    assert [ds.name(i) for i in range(len(ds))] == [str(p.image) for p in source.train]


@pytest.mark.parametrize("preset", ["light", "standard", "strong"])
def test_photo_and_mask_as_one_array_are_augmented_as_two_are(preset, photo, disc):
    """What moves pixels is applied to four channels at once; a Compose of the same steps with
    image and mask apart is the reference."""
    image, mask = photo(48, 64), disc(48, 64)
    moves, colours = split_augmentation(preset, (48, 64))
    together = build_augmentation(preset, (48, 64))
    assert [type(t) for t in [*moves, *colours]] == [type(t) for t in together]
    together.transforms = together.transforms[: len(moves)]
    moved = 0
    for seed in range(40):
        out = []
        for compose, args in ((together, {"mask": mask}), (moves, {})):
            compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
            first = image if args else np.dstack([image, mask])
            out.append(compose(image=first, **args))
        assert np.array_equal(out[1]["image"], np.dstack([out[0]["image"], out[0]["mask"]]))
        moved += not np.array_equal(out[0]["image"], image)
        colours.set_random_state(np.random.default_rng(seed), random.Random(seed))
        again = colours(image=image, mask=mask)
        assert np.array_equal(again["mask"], mask)
    assert moved > 15


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


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_same_batches_for_any_cache(source, cache):
    reference, _ = make_loaders(source, SIZE, 4, "strong", seed=7, workers=0, cache="memory")
    other, _ = make_loaders(source, SIZE, 4, "strong", seed=7, workers=2, cache=cache)
    assert same(batches(reference, 3), batches(other, 3))


def test_batches_are_the_items(source):
    train, val = make_loaders(source, SIZE, 4, "standard", seed=1, workers=0)
    for (images, masks), step in zip(batches(train, 2), range(len(train)), strict=True):
        indices = train.sampler.batch_indices(2, step, 4)
        items = [train.dataset[(2, i)] for i in indices]
        assert torch.equal(images, torch.stack([image for image, _ in items]))
        assert torch.equal(masks, torch.stack([mask for _, mask in items]))
    image, mask = val.dataset.arrays(0)
    assert torch.equal(next(iter(val))[0][0], to_tensor(image, val.dataset.preprocess))
    assert torch.equal(next(iter(val))[1][0, 0], torch.from_numpy(mask / np.float32(255)))
    plain = PairDataset(source.train, Preprocess(SIZE))  # with a loader of one's own
    images, masks = next(iter(torch.utils.data.DataLoader(plain, 3)))
    assert images.shape == (3, 3, *SIZE) and masks.shape == (3, 1, *SIZE)


def test_epochs_that_are_broken_off_spoil_nothing(source):
    train, _ = make_loaders(source, SIZE, 2, "strong", seed=7, workers=2)
    reference, _ = make_loaders(source, SIZE, 2, "strong", seed=7, workers=0)
    expected = batches(reference, 1)
    for stop in range(1, 7):  # more than there are pieces of shared memory
        train.sampler.set_epoch(1)
        for step, batch in enumerate(train, 1):
            assert same([batch], expected[step - 1 : step])
            if step == stop:
                break
    assert same(batches(train, 1), expected)


def test_shared_memory_is_filled_again_once_it_was_read(monkeypatch, photo, disc):
    monkeypatch.setattr("unetlib.data.batches.get_worker_info", lambda: "a worker")
    monkeypatch.setattr("unetlib.data.batches._pieces", [])
    preprocess = Preprocess(SIZE)

    def batch(seed, n=2):
        made = ByteBatch.empty(n, preprocess)
        images, masks = made.arrays()
        images[:], masks[:] = photo(*SIZE, seed), disc(*SIZE)
        return made

    first = batch(1)
    second = batch(2)  # the first is still on its way
    image, mask = first.tensors()
    assert batch(3, n=1).memory.data_ptr() == first.memory.data_ptr() != second.memory.data_ptr()
    for read, seed in (((image, mask), 1), (second.tensors(), 2)):
        assert torch.equal(read[0], torch.stack([to_tensor(photo(*SIZE, seed), preprocess)] * 2))
        assert torch.equal(read[1][1, 0], torch.from_numpy(disc(*SIZE) / np.float32(255)))
    on_the_way = [batch(seed) for seed in range(12)]
    assert len({b.memory.data_ptr() for b in on_the_way}) == 12
    assert sum(b.memory.is_shared() for b in on_the_way) == MOST_PIECES - 1
    for seed, made in enumerate(on_the_way):
        assert torch.equal(made.tensors()[0][0], to_tensor(photo(*SIZE, seed), preprocess))


def test_a_batch_is_pinned_as_a_whole(monkeypatch):
    """What DataLoader does with a batch before a GPU gets it, as far as that goes without one."""
    monkeypatch.setattr(ByteBatch, "tensors", lambda self, pin=False: f"pinned: {pin}")
    batch = ByteBatch.empty(1, Preprocess(SIZE))
    assert torch.utils.data._utils.pin_memory.pin_memory(batch) == "pinned: True"


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


def chunks(indices: list, size: int) -> list[list]:
    return [indices[i : i + size] for i in range(0, len(indices), size)]


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 5), st.integers(0, 3), st.booleans())
def test_ranks_together_see_the_batches_of_one_process(n, batch_size, world, epoch, shuffle):
    def own(rank, world, size):
        sampler = SeededSampler(n, 9, shuffle, rank, world, size)
        sampler.set_epoch(epoch)
        indices = [index for e, index in sampler if e == epoch]
        assert len(indices) == len(sampler)
        return chunks(indices, size)

    whole = own(0, 1, batch_size * world)
    parts = [own(rank, world, batch_size) for rank in range(world)]
    if shuffle:
        full = n // (batch_size * world)
        assert [len(p) for p in parts] == [full if world > 1 else max(1, full)] * world
        if world > 1:
            whole = [batch for batch in whole if len(batch) == batch_size * world]
    for step, batch in enumerate(whole):
        joined = [index for part in parts for index in (part[step] if step < len(part) else [])]
        assert joined == batch
    seen = [index for part in parts for batch in part for index in batch]
    assert len(set(seen)) == len(seen) == sum(map(len, whole))
    if not shuffle:
        assert sorted(seen) == list(range(n))
    for rank, part in enumerate(parts):
        sampler = SeededSampler(n, 9, shuffle, rank, world, batch_size)
        found = [sampler.batch_indices(epoch, step, batch_size) for step in range(len(part))]
        assert found == part


def test_sampler_goes_on_in_the_middle_of_an_epoch(source):
    train, _ = make_loaders(source, SIZE, 4, "standard", seed=7, workers=0)
    whole = batches(train, 1)
    for start in range(len(train) + 1):
        train.sampler.set_epoch(1)
        train.sampler.start = start
        assert same(list(train), whole[start:])
        assert train.sampler.start == 0 and len(train) == len(whole)
    assert len(list(train)) == len(whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_through_loaders(source, workers):
    alone, _ = make_loaders(source, SIZE, 6, "standard", seed=2, workers=workers)
    ranks = [
        make_loaders(source, SIZE, 3, "standard", seed=2, workers=workers, rank=r, world=2)
        for r in range(2)
    ]
    parts = [batches(train, 1) for train, _ in ranks]
    joined = [
        (torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(*parts, strict=True)
    ]
    assert same(joined, batches(alone, 1)) and len(joined) == len(alone) == len(ranks[0][0])
    seen = [image for _, val in ranks for images, _ in val for image in images]
    assert len(seen) == len(source.val)
    assert all(len(list(val)) == len(val) for _, val in ranks)


def test_ranks_that_cannot_be(source):
    for rank, world in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"world={world}, not {rank}"):
            SeededSampler(5, rank=rank, world=world)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        SeededSampler(5, batch_size=0)
    with pytest.raises(DataError, match="do not fill one batch of 16 in each of 2 processes"):
        make_loaders(source, SIZE, 16, rank=0, world=2)


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
def test_file_damaged_after_opening_is_named(source, workers):
    victim = source.train[3].image
    victim.write_bytes(victim.read_bytes()[:300])
    with pytest.raises(ImageError, match=victim.name):
        make_loaders(source, SIZE, 4, workers=workers)  # cached: before training starts
    with pytest.raises(ImageError, match=victim.name):
        make_loaders(source, SIZE, 4, workers=workers, cache="disk")
    train, _ = make_loaders(source, SIZE, 4, workers=workers, cache="none")
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
