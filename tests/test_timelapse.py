"""Timelapse frames, their scores, and the films made of them."""

import csv

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import nn

from unetlib.data.preprocess import Preprocess, to_array
from unetlib.plots import GAP
from unetlib.timelapse import TILE, Timelapse, make_videos, mask_parts

CAPTION = 20  # pixels


class Samples(list):
    """A dataset in memory: photos of one colour each, with a disc as mask."""

    def __init__(self, n=3, size=64):
        self.preprocess = Preprocess((size, size))
        y, x = np.mgrid[:size, :size]
        for i in range(n):
            photo = np.full((size, size, 3), (40 * i + 60, 90, 200 - 30 * i), np.uint8)
            mask = np.hypot(y - size / 2, x - size / 2) < size * (0.2 + 0.05 * i)
            arrays = to_array(photo, self.preprocess), np.float32(mask[None])
            self.append(tuple(map(torch.from_numpy, arrays)))


class Constant(nn.Module):
    """Predicts one probability everywhere; its batch norm would show if it learned something."""

    def __init__(self, probability=0.8):
        super().__init__()
        self.logit = nn.Parameter(torch.logit(torch.tensor(probability)))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(x)[:, :1] * 0 + self.logit


def tile(path, i, size):
    """Tile i of a strip, uint8 (size, size, 3)."""
    left = i * (size + GAP)
    return np.asarray(Image.open(path))[CAPTION : CAPTION + size, left : left + size]


def read_scores(folder):
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_strips_show_input_truth_and_prediction(tmp_path):
    samples = Samples()
    timelapse = Timelapse(samples, [2, 0], tmp_path)
    timelapse(0, Constant(0.2))
    timelapse(1, Constant(0.8), {"val_iou": 0.5})
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    assert found == [f"sample_{i:02d}/epoch_{e:03d}.png" for i in (0, 1) for e in (0, 1)]
    for number, index in enumerate((2, 0)):
        path = tmp_path / f"sample_{number:02d}" / "epoch_001.png"
        colour = (40 * index + 60, 90, 200 - 30 * index)
        np.testing.assert_allclose(tile(path, 0, TILE).mean((0, 1)), colour, atol=1)
        truth = samples[index][1][0].numpy()
        assert tile(path, 1, TILE).mean() / 255 == pytest.approx(truth.mean(), abs=0.01)
        assert (tile(path, 2, TILE) == round(0.8 * 255)).all()
        caption = np.asarray(Image.open(path))[:CAPTION]
        assert (caption[:, : TILE // 2] < 128).any()  # there is text above the input
        assert (caption[:, 2 * TILE :] < 128).any()  # and above the prediction


def test_scores_are_those_of_the_frames(tmp_path):
    samples = Samples()
    timelapse = Timelapse(samples, [0], tmp_path)
    timelapse(0, Constant(0.2))
    timelapse(7, Constant(0.8))
    before, after = read_scores(tmp_path / "sample_00")
    assert (before["epoch"], after["epoch"]) == ("0", "7")
    assert [float(before[k]) for k in ("iou", "core", "edge")] == [0, 0, 0]
    share = samples[0][1].mean().item()  # everything predicted: IoU is the foreground's share
    assert float(after["iou"]) == pytest.approx(share, abs=1e-4)
    assert float(after["core"]) == 1 and 0.3 < float(after["edge"]) < 0.7
    assert before["thin"] == after["thin"] == ""  # a disc has none


def test_parts_of_a_mask():
    mask = np.zeros((100, 100), bool)
    mask[30:90, 20:70] = True  # a body
    mask[5:30, 40] = True  # one hair, straight up
    parts = mask_parts(mask)
    assert parts["thin"][5:25, 40].all() and not parts["thin"][30:].any()
    assert parts["core"][50:60, 40:50].all() and not (parts["core"] & ~mask).any()
    edge = parts["edge"]
    assert edge[60, 20] and edge[60, 19] and not edge[60, 45] and not edge[60, 5]
    assert not (parts["core"] & edge).any() and not (parts["thin"] & edge).any()
    for empty in (np.zeros((100, 100), bool), np.zeros((3, 5), bool)):
        assert not any(part.any() for part in mask_parts(empty).values())


def run(folder, n_samples, epochs):
    timelapse = Timelapse(Samples(), range(n_samples), folder)
    for epoch in epochs:
        timelapse(epoch, Constant())


def frames(folder):
    return {
        s.name: sorted(int(f.stem.removeprefix("epoch_")) for f in s.glob("epoch_*.png"))
        for s in folder.iterdir()
        if s.is_dir()
    }


def test_a_new_training_does_not_mix_with_an_older_one(tmp_path):
    run(tmp_path, 3, range(6))
    mine = tmp_path / "sample_x" / "epoch_009.png"
    mine.parent.mkdir()
    mine.write_text("x")
    Timelapse(Samples(), [0], tmp_path)
    assert frames(tmp_path)["sample_00"] == list(range(6))  # until the first call nothing is lost
    run(tmp_path, 2, range(3))
    ours = {"sample_00": [0, 1, 2], "sample_01": [0, 1, 2], "sample_02": []}
    assert frames(tmp_path) == ours | {"sample_x": [9]}
    assert len(read_scores(tmp_path / "sample_00")) == 3
    run(tmp_path, 2, [0, 2, 1])  # what is gone on with goes on where it starts
    assert frames(tmp_path) == ours | {"sample_00": [0, 1], "sample_01": [0, 1], "sample_x": [9]}
    assert [row["epoch"] for row in read_scores(tmp_path / "sample_01")] == ["0", "1"]


def test_films(tmp_path):
    timelapse = Timelapse(Samples(), [0, 1], tmp_path / "frames")
    for k, epoch in enumerate((0, 1, 10, 999, 1000)):  # by number, not by name
        timelapse(epoch, Constant(0.1 + 0.2 * k))
    paths = make_videos(tmp_path / "frames", tmp_path / "videos", fps=5)
    names = ["sample_00.gif", "sample_00.mp4", "sample_01.gif", "sample_01.mp4"]
    assert [p.name for p in paths] == names
    assert sorted(p.name for p in (tmp_path / "videos").iterdir()) == names
    gif = Image.open(paths[0])
    durations = [f.info["duration"] for f in ImageSequence.Iterator(gif)]
    assert durations == [200, 200, 200, 200, 2000]
    assert gif.info["loop"] == 0  # for ever
    shades = [
        np.asarray(f.convert("L"))[CAPTION + TILE // 2, -TILE // 2]
        for f in ImageSequence.Iterator(gif)
    ]
    np.testing.assert_allclose(shades, 255 * np.array([0.1, 0.3, 0.5, 0.7, 0.9]), atol=12)
    with imageio.get_reader(paths[1]) as film:
        meta = film.get_meta_data()
        pictures = [np.asarray(picture) for picture in film]
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p") and meta["fps"] == 5
    assert all(side % 2 == 0 for side in meta["size"])
    assert len(pictures) == 5 + 9  # the last frame for two seconds
    shades = [picture[CAPTION + TILE // 2, -TILE // 2].mean() for picture in pictures]
    expected = [0.1, 0.3, 0.5, 0.7] + [0.9] * 10
    np.testing.assert_allclose(shades, 255 * np.array(expected), atol=6)


def test_nothing_to_film(tmp_path):
    (tmp_path / "sample_00").mkdir()
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=r"no frames in .*03_train"):
            make_videos(folder, tmp_path / "videos")
    assert not (tmp_path / "videos").exists()
    with pytest.raises(ValueError, match="fps"):
        make_videos(tmp_path, tmp_path / "videos", fps=0)
