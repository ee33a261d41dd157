"""The streaming pass: all scores of many images at once, from predictors and from files."""

import itertools
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_saliency import smooth

import unetlib.evaluate
from unetlib.data import DataError, Pair
from unetlib.evaluate import (
    Case,
    by_quartile,
    evaluate,
    measure,
    read_predictions,
    score_cases,
    summarize,
    threshold_sweep,
)
from unetlib.metrics import SCORES, Counts, interval
from unetlib.summaries import EDGE_COUNTS, with_intervals


def draw(seed, shape=(40, 50)):
    rng = np.random.default_rng(seed)
    height, width = shape
    form = smooth(rng, height, width, 8)
    matte = np.clip(form * 4, 0, 1)
    soft = np.clip(matte * 0.8 + 0.1 + 0.2 * rng.standard_normal(shape), 0, 1)
    return Case(f"photo{seed}", soft.astype(np.float32), matte.astype(np.float32))


CASES = [draw(0), draw(1, (33, 61)), draw(2), draw(3, (70, 20)), draw(4), draw(5)]


def test_one_pass_gives_what_single_functions_give():
    from unetlib.metrics.boundary import boundary_accuracy, boundary_iou
    from unetlib.metrics.saliency import s_measure, weighted_f

    found = score_cases(iter(CASES), threshold=0.4)
    table = found.table
    assert table["id"].tolist() == [case.id for case in CASES]
    columns = ["foreground_share", "width", "height", "tp", "fp", "fn", "tn", *EDGE_COUNTS, "tags"]
    assert table.columns.tolist() == ["id", *SCORES, *columns]
    for row, case in zip(table.itertuples(), CASES, strict=True):
        mask, truth = case.soft >= 0.4, case.matte >= 0.5
        p, r = (mask & truth).sum() / mask.sum(), (mask & truth).sum() / truth.sum()
        assert (row.precision, row.recall) == pytest.approx((p, r))
        assert row.f_beta == pytest.approx(1.3 * p * r / (0.3 * p + r))
        assert row.mae == pytest.approx(np.abs(case.soft.astype(float) - case.matte).mean())
        assert row.boundary_iou == boundary_iou(mask, truth) == row.rim_both / row.rim_either
        assert row.boundary_accuracy == boundary_accuracy(mask, truth) == row.band_right / row.band
        assert row.s_measure == s_measure(case.soft, truth)
        assert row.weighted_f == weighted_f(case.soft, truth)
    assert found.threshold == 0.4 and len(found.sweep) == 99
    middle = score_cases(CASES).summary()["mean"]
    row = found.sweep[found.sweep["threshold"] == 0.5].iloc[0].drop("threshold")
    assert row.to_dict() == pytest.approx({name: middle[name] for name in row.index}, abs=1e-12)
    pixels = np.concatenate([case.soft.ravel() for case in CASES]).astype(float)
    truth = np.concatenate([case.matte.ravel() >= 0.5 for case in CASES])
    table, error = found.calibration(bins=10)
    assert table["pixels"].sum() == len(pixels)
    inside = (pixels >= np.float32(0.8)) & (pixels < np.float32(0.9))
    assert table.loc[8, ["low", "high"]].tolist() == [0.8, 0.9]
    assert table.loc[8, "accuracy"] == pytest.approx(truth[inside].mean())
    gap = (table["confidence"] - table["accuracy"]).abs() * table["share"]
    assert error == pytest.approx(gap.sum()) and found.temperature() > 0


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(monkeypatch, threads):
    monkeypatch.setattr(unetlib.evaluate, "cores", lambda: 1)
    one = score_cases(CASES)
    monkeypatch.setattr(unetlib.evaluate, "cores", lambda: threads)
    more = score_cases(CASES)
    pd.testing.assert_frame_equal(one.table, more.table, check_exact=True)
    pd.testing.assert_frame_equal(one.sweep, more.sweep, check_exact=True)
    np.testing.assert_array_equal(one.histogram.total, more.histogram.total)
    assert one.temperature() == more.temperature()


def test_memory_does_not_grow_with_the_set(monkeypatch):
    # of one thread: how much of several overlaps is a matter of luck
    monkeypatch.setattr(unetlib.evaluate, "cores", lambda: 1)

    def peak(count):
        tracemalloc.start()
        cases = (draw(seed % 4, (160, 200))._replace(id=str(seed)) for seed in range(count))
        score_cases(cases)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(3)  # what is loaded on first use
    # a row is some 5 kB in Python; a photo here has 288 kB
    assert peak(150) - peak(30) < 120 * 10_000


def test_an_endless_stream_is_read_a_few_ahead(monkeypatch):
    monkeypatch.setattr(unetlib.evaluate, "cores", lambda: 3)
    read = []

    def endless():
        for seed in itertools.count():
            read.append(seed)
            yield CASES[seed % 6] if seed != 20 else CASES[0]._replace(soft=np.ones((2, 2)))

    with pytest.raises(ValueError, match=r"photo0: the prediction has shape \(2, 2\)"):
        score_cases(endless())
    assert len(read) < 30


def test_summary_with_intervals():
    table = score_cases(CASES).table
    summary = with_intervals(table, confidence=0.9, resamples=500, seed=7)
    assert summary.index.name == "score" and summary.columns.tolist() == ["mean", "low", "high"]
    assert (summary["low"] <= summary["high"]).all() and summary.notna().all(axis=None)
    plain = summarize(table)
    for name in plain.keys() - {"n"}:
        assert summary.loc[name, "mean"] == pytest.approx(plain[name], abs=1e-12)
    for name in SCORES:
        expected = interval(table[name], 0.9, 500, seed=7)
        assert summary.loc[name, ["low", "high"]].tolist() == pytest.approx(expected, abs=1e-12)
    pixels = table["width"] * table["height"]
    wrong = sum(np.abs(c.soft.astype(float) - c.matte).sum() for c in CASES)
    assert summary.loc["pooled_mae", "mean"] == pytest.approx(wrong / pixels.sum())
    rim = table["rim_both"].sum() / table["rim_either"].sum()
    assert summary.loc["pooled_boundary_iou", "mean"] == rim
    # the pooled interval is that of ratios of resampled sums
    rng = np.random.default_rng(0)
    both, either = table["tp"].to_numpy(), (table["tp"] + table["fp"] + table["fn"]).to_numpy()
    drawn = rng.integers(6, size=(20_000, 6))
    wide = np.quantile(both[drawn].sum(1) / either[drawn].sum(1), [0.05, 0.95])
    again = with_intervals(table, 0.9, 20_000).loc["pooled_iou", ["low", "high"]]
    assert again.tolist() == pytest.approx(wide, abs=0.03 * (wide[1] - wide[0]) + 1e-3)


def test_one_image_and_masks_without_foreground():
    found = score_cases(CASES[:1]).summary()
    np.testing.assert_array_equal(found["low"], found["high"])
    np.testing.assert_allclose(found["mean"], found["low"])
    empty = Case("nothing", np.zeros((9, 9), np.float32), np.zeros((9, 9), np.float32))
    wrong = empty._replace(soft=np.ones((9, 9), np.float32))
    for case, score in ((empty, 1), (wrong, 0)):
        found = score_cases([case])
        table, summary = found.table, found.summary()
        for numbers in (table.select_dtypes("number"), summary):
            assert numbers.notna().all(axis=None)
        for name in ("iou", "f_beta", "boundary_iou", "boundary_accuracy", "s_measure"):
            assert table.loc[0, name] == score
            assert name == "s_measure" or summary.loc[f"pooled_{name}", "mean"] == score
        assert table.loc[0, ["f_max", "f_adaptive", "weighted_f"]].tolist() == [0, 0, 0]
        with pytest.warns(UserWarning, match="undefined"):
            assert np.isnan(found.histogram.average_precision()) and np.isnan(found.temperature())


def test_measure_is_evaluate_and_more(tmp_path):
    pairs = []
    for case in CASES[:3]:
        path = tmp_path / f"{case.id}.png"
        Image.fromarray(np.rint(case.matte * 255).astype(np.uint8)).save(path)
        pairs.append(Pair(case.id, path, path, tags=("hair", "texture")))

    def predictor(image):
        return image[..., 0] / np.float32(300)

    found = measure(predictor, pairs, threshold=0.3, difficulty=True)
    table = found.table
    names = list(unetlib.evaluate.DIFFICULTIES)
    assert table[names].apply(lambda values: values.between(0, 1)).all(axis=None)
    assert table["tags"].tolist() == ["hair texture"] * 3
    plain = evaluate(predictor, pairs, threshold=0.3)
    pd.testing.assert_frame_equal(plain, table.drop(columns=names))
    pd.testing.assert_frame_equal(threshold_sweep(predictor, pairs), found.sweep)


def test_by_quartile():
    table = pd.DataFrame({"hard": np.arange(12)[::-1] / 12, "iou": np.arange(12.0), "id": "x"})
    found = by_quartile(table, "hard", ["iou"])
    assert found["quartile"].tolist() == [1, 2, 3, 4] and found["n"].tolist() == [3] * 4
    assert found["iou"].tolist() == [10, 7, 4, 1]
    assert found.loc[0, ["low", "high"]].tolist() == [0, 2 / 12]
    assert found.loc[0, ["iou_low", "iou_high"]].tolist() == list(interval([11, 10, 9]))
    table.loc[:7, "hard"] = 0.0  # ties stay together
    table.loc[11, "hard"] = np.nan
    found = by_quartile(table, "hard", ("iou",))
    assert found[["quartile", "n", "iou"]].values.tolist() == [[2, 8, 3.5], [4, 3, 9]]
    assert by_quartile(table[:1], "hard", ("iou",))["n"].tolist() == [1]
    with pytest.raises(ValueError, match=r"no column 'hart'. Did you mean 'hard'.*hard, iou"):
        by_quartile(table, "hart", ("iou",))
    with pytest.raises(ValueError, match="no rows"):
        by_quartile(table[:0], "hard", ("iou",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"soft": np.full((40, 50), 300.0)}, "photo0: values from 300 to 300.*0 to 255"),
        ({"matte": np.full((40, 50), 255.0)}, "photo0, its true matte: values from 255"),
        ({"soft": np.full((40, 50), np.nan)}, "photo0: values from nan"),
        ({"soft": np.zeros((40, 51))}, r"photo0.*\(40, 51\).*\(40, 50\)"),
    ],
)
def test_cases_that_cannot_be_scored(change, message):
    with pytest.raises(ValueError, match=message):
        score_cases([CASES[0]._replace(**change)])


def test_requests_that_cannot_be_meant():
    with pytest.raises(ValueError, match="photo0: its difficulty needs the photo"):
        score_cases(CASES, difficulty=True)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        score_cases([])
    with pytest.raises(ValueError, match="between 0 and 1, got 50"):
        score_cases(CASES, threshold=50)


@pytest.fixture
def folders(tmp_path):
    """masks/ and predictions/ of three photos, written in three ways."""
    for name in ("masks", "masks/party", "predictions", "predictions/party"):
        (tmp_path / name).mkdir()
    for case, name in zip(CASES, ["one", "party/two", "three"], strict=False):
        truth = Image.fromarray(np.rint(case.matte * 255).astype(np.uint8))
        truth.save(tmp_path / "masks" / f"{name}{'_mask' if name == 'three' else ''}.png")
        byte = np.rint(case.soft * 255).astype(np.uint8)
        file = tmp_path / "predictions" / name
        if name == "one":
            Image.fromarray(byte).save(f"{file}_mask_soft.png")
            Image.fromarray(255 - byte).save(f"{file}_mask_binary.png")  # what else is there
            Image.fromarray(255 - byte).save(f"{file}.png")
        elif name == "three":
            colours = np.zeros((*byte.shape, 3), np.uint8)
            Image.fromarray(np.dstack([colours, byte])).save(f"{file}.png")
        else:
            Image.fromarray(np.rint(case.soft * 65535).astype(np.uint16)).save(f"{file}.png")
    return tmp_path / "predictions", tmp_path / "masks"


def test_predictions_from_files(folders):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cases = {case.id: case for case in read_predictions(*folders)}
    assert list(cases) == ["one", "party/two", "three"]
    for case, (id, step) in zip(
        CASES, [("one", 255), ("party/two", 65535), ("three", 255)], strict=False
    ):
        np.testing.assert_allclose(cases[id].soft, case.soft, atol=0.51 / step)
        np.testing.assert_allclose(cases[id].matte, case.matte, atol=0.51 / 255)
        assert cases[id].soft.dtype == cases[id].matte.dtype == np.float32
    found = score_cases(read_predictions(*map(str, folders))).table
    expected = score_cases(CASES[:3]).table.iloc[[0, 1, 2]]
    np.testing.assert_allclose(found["iou"], expected["iou"], atol=0.01)


def test_predictions_that_do_not_fit(folders):
    predictions, masks = folders
    with pytest.raises(NotADirectoryError, match=r"nowhere is no folder"):
        read_predictions(masks / "nowhere", masks)
    (masks / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no images"):
        read_predictions(masks / "empty", masks)
    small = Image.open(masks / "one.png").resize((7, 5))
    small.save(predictions / "one_mask_soft.png")
    with pytest.raises(DataError, match=r"one_mask_soft\.png is 7 x 5, .*one\.png is 50 x 40"):
        read_predictions(predictions, masks)  # before the first case is asked for
    for number in range(9):
        small.save(masks / f"more{number}.png")
    with pytest.raises(DataError, match=r"9 of 12 masks.*no prediction.*more0, .*more4, \.\.\.$"):
        read_predictions(predictions, masks)
    small.save(predictions / "more0.out.png")
    with pytest.raises(DataError, match=r"more4, \.\.\. \(it has .*more0\.out"):
        read_predictions(predictions, masks)
    with pytest.raises(DataError, match=r"name two folders"):
        read_predictions(masks, masks / ".." / "masks")
    small.save(masks / "more0.bmp")
    with pytest.raises(DataError, match=r"more0\.\w+: same stem as more0\.\w+"):
        read_predictions(predictions, masks)


def test_labels_where_probabilities_are_expected_are_said(folders):
    predictions, masks = folders
    labels = (CASES[0].matte > 0.5).astype(np.uint8)
    Image.fromarray(labels).save(predictions / "one_mask_soft.png")
    with pytest.warns(UserWarning, match=r"one_mask_soft\.png holds the grey values 0 and 1 only"):
        next(read_predictions(predictions, masks))


def test_counts_survive_the_table():
    table = score_cases(CASES).table
    import torch

    counts = Counts(*(torch.tensor(table[name].to_numpy()) for name in ("tp", "fp", "fn", "tn")))
    assert counts.f_beta().tolist() == table["f_beta"].tolist()
