"""Pairs as tensors: decoded once, augmented every epoch, the same for any number of workers."""

import math
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import trange

from unetlib.data import pairs as pairing
from unetlib.data.augment import build_augmentation, paste
from unetlib.data.images import resize
from unetlib.data.pairs import DataError, Pair, Source
from unetlib.data.preprocess import Preprocess, to_array
from unetlib.data.synthetic import write_synthetic
from unetlib.paths import resolve

MEMORY_BYTES = 2_000_000_000  # so much is kept decoded: 7600 photos of 256 x 256
PASTED = 0.5  # how many samples of "strong" get another photo's figure pasted in


def open_dataset(folder: str | Path, count: int = 800, size: int = 96, seed: int = 0) -> Source:
    """Train and val pairs for the course: those of images/ and masks/ in a folder, or in train/ and
    val/ of it. Where there is no photo yet, `count` drawings of `size` pixels are made first.
    Raises DataError for folders of other names, and says how to copy them into these."""
    root, name = resolve(folder), "folder"
    if (root / "synthetic.json").is_file() or not pairing.image_files(root, []):
        root, name = write_synthetic(root, count, size, seed), "synthetic"
    divided = (root / "train").is_dir()
    sides, skipped = [], []
    for side in (root / "train", root / "val") if divided else (root,):
        files = [pairing.image_files(side / kind, skipped) for kind in ("images", "masks")]
        pairs, unused = pairing.match_pairs(*files)
        sides.append(pairs)
        skipped += unused
    others = any((root / name).exists() for name in ("manifest.csv", "images/train", "images/val"))
    if not all(sides) or (others and not divided):
        wanted = "images/ and masks/ (no manifest.csv) or train/ and val/ with both are expected"
        advice = f'`unetlib prepare "folder:{root}" --into FOLDER` makes that of other sets'
        raise DataError(f"{root}: {wanted}. {advice}{pairing.list_skipped(skipped, root)}")
    train, val = sides if divided else pairing.split_pairs(*sides, seed=seed)
    return pairing.join(name, root, train, val, skipped)


class PairDataset(Dataset):
    """`ds[i]` or `ds[(epoch, i)]` -> image float32 (3, H, W) normalised, mask float32 (1, H, W) in
    [0, 1]. Random numbers depend on (seed, epoch, i, ...) alone: a photo that comes several times
    in an epoch as (epoch, i, 1), (epoch, i, 2), ... looks different each time.

    `weights`: how often each pair is drawn, beside the others. A set that fits into MEMORY_BYTES is
    decoded once. Raises ImageError for a file that cannot be decoded.
    """

    def __init__(self, pairs: Sequence[Pair], preprocess: Preprocess, augment="none", seed=0):
        self.pairs, self.preprocess = tuple(pairs), preprocess
        self.augment, self.seed = augment, seed
        self.cached = len(self.pairs) * math.prod(preprocess.size) * 4 <= MEMORY_BYTES
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._transform = build_augmentation(augment, preprocess.size)
        self._empty = [n for n, pair in enumerate(self.pairs) if pair.mask is None]
        self.weights = np.array([pair.weight for pair in self.pairs], np.float64)

    @property
    def identity(self) -> str:
        """What decides the samples beside (epoch, i), to recognise a training run by."""
        photos = [(pair.id, pair.background and pair.background.name) for pair in self.pairs]
        return repr((photos, self.preprocess, self.augment, self.seed, self.weights.tolist()))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, index, *again = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]  # negative indices, IndexError
        # One generator for all steps. Compose.set_random_seed would give each step the same
        # numbers, and then a photo would be blurred only when it is mirrored too.
        rng = np.random.default_rng((self.seed, epoch, index, *again))
        self._transform.set_random_state(rng, random.Random(int(rng.integers(2**62))))
        image, mask = self._augmented(index)
        if self.augment == "strong" and rng.random() < PASTED:
            if self._empty and rng.random() < 0.5:  # its figure, before surroundings without one
                other = self._empty[rng.integers(len(self._empty))]
                image, mask = paste(image, mask, *self._augmented(other))
            else:
                other = int(rng.integers(len(self)))
                image, mask = paste(*self._augmented(other), image, mask)
        batch = to_array(image, self.preprocess), mask[None] / np.float32(255)
        return tuple(map(torch.from_numpy, batch))

    def arrays(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The pair at preprocess.size before augmentation: uint8 (H, W, 3) and uint8 (H, W)."""
        if index in self._cache:
            return self._cache[index]
        size = self.preprocess.size
        image, matte = self.pairs[index].load(4 * max(size))
        mask = np.rint(resize(matte, size) * 255).astype(np.uint8)
        found = np.ascontiguousarray(resize(image, size)), mask
        if self.cached:
            self._cache[index] = found
        return found

    def _augmented(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = self.arrays(index)
        both = self._transform(image=image, mask=mask)
        return both["image"], both["mask"]


class EpochSampler(Sampler):
    """Yields (epoch, index, how often it came before in it), as many as there are `weights`, each
    index as often as its weight says, rounded up or down (systematic resampling). Depends on (seed,
    epoch) alone; each pass is the next epoch, unless set_epoch says which."""

    def __init__(self, weights: np.ndarray, seed: int = 0):
        self.weights, self.seed, self.epoch = weights, seed, 0

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        rng, n, times = np.random.default_rng((self.seed, epoch)), len(self), Counter()
        # the weights lie end to end; n points at equal distances, the first by chance, fall on them
        ends = np.cumsum(self.weights / self.weights.max())
        points = (rng.random() + np.arange(n)) * (ends[-1] / n)
        order = np.minimum(np.searchsorted(ends, points, side="right"), n - 1)
        rng.shuffle(order)
        for index in order.tolist():
            yield epoch, index, times[index]
            times[index] += 1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def make_loaders(
    source: Source,
    size: int | tuple[int, int] = 96,
    batch_size: int = 8,
    augment: str = "light",
    seed: int = 0,
    workers: int = -1,
) -> tuple[DataLoader, DataLoader | None]:
    """(train_loader, val_loader) of (N, 3, H, W) and (N, 1, H, W) float32 batches; val_loader is
    None without val pairs.

    The last train batch is dropped when it is not full (one image alone would upset batch norm),
    unless it is the only one. `workers`: processes that load; -1: as many as pay. They change no
    batch. Raises DataError where no mask shows anything.
    """
    cv2.setNumThreads(0)  # a forked OpenCV thread pool can hang; photos are decoded side by side
    gpu = torch.cuda.is_available()

    def load(pairs: Sequence[Pair], train: bool) -> DataLoader:
        options = (augment, seed) if train else ("none", seed)
        dataset = PairDataset(pairs, Preprocess(size), *options)
        # into the cache now: workers share it, and a damaged file is named before training starts
        for n in trange(len(pairs) if dataset.cached else 0, desc="decoding", delay=1, leave=False):
            dataset.arrays(n)
        refuse_empty(dataset, source)
        # starting workers costs too much where they are not forked
        pays = (gpu or not dataset.cached) and len(pairs) >= 32 and sys.platform == "linux"
        processes = workers if workers >= 0 else min(os.cpu_count() or 1, 8) * pays
        return DataLoader(
            dataset,
            batch_size,
            sampler=EpochSampler(dataset.weights, seed) if train else None,
            drop_last=train and len(pairs) >= batch_size,
            num_workers=processes,
            pin_memory=gpu,
            persistent_workers=processes > 0,
            multiprocessing_context="fork" if processes and sys.platform == "linux" else None,
        )

    return load(source.train, True), load(source.val, False) if source.val else None


def refuse_empty(dataset: PairDataset, source: Source) -> None:
    """Raises DataError where nothing in the masks of one of the source's sets reaches a half."""
    several = " + " in source.name  # in one, a manifest may name others
    empty = {pair.source * several: pair.mask for pair in dataset.pairs if pair.mask}
    for n, pair in enumerate(dataset.pairs):
        if pair.source * several in empty and (dataset.arrays(n)[1] >= 128).any():
            del empty[pair.source * several]
    for name, path in empty.items():
        advice = "take source 'folder:FOLDER?mask_kind=labels' if all but 0 in them is foreground"
        text = f"no mask of {name or source.name} has a foreground, such as {path}"
        raise DataError(f"{text}; {advice}, 'backgrounds:FOLDER' if there is none in the photos")
