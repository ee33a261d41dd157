"""Figures: what they show, and that nothing in them is cut off."""

import matplotlib.figure
import numpy as np
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


def test_error_map():
    truth, guess = np.array([[1, 1], [0, 0]]), np.array([[True, False], [True, False]])
    assert plots.error_map(truth, guess).tolist() == [[[255] * 3, BLUE], [ORANGE, [0] * 3]]


@pytest.mark.parametrize(("n", "columns", "rows"), [(1, 4, 1), (5, 2, 3), (8, 4, 2), (3, 0, 1)])
def test_pictures_in_rows_with_titles(n, columns, rows):
    shown = [*photos(n - n // 2), *mattes(n // 2)]
    figure = plots.show([(f"t{i}", one) for i, one in enumerate(shown)], columns)
    assert [a.get_title() for a in figure.axes][:n] == [f"t{i}" for i in range(n)]
    assert len({round(a.get_position().y0, 2) for a in figure.axes}) == rows
    for found, wanted in zip(pictures(figure), shown, strict=True):
        assert found.shape == wanted.shape and np.allclose(found, wanted)


def test_pictures_by_title_and_of_a_given_width():
    figure = plots.show({"one": photos(1)[0], "two\n2": mattes(1)[0]}, side=400)
    assert [a.get_title() for a in figure.axes] == ["one", "two\n2"]
    assert figure.get_figwidth() * figure.dpi == pytest.approx(800)
    figure.draw_without_rendering()
    assert all(a.title.get_window_extent().y1 <= figure.bbox.height for a in figure.axes)
    assert plots.show(photos(3)).get_figwidth() * figure.dpi == pytest.approx(1024)


def test_masks_keep_their_grey():
    """A faint mask must look faint: no stretching of the range, whatever the type."""
    for mask in (np.full((4, 4), 0.25), np.zeros((4, 4), bool), np.ones((4, 4), np.uint8)):
        assert plots.show([mask]).axes[0].images[0].get_clim() == (0, 1)


def test_saved_file(tmp_path):
    figure, axes = plots.new_figure(1, 2, size=(4, 2))
    assert axes.shape == (1, 2) and isinstance(figure, matplotlib.figure.Figure)
    path = tmp_path / "new" / "folder" / "picture.png"
    plots.save_figure(figure, path, dpi=100)
    assert Image.open(path).size == (400, 200)
