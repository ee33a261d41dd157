"""Evaluation of whole sets, against brute force, and the baselines."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from unetlib import baselines
from unetlib.data import Pair, load_image, load_mask
from unetlib.evaluate import (
    BATCH_IMAGES,
    _counts_at,
    best_threshold,
    by_tag,
    evaluate,
    predictions,
    summarize,
    threshold_sweep,
)
from unetlib.metrics import interval

SIZES = [(40, 60), (33, 21), (50, 50), (64, 48), (30, 31)]  # H, W
TAGS = [("hair",), (), ("hair", "texture"), ("texture",), ()]


def disc(height, width, radius=0.3, shift=0):
    y, x = np.mgrid[:height, :width]
    return np.hypot(y - height / 2, x - width / 2 - shift) < radius * min(height, width)


@pytest.fixture
def pairs(tmp_path):
    """Five photos of a red disc on blue, each of another size; the mask of the last is empty."""
    rng = np.random.default_rng(0)
    result = []
    for i, (size, tags) in enumerate(zip(SIZES, TAGS, strict=True)):
        mask = disc(*size) & (i < 4)
        photo = np.where(mask[..., None], (200, 60, 40), (30, 60, 190)) + rng.integers(-20, 20, 3)
        files = tmp_path / f"{i}.png", tmp_path / f"{i}_mask.png"
        Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(files[0])
        Image.fromarray((mask * 255).astype(np.uint8)).save(files[1])
        result.append(Pair(f"photo{i}", *files, tags))
    return result


def reddish(image):
    """A predictor with soft values: how red a pixel is, with a fixed pattern of errors."""
    height, width = image.shape[:2]
    noise = np.random.default_rng(height * 1000 + width).random((height, width))
    return (0.7 * image[..., 0] / 255 + 0.3 * noise).astype(np.float32)


def brute_force(pair, threshold):
    """IoU and Dice of one photo, from sets of pixels."""
    image = np.asarray(load_image(pair.image))
    guess = set(np.flatnonzero(reddish(image) >= threshold))
    truth = set(np.flatnonzero(load_mask(pair.mask) >= 0.5))
    iou = len(guess & truth) / len(guess | truth) if guess | truth else 1.0
    return iou, 2 * iou / (1 + iou), len(guess & truth), len(guess | truth)


def test_a_row_per_image_at_its_own_size(pairs):
    table = evaluate(reddish, pairs, threshold=0.4)
    assert table["id"].tolist() == [p.id for p in pairs]
    assert list(zip(table["height"], table["width"], strict=True)) == SIZES
    assert table["tags"].tolist() == ["hair", "", "hair texture", "texture", ""]
    for row, pair in zip(table.itertuples(), pairs, strict=True):
        iou, dice, *_ = brute_force(pair, 0.4)
        assert (row.iou, row.dice) == pytest.approx((iou, dice), abs=1e-12)
        matte, soft = load_mask(pair.mask), reddish(np.asarray(load_image(pair.image)))
        assert row.mae == pytest.approx(np.abs(soft.astype(float) - matte).mean(), abs=1e-6)
        assert row.foreground_share == (matte >= 0.5).mean()
        assert row.tp + row.fp + row.fn + row.tn == row.width * row.height


def test_summary(pairs, tmp_path):
    table = evaluate(reddish, pairs, threshold=0.4)
    table.to_csv(tmp_path / "t.csv", index=False)
    results = [brute_force(pair, 0.4) for pair in pairs]
    for values in (table, pd.read_csv(tmp_path / "t.csv")):  # survives a file
        summary = summarize(values)
        assert summary["n"] == 5
        assert summary["iou"] == pytest.approx(np.mean([r[0] for r in results]))
        both, either = sum(r[2] for r in results), sum(r[3] for r in results)
        assert summary["pooled_iou"] == pytest.approx(both / either)
    with pytest.raises(ValueError, match="no rows"):
        summarize(table.iloc[:0])


def test_by_tag(pairs, tmp_path):
    table = evaluate(reddish, pairs)
    table.to_csv(tmp_path / "t.csv", index=False)
    for values in (table, pd.read_csv(tmp_path / "t.csv")):  # there, no tags are NaN
        tags = by_tag(values).set_index("tag")
        assert tags.index.tolist() == ["hair", "texture", "(all)"]
        assert tags["n"].tolist() == [2, 2, 5]
        iou = table["iou"]
        assert tags.loc["hair", "iou"] == pytest.approx((iou[0] + iou[2]) / 2)
        assert tags.loc["hair", ["iou_low", "iou_high"]].tolist() == list(interval(iou[[0, 2]]))
        assert tags.loc["hair", "iou_without"] == pytest.approx((iou[1] + iou[3] + iou[4]) / 3)
        assert np.isnan(tags.loc["(all)", "iou_without"])


def test_sweep_is_brute_force_at_every_threshold(pairs):
    sweep = threshold_sweep(reddish, pairs, steps=20)
    assert sweep["threshold"].tolist() == [i / 20 for i in range(1, 20)]
    for row in sweep.itertuples():
        results = [brute_force(pair, row.threshold) for pair in pairs]
        assert row.iou == pytest.approx(np.mean([r[0] for r in results]), abs=1e-12)
        assert row.dice == pytest.approx(np.mean([r[1] for r in results]), abs=1e-12)
        pooled = sum(r[2] for r in results) / sum(r[3] for r in results)
        assert row.pooled_iou == pytest.approx(pooled, abs=1e-12)


@settings(deadline=None)
@given(
    arrays(np.float32, 30, elements=st.sampled_from([0.0, 0.29, 0.3, 0.57, 0.58, 0.999, 1.0])),
    arrays(bool, 30),
)
def test_a_value_exactly_at_a_threshold_falls_as_in_a_comparison(soft, truth):
    thresholds = np.arange(1, 100) / 100
    counts = _counts_at(thresholds, soft, truth)
    for i, threshold in enumerate(thresholds.tolist()):
        guess = soft >= threshold
        assert counts.tp[i] == (guess & truth).sum()
        assert counts.fp[i] == (guess & ~truth).sum()
        assert counts.fn[i] == (~guess & truth).sum()
        assert counts.tn[i] == (~guess & ~truth).sum()


def test_one_pass_reads_each_photo_once(pairs):
    seen = []

    def predictor(image):
        seen.append(image.shape[:2])
        return reddish(image)

    threshold_sweep(predictor, pairs)
    assert seen == SIZES


def test_best_threshold():
    sweep = pd.DataFrame({"threshold": [0.1, 0.4, 0.7], "iou": [0.5, 0.9, 0.8], "dice": [1, 1, 1]})
    assert best_threshold(sweep) == 0.4
    assert best_threshold(sweep, by="dice") == 0.4  # all equal: the middle, not the first


def test_streams(pairs):
    """An endless set is no problem: only so many photos are read ahead."""
    read = []

    def endless():
        for pair in itertools.cycle(pairs):
            read.append(pair)
            yield pair

    first = next(predictions(reddish, endless()))
    assert first.pair is pairs[0] and first.image.dtype == np.uint8
    assert len(read) == BATCH_IMAGES


def test_a_predictor_with_batches_and_a_checkpoint_model(pairs):
    """The seam to the real thing: same masks one by one, and a table from them."""
    from unetlib.checkpoint import Checkpoint
    from unetlib.data import Preprocess
    from unetlib.models import build_model
    from unetlib.predict import Predictor

    torch.manual_seed(0)
    model = build_model("unet_small").eval()
    predictor = Predictor(Checkpoint(model, Preprocess((32, 32))), device="cpu")
    examples = list(predictions(predictor, pairs))
    for example, pair in zip(examples, pairs, strict=True):
        assert example.soft.shape == example.image.shape[:2]
        np.testing.assert_allclose(example.soft, predictor.predict(pair.image), atol=1e-5)
    assert len(evaluate(predictor, pairs)) == 5


def test_unreadable_files_are_left_out_by_name(pairs, tmp_path):
    broken = Pair("broken", tmp_path / "broken.jpg", pairs[0].mask)
    broken.image.write_bytes(b"\xff\xd8\xff\xe0 no photo")
    with pytest.warns(UserWarning, match=r"left out of the evaluation.*broken\.jpg"):
        table = evaluate(reddish, [pairs[0], broken, pairs[1]])
    assert table["id"].tolist() == ["photo0", "photo1"]
    with (
        pytest.warns(UserWarning, match=r"broken\.jpg"),
        pytest.raises(ValueError, match="no image that can be read"),
    ):
        evaluate(reddish, [broken])


@pytest.mark.parametrize(
    ("predictor", "message"),
    [
        (lambda image: np.zeros((2, 2)), r"photo0.*\(2, 2\).*\(40, 60\)"),
        (lambda image: np.full(image.shape[:2], -3.0), "photo0.*from -3.*logits"),
        (lambda image: np.full(image.shape[:2], np.nan), "photo0.*nan"),
    ],
)
def test_predictions_that_are_no_soft_masks_are_refused(pairs, predictor, message):
    with pytest.raises(ValueError, match=message):
        evaluate(predictor, pairs)


def test_bad_arguments(pairs):
    with pytest.raises(ValueError, match=r"between 0 and 1, got 127"):
        evaluate(reddish, pairs, threshold=127)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(reddish, [])
    with pytest.raises(ValueError, match="at least 2"):
        threshold_sweep(reddish, pairs, steps=1)


def test_constant_mask_is_the_training_mask_when_all_are_the_same(pairs):
    predict = baselines.constant_mask([pairs[2]] * 3, size=50)
    blank = np.zeros((50, 50, 3), np.uint8)
    assert np.array_equal(predict(blank), disc(50, 50))
    assert predict(np.zeros((7, 90, 3), np.uint8)).shape == (7, 90)
    with pytest.raises(ValueError, match="empty"):
        baselines.constant_mask([])


def test_constant_mask_maximises_training_iou(tmp_path):
    """Discs of several radii: no other disc does better than the one it takes."""
    pairs, truths = [], []
    for i, radius in enumerate((0.1, 0.2, 0.3, 0.4, 0.45)):
        truths.append(disc(32, 32, radius))
        path = tmp_path / f"{i}.png"
        Image.fromarray(truths[-1]).save(path)
        pairs.append(Pair(str(i), path, path))

    def mean_iou(mask):
        return np.mean([(mask & t).sum() / (mask | t).sum() for t in truths])

    mask = baselines.constant_mask(pairs, size=32)(np.zeros((32, 32, 3), np.uint8))
    assert mean_iou(mask) == max(mean_iou(t) for t in truths)


@pytest.mark.parametrize("method", [baselines.kmeans_mask, baselines.grabcut_mask])
def test_colour_baselines_solve_the_easy_case_and_repeat_themselves(method):
    rng = np.random.default_rng(1)
    truth = disc(300, 400)
    photo = np.where(truth[..., None], (200, 60, 40), (30, 60, 190))
    photo = (photo + rng.integers(-20, 20, photo.shape)).clip(0, 255).astype(np.uint8)
    mask = method(photo)
    assert mask.dtype == bool and mask.shape == truth.shape
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95
    method(photo[:200, :150])  # moves OpenCV's random numbers on
    assert np.array_equal(mask, method(photo))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (4, 4), (3, 500)])
@pytest.mark.parametrize("method", [baselines.kmeans_mask, baselines.grabcut_mask])
def test_colour_baselines_on_tiny_and_plain_photos(method, shape):
    mask = method(np.full((*shape, 3), 128, np.uint8))
    assert mask.shape == shape and mask.dtype == bool
