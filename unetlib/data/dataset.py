"""Pairs as tensors: decoded once, augmented every epoch, the same for any number of workers."""

import os
import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from unetlib.data.augment import PASTE_SHARE, build_augmentation, paste
from unetlib.data.images import Preprocess, image_size, load_image, load_mask, resize, to_tensor
from unetlib.data.pairs import DataError, Pair, Source, check_shape

CACHE_BYTES = 1_000_000_000


class PairDataset(Dataset):
    """`ds[i]` or `ds[(epoch, i)]` -> image float32 (3, H, W) normalised, mask float32 (1, H, W) in
    [0, 1]. The mask is the soft matte; losses and metrics decide where to cut it.

    Decoded pairs are kept at preprocess.size as 8 bit when they fit (cache "auto": up to 1 GB; or
    True / False). The random numbers of an augmentation depend on (seed, epoch, i) alone. A file
    that cannot be decoded raises ImageError with its name.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        preprocess: Preprocess,
        augment: str = "none",
        seed: int = 0,
        cache: bool | str = "auto",
    ):
        self.pairs = tuple(pairs)
        self.preprocess = preprocess
        self.augment = augment
        self.seed = seed
        h, w = preprocess.size
        self.cached = len(self.pairs) * h * w * 4 <= CACHE_BYTES if cache == "auto" else bool(cache)
        self._store = np.empty((len(self.pairs), h, w, 4), np.uint8) if self.cached else None
        self._stored = np.zeros(len(self.pairs), bool)
        self._compose = None if augment == "none" else build_augmentation(augment, preprocess.size)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]  # negative indices, IndexError
        image, mask = self.arrays(index)
        if self._compose is not None:
            # One generator for all steps. Compose.set_random_seed would give each step the same
            # numbers, and then a photo would be blurred only when it is mirrored too.
            draw = np.random.default_rng((self.seed, epoch, index))
            self._compose.set_random_state(draw, random.Random(int(draw.integers(2**62))))
            image, mask = self._augmented(image, mask)
            if draw.random() < PASTE_SHARE.get(self.augment, 0):
                other = self.arrays(int(draw.integers(len(self))))
                image, mask = paste(*self._augmented(*other), image, mask)
        target = torch.from_numpy(mask.astype(np.float32) / 255)
        return to_tensor(image, self.preprocess), target[None]

    def _augmented(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        both = self._compose(image=image, mask=mask)
        return both["image"], both["mask"]

    def arrays(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The pair at preprocess.size before augmentation: uint8 (H, W, 3) and uint8 (H, W)."""
        if self._stored[index]:
            both = self._store[index]
            return np.ascontiguousarray(both[..., :3]), np.ascontiguousarray(both[..., 3])
        image, mask = self._decode(self.pairs[index])
        if self.cached:
            self._store[index, ..., :3], self._store[index, ..., 3] = image, mask
            self._stored[index] = True
        return image, mask

    def preload(self) -> "PairDataset":
        """Fills the cache now (in threads), so that workers share one copy instead of each their
        own, and so that a damaged file is named before training starts and not within it."""
        if self.cached:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                list(pool.map(self.arrays, range(len(self))))
        return self

    def _decode(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        h, w = self.preprocess.size
        width, height = image_size(pair.image)
        # the sides shrink differently: take the larger picture of the two demands
        side = round(max(width, height) * max(w / width, h / height) + 0.5)
        image = np.asarray(load_image(pair.image, max_side=side))
        mask = load_mask(pair.mask, kind=pair.mask_kind)
        check_shape(pair.image, (width, height), pair.mask, mask.shape[::-1])
        mask = resize(mask, self.preprocess.size)
        return resize(image, self.preprocess.size), np.rint(mask * 255).astype(np.uint8)


class SeededSampler(Sampler):
    """Yields (epoch, index), so that workers know the epoch, even those that live on between
    epochs. The order depends on (seed, epoch) alone. Each pass counts as the next epoch, unless
    set_epoch says which one it is."""

    def __init__(self, n: int, seed: int = 0, shuffle: bool = True):
        self.n, self.seed, self.shuffle, self.epoch = n, seed, shuffle, 0

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = np.arange(self.n)
        if self.shuffle:
            np.random.default_rng((self.seed, epoch)).shuffle(order)
        return iter([(epoch, int(i)) for i in order])

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def default_workers(device_type: str = "cpu", n: int = 0, cached: bool = True) -> int:
    """How many loader processes pay. None on Windows and in notebooks on macOS, where starting
    them costs more than they bring and needs a `__main__` guard; none where a CPU does the training
    too and pictures come from memory: they would only compete for the same cores."""
    in_notebook = "ipykernel" in sys.modules
    if sys.platform == "win32" or (sys.platform == "darwin" and in_notebook):
        return 0
    if (cached and device_type == "cpu") or n < 32:
        return 0
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux: the cores that this process may use
        cores = len(os.sched_getaffinity(0))
    return 0 if cores == 1 else min(cores, 8)


def make_loaders(
    source: Source,
    size: int | tuple[int, int] = 128,
    batch_size: int = 16,
    augment: str = "standard",
    seed: int = 0,
    workers: int | None = None,
) -> tuple[DataLoader, DataLoader | None]:
    """(train_loader, val_loader) of (N, 3, H, W) and (N, 1, H, W) float32 batches; val_loader is
    None without val pairs. The last train batch is dropped when there are several (one left-over
    image alone would upset batch norm), never when it is the only one. `workers` None or -1: see
    default_workers. A batch is the same whatever the number of workers."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not source.train:
        raise DataError(f"{source.name}: no training pairs in {source.root}")
    preprocess = Preprocess(size)
    train = PairDataset(source.train, preprocess, augment, seed).preload()
    sampler = SeededSampler(len(train), seed)
    loader = _loader(train, batch_size, workers, sampler, drop_last=len(train) > batch_size)
    if not source.val:
        return loader, None
    val = PairDataset(source.val, preprocess).preload()
    return loader, _loader(val, batch_size, workers, None, drop_last=False)


def _loader(dataset, batch_size, workers, sampler, drop_last) -> DataLoader:
    cuda = torch.cuda.is_available()
    if workers is None or workers < 0:
        workers = default_workers("cuda" if cuda else "cpu", len(dataset), dataset.cached)
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        drop_last=drop_last,
        pin_memory=cuda,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread if workers else None,
    )


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)  # a forked OpenCV thread pool can hang, and workers are the parallelism
    torch.set_num_threads(1)
