"""Figures: what they show, not how pretty they are."""

import subprocess
import sys

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unetlib import plots

RED, BLACK = (255, 0, 0), (0, 0, 0)
ORANGE = (230, 159, 0)  # Okabe and Ito's
BLUE = (0, 114, 178)


def photos(n, height=20, width=30):
    return [np.full((height, width, 3), 20 * i, np.uint8) for i in range(n)]


def mattes(n, height=20, width=30):
    return [np.linspace(0, 1, height * width).reshape(height, width) ** (i + 1) for i in range(n)]


def pictures(figure):
    """The arrays that a figure shows, in order."""
    return [np.asarray(i.get_array()) for axis in figure.axes for i in axis.images]


def test_overlay():
    photo, mask = np.full((2, 2, 3), 100, np.uint8), np.array([[0.0, 1.0], [0.5, 0.0]])
    got = plots.overlay(photo, mask, colour="red", strength=0.5)
    assert got.dtype == np.uint8
    assert got[0, 0].tolist() == [100, 100, 100]
    assert got[0, 1].tolist() == [178, 50, 50]  # half 100, half red
    assert got[1, 0].tolist() == [139, 75, 75]  # a quarter red
    assert plots.overlay(photo, mask > 0.6, "red", 1.0)[0, 1].tolist() == list(RED)
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(3, 2\)"):
        plots.overlay(photo, np.ones((3, 2)))


def test_error_map_names_each_kind_of_pixel():
    truth, guess = np.array([[1, 1], [0, 0]]), np.array([[True, False], [True, False]])
    got = plots.error_map(truth, guess).tolist()
    assert got == [[[255, 255, 255], list(BLUE)], [list(ORANGE), list(BLACK)]]


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 9), st.integers(1, 4))
def test_pairs_are_all_shown_photo_above_matte(n, columns):
    images, masks = photos(n), mattes(n)
    figure = plots.show_pairs(images, masks, [f"t{i}" for i in range(n)], columns)
    shown = pictures(figure)
    assert len(shown) == 2 * n
    assert sorted(a.get_title() for a in figure.axes if a.get_title()) == sorted(
        f"t{i}" for i in range(n)
    )
    for image, mask in zip(images, masks, strict=True):
        assert any(s.shape == image.shape and (s == image).all() for s in shown)
        assert any(s.shape == mask.shape and np.allclose(s, mask) for s in shown)


def test_masks_keep_their_grey():
    """A faint mask must look faint: no stretching of the range, whatever the type."""
    for mask in (np.full((4, 4), 0.25), np.zeros((4, 4), bool), np.ones((4, 4), np.uint8)):
        figure = plots.show_pairs([np.zeros((4, 4, 3), np.uint8)], [mask])
        assert figure.axes[1].images[0].get_clim() == (0, 1)


def test_cases_show_the_errors_at_the_threshold():
    truth = np.array([[1.0, 1.0, 0.0, 0.0]])
    soft = np.array([[0.9, 0.4, 0.6, 0.1]])
    image = np.zeros((1, 4, 3), np.uint8)
    figure = plots.show_cases([image], [truth], [soft], ["one"])
    assert (pictures(figure)[3] == plots.error_map(truth, soft >= 0.5)).all()
    figure = plots.show_cases([image], [truth], [soft], ["one"], threshold=0.3)
    assert (pictures(figure)[3] == plots.error_map(truth, soft >= 0.3)).all()
    assert figure.axes[0].get_ylabel() == "one"


def test_history():
    history = [
        {"epoch": e, "train_loss": 1 / e, "val_loss": 1.1 / e, "val_iou": iou, "val_dice": 0.9}
        for e, iou in ((1, 0.5), (2, 0.8), (3, 0.7))
    ]
    left, right = plots.show_history(history).axes
    assert [line.get_label() for line in left.lines] == ["training", "validation"]
    assert left.lines[0].get_ydata().tolist() == [1, 1 / 2, 1 / 3]
    assert "0.800, epoch 2" in right.get_title()
    without = [{"epoch": 1, "train_loss": 0.5, "val_iou": None}]
    left, right = plots.show_history(without).axes
    assert len(left.lines) == 1 and not right.lines
    with pytest.raises(ValueError, match="empty"):
        plots.show_history([])


def test_sweep():
    table = pd.DataFrame({"threshold": [0.2, 0.5, 0.8], "iou": [0.5, 0.7, 0.6]})
    axis = plots.show_sweep(table).axes[0]
    assert axis.lines[0].get_ydata().tolist() == [0.5, 0.7, 0.6]
    assert "0.700 at threshold 0.50" in axis.get_title()
    table["iou"] = 1.0  # all the same: the middle one
    assert "threshold 0.50" in plots.show_sweep(table).axes[0].get_title()


def test_bars():
    axis = plots.show_bars({"a": 0.2, "b": 0.9}, "title", highlight="b").axes[0]
    assert [bar.get_width() for bar in axis.patches] == [0.2, 0.9]
    assert axis.patches[0].get_facecolor() != axis.patches[1].get_facecolor()
    assert [text.get_text() for text in axis.texts] == ["0.20", "0.90"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.show_pairs(photos(2), mattes(1)),
        lambda: plots.show_pairs(photos(2), mattes(2), ["one"]),
        lambda: plots.show_pairs([], []),
        lambda: plots.show_cases(photos(2), mattes(2), mattes(1)),
    ],
)
def test_numbers_that_do_not_match(draw):
    with pytest.raises(ValueError, match="as many of each, and at least one"):
        draw()


def test_saved_file(tmp_path):
    figure, axes = plots.new_figure(1, 2, size=(4, 2))
    assert axes.shape == (1, 2) and isinstance(figure, matplotlib.figure.Figure)
    path = plots.save_figure(figure, tmp_path / "new" / "folder" / "picture.png", dpi=100)
    assert Image.open(path).size == (400, 200)
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    figure, _ = plots.new_figure()
    path = plots.save_figure(figure, tmp_path / "picture.png")
    before = path.read_bytes()

    def full_disk(file, **_):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(figure, "savefig", full_disk)
    with pytest.raises(OSError, match="No space"):
        plots.save_figure(figure, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


def test_notebooks_can_show_a_figure_without_pyplot():
    code = (
        "import sys; from unetlib import plots; fig = plots.show_bars({'a': 0.5});"
        "assert fig._repr_png_()[:4] == b'\\x89PNG'; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_style_does_not_leak():
    before = dict(matplotlib.rcParams)
    plots.show_sweep(pd.DataFrame({"threshold": [0.5], "iou": [1.0]}))
    assert dict(matplotlib.rcParams) == before
