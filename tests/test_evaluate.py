"""Evaluation of whole sets against brute force, what makes a photo hard, and leaderboards."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from unetlib.checkpoint import Checkpoint, save_checkpoint
from unetlib.data.pairs import DataError, Pair
from unetlib.data.preprocess import Preprocess
from unetlib.data.sources import open_source
from unetlib.data.synthetic import generate_sample
from unetlib.evaluate import (
    DIFFICULTIES,
    best_threshold,
    difficulties,
    find_models,
    match_predictions,
    measure,
)
from unetlib.metrics import COUNTS, Counts
from unetlib.models import build_model
from unetlib.scores import SALIENCY, SCORES, curves, paired

SIZES = [(40, 60), (33, 21), (50, 50), (64, 48), (30, 31)]  # H, W
TAGS = [("hair",), (), ("hair", "texture"), ("texture",), ()]
LAST = ["foreground_share", *COUNTS, "tags", "milliseconds"]


@pytest.fixture
def pairs(tmp_path):
    """Five photos of a red disc on blue, each of another size; the mask of the last is empty."""
    result = []
    for i, ((height, width), tags) in enumerate(zip(SIZES, TAGS, strict=True)):
        y, x = np.mgrid[:height, :width]
        mask = (np.hypot(y - height / 2, x - width / 2) < 0.3 * min(height, width)) & (i < 4)
        photo = np.where(mask[..., None], (200, 60, 40), (30, 60, 190)).astype(np.uint8)
        files = tmp_path / f"{i}.png", tmp_path / f"{i}_mask.png"
        Image.fromarray(photo).save(files[0])
        Image.fromarray((mask * 255).astype(np.uint8)).save(files[1])
        result.append(Pair(f"photo{i}", *files, tags))
    return result


def reddish(image):
    """A predictor with soft values: how red a pixel is, with a fixed pattern of errors."""
    height, width = image.shape[:2]
    noise = np.random.default_rng(height * 1000 + width).random((height, width))
    return (0.4 * image[..., 0] / 255 + 0.6 * noise).astype(np.float32)


def iou_of(pair, threshold):
    image, matte = pair.load()
    mask, truth = reddish(image) >= threshold, matte >= 0.5
    return (mask & truth).sum() / (mask | truth).sum() if (mask | truth).any() else 1.0


def test_a_row_per_photo_at_its_own_size(pairs):
    table = measure(reddish, pairs, threshold=0.4).table
    assert table.columns.tolist() == ["id", *SCORES, *LAST]
    assert table["id"].tolist() == [p.id for p in pairs] and (table["milliseconds"] > 0).all()
    assert table[[*COUNTS]].sum(axis=1).tolist() == [h * w for h, w in SIZES]
    assert table["tags"].tolist() == ["hair", "", "hair texture", "texture", ""]
    for row, pair in zip(table.itertuples(), pairs, strict=True):
        image, matte = pair.load()
        soft, truth = reddish(image), matte >= 0.5
        assert row.iou == pytest.approx(iou_of(pair, 0.4), abs=1e-12)
        assert (row.tp, row.tp + row.fp) == ((soft[truth] >= 0.4).sum(), (soft >= 0.4).sum())
        assert row.boundary_iou == curves(soft, truth, [0.4])[1]
        assert row.mae == pytest.approx(np.abs(soft.astype(float) - matte).mean())
        assert row.foreground_share == truth.mean()


def test_the_sweep_is_brute_force_and_has_the_best_threshold(pairs):
    asked = 0

    def predictor(image):
        nonlocal asked
        asked += 1
        return reddish(image)

    found = measure(predictor, pairs, threshold="best")
    assert found.sweep["threshold"].tolist() == [i / 100 for i in range(1, 100)]
    for row in pd.DataFrame(found.sweep)[::11].itertuples():
        ious = [iou_of(pair, np.float32(row.threshold)) for pair in pairs]
        assert row.iou == pytest.approx(np.mean(ious), abs=1e-12)
    assert found.threshold == best_threshold(found.sweep)
    assert asked == 5  # each photo once
    again = measure(reddish, pairs, threshold=found.threshold)
    assert found.table[[*SCORES]].equals(again.table[[*SCORES]])
    assert found.table["iou"].mean() == pytest.approx(found.sweep["iou"].max())
    flat = pd.DataFrame({"threshold": [0.1, 0.4, 0.7], "iou": [0.5, 0.9, 0.8], "dice": [1, 1, 1]})
    assert best_threshold(flat) == 0.4 == best_threshold(flat, by="dice")  # the one nearest to 0.5


@pytest.mark.parametrize(
    ("predictor", "message"),
    [
        (lambda image: np.zeros((2, 2)), r"photo0.*\(2, 2\).*\(40, 60\)"),
        (lambda image: np.full(image.shape[:2], -3.0), "photo0.*not -3 to.*logits"),
        (lambda image: np.full(image.shape[:2], np.nan), "photo0.*nan"),
    ],
)
def test_predictions_that_are_no_soft_masks_are_refused(pairs, predictor, message):
    with pytest.raises(ValueError, match=message):
        measure(predictor, pairs)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 127"):
        measure(reddish, pairs, threshold=127)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        measure(reddish, [])


def test_masks_without_foreground_are_said(make_pairs, tmp_path):
    """Masks of 0 and 2, where an empty prediction would score 1."""
    root = make_pairs(["a", "b"], tmp_path / "labels")
    for path in (root / "masks").iterdir():
        Image.fromarray(np.uint8(np.asarray(Image.open(path)) > 127) * 2).save(path)
    dark = open_source(f"folder:{root}", val_fraction=0).train
    with pytest.warns(UserWarning, match="no true mask has a foreground.*mask_kind=labels"):
        measure(lambda image: np.zeros(image.shape[:2]), dark)


def test_photos_of_one_pixel(make_pairs, tmp_path):
    folder = make_pairs(["dot"], tmp_path / "dots", 1, 1)
    dots = open_source(f"folder:{folder}", val_fraction=0).train
    table = measure(lambda image: np.ones((1, 1)), dots, "best", True, True).table
    assert table.drop(columns=["id", "hard", "tags", "milliseconds"]).max(axis=None) <= 1


def test_scores_with_intervals(pairs):
    found = measure(reddish, pairs, threshold=0.4)
    scores = found.scores()
    for name in SCORES:
        mean, low, high, _ = paired(np.zeros(len(pairs)), found.table[name])
        assert scores[name] == pytest.approx({"mean": mean, "low": low, "high": high})
    counts = Counts(*(found.table[name].sum() for name in COUNTS))
    assert scores["pooled_iou"]["mean"] == counts.iou().item()


# masks of another program


@pytest.fixture
def folders(tmp_path):
    """predictions/ and masks/ of three photos, written in three ways."""
    rng = np.random.default_rng(0)
    mattes = {name: rng.integers(0, 256, (40, 50), np.uint8) for name in ("one", "a/two", "three")}
    for name, byte in mattes.items():
        truth = tmp_path / "masks" / f"{name}{'_mask' if name == 'three' else ''}.png"
        file = tmp_path / "predictions" / name
        for path in (truth, file):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(byte).save(truth)
        if name == "one":
            Image.fromarray(byte).save(f"{file}_mask_soft.png")
            Image.fromarray(255 - byte).save(f"{file}.png")  # what else is there
        elif name == "three":
            Image.fromarray(np.dstack([byte // 2] * 3 + [byte])).save(f"{file}.png")
        else:
            Image.fromarray(byte * np.uint16(257)).save(f"{file}.png")
    return tmp_path / "predictions", tmp_path / "masks"


def test_predictions_from_files(folders):
    pairs = match_predictions(*folders)
    assert sorted(pair.id for pair in pairs) == ["a/two", "one", "three"]
    table = measure(None, pairs, saliency=True).table
    assert (table["iou"] == 1).all() and set(SALIENCY) <= set(table)
    assert table["mae"].max() < 1e-6
    columns = {"s_measure": [0.5, 0.9, np.nan], "e_measure": [np.nan] * 3}  # not of all photos
    one = measure(None, pairs)
    scores = one._replace(columns=one.columns | columns).scores()
    assert scores["s_measure"]["mean"] == pytest.approx(0.7) and scores["iou"]["low"] == 1
    assert np.isnan(scores["e_measure"]["mean"])
    # as ONNX Runtime's sigmoid rounds
    truth = np.asarray(Image.open(folders[1] / "one.png")) >= 128
    Image.fromarray(truth * np.float32(1.000001)).save(folders[0] / "one_mask_soft.tif")
    pairs = [pair for pair in match_predictions(*folders) if pair.image.suffix == ".tif"]
    assert measure(None, pairs).table["iou"].tolist() == [1]


def test_predictions_that_do_not_fit(folders):
    predictions, masks = folders
    with pytest.raises(DataError, match="name two folders"):
        match_predictions(masks, masks / ".." / "masks")
    (masks / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no images"):
        match_predictions(predictions, masks / "empty")
    with pytest.raises(DataError, match="3 of 3 masks.*no prediction.*/empty, such as .*no image"):
        match_predictions(masks / "empty", masks)
    pairs = match_predictions(predictions, masks)
    logits = np.linspace(-9, 9, 2000, dtype=np.float32).reshape(40, 50)
    Image.fromarray(logits).save(predictions / "one_mask_soft.tif")
    with pytest.raises(ValueError, match="one.*logits"):
        measure(None, match_predictions(predictions, masks))
    (predictions / "one_mask_soft.tif").unlink()
    (predictions / "one_mask_soft.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="one_mask_soft.png: not an image"):
        measure(None, pairs)
    Image.new("L", (7, 5)).save(masks / "more.png")
    with pytest.raises(DataError, match="1 of 4 masks.*no prediction.*such as more. There"):
        match_predictions(predictions, masks)


# what makes a photo hard


def test_each_difficulty_finds_its_tag():
    """By the chance that a photo with the tag has more of it than one without."""
    samples = [generate_sample(60061, index, 64) for index in range(60)]
    table = pd.DataFrame([difficulties(s.image, s.matte) for s in samples])
    assert tuple(table) == DIFFICULTIES and table.apply(lambda c: c.between(0, 1)).all(axis=None)
    for name in DIFFICULTIES:
        tag = "hair" if name == "fine_detail" else name
        tagged = np.array([tag in s.tags for s in samples])
        more, less = table[name][tagged].to_numpy(), table[name][~tagged].to_numpy()
        assert (more[:, None] > less).mean() >= 0.9, name


def test_difficulties_of_a_set(pairs):
    table = measure(reddish, pairs, difficulty=True).table
    assert table.columns.tolist() == ["id", *SCORES, *DIFFICULTIES, "hard", *LAST]
    for name in DIFFICULTIES:
        high = table[name] > table[name].quantile(0.75)
        assert table["hard"].str.contains(name).tolist() == high.tolist()


# several networks


def save(path, start: int = 0, bias: float | None = None, **extra):
    """A tiny network that was not trained; with a bias its answer is the same everywhere."""
    torch.manual_seed(start)
    model = build_model("unet_small", base=4, depth=2)
    if bias is not None:
        last = [part for part in model.modules() if isinstance(part, torch.nn.Conv2d)][-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, bias)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = Checkpoint(model.eval(), Preprocess((32, 32)), 1, {}, [], extra)
    return save_checkpoint(path, found)


@pytest.mark.usefixtures("root")
def test_networks_by_file_folder_and_name(tmp_path):
    paths = [save(tmp_path / f"{name}/net.pth", i) for i, name in enumerate("ab")]
    found = find_models([*paths, "a/net.pth", "people_unet"])
    assert list(found) == ["net.pth", str(paths[1]), "people_unet"]
    assert find_models(["a"]) == {"net.pth": paths[0]}
