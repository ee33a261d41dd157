"""Figures: what they show, and that nothing in them is cut off."""

import matplotlib.figure
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from unetlib import plots

BLUE, ORANGE = [0, 114, 178], [230, 159, 0]  # Okabe and Ito's


def photos(n, height=20, width=30):
    return [np.full((height, width, 3), 20 * i, np.uint8) for i in range(n)]


def mattes(n, height=20, width=30):
    return [np.linspace(0, 1, height * width).reshape(height, width) ** (i + 1) for i in range(n)]


def pictures(figure):
    """The arrays that a figure shows, in order."""
    return [np.asarray(i.get_array()) for axis in figure.axes for i in axis.images]


def sweep():
    t = np.arange(1, 100) / 100
    columns = {"threshold": t, "iou": 0.9 - (t - 0.4) ** 2, "dice": 0.95 - (t - 0.3) ** 2}
    return pd.DataFrame(columns)


def summary():
    columns = {"mean": [0.9, 0.8], "low": [0.85, 0.7], "high": [0.93, 0.85]}
    return pd.DataFrame(columns, index=["IoU", "pooled boundary accuracy"])


def bins():
    low = np.array([0, 0.25, 0.5, 0.75])
    columns = {"low": low, "high": low + 0.25, "share": np.array([0.69999, 0.00001, 0, 0.3])}
    columns |= {"confidence": np.array([0.01, 0.3, np.nan, 0.9])}
    return columns | {"accuracy": np.array([0.03, 0.2, np.nan, 0.95])}


HISTORY = [
    {"epoch": e, "train_loss": 1 / e, "val_loss": 1.1 / e, "val_iou": iou, "val_dice": 0.9}
    for e, iou in ((1, 0.5), (2, 0.8), (3, 0.7))
]


def test_overlay_and_error_map():
    photo, mask = np.full((2, 2, 3), 100, np.uint8), np.array([[0.0, 1.0], [0.5, 0.0]])
    got = plots.overlay(photo, mask, colour="red", strength=0.5)
    assert got.dtype == np.uint8 and got[0, 0].tolist() == [100, 100, 100]
    assert got[0, 1].tolist() == [178, 50, 50] and got[1, 0].tolist() == [139, 75, 75]
    truth, guess = np.array([[1, 1], [0, 0]]), np.array([[True, False], [True, False]])
    assert plots.error_map(truth, guess).tolist() == [[[255] * 3, BLUE], [ORANGE, [0] * 3]]


@pytest.mark.parametrize(("n", "columns"), [(1, 4), (5, 2), (9, 4)])
def test_pairs_are_all_shown_photo_above_matte(n, columns):
    images, masks = photos(n), mattes(n)
    figure = plots.show_pairs(images, masks, [f"t{i}" for i in range(n)], columns)
    assert {a.get_title() for a in figure.axes} - {""} == {f"t{i}" for i in range(n)}
    shown = pictures(figure)
    assert len(shown) == 2 * n
    for wanted in (*images, *masks):
        assert any(s.shape == wanted.shape and np.allclose(s, wanted) for s in shown)


def test_masks_keep_their_grey():
    """A faint mask must look faint: no stretching of the range, whatever the type."""
    for mask in (np.full((4, 4), 0.25), np.zeros((4, 4), bool), np.ones((4, 4), np.uint8)):
        figure = plots.show_pairs([np.zeros((4, 4, 3), np.uint8)], [mask])
        assert figure.axes[1].images[0].get_clim() == (0, 1)


def test_cases_show_the_errors_at_the_threshold():
    truth, soft = np.array([[1.0, 1.0, 0.0, 0.0]]), np.array([[0.9, 0.4, 0.6, 0.1]])
    image = np.zeros((1, 4, 3), np.uint8)
    for threshold in (0.5, 0.3):
        figure = plots.show_cases([image], [truth], [soft], ["one"], threshold)
        assert (pictures(figure)[3] == plots.error_map(truth, soft >= threshold)).all()
        assert figure.axes[0].get_ylabel() == "one"
    with pytest.raises(ValueError, match="shorter"):
        plots.show_cases(photos(2), mattes(2), mattes(2), ["one"])


def test_history():
    left, right = plots.show_history(HISTORY).axes
    assert [line.get_label() for line in left.lines] == ["training", "validation"]
    assert left.lines[0].get_ydata().tolist() == [1, 1 / 2, 1 / 3]
    assert "0.800, epoch 2" in right.get_title()
    left, right = plots.show_history([{"epoch": 1, "train_loss": 0.5, "val_iou": None}]).axes
    assert len(left.lines) == 1 and not right.lines
    with pytest.raises(ValueError, match="empty"):
        plots.show_history([])


def test_scores_of_thresholds_and_probabilities():
    axis = plots.show_sweep(sweep()).axes[0]
    points = [line.get_xydata()[0] for line in axis.lines if line.get_marker() == "o"]
    assert np.allclose(points, [(0.4, 0.9), (0.3, 0.95)])
    assert axis.get_title() == "best IoU 0.900 at threshold 0.40, best Dice 0.950 at threshold 0.30"
    upper, lower = plots.show_reliability(bins(), 0.0321).axes
    assert "0.032" in upper.get_title()
    x, y = upper.lines[1].get_xydata().T  # without the empty bin
    assert x.tolist() == [0.01, 0.3, 0.9] and y.tolist() == [0.03, 0.2, 0.95]
    assert np.allclose([b.get_height() for b in lower.patches], bins()["share"])


def test_scores_of_photos_and_networks():
    axis = plots.show_bars({"a": 0.2, "b": 0.9}, "title", highlight="b").axes[0]
    assert [bar.get_width() for bar in axis.patches] == [0.2, 0.9]
    assert axis.patches[0].get_facecolor() != axis.patches[1].get_facecolor()
    axis = plots.show_intervals(summary()).axes[0]
    names = [t.get_text() for t in axis.get_yticklabels()]
    assert names == ["IoU", "pooled boundary accuracy"] and axis.yaxis_inverted()
    assert axis.texts[0].get_text() == "0.900   (0.850 to 0.930)"


def test_saved_file(tmp_path):
    figure, axes = plots.new_figure(1, 2, size=(4, 2))
    assert axes.shape == (1, 2) and isinstance(figure, matplotlib.figure.Figure)
    path = tmp_path / "new" / "folder" / "picture.png"
    plots.save_figure(figure, path, dpi=100)
    assert Image.open(path).size == (400, 200)
