"""How the predictions for a few photos change while a network learns: frames, GIFs and MP4s.

    folder/sample_00/epoch_000.png    [ input | ground truth | prediction ], 000 = before training
    folder/sample_00/scores.csv       epoch, iou, core, edge, thin

The scores say what is learned first. Each is an IoU, the last three over the pixels of one part of
the photo: the core of the object (away from its edge), a band along its edge on both sides, and
thin parts (hair, fingers) with the gaps between them. A part that a photo does not have is empty.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from unetlib.data import binarize
from unetlib.metrics import count
from unetlib.paths import write_whole
from unetlib.predict import probabilities

TILE = 160  # pixels: smaller samples are enlarged to about this height
GAP, CAPTION = 6, 20
BAND = 0.025  # half the width of the edge band, as a share of the shorter side
HOLD_SECONDS = 2.0  # how long a film rests on its last frame
FIELDS = ("epoch", "iou", "core", "edge", "thin")


class Timelapse:
    """Called after every epoch as (epoch, model, row): writes one strip per sample.

    `dataset` gives (image (3, H, W), mask (1, H, W)) and has a `preprocess`, as PairDataset does;
    `indices` are the samples to follow. Epoch 0 is the network before training. Frames of an
    earlier training are removed when epoch 1 comes; a training that goes on, so that the first
    epoch is a later one, keeps those before it. Other files in `folder` are left alone. The model
    is neither moved nor changed, and is left in the mode (train or eval) it was in.
    """

    def __init__(self, dataset, indices: Sequence[int], folder: str | Path):
        self.folder, self.started = Path(folder), False
        samples = [dataset[int(i)] for i in indices]
        if not samples:
            raise ValueError("a timelapse needs at least one sample to follow, got no indices")
        self.batch = torch.stack([image for image, _ in samples])
        self.mattes = [mask[0].numpy() for _, mask in samples]
        self.photos = [as_photo(image, dataset.preprocess) for image, _ in samples]
        self.parts = [mask_parts(binarize(matte)) for matte in self.mattes]
        self.rows: list[list[dict]] = [[] for _ in samples]

    def __call__(self, epoch: int, model: nn.Module, row: dict | None = None) -> None:
        if epoch and not self.started:
            self._clean(epoch)
            self.started = True
        for i, soft in enumerate(_predict(model, self.batch)):
            predicted, truth = soft >= 0.5, binarize(self.mattes[i])
            self.rows[i].append({"epoch": epoch} | _scores(predicted, truth, self.parts[i]))
            when = f"epoch {epoch}" if epoch else "before training"
            strip = _strip(self.photos[i], self.mattes[i], soft, when, self.rows[i][-1]["iou"])
            png = io.BytesIO()
            strip.save(png, "PNG")
            sample = self.folder / f"sample_{i:02d}"
            sample.mkdir(parents=True, exist_ok=True)
            write_whole(sample / f"epoch_{epoch:03d}.png", png.getvalue())
            if not self.started:
                continue  # whether this training is a new one shows at its first epoch
            text = io.StringIO()
            writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows[i])
            write_whole(sample / "scores.csv", text.getvalue().encode())

    def _clean(self, epoch: int) -> None:
        """Remove what an earlier training wrote, or what this one did from `epoch` on."""
        for sample in _samples(self.folder):
            i = int(sample.name.removeprefix("sample_"))
            ours = self.rows[i] if i < len(self.rows) else []
            for number, frame in _frames(sample):
                if number >= epoch or (epoch == 1 and not ours):
                    frame.unlink()
            scores = sample / "scores.csv"
            if epoch > 1 and scores.exists() and i < len(self.rows):
                with scores.open(encoding="utf-8", newline="") as file:
                    old = [{**r, "epoch": int(r["epoch"])} for r in csv.DictReader(file)]
                self.rows[i] = [r for r in old if r["epoch"] < epoch]
            scores.unlink(missing_ok=True)
            if not any(sample.iterdir()):
                sample.rmdir()


def make_videos(timelapse_dir: str | Path, videos_dir: str | Path, fps: float = 4) -> list[Path]:
    """sample_XX.gif and sample_XX.mp4 from the frames of every sample; the paths written.

    Both rest on the last frame, the GIF then starts again. The MP4 is H.264 in yuv420p with even
    sides, which every browser plays. Raises FileNotFoundError when there are no frames.
    """
    timelapse_dir, videos_dir = Path(timelapse_dir), Path(videos_dir)
    if not 0 < fps <= 60:
        raise ValueError(f"fps must be above 0 and at most 60, got {fps}")
    samples = [(s, [path for _, path in _frames(s)]) for s in _samples(timelapse_dir)]
    samples = [(sample, frames) for sample, frames in samples if frames]
    if not samples:
        raise FileNotFoundError(
            f"no frames in {timelapse_dir}: training writes them (notebook 03_train), as "
            "sample_XX/epoch_XXX.png"
        )
    videos_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for sample, frames in samples:
        for suffix, write in ((".gif", _write_gif), (".mp4", _write_mp4)):
            part = videos_dir / f".{sample.name}.part{suffix}"
            try:
                write(part, frames, fps)
                written.append(videos_dir / f"{sample.name}{suffix}")
                os.replace(part, written[-1])
            finally:
                part.unlink(missing_ok=True)
    return written


def _write_gif(path: Path, frames: list[Path], fps: float) -> None:
    # One palette for the whole film and no dithering: what does not change stays the same to the
    # bit, and only the part that does change is stored.
    colours = Image.open(frames[0]).convert("RGB").quantize(192, Image.Quantize.MAXCOVERAGE)
    greys = np.linspace(0, 255, 64).round().astype(np.uint8).repeat(3)  # for the masks
    palette = Image.new("P", (1, 1))
    palette.putpalette([*greys.tolist(), *colours.getpalette("RGB")[: 3 * 192]])
    pictures = (
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in _read(frames)
    )
    durations = [round(1000 / fps)] * (len(frames) - 1) + [round(1000 * HOLD_SECONDS)]
    first = next(pictures)
    first.save(
        path, save_all=True, append_images=pictures, duration=durations, loop=0, optimize=False
    )


def _write_mp4(path: Path, frames: list[Path], fps: float) -> None:
    import imageio.v2 as imageio

    writer = imageio.get_writer(
        path,
        format="FFMPEG",
        fps=fps,
        codec="libx264",
        pixelformat="yuv420p",
        macro_block_size=1,  # 2 would stretch an odd picture; it gets an edge instead
        output_params=["-movflags", "+faststart"],
    )
    with writer:
        for frame in _read(frames):
            height, width = frame.shape[:2]
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            writer.append_data(even)
        for _ in range(round(fps * HOLD_SECONDS) - 1):
            writer.append_data(even)


def _read(frames: list[Path]) -> Iterator[np.ndarray]:
    """The frames one by one, uint8 (H, W, 3), all of the first one's size."""
    shape = None
    for path in frames:
        frame = np.asarray(Image.open(path).convert("RGB"))
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"{path} is {frame.shape[:2]}, the frames before it {shape[:2]}")
        yield frame


def _samples(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if re.fullmatch(r"sample_\d+", p.name) and p.is_dir())


def _frames(sample: Path) -> list[tuple[int, Path]]:
    """(epoch, file), by epoch: as names, epoch_1000 would come before epoch_999."""
    matches = ((re.fullmatch(r"epoch_(\d+)\.png", p.name), p) for p in sample.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def _predict(model: nn.Module, batch: torch.Tensor) -> np.ndarray:
    was_training = model.training
    model.eval()  # batch norm must not learn from the samples
    try:
        return probabilities(model, batch)
    finally:
        model.train(was_training)


def as_photo(image: torch.Tensor, preprocess) -> np.ndarray:
    """Network input (3, H, W) back to a photo, uint8 (H, W, 3)."""
    rgb = image.numpy().transpose(1, 2, 0) * preprocess.std + preprocess.mean
    return np.rint(255 * rgb.clip(0, 1)).astype(np.uint8)


def mask_parts(truth: np.ndarray) -> dict[str, np.ndarray]:
    """Where core, edge and thin parts of a mask are: bool (H, W) each."""
    radius = max(2, round(BAND * min(truth.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    mask = truth.astype(np.uint8)
    solid = cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc)  # what is left without the thin parts
    core = cv2.erode(solid, disc).astype(bool)
    near = cv2.dilate(solid, disc).astype(bool)
    strands = (mask.astype(bool) & ~near).astype(np.uint8)  # what sticks out of it
    thin = cv2.dilate(strands, np.ones((3, 3), np.uint8)).astype(bool) & ~near
    return {"core": core, "edge": near & ~core, "thin": thin}


def _scores(predicted: np.ndarray, truth: np.ndarray, parts: dict) -> dict[str, float | str]:
    everything = {"iou": np.ones_like(truth)} | parts
    return {
        name: round(float(count(predicted[part][None, None], truth[part][None, None]).iou()), 4)
        if part.any()
        else ""
        for name, part in everything.items()
    }


def _strip(photo, matte, soft, when: str, iou: float) -> Image.Image:
    grey = [np.repeat(np.rint(255 * m).astype(np.uint8)[..., None], 3, 2) for m in (matte, soft)]
    height, width = matte.shape
    scale = max(1.0, TILE / max(height, width))
    width, height = round(width * scale), round(height * scale)
    left = [GAP + i * (width + GAP) for i in range(3)]
    size = (left[2] + width + GAP, height + CAPTION + GAP)
    strip = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), "white")
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default()
    captions = ("input", "ground truth", f"{when}, IoU {iou:.2f}")
    for x, picture, caption in zip(left, (photo, *grey), captions, strict=True):
        tile = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
        strip.paste(tile, (x, CAPTION))
        draw.text((x + 1, 4), caption, fill="black", font=font)
    return strip
