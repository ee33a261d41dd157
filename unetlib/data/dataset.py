"""Pairs as tensors: decoded once, augmented every epoch, the same for any number of workers."""

import functools
import os
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_convert
from tqdm import tqdm

from unetlib.data.augment import PASTE_SHARE, paste, split_augmentation
from unetlib.data.batches import BatchLoader, ByteBatch
from unetlib.data.cache import choose_cache, decode, lay_over, open_cache
from unetlib.data.pairs import DataError, Pair, Source
from unetlib.data.preprocess import Preprocess
from unetlib.data.sampler import SeededSampler, cores, default_workers, sampling_weights


class PairDataset(Dataset):
    """`ds[i]` or `ds[(epoch, i)]` -> image float32 (3, H, W) normalised, mask float32 (1, H, W) in
    [0, 1]. The mask is the soft matte; losses and metrics decide where to cut it. A photo that
    comes several times in an epoch looks different each time: (epoch, i, 1), (epoch, i, 2), ...

    A cut-out is laid over a background: with augmentation over any that the pairs have, chosen and
    moved anew each time, without over its own.

    Decoded pairs are kept at preprocess.size as 8 bit: `cache` "memory", "disk" (in `cache_dir`,
    where a worker writes down what it decodes for all), "none", or "auto", see choose_cache. The
    random numbers of an augmentation depend on (seed, epoch, i) alone. A file that cannot be
    decoded raises ImageError with its name.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        preprocess: Preprocess,
        augment: str = "none",
        seed: int = 0,
        cache: str = "auto",
        cache_dir: str | os.PathLike | None = None,
    ):
        self.pairs = tuple(pairs)
        self.preprocess, self.augment, self.seed = preprocess, augment, seed
        self._moves, self._colours = split_augmentation(augment, preprocess.size)
        self._pictures, self._front, self._behind = _pictures(self.pairs)
        self._backgrounds = np.unique(self._behind[self._behind >= 0])
        self._empty = [n for n, pair in enumerate(self.pairs) if pair.mask is None]
        self._cache = open_cache(self._pictures, preprocess.size, cache, cache_dir)

    @property
    def cached(self) -> bool:
        """Whether every photo is decoded once only."""
        return self._cache is not None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        images, masks = self.batch([key]).tensors()
        return images[0], masks[0]

    def batch(self, keys: Sequence) -> ByteBatch:
        """The items of several keys, before they become float32."""
        batch = ByteBatch.empty(len(keys), self.preprocess)
        images, masks = batch.arrays()
        for place, key in enumerate(keys):
            images[place], masks[place] = self._sample(key)
        return batch

    def name(self, index: int) -> str:
        """The image file of ds[index]."""
        return str(self.pairs[index].image)

    def arrays(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The pair at preprocess.size before augmentation: uint8 (H, W, 3) and uint8 (H, W)."""
        row = self._row(self._front[index])
        if self._behind[index] >= 0:
            row = lay_over(row, self._row(self._behind[index]))
        return _parts(row)

    def foreground_shares(self) -> np.ndarray:
        """The share of foreground in each mask, float64 (n,) in [0, 1]. All are decoded for it,
        unless they were before."""
        return np.array([self._row(index)[..., 3].mean() / 255 for index in self._front])

    def preload(self, rank: int = 0, world: int = 1) -> "PairDataset":
        """Fills the cache now, in threads, so that workers share it and a damaged file is named
        before training starts and not within it. What is done stays done if it is interrupted.
        Of `world` processes that share a disk cache, each starts at another place."""
        try:
            todo = self._cache.missing() if self.cached else []
        except OSError as error:
            self._cache, todo = self._cache.give_up(error), []
        first = len(todo) * rank // world
        todo = todo[first:] + todo[:first]
        blocks = [todo[i : i + 16] for i in range(0, len(todo), 16)]  # not a future for each photo
        bar = tqdm(
            desc="decoding photos",
            total=len(todo),
            delay=1,
            leave=False,
            disable=rank > 0,
            mininterval=0.2 if sys.stderr.isatty() else 3,  # a log keeps every refresh
        )
        with bar:
            for count in _decoders(os.getpid()).map(self._fill, blocks):
                bar.update(count)
        return self

    def _fill(self, indices: list[int]) -> int:
        for index in indices if self.cached else ():
            self._row(index)
        return len(indices)

    def _row(self, index: int) -> np.ndarray:
        cache = self._cache
        row = None if cache is None else cache.read(index)
        if row is None:
            row = decode(self._pictures[index], self.preprocess.size)
            try:
                if cache is not None:
                    cache.write(index, row)
            except OSError as error:
                self._cache = cache.give_up(error)
        return row

    def _sample(self, key: int | tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        epoch, index, *again = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]  # negative indices, IndexError
        if self.augment == "none":
            return self.arrays(index)
        # One generator for all steps. Compose.set_random_seed would give each step the same
        # numbers, and then a photo would be blurred only when it is mirrored too.
        draw = np.random.default_rng((self.seed, epoch, index, *again))
        more = random.Random(int(draw.integers(2**62)))
        for compose in (self._moves, self._colours):
            compose.set_random_state(draw, more)
        image, mask = self._augmented(index, draw)
        if draw.random() < PASTE_SHARE.get(self.augment, 0):
            onto_empty = self._empty and draw.random() < 0.5
            if onto_empty:  # the photo's own figure, before surroundings without one
                other = self._empty[draw.integers(len(self._empty))]
                image, mask = paste(image, mask, *self._augmented(int(other), draw))
            else:
                other = self._augmented(int(draw.integers(len(self))), draw)
                image, mask = paste(*other, image, mask)
        return image, mask

    def _augmented(self, index: int, draw) -> tuple[np.ndarray, np.ndarray]:
        row = self._moves(image=self._row(self._front[index]))["image"]
        if self._behind[index] >= 0:
            behind = self._row(self._backgrounds[draw.integers(len(self._backgrounds))])
            row = lay_over(row, self._moves(image=behind)["image"])
        image, mask = _parts(row)
        return self._colours(image=image)["image"], mask


def _pictures(pairs: Sequence[Pair]) -> tuple[list[Pair], np.ndarray, np.ndarray]:
    """What is decoded for the pairs, each once: see `decode`; and where in it are each pair's photo
    or cut-out, and what is behind it (-1: nothing), both int (n,)."""
    pictures: dict[Pair, int] = {}
    front, behind = places = np.full((2, len(pairs)), -1)
    for n, pair in enumerate(pairs):
        parts, back = [pair], pair.background
        if back:  # whichever it is: the cut-out's row does not depend on it
            alone = Pair(pair.image.name, pair.image, pair.image, background=pair.image)
            parts = [alone, Pair(back.name, back, None, background=back)]
        for row, part in enumerate(parts):
            places[row, n] = pictures.setdefault(part, len(pictures))
    return list(pictures), front, behind


def _parts(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return cv2.cvtColor(row, cv2.COLOR_RGBA2RGB), cv2.extractChannel(row, 3)


class _Batches(PairDataset):
    def __getitems__(self, keys: list) -> ByteBatch:  # the method that DataLoader looks for
        return self.batch(keys)


@functools.cache
def _decoders(_process: int) -> ThreadPoolExecutor:
    """Threads that decode. They are kept: a thread that is just ending may hold one of OpenCV's
    locks, and a worker process forked at that moment would wait for it for ever. One set for each
    process, since a forked one (notebook_launcher's) inherits the set without its threads."""
    return ThreadPoolExecutor(min(8, cores()), thread_name_prefix="decode")


def make_loaders(
    source: Source,
    size: int | tuple[int, int] = 128,
    batch_size: int = 16,
    augment: str = "standard",
    seed: int = 0,
    workers: int | None = None,
    cache: str = "auto",
    cache_dir: str | os.PathLike | None = None,
    rank: int = 0,
    world: int = 1,
    sampling: str = "uniform",
) -> tuple[DataLoader, DataLoader | None]:
    """(train_loader, val_loader) of (N, 3, H, W) and (N, 1, H, W) float32 batches; val_loader is
    None without val pairs. The last train batch is dropped when there are several (one left-over
    image alone would upset batch norm), never when it is the only one. `workers` None or -1: see
    default_workers; `cache`, `cache_dir`: see PairDataset. A batch is the same whatever these are.
    `rank` of `world` processes gets its share, `batch_size` at a time: see SeededSampler.
    `sampling` says which train photos come more often than others: see sampling_weights."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not source.train:
        raise DataError(f"{source.name}: no training pairs in {source.root}")
    if world > 1 and len(source.train) < world * batch_size:
        raise DataError(
            f"{source.name}: {len(source.train)} training pairs do not fill one batch of "
            f"{batch_size} in each of {world} processes; take a smaller batch_size"
        )
    cv2.setNumThreads(0)  # a forked OpenCV thread pool can hang; photos are decoded side by side
    preprocess, cuda, loaders = Preprocess(size), torch.cuda.is_available(), []
    cache = choose_cache(cache, len(source.train) + len(source.val), preprocess.size, cache_dir)
    for pairs, preset, shuffle in ((source.train, augment, True), (source.val, "none", False)):
        dataset = _Batches(pairs, preprocess, preset, seed, cache, cache_dir)
        dataset.preload(rank, world)
        processes = workers
        if workers is None or workers < 0:
            processes = default_workers("cuda" if cuda else "cpu", len(pairs), dataset.cached)
        weights = sampling_weights(pairs, sampling, dataset.foreground_shares) if shuffle else None
        hard = shuffle and sampling == "hard"
        loader = BatchLoader(
            dataset,
            batch_size,
            sampler=SeededSampler(
                len(pairs), seed, shuffle, rank, world, batch_size, weights, hard
            ),
            collate_fn=default_convert,  # leaves a ByteBatch as it is
            num_workers=processes,
            pin_memory=cuda,
            persistent_workers=processes > 0,
            worker_init_fn=_one_thread if processes else None,
        )
        loaders.append(loader)
    return loaders[0], loaders[1] if source.val else None


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)  # workers are the parallelism
    torch.set_num_threads(1)
