"""Photos on disk to augmented tensors: this project's loaders against Pillow and Albumentations.

    python tests/benchmarks/loading_speed.py [--count 1000] [--workers 2] [--size 256] [--rounds 3]

The baseline is what good tutorials show: Pillow decodes both files in full, the mask becomes a
float, Albumentations resizes both, applies the same preset and normalises. Both sides have the same
workers and batch size, and take turns; the median round counts. "first epoch" holds everything from
the files on: building the cache on disk, starting the workers, one epoch.

At the end, `unet_small` is trained on some of the photos, to see how long it waits for them.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from unetlib.data import Source, make_loaders, open_source
from unetlib.data.augment import build_augmentation
from unetlib.models import build_model
from unetlib.training import TrainConfig, fit

HEIGHT, WIDTH = 600, 800


class Textbook(Dataset):
    def __init__(self, pairs, size: int):
        self.pairs = pairs
        preset = build_augmentation("standard", (size, size)).transforms
        self.transform = A.Compose([A.Resize(size, size), *preset, A.Normalize(), ToTensorV2()])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = np.array(Image.open(self.pairs[index].image).convert("RGB"))
        mask = np.array(Image.open(self.pairs[index].mask).convert("L"), dtype=np.float32) / 255
        both = self.transform(image=image, mask=mask)
        return both["image"], both["mask"].unsqueeze(0)


def write_photos(folder: Path, count: int) -> None:
    """JPEGs of about 130 kB and PNG masks of standing ellipses, as of street photos."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for number in range(count):
        rng = np.random.default_rng(number)
        photo = np.full((HEIGHT, WIDTH, 3), 128, np.float32)
        for cells, strength in ((4, 60), (16, 35), (64, 20), (200, 8)):
            coarse = rng.standard_normal((cells, cells, 3)).astype(np.float32) * strength
            photo += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        for _ in range(rng.integers(1, 5)):
            cx, cy = rng.uniform(0.15, 0.85) * WIDTH, rng.uniform(0.3, 0.7) * HEIGHT
            a, b = rng.uniform(25, 70), rng.uniform(100, 200)
            mask[((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1] = 255
        photo = np.clip(photo, 0, 255).astype(np.uint8)
        Image.fromarray(photo).save(folder / "images" / f"{number}.jpg", quality=85)
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")


def pass_over(loader) -> tuple[int, float]:
    """(photos, seconds) of one epoch."""
    start = time.perf_counter()
    photos = sum(len(image) for image, _ in loader)
    return photos, time.perf_counter() - start


def compare(source: Source, caches: Path, options) -> None:
    rates: dict[str, list[float]] = {"Pillow": [], "first epoch": [], "from the cache": []}
    for number in range(options.rounds):
        textbook = DataLoader(
            Textbook(source.train, options.size),
            options.batch,
            shuffle=True,
            drop_last=True,
            num_workers=options.workers,
        )
        photos, seconds = pass_over(textbook)
        rates["Pillow"].append(photos / seconds)

        start = time.perf_counter()
        ours, _ = make_loaders(
            source,
            options.size,
            options.batch,
            workers=options.workers,
            cache="disk",
            cache_dir=caches / str(number),
        )
        photos, _ = pass_over(ours)
        rates["first epoch"].append(photos / (time.perf_counter() - start))
        photos, seconds = pass_over(ours)
        rates["from the cache"].append(photos / seconds)
        del ours  # ends its workers
    base = statistics.median(rates["Pillow"])
    for name, values in rates.items():
        rate = statistics.median(values)
        print(f"  {name:15} {rate:7.0f} photos/s   {rate / base:5.2f} x")


def wait_for_data(source: Source, caches: Path, options) -> None:
    few = replace(source, train=source.train[: options.train])
    for cache in ("disk", "none"):
        loader, _ = make_loaders(few, options.size, 8, cache=cache, cache_dir=caches / "train")
        config = TrainConfig(epochs=1)
        timing = fit(build_model("unet_small"), loader, config=config, progress=False).timings[-1]
        print(
            f"  unet_small, cache {cache:5} {timing['images_per_second']:7.1f} photos/s   "
            f"{timing['data_wait']:6.1%} of the time waiting for data"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", type=int, default=64, help="photos to train on, 0 for none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_photos(folder / "set", options.count)
        source = open_source("folder", folder / "set", val_fraction=0)
        print(
            f"{options.count} photos of {WIDTH} x {HEIGHT} to {options.size} x {options.size}, "
            f"batches of {options.batch}, {options.workers} workers:"
        )
        compare(source, folder, options)
        if options.train:
            wait_for_data(source, folder, options)


if __name__ == "__main__":
    main()
