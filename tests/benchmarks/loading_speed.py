"""Photos on disk to augmented tensors: this project's loaders against Pillow and Albumentations.

    python tests/benchmarks/loading_speed.py [--count 300] [--workers 2] [--size 256] [--rounds 3]

The baseline is what a good tutorial shows: Pillow decodes both files in full, Albumentations
resizes them, applies the same preset and normalises. Both sides have the same workers and batch
size, and take turns. "first epoch" holds everything from the files on: building the cache, then one
epoch. At the end, `unet_small` is trained for a moment, to see how long it waits for its photos.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from unetlib.data import make_loaders, open_source
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
        mask = np.array(Image.open(self.pairs[index].mask).convert("L"))
        both = self.transform(image=image, mask=mask)
        return both["image"], both["mask"][None].float() / 255


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", type=int, default=32, help="photos to train on; 0: do not")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder) / "set", options.count)
        source = open_source("folder", Path(folder) / "set", val_fraction=0)
        args = dict(size=options.size, batch_size=options.batch, workers=options.workers)
        rates: dict[str, list[float]] = {"Pillow": [], "first epoch": [], "from the cache": []}
        for number in range(options.rounds):
            textbook = DataLoader(
                Textbook(source.train, options.size),
                options.batch,
                shuffle=True,
                drop_last=True,
                num_workers=options.workers,
                persistent_workers=options.workers > 0,
            )
            photos, seconds = pass_over(textbook)
            rates["Pillow"].append(photos / seconds)
            del textbook
            start = time.perf_counter()
            ours, _ = make_loaders(source, **args, cache_dir=Path(folder) / f"cache{number}")
            photos, seconds = pass_over(ours)
            rates["first epoch"].append(photos / (time.perf_counter() - start))
            rates["from the cache"].append(photos / pass_over(ours)[1])
            del ours
        base = statistics.median(rates["Pillow"])
        print(f"{options.count} photos {WIDTH} x {HEIGHT} to {options.size} x {options.size}, "
              f"batch {options.batch}, {options.workers} workers, median of {options.rounds}:")
        for name, values in rates.items():
            rate = statistics.median(values)
            print(f"  {name:15} {rate:7.0f} photos/s   {rate / base:5.2f} x")


if __name__ == "__main__":
    main()
