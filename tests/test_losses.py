"""Losses against float64 NumPy written from the papers, hand-computed cases, other libraries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchvision.ops import sigmoid_focal_loss

from unetlib.losses import LOSSES, bce_loss, boundary_loss, build_loss, dice_loss, focal_loss

SHAPE = (2, 1, 4, 5)
maps = hnp.arrays(np.float32, SHAPE, elements=st.floats(-8, 8, width=32))
mattes = hnp.arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32))
masks = hnp.arrays(bool, SHAPE).map(lambda mask: mask.astype(np.float32))
quick = settings(max_examples=30, deadline=None)
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def probability(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def numpy_bce(logits, target):
    p, t = probability(logits), target.astype(np.float64)
    return -(t * np.log(p) + (1 - t) * np.log1p(-p)).mean()


def numpy_focal(logits, target, alpha=0.25, gamma=2):
    p, t = probability(logits), target.astype(np.float64)
    cross_entropy = -(t * np.log(p) + (1 - t) * np.log1p(-p))
    weight = alpha * t + (1 - alpha) * (1 - t)
    return (weight * np.abs(t - p) ** gamma * cross_entropy).mean()


def numpy_tversky(logits, target, alpha=0.3, beta=0.7, smooth=1.0):
    values = []
    for p, t in zip(probability(logits), target.astype(np.float64), strict=True):
        tp, fp, fn = (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum()
        values.append(1 - (tp + smooth / 2) / (tp + alpha * fp + beta * fn + smooth / 2))
    return np.mean(values)


def jaccard_loss(truth, wrong):
    """1 - IoU of the prediction that is `truth` except at the pixels in `wrong`."""
    predicted = truth ^ wrong
    union = (predicted | truth).sum()
    return 1 - (predicted & truth).sum() / union if union else 0.0


def numpy_lovasz(logits, target):
    """The Lovász extension by its definition: set function differences along the sorted errors."""
    values = []
    for x, truth in zip(logits.astype(np.float64), target >= 0.5, strict=True):
        x, truth = x.ravel(), truth.ravel()
        hinge = np.maximum(0, 1 - np.where(truth, x, -x))
        wrong, value = np.zeros(truth.size, bool), 0.0
        for pixel in np.argsort(-hinge, kind="stable"):
            before = jaccard_loss(truth, wrong)
            wrong[pixel] = True
            value += hinge[pixel] * (jaccard_loss(truth, wrong) - before)
        values.append(value)
    return np.mean(values)


def numpy_distance(mask):
    """Of every pixel of (H, W) to the nearest one of the other side, by looking at all of them."""
    if mask.all() or not mask.any():
        return np.where(mask, -1.0, 1.0)
    at = np.argwhere(np.ones_like(mask)).reshape(*mask.shape, 2)
    result = np.zeros(mask.shape)
    for row, column in np.ndindex(mask.shape):
        others = at[mask != mask[row, column]]
        nearest = np.hypot(*(others - (row, column)).T).min() - 0.5
        result[row, column] = -nearest if mask[row, column] else nearest
    return result / np.hypot(*mask.shape)


def numpy_boundary(logits, target):
    """p·distance as in the paper, from which the same of the perfect prediction is taken."""
    truth = target >= 0.5
    distance = np.stack([[numpy_distance(mask[0])] for mask in truth])
    return (probability(logits) * distance).mean() - (truth * distance).mean()


ORACLES = {
    "bce": numpy_bce,
    "dice": lambda logits, target: numpy_tversky(logits, target, 0.5, 0.5),
    "focal": numpy_focal,
    "tversky": numpy_tversky,
    "lovasz": numpy_lovasz,
    "boundary": numpy_boundary,
}


@pytest.mark.parametrize("name", LOSSES)
@quick
@given(logits=maps, target=mattes)
def test_agrees_with_float64_numpy(name, logits, target):
    ours = LOSSES[name](torch.from_numpy(logits), torch.from_numpy(target)).item()
    assert ours == pytest.approx(ORACLES[name](logits, target), abs=1e-5)


@every_loss
@quick
@given(logits=maps, target=masks)
def test_the_gradient_points_to_the_truth_where_the_loss_is_0(loss, logits, target):
    x, t = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(target)
    loss(x, t).backward()
    assert (x.grad * (2 * t - 1) <= 1e-7).all()  # a step downhill makes no pixel wronger
    assert loss(50 * (2 * t - 1), t).item() == pytest.approx(0, abs=1e-6)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_computed_in_float32(loss, dtype):
    logits, target = 6 * torch.randn(2, 1, 64, 64), torch.rand(2, 1, 64, 64).round()
    x = logits.to(dtype)
    assert loss(x, target).dtype == torch.float32 and loss(x, target).ndim == 0
    torch.testing.assert_close(loss(x, target), loss(x.float(), target))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(x, target), loss(x.float(), target))


@every_loss
@pytest.mark.parametrize("size", [1, 9])
def test_finite_with_finite_gradients_at_the_extremes(loss, size):
    noise = torch.randn(3, 1, size, size).sign()
    target = torch.stack([torch.zeros(1, size, size), torch.ones(1, size, size), noise[2] > 0])
    for logits in (0 * noise, 1e4 * noise, 1e4 * (2 * target - 1), 1e4 * (1 - 2 * target)):
        x = logits.requires_grad_()
        value = loss(x, target)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(x.grad).all()


@every_loss
def test_nan_is_not_hidden_and_shapes_that_differ_are_refused(loss):
    good, bad = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    bad[1, 0, 2, 3] = torch.nan
    assert torch.isnan(loss(bad, good)) and torch.isnan(loss(good, bad))
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\) and \(2, 4, 4\)"):
        loss(good, good[:, 0])


def test_focal_agrees_with_torchvision_on_hard_masks():
    logits, target = 4 * torch.randn(3, 1, 16, 16), torch.rand(3, 1, 16, 16).round()
    for how in ((0.25, 2.0), (0.6, 0.0), (0.5, 0.5), (0.0, 5.0)):  # alpha, gamma
        theirs = sigmoid_focal_loss(logits, target, *how, reduction="mean")
        torch.testing.assert_close(focal_loss(logits, target, *how), theirs)


def test_agree_with_segmentation_models_pytorch():
    smp = pytest.importorskip("segmentation_models_pytorch").losses
    torch.manual_seed(0)
    logits, target = 2 * torch.randn(1, 1, 16, 16), torch.rand(1, 1, 16, 16).round()
    # their (I + s) / (I + (fp + fn) / 2 + s) has half of our s; they pool over the batch
    theirs = {
        "bce": smp.SoftBCEWithLogitsLoss(),
        "dice": smp.DiceLoss("binary", smooth=0.5, eps=0),
        "focal": smp.FocalLoss("binary", alpha=0.25, gamma=2.0),
        "tversky": smp.TverskyLoss("binary", smooth=0.5, eps=0, alpha=0.3, beta=0.7),
        "lovasz": smp.LovaszLoss("binary", per_image=True),
    }
    for name, loss in theirs.items():
        torch.testing.assert_close(LOSSES[name](logits, target), loss(logits, target))


def test_terms_are_named_and_weighted():
    """Also of a spec with blanks and a sum inside."""
    pair = torch.randn(2, 1, 6, 4), torch.rand(2, 1, 6, 4)
    wanted = 0.5 * bce_loss(*pair) + 0.5 * dice_loss(*pair) + 0.3 * boundary_loss(*pair)
    terms = build_loss(" 5e-1*bce_dice+0.3 *\nboundary ")(*pair)
    assert list(terms) == ["loss", "bce", "dice", "boundary"]
    torch.testing.assert_close(terms["loss"], wanted)
    for name, function in LOSSES.items():
        alone = build_loss(name)(*pair)
        assert list(alone) == ["loss", name]
        assert alone["loss"] == alone[name] == function(*pair)


BAD_SPECS = {
    "jaccard": "'jaccard'. There are bce, dice, focal, tversky, lovasz, boundary, bce_dice",
    "bce + lovas": "Did you mean 'lovasz'",
    "bce +": "no loss is called ''. There are bce",
    "x*bce": "could not convert",
    "0*bce + dice": "bce stands twice or has no finite weight above 0",
    "bce_dice + 2*dice": "dice stands twice",
    "bce dice": "no loss is called",
}
UNREADABLE = ["", "bce - dice", "-1*bce", "nan*bce", "focal(2)", "print('bce')", "2*(bce + dice)"]


@pytest.mark.parametrize("spec", [*BAD_SPECS, *UNREADABLE])
def test_specs_that_make_no_sense(spec):
    with pytest.raises(ValueError, match=BAD_SPECS.get(spec, "no loss is called|no finite weight")):
        build_loss(spec)


def test_deep_supervision_sums_over_all_maps_and_names_them():
    torch.manual_seed(0)
    seven = {f"d{i}": torch.randn(2, 1, 8, 8, requires_grad=True) for i in range(7)}
    target = torch.rand(2, 1, 8, 8)
    loss = build_loss("bce + 0.5*dice + 2*boundary")
    terms = loss(seven, target)
    assert list(terms) == ["loss", *seven, "bce", "dice", "boundary"]
    for name, logits in seven.items():
        torch.testing.assert_close(terms[name], loss(logits, target)["loss"])
    torch.testing.assert_close(terms["loss"], sum(terms[name] for name in seven))
    terms["loss"].backward()
    assert all(logits.grad.abs().sum() > 0 for logits in seven.values())
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\) and \(2, 1, 8, 8\)"):
        loss({**seven, "d3": torch.zeros(2, 1, 4, 4)}, target)
