"""Losses against NumPy in float64, hand-computed cases, and the other library's Dice."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unetlib.losses import BCEDiceLoss, bce_loss, build_loss, dice_loss

maps = hnp.arrays(np.float32, (2, 1, 4, 5), elements=st.floats(-8, 8, width=32))
mattes = hnp.arrays(np.float32, (2, 1, 4, 5), elements=st.floats(0, 1, width=32))


def numpy_bce(logits, target):
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    t = target.astype(np.float64)
    return float(-(t * np.log(p) + (1 - t) * np.log1p(-p)).mean())


def numpy_dice(logits, target, smooth):
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    per_image = [
        1 - (2 * (a * b).sum() + smooth) / (a.sum() + b.sum() + smooth)
        for a, b in zip(p, target.astype(np.float64), strict=True)
    ]
    return float(np.mean(per_image))


@given(maps, mattes)
def test_both_agree_with_float64_numpy(logits, target):
    x, t = torch.from_numpy(logits), torch.from_numpy(target)
    assert bce_loss(x, t).item() == pytest.approx(numpy_bce(logits, target), abs=1e-5)
    assert dice_loss(x, t).item() == pytest.approx(numpy_dice(logits, target, 1.0), abs=1e-5)


@given(maps, mattes)
def test_dice_stays_in_its_range_and_ignores_the_order_of_images(logits, target):
    x, t = torch.from_numpy(logits), torch.from_numpy(target)
    value = dice_loss(x, t).item()
    assert -1e-6 <= value < 1
    assert dice_loss(x.flip(0), t.flip(0)).item() == pytest.approx(value, abs=1e-6)


def test_dice_by_hand():
    # two of four pixels foreground; certain prediction of one right and one wrong pixel, smooth 1
    target = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    logits = torch.tensor([[[[50.0, -50.0], [50.0, -50.0]]]])
    assert dice_loss(logits, target).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert dice_loss(50 * (2 * target - 1), target).item() == pytest.approx(0, abs=1e-6)


def test_bce_of_an_undecided_network_is_log_two():
    x = torch.zeros(2, 1, 3, 3)
    assert bce_loss(x, torch.rand(2, 1, 3, 3)).item() == pytest.approx(math.log(2), abs=1e-6)


def test_dice_agrees_with_segmentation_models_pytorch():
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, target = torch.randn(1, 1, 16, 16), torch.rand(1, 1, 16, 16).round()
    # theirs is (I + s) / (I + (fp + fn) / 2 + s), so its s is half of ours; it pools over the batch
    theirs = smp.losses.DiceLoss("binary", smooth=0.5, eps=0)(logits, target)
    torch.testing.assert_close(dice_loss(logits, target), theirs)


def test_without_foreground_the_gradient_still_empties_the_prediction():
    logits = torch.zeros(1, 1, 8, 8, requires_grad=True)
    empty = torch.zeros(1, 1, 8, 8)
    dice_loss(logits, empty).backward()
    assert (logits.grad > 0).all()  # a step downhill lowers every logit
    assert dice_loss(torch.full((1, 1, 8, 8), -30.0), empty).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(torch.full((1, 1, 8, 8), 30.0), empty).item() > 0.98


def test_terms_are_named_and_weighted():
    logits, target = torch.randn(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    terms = BCEDiceLoss(0.25, 2.0)(logits, target)
    assert set(terms) == {"loss", "bce", "dice"}
    torch.testing.assert_close(terms["loss"], 0.25 * terms["bce"] + 2 * terms["dice"])
    assert set(build_loss("bce")(logits, target)) == {"loss", "bce"}
    assert set(build_loss("dice")(logits, target)) == {"loss", "dice"}


def test_half_precision_logits_are_computed_in_float32():
    logits, target = 6 * torch.randn(2, 1, 64, 64), torch.rand(2, 1, 64, 64).round()
    half = logits.bfloat16()
    for loss in (bce_loss, dice_loss):
        assert loss(half, target).dtype == torch.float32
        torch.testing.assert_close(loss(half, target), loss(half.float(), target))


def test_errors():
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\) and \(2, 4, 4\)"):
        bce_loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="'jaccard'; there are bce, dice, bce_dice"):
        build_loss("jaccard")
    with pytest.raises(ValueError, match="not both 0"):
        BCEDiceLoss(0, 0)
