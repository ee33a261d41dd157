"""How the predictions for a few photos change while a network learns: frames, GIFs and MP4s.

folder/sample_00/epoch_000.png    [ photo | true mask | prediction ], 000 = before training
folder/sample_00/scores.csv       epoch, iou, core, edge, thin: the IoU of all, and of parts
"""

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import pandas as pd
import torch
from PIL import Image

from unetlib.metrics import count
from unetlib.paths import atomic, write_atomic
from unetlib.plots import GAP, contact_sheet
from unetlib.predict import probabilities

TILE = 192  # pixels: how wide a picture in a frame is at least
HOLD = 2  # seconds: how long a film rests on its last frame


class Timelapse:
    """Called after every epoch as (epoch, model, row): writes one strip per sample.

    `dataset` gives (image (3, H, W), mask (1, H, W)) and has a `preprocess`, as PairDataset does;
    `indices` are the samples to follow. Epoch 0 is the network before training. Frames of later
    epochs, which an earlier training left, are removed. The model is not changed.
    """

    def __init__(self, dataset, indices: Sequence[int], folder: str | Path):
        images, masks = zip(*(dataset[int(i)] for i in indices), strict=True)
        self.folder, self.batch = Path(folder), torch.stack(images)
        self.mattes = torch.cat(masks).numpy()
        rgb = self.batch.permute(0, 2, 3, 1).numpy()
        rgb = rgb * dataset.preprocess.std + dataset.preprocess.mean
        self.photos = np.rint(255 * rgb.clip(0, 1)).astype(np.uint8)

    def __call__(self, epoch: int, model: torch.nn.Module, row: dict | None = None) -> None:
        was_training = model.training
        predictions = probabilities(model.eval(), self.batch)  # batch norm must not learn of them
        model.train(was_training)
        for i, sample in numbered(self.folder, r"sample_(\d+)") if epoch else ():
            for number, frame in numbered(sample, r"epoch_(\d+)\.png"):
                if number > epoch or (epoch == 1 and i >= len(self.photos)):  # not followed now
                    frame.unlink()
        for i, soft in enumerate(predictions):
            sample, truth = self.folder / f"sample_{i:02d}", self.mattes[i] >= 0.5
            parts = {"iou": np.ones_like(truth)} | mask_parts(truth)
            masks = np.stack(list(parts.values()))
            ious = count((soft >= 0.5) & masks, truth & masks).iou().round(4)
            ious[~masks.any(axis=(1, 2))] = np.nan  # a part that this mask does not have
            caption = f"{f'epoch {epoch}' if epoch else 'before training'}, IoU {ious[0]:.2f}"
            with atomic(sample / f"epoch_{epoch:03d}.png") as part:
                tiles = {"photo": self.photos[i], "true mask": self.mattes[i], caption: soft}
                side = max(TILE, truth.shape[1] // 2 * 2)  # even, as films are
                contact_sheet(tiles, 3, 3 * (side + GAP)).save(part, "PNG")
            table = pd.DataFrame({"epoch": epoch, **dict(zip(parts, ious, strict=True))}, [0])
            if (file := sample / "scores.csv").is_file():
                old = pd.read_csv(file).query(f"epoch < {epoch}" if epoch else "epoch > 0")
                table = pd.concat([old, table]).sort_values("epoch")
            write_atomic(file, table.to_csv(index=False).encode())


def make_videos(timelapse_dir: str | Path, videos_dir: str | Path, fps: float = 4) -> list[Path]:
    """sample_XX.gif and sample_XX.mp4 from the frames of every sample; the paths written.

    Both rest on the last frame; the MP4 is H.264 with even sides. Raises FileNotFoundError when
    there are no frames, and ValueError for an fps that is not above 0 and at most 60.
    """
    if not 0 < fps <= 60:
        raise ValueError(f"fps must be above 0 and at most 60, got {fps}")
    written = []
    for _, sample in numbered(Path(timelapse_dir), r"sample_(\d+)"):
        frames = [Image.open(f).convert("RGB") for _, f in numbered(sample, r"epoch_(\d+)\.png")]
        if frames:
            written += [Path(videos_dir, sample.name + suffix) for suffix in (".gif", ".mp4")]
            # One palette, and no dithering: what does not change stays the same to the bit.
            palette = Image.fromarray(np.concatenate(frames)).quantize(256)
            first, *rest = (f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames)
            times = [round(1000 / fps)] * len(rest) + [1000 * HOLD]
            with atomic(written[-2]) as part:
                first.save(part, "GIF", save_all=True, append_images=rest, duration=times, loop=0)
            film = np.stack(frames + frames[-1:] * (round(fps * HOLD) - 1))
            options = {"extension": ".mp4", "fps": fps, "macro_block_size": 2}  # even sides
            write_atomic(written[-1], iio.imwrite("<bytes>", film, plugin="FFMPEG", **options))
    if not written:
        raise FileNotFoundError(f"no frames in {timelapse_dir}: notebook 03_train writes them")
    return written


def numbered(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """(number, path) by number: as names, epoch_1000 would come before epoch_999."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted((int(m[1]), path) for path in paths if (m := re.fullmatch(pattern, path.name)))


def mask_parts(truth: np.ndarray) -> dict[str, np.ndarray]:
    """Where core, edge and thin parts of a binary mask are: bool (H, W) each.

    The core lies away from the edge, the edge is a band on both sides of it (2.5 % of the shorter
    side each), and thin parts (hair, fingers) are what a small disc cannot reach, with the gaps.
    """
    radius = max(2, round(0.025 * min(truth.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    solid = cv2.morphologyEx(truth.astype(np.uint8), cv2.MORPH_OPEN, disc)  # without thin parts
    core, near = cv2.erode(solid, disc).astype(bool), cv2.dilate(solid, disc).astype(bool)
    sticks_out = (truth.astype(bool) & ~near).astype(np.uint8)
    thin = cv2.dilate(sticks_out, np.ones((3, 3), np.uint8)).astype(bool) & ~near
    return {"core": core, "edge": near & ~core, "thin": thin}
