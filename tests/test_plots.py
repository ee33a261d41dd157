"""Pictures beside each other: what a sheet shows, and that nothing in it is lost."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from unetlib import plots

BLUE, ORANGE = [0, 114, 178], [230, 159, 0]  # Okabe and Ito's


def test_error_map():
    truth, guess = np.array([[1, 1], [0, 0]]), np.array([[True, False], [True, False]])
    assert plots.error_map(truth, guess).tolist() == [[[255] * 3, BLUE], [ORANGE, [0] * 3]]


@pytest.mark.parametrize(("n", "columns", "rows"), [(1, 4, 1), (5, 2, 3), (8, 4, 2), (3, 0, 1)])
def test_pictures_in_rows(n, columns, rows):
    photos = [np.full((20, 40, 3), (10 * i + 5, 0, 0), np.uint8) for i in range(n)]
    sheet = np.asarray(plots.contact_sheet(photos, columns))
    per_row = columns or n
    width = 1060 // per_row - 6
    assert sheet.shape == (rows * (round(width / 2) + 6), 1060, 3)
    for i in range(n):
        y, x = (i // per_row) * (round(width / 2) + 6) + 5, (i % per_row) * (width + 6) + 5
        assert sheet[y, x].tolist() == [10 * i + 5, 0, 0]


def test_masks_keep_their_grey():
    """A faint mask must look faint: no stretching of the range, whatever the type."""
    for mask, grey in ((np.full((4, 4), 0.25), 64), (np.zeros((4, 4), bool), 0)):
        assert plots.contact_sheet([mask]).getpixel((9, 9)) == (grey,) * 3
    assert plots.contact_sheet([np.full((4, 4), 1e9)]).getpixel((9, 9)) == (255,) * 3


def test_titles_stand_above_and_may_have_lines():
    photo = np.zeros((50, 50, 3), np.uint8)
    plain, titled = plots.contact_sheet([photo]), plots.contact_sheet({"one\ntwo": photo})
    assert titled.height == plain.height + 40
    head = np.asarray(titled)[:40]
    assert head[:20].min() < 128 and head[20:].min() < 128  # both lines are there
    assert (np.asarray(titled)[40:] == np.asarray(plain)).all()


def test_a_cell_shows_the_smaller_file():
    for picture, kind in ((astronaut(), "JPEG"), (np.eye(30), "PNG")):
        image = Image.open(io.BytesIO(plots.show([picture]).data))
        assert image.format == kind and image.width == 1060
