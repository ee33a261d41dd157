"""Figures: what they show, not how pretty they are."""

import subprocess
import sys

import matplotlib.figure
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
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


# pictures of an evaluation


def texts(figure):
    """All that is written in a figure."""
    figure.draw_without_rendering()
    found = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
    return [t for t in found if not t.get_text().isspace()]


def clipped(figure):
    """Texts that do not lie within the picture, but for the ticks beyond an axis' limits."""
    figure.draw_without_rendering()
    beyond = set()
    for axis in [x for axes in figure.axes for x in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        beyond |= {t.label1 for t in axis.get_major_ticks() if not low <= t.get_loc() <= high}
    box = figure.bbox.padded(1)
    boxes = {t.get_text(): t.get_window_extent() for t in texts(figure) if t not in beyond}
    return [t for t, b in boxes.items() if not (box.contains(*b.min) and box.contains(*b.max))]


def test_clipped_texts_are_noticed():
    for position in ((0.5, 1.5), (2, 0.5), (0.9, 0.5)):
        figure, axes = plots.new_figure(size=(4, 3))
        figure.set_layout_engine("none")
        axes[0, 0].text(*position, "a long text")
        assert clipped(figure) == ["a long text"]
    axes[0, 0].set_yticks([0.5], ["a tick that is far too long"])
    assert len(clipped(figure)) == 2


def sweep(n=99):
    t = np.arange(1, n + 1) / (n + 1)
    columns = {"threshold": t, "iou": 0.9 - (t - 0.4) ** 2, "dice": 0.95 - (t - 0.3) ** 2}
    columns |= {"precision": 0.5 + t / 2, "recall": 1 - t / 2}
    columns |= {"pooled_precision": 0.4 + t / 2, "pooled_recall": 0.9 - t / 2}
    return pd.DataFrame(columns)


def models(n=3, **columns):
    """A leaderboard: the more milliseconds, the better."""
    names = [f"model {i}" for i in range(n)]
    iou = np.linspace(0.5, 0.9, n)
    table = {"name": names, "iou": iou, "iou_low": iou - 0.02, "iou_high": iou + 0.03}
    table |= {"milliseconds": 5.0 * 3 ** np.arange(n), "parameters": 1e6 * 2.0 ** np.arange(n)}
    return pd.DataFrame(table | columns)


def quartiles(values=(0.9, 0.8, 0.7, 0.5)):
    n = len(values)
    columns = {"quartile": range(1, n + 1), "n": [10] * n, "low": np.arange(n) / 4}
    columns |= {"high": np.arange(1, n + 1) / 4, "iou": values}
    ends = {"iou_low": np.subtract(values, 0.05), "iou_high": np.add(values, 0.05)}
    return pd.DataFrame(columns | ends)


def summary():
    columns = {"mean": [0.9, 0.8], "low": [0.85, np.nan], "high": [0.93, np.nan]}
    return pd.DataFrame(columns, index=["iou", "pooled_boundary_accuracy"])


def bins():
    low = np.array([0, 0.25, 0.5, 0.75])
    columns = {"low": low, "high": low + 0.25, "share": [0.69999, 0.00001, 0, 0.3]}
    columns |= {"confidence": [0.01, 0.3, np.nan, 0.9], "accuracy": [0.03, 0.2, np.nan, 0.95]}
    return pd.DataFrame(columns)


def test_sweep_marks_the_best_of_both():
    axis = plots.show_sweep(sweep()).axes[0]
    assert axis.get_title() == (
        "best IoU 0.900 at threshold 0.40, best Dice 0.950 at threshold 0.30"
    )
    points = [line.get_xydata()[0] for line in axis.lines if line.get_marker() == "o"]
    assert np.allclose(points, [(0.4, 0.9), (0.3, 0.95)])


def test_precision_recall():
    table = sweep()
    axis = plots.show_precision_recall(table).axes[0]
    curves = {line.get_label(): line for line in axis.lines}
    for label, prefix in (("mean of the photos", ""), ("all pixels", "pooled_")):
        curve = curves[label].get_xydata()
        assert np.allclose(curve, table[[f"{prefix}recall", f"{prefix}precision"]])
    marks = [line for line in axis.lines if line.get_marker() == "o"]
    at = table["threshold"].isin([0.1, 0.3, 0.5, 0.7, 0.9])
    assert np.allclose(marks[0].get_xydata(), table.loc[at, ["recall", "precision"]])
    numbers = [text for text in axis.texts if not text.get_text().startswith("Dice")]
    assert [text.get_text() for text in numbers] == ["0.1", "0.3", "0.5", "0.7", "0.9"]
    assert np.allclose([text.xy for text in numbers], marks[0].get_xydata())
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    for mark in (line.get_xydata() for line in marks):
        assert (mark > [left, bottom]).all() and (mark <= [right, top]).all()
    for line, dice in zip(axis.lines[4:], (0.5, 0.7, 0.8, 0.9, 0.95), strict=True):
        recall, precision = line.get_xydata().T
        assert np.allclose(2 * recall * precision / (recall + precision), dice)
    alone = table[["threshold", "precision", "recall"]].to_dict("list")
    legend = plots.show_precision_recall(alone).axes[0].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["mean of the photos"]


def test_reliability():
    table = bins()
    upper, lower = plots.show_reliability(table, 0.0321).axes
    assert "0.032" in upper.get_title()
    curve = next(line for line in upper.lines if line.get_label() == "this model")
    used = table[table["share"] > 0]
    assert np.allclose(curve.get_xydata(), used[["confidence", "accuracy"]])
    gaps = [segment[:, 1].tolist() for segment in upper.collections[0].get_segments()]
    assert np.allclose(gaps, used[["confidence", "accuracy"]])
    assert np.allclose([b.get_height() for b in lower.patches], table["share"])
    assert [b.get_x() for b in lower.patches] == table["low"].tolist()
    assert lower.get_yscale() == "log" and lower.get_ylim()[0] < 0.00001


def test_intervals():
    labels = {"iou": "IoU per photo"}
    axis = plots.show_intervals(summary(), labels, "200 photos").axes[0]
    assert axis.get_title() == "200 photos"
    ticks = [t.get_text() for t in axis.get_yticklabels()]
    assert ticks == ["IoU per photo", "pooled boundary accuracy"]
    assert [t.get_text() for t in axis.texts] == ["0.900   (0.850 to 0.930)", "0.800"]
    bar, point, none, _ = axis.lines
    assert bar.get_xdata().tolist() == [0.85, 0.93] and point.get_xdata().tolist() == [0.9]
    assert np.isnan(none.get_xdata()).all()
    assert axis.yaxis_inverted()  # the first score on top


def test_quartiles():
    tables = {"fine_detail": quartiles(), "texture": quartiles([0.6])}
    first, second = plots.show_quartiles(tables).axes
    assert [first.get_title(), second.get_title()] == ["fine detail", "texture"]
    points, mean = first.lines
    assert points.get_xdata().tolist() == [1, 2, 3, 4]
    assert points.get_ydata().tolist() == [0.9, 0.8, 0.7, 0.5]
    ends = [segment[:, 1].tolist() for segment in first.collections[0].get_segments()]
    assert np.allclose(ends, [[v - 0.05, v + 0.05] for v in (0.9, 0.8, 0.7, 0.5)])
    assert [t.get_text() for t in first.get_xticklabels()][3] == "0.75 to\n1.00\n(10)"
    assert np.allclose(mean.get_ydata(), 0.725)  # the mean of all
    assert first.get_ylim() == second.get_ylim() == (0.4, 1.0)  # from below the lowest interval
    uneven = quartiles([0.9, 0.5]).assign(n=[30, 10])
    assert np.allclose(plots.show_quartiles({"a": uneven}).axes[0].lines[1].get_ydata(), 0.8)
    assert len(second.lines[0].get_xdata()) == 1
    shown = [a for a in plots.show_quartiles(dict.fromkeys("abcde", quartiles())).axes if a.axison]
    assert len(shown) == 5
    with pytest.raises(ValueError, match="no table"):
        plots.show_quartiles({})


def test_tradeoff():
    table = models(4, parameters=[1e6, 4e6, np.nan, 2.5e5]).sample(frac=1, random_state=0)
    axis = plots.show_tradeoff(table).axes[0]
    assert axis.get_xscale() == "log"
    by_quality = table.sort_values("iou")
    points = axis.collections[1]
    assert np.allclose(points.get_offsets(), by_quality[["milliseconds", "iou"]])
    a, b, unknown, small = points.get_sizes()
    assert b > a > small > unknown > 0
    assert np.allclose(b - unknown, 4 * (a - unknown))  # area, not width
    ends = [segment[:, 1].tolist() for segment in axis.collections[0].get_segments()]
    assert np.allclose(ends, by_quality[["iou_low", "iou_high"]])
    names = [t.get_text() for t in axis.texts]
    assert names == ["model 0, 1 M", "model 1, 4 M", "model 2", "model 3, 0.25 M"]
    assert [tuple(t.xy) for t in axis.texts] == [
        tuple(row) for row in by_quality[["milliseconds", "iou"]].to_numpy()
    ]


@settings(deadline=None, max_examples=8)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 1e5)), min_size=1, max_size=12))
@example([(0.0, 20313.0)])
@example([(0.5, 0.1), (0.5, 1e5)])
@example([(0.5, 1.0), (0.5, 299.0)])
def test_names_of_models_never_overlap(points):
    iou, milliseconds = zip(*points, strict=True)
    n, iou = len(points), np.array(iou)
    table = models(n, iou=iou, iou_low=iou, iou_high=iou, milliseconds=milliseconds)
    table["name"] = [f"a run with a name far too long for a picture, number {i}" for i in range(n)]
    figure = plots.show_tradeoff(table)
    figure.draw_without_rendering()
    boxes = [matplotlib.text.Text.get_window_extent(t) for t in figure.axes[0].texts]
    low, high = figure.axes[0].get_xlim()
    ticks = [t for t in figure.axes[0].xaxis.get_major_ticks() if low <= t.get_loc() <= high]
    assert ticks
    boxes += [t.label1.get_window_extent() for t in ticks]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]), [
        b.extents for b in boxes
    ]
    assert not clipped(figure)


def test_names_are_not_formulas_and_large_numbers_stay_readable():
    table = models(2, name=["a $x_1$", "photo"], parameters=[1.76e8, 1234])
    texts = plots.show_tradeoff(table).axes[0].texts
    assert [t.get_text() for t in texts] == [r"a \$x_1\$, 176 M", "photo, 0.0012 M"]
    image, matte = photos(1)[0], mattes(1)[0]
    figure = plots.show_disagreement(image, matte, {"photo": matte, "truth": matte})
    assert len(pictures(figure)) == 4 and (pictures(figure)[0] == image).all()


def test_an_unknown_interval_is_a_point():
    axis = plots.show_tradeoff(models(1, iou_low=np.nan, iou_high=np.nan)).axes[0]
    assert axis.collections[0].get_segments()[0][:, 1].tolist() == [0.5, 0.5]


def test_disagreement():
    image, matte = photos(1)[0], mattes(1)[0]
    softs = {"mine": matte, "theirs": 1 - matte}
    figure = plots.show_disagreement(image, matte, softs)
    shown = pictures(figure)
    assert [a.get_title() for a in figure.axes] == ["photo", "truth", "mine", "theirs"]
    assert (shown[0] == image).all() and np.allclose(shown[1], matte)
    truth = matte >= 0.5
    assert (shown[2] == plots.error_map(truth, truth)).all()
    assert (shown[3] == plots.error_map(truth, 1 - matte >= 0.5)).all()
    assert "orange: made up" in " ".join(t.get_text() for t in texts(figure))
    own = plots.show_disagreement(image, matte, softs, {"mine": 0.9, "theirs": 0.1})
    assert (pictures(own)[2] == plots.error_map(truth, matte >= 0.9)).all()
    assert (pictures(own)[3] == plots.error_map(truth, 1 - matte >= 0.1)).all()
    with pytest.raises(ValueError, match="different sizes"):
        plots.show_disagreement(image, matte, {"mine": np.zeros((3, 3))})
    many = plots.show_disagreement(image, matte, dict.fromkeys("abcdefg", matte))
    assert len(pictures(many)) == 9


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.show_sweep(sweep()),
        lambda: plots.show_precision_recall(sweep()),
        lambda: plots.show_reliability(bins(), 0.01),
        lambda: plots.show_intervals(summary(), title="t"),
        lambda: plots.show_quartiles(dict.fromkeys("abcd", quartiles())),
        lambda: plots.show_tradeoff(models(10)),
        lambda: plots.show_disagreement(photos(1)[0], mattes(1)[0], {"x" * 50: mattes(1)[0]}),
        lambda: plots.show_disagreement(
            photos(1, 3, 200)[0], mattes(1, 3, 200)[0], dict.fromkeys("ab", mattes(1, 3, 200)[0])
        ),
    ],
)
def test_fits_a_page_and_nothing_is_clipped(draw):
    figure = draw()
    assert figure.get_size_inches()[0] <= 8.6
    assert not clipped(figure)
    sizes = {t.get_fontsize() for t in texts(figure)}
    assert min(sizes) >= 7
    before = dict(matplotlib.rcParams)
    draw()
    assert dict(matplotlib.rcParams) == before
