"""Losses against float64 NumPy written from the papers, hand-computed cases, other libraries."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchvision.ops import sigmoid_focal_loss

from unetlib import losses as losses_module
from unetlib.losses import (
    LOSSES,
    bce_loss,
    boundary_loss,
    build_loss,
    dice_loss,
    focal_loss,
    lovasz_loss,
    signed_distance,
    tversky_loss,
)

SHAPE = (2, 1, 4, 5)
maps = hnp.arrays(np.float32, SHAPE, elements=st.floats(-8, 8, width=32))
mattes = hnp.arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32))
masks = hnp.arrays(bool, SHAPE).map(lambda mask: mask.astype(np.float32))
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


def numpy_dice(logits, target, smooth=1.0):
    values = []
    for p, t in zip(probability(logits), target.astype(np.float64), strict=True):
        values.append(1 - (2 * (p * t).sum() + smooth) / (p.sum() + t.sum() + smooth))
    return np.mean(values)


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
    "dice": numpy_dice,
    "focal": numpy_focal,
    "tversky": numpy_tversky,
    "lovasz": numpy_lovasz,
    "boundary": numpy_boundary,
}


@pytest.mark.parametrize("name", LOSSES)
@given(logits=maps, target=mattes)
def test_agrees_with_float64_numpy(name, logits, target):
    ours = LOSSES[name](torch.from_numpy(logits), torch.from_numpy(target)).item()
    assert ours == pytest.approx(ORACLES[name](logits, target), abs=1e-5)


@given(maps, mattes, st.floats(0, 1), st.floats(0.25, 4))
def test_focal_arguments_agree_with_numpy(logits, target, alpha, gamma):
    ours = focal_loss(torch.from_numpy(logits), torch.from_numpy(target), alpha, gamma).item()
    assert ours == pytest.approx(numpy_focal(logits, target, alpha, gamma), abs=2e-5)


@given(maps, mattes, st.floats(0.1, 5), st.floats(0.1, 5), st.floats(0.1, 9))
def test_tversky_arguments_agree_with_numpy(logits, target, alpha, beta, smooth):
    ours = tversky_loss(torch.from_numpy(logits), torch.from_numpy(target), alpha, beta, smooth)
    wanted = numpy_tversky(logits, target, alpha, beta, smooth)
    assert ours.item() == pytest.approx(wanted, abs=1e-5)


# ---- what holds for all of them


@every_loss
@given(logits=maps, target=mattes)
def test_at_least_zero_and_the_order_of_images_does_not_matter(loss, logits, target):
    x, t = torch.from_numpy(logits), torch.from_numpy(target)
    value = loss(x, t).item()
    assert value >= -1e-6
    assert loss(x.flip(0), t.flip(0)).item() == pytest.approx(value, abs=1e-5)


@every_loss
@given(target=masks)
def test_zero_at_the_perfect_prediction(loss, target):
    t = torch.from_numpy(target)
    assert loss(50 * (2 * t - 1), t).item() == pytest.approx(0, abs=1e-6)


@every_loss
@given(logits=maps, target=masks)
def test_the_gradient_points_to_the_truth(loss, logits, target):
    x, t = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(target)
    loss(x, t).backward()
    assert (x.grad * (2 * t - 1) <= 1e-7).all()  # a step downhill makes no pixel wronger


@every_loss
@given(logits=maps, target=masks, step=st.floats(0.1, 9), pixel=st.integers(0, 39))
def test_a_pixel_nearer_to_the_truth_never_costs_more(loss, logits, target, step, pixel):
    x, t = torch.from_numpy(logits), torch.from_numpy(target)
    better = x.clone().flatten()
    better[pixel] += step * (2 * t.flatten()[pixel] - 1)
    assert loss(better.reshape(SHAPE), t).item() <= loss(x, t).item() + 1e-6


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
@pytest.mark.parametrize("scale", [0.0, 1e2, 1e4])
def test_finite_with_finite_gradients_at_the_extremes(loss, size, scale):
    noise = torch.randn(3, 1, size, size).sign()
    target = torch.stack([torch.zeros(1, size, size), torch.ones(1, size, size), noise[2] > 0])
    for logits in (scale * noise, scale * (2 * target - 1), scale * (1 - 2 * target)):
        x = logits.requires_grad_()
        value = loss(x, target)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(x.grad).all()


@every_loss
def test_nan_is_not_hidden(loss):
    good, bad = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    bad[1, 0, 2, 3] = torch.nan
    assert torch.isfinite(loss(good, good))
    assert torch.isnan(loss(bad, good)) and torch.isnan(loss(good, bad))


@every_loss
def test_shapes_that_differ_are_refused(loss):
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\) and \(2, 4, 4\)"):
        loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))


# ---- each by itself


def test_bce_of_an_undecided_network_is_log_two():
    x = torch.zeros(2, 1, 3, 3)
    assert bce_loss(x, torch.rand(2, 1, 3, 3)).item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.6, 0.0), (0.5, 0.5), (0.0, 5.0)])
def test_focal_agrees_with_torchvision_on_hard_masks(alpha, gamma):
    logits, target = 4 * torch.randn(3, 1, 16, 16), torch.rand(3, 1, 16, 16).round()
    theirs = sigmoid_focal_loss(logits, target, alpha, gamma, reduction="mean")
    torch.testing.assert_close(focal_loss(logits, target, alpha, gamma), theirs)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_focal_has_a_gradient_where_a_pixel_is_exactly_right(gamma):
    x = torch.tensor([[[[0.0, 200.0, -200.0]]]], requires_grad=True)
    focal_loss(x, torch.tensor([[[[0.5, 1.0, 0.0]]]]), gamma=gamma).backward()
    assert x.grad.flatten().tolist() == [0, 0, 0]


@given(mattes)
def test_bce_and_focal_are_least_where_the_matte_is_met(target):
    t = torch.from_numpy(target).clamp(0.01, 0.99)
    for loss in (bce_loss, focal_loss):
        x = t.logit().requires_grad_()
        value = loss(x, t)
        value.backward()
        assert x.grad.abs().max() < 1e-6
        for nudge in (-0.3, 0.3):
            assert loss(x + nudge, t) > value


def test_dice_by_hand():
    # two of four pixels foreground; certain prediction of one right and one wrong pixel, smooth 1
    target = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    logits = torch.tensor([[[[50.0, -50.0], [50.0, -50.0]]]])
    assert dice_loss(logits, target).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert dice_loss(50 * (2 * target - 1), target).item() == pytest.approx(0, abs=1e-6)


def test_without_foreground_dice_still_empties_the_prediction():
    logits = torch.zeros(1, 1, 8, 8, requires_grad=True)
    empty = torch.zeros(1, 1, 8, 8)
    dice_loss(logits, empty).backward()
    assert (logits.grad > 0).all()  # a step downhill lowers every logit
    assert dice_loss(torch.full((1, 1, 8, 8), -30.0), empty).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(torch.full((1, 1, 8, 8), 30.0), empty).item() > 0.98


def test_tversky_by_hand():
    # one pixel right, one made up, two missed; smooth 2 adds 1 above and below
    target = torch.tensor([[[[1.0, 1.0, 1.0, 0.0]]]])
    logits = torch.tensor([[[[50.0, -50.0, -50.0, 50.0]]]])
    value = tversky_loss(logits, target, alpha=0.25, beta=2.0, smooth=2.0).item()
    assert value == pytest.approx(1 - (1 + 1) / (1 + 0.25 * 1 + 2.0 * 2 + 1))


@given(maps, mattes)
def test_tversky_with_equal_halves_is_dice(logits, target):
    x, t = torch.from_numpy(logits), torch.from_numpy(target)
    assert tversky_loss(x, t, 0.5, 0.5, 3.0).item() == pytest.approx(
        numpy_dice(logits, target, 3.0), abs=1e-5
    )


@given(masks, masks)
def test_lovasz_is_twice_the_jaccard_loss_on_hard_predictions(predicted, target):
    wanted = np.mean(
        [jaccard_loss(b > 0, (a != b)) for a, b in zip(predicted, target, strict=True)]
    )
    ours = lovasz_loss(torch.from_numpy(2 * predicted - 1), torch.from_numpy(target)).item()
    assert ours == pytest.approx(2 * wanted, abs=1e-6)


@given(maps, maps, masks)
def test_lovasz_is_convex(one, other, target):
    a, b, t = (torch.from_numpy(array) for array in (one, other, target))
    assert lovasz_loss((a + b) / 2, t) <= (lovasz_loss(a, t) + lovasz_loss(b, t)) / 2 + 1e-5


def test_lovasz_charges_add_up_in_a_large_image():
    """Every logit at 0 makes every hinge 1, so the charges add up to the worst IoU loss, 1."""
    target = torch.zeros(1, 1, 1024, 1024)
    target[..., 300:700, 200:900] = 1
    x = torch.zeros_like(target, requires_grad=True)
    value = lovasz_loss(x, target)
    value.backward()
    assert value.item() == pytest.approx(1, abs=1e-4)
    assert x.grad.abs().double().sum().item() == pytest.approx(1, abs=1e-4)


def test_lovasz_without_foreground_lowers_the_highest_logit():
    x = torch.tensor([[[[0.5, 3.0, -2.0]]]], requires_grad=True)
    value = lovasz_loss(x, torch.zeros(1, 1, 1, 3))
    value.backward()
    assert value.item() == 4  # 1 + 3
    assert x.grad.flatten().tolist() == [0, 1, 0]


def test_signed_distance_by_hand():
    target = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]], [[[0.0] * 4]], [[[1.0] * 4]]])
    wanted = torch.tensor([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(17)
    torch.testing.assert_close(signed_distance(target)[0, 0, 0], wanted)
    assert (signed_distance(target)[1] == 1).all() and (signed_distance(target)[2] == -1).all()


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_signed_distance_agrees_with_brute_force(mask):
    ours = signed_distance(torch.from_numpy(mask)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(ours, numpy_distance(mask), atol=1e-5)


def test_boundary_counts_far_errors_more_and_does_not_depend_on_the_resolution():
    values = []
    for factor in (1, 4):
        target, near, far = torch.zeros(3, 1, 1, 48, 64)
        target[..., 10:30, 10:30] = 1
        near[..., 10:30, 10:34] = 1  # four columns too wide
        far[..., 10:30, 10:30] = 1
        far[..., 10:30, 56:60] = 1  # as many pixels, far away
        big = torch.ones(factor, factor)
        target, near, far = (torch.kron(m[0, 0], big)[None, None] for m in (target, near, far))
        values.append([boundary_loss(100 * m - 50, target).item() for m in (near, far)])
        assert values[-1][1] > 5 * values[-1][0]
    assert values[1] == pytest.approx(values[0], rel=0.02)


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


# ---- sums by name


def test_terms_are_named_and_weighted():
    logits, target = torch.randn(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    terms = build_loss("0.25*bce + 2*dice")(logits, target)
    assert list(terms) == ["loss", "bce", "dice"]
    torch.testing.assert_close(terms["loss"], 0.25 * terms["bce"] + 2 * terms["dice"])
    for name, function in LOSSES.items():
        alone = build_loss(name)(logits, target)
        assert list(alone) == ["loss", name]
        assert alone["loss"] == alone[name] == function(logits, target)


@pytest.mark.parametrize(
    "spec, wanted",
    [
        ("bce_dice", lambda x, t: bce_loss(x, t) + dice_loss(x, t)),
        (" bce+0.3 *\nboundary ", lambda x, t: bce_loss(x, t) + 0.3 * boundary_loss(x, t)),
        ("5e-1*bce_dice", lambda x, t: 0.5 * bce_loss(x, t) + 0.5 * dice_loss(x, t)),
        ("2*(bce + 3*lovasz)", lambda x, t: 2 * bce_loss(x, t) + 6 * lovasz_loss(x, t)),
        ("tversky( alpha=0.7, beta=0.3 )", lambda x, t: tversky_loss(x, t, 0.7, 0.3)),
        (
            "bce + 20*focal(gamma=1) + dice(smooth=9)",
            lambda x, t: bce_loss(x, t) + 20 * focal_loss(x, t, gamma=1.0) + dice_loss(x, t, 9.0),
        ),
    ],
)
def test_specs(spec, wanted):
    logits, target = torch.randn(2, 1, 6, 4), torch.rand(2, 1, 6, 4)
    torch.testing.assert_close(build_loss(spec)(logits, target)["loss"], wanted(logits, target))


@pytest.mark.parametrize(
    "spec, message",
    [
        ("jaccard", "'jaccard'; there are bce, dice, focal, tversky, lovasz, boundary, bce_dice"),
        ("bce + lovas", "Did you mean 'lovasz'?"),
        ("", "cannot read the loss ''"),
        ("bce +", "cannot read the loss 'bce \\+'; write it like 'bce"),
        ("bce - dice", "cannot read"),
        ("bce dice", "cannot read"),
        ("bce * 2", "a weight is a number, at least 0, not bce"),
        ("-1*bce", "not -1"),
        ("0*bce + dice", "greater than 0, not 0"),
        ("1e999*bce", "a weight is a number"),
        ("nan*bce", "not nan"),
        ("True*bce", "not True"),
        ("bce + bce", "a name stands twice in the loss 'bce \\+ bce'"),
        ("bce_dice + 2*dice", "twice"),
        ("focal(gama=1)", "the loss focal takes alpha, gamma, each once, not gama"),
        ("focal(gamma=1, gamma=2)", "each once"),
        ("bce(alpha=1)", "the loss bce takes no arguments, not alpha"),
        ("boundary(distance=1)", "takes no arguments"),
        ("bce_dice(smooth=2)", "cannot read"),
        ("focal(2)", "cannot read"),
        ("focal(gamma='2')", "gamma of focal is a number, at least 0, not '2'"),
        ("focal(alpha=1.5)", r"alpha is in \[0, 1\] and gamma at least 0, not 1.5 and 2.0"),
        ("tversky(alpha=0)", "alpha is greater than 0, not 0.0"),
        ("dice(smooth=0)", "smooth is greater than 0"),
        ("print('bce')", "cannot read"),
    ],
)
def test_specs_that_make_no_sense(spec, message):
    with pytest.raises(ValueError, match=message):
        build_loss(spec)


# ---- deep supervision


@pytest.fixture
def seven():
    torch.manual_seed(0)
    return {f"d{i}": torch.randn(2, 1, 8, 8, requires_grad=True) for i in range(7)}


def test_deep_supervision_sums_over_all_maps_and_names_them(seven):
    target = torch.rand(2, 1, 8, 8)
    loss = build_loss("bce + 0.5*dice + 2*boundary")
    terms = loss(seven, target)
    assert list(terms) == ["loss", *seven, "bce", "dice", "boundary"]
    for name, logits in seven.items():
        torch.testing.assert_close(terms[name], loss(logits, target)["loss"])
    torch.testing.assert_close(terms["loss"], sum(terms[name] for name in seven))
    torch.testing.assert_close(terms["dice"], dice_loss(seven["d0"], target))
    terms["loss"].backward()
    assert all(logits.grad.abs().sum() > 0 for logits in seven.values())


def test_deep_supervision_measures_distances_once(seven, monkeypatch):
    loss, calls = build_loss("bce + boundary"), []

    def counted(target):
        calls.append(target.shape)
        return signed_distance(target)

    monkeypatch.setattr(losses_module, "signed_distance", counted)
    loss(seven, torch.rand(2, 1, 8, 8))
    assert calls == [(2, 1, 8, 8)]


def test_deep_supervision_refuses_a_small_side_map_and_shows_nan(seven):
    loss, target = build_loss("bce_dice"), torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\) and \(2, 1, 8, 8\)"):
        loss({**seven, "d3": torch.zeros(2, 1, 4, 4)}, target)
    terms = loss({**seven, "d3": torch.full((2, 1, 8, 8), torch.nan)}, target)
    assert torch.isnan(terms["loss"]) and torch.isnan(terms["d3"]) and terms["d2"].isfinite()
