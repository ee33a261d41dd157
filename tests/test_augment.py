"""Augmentation: image and mask stay together, mattes stay soft, arguments are current."""

import random
import warnings

import albumentations as A
import numpy as np
import pytest

from unetlib.config import AUGMENTS
from unetlib.data.augment import build_augmentation, paste


def seeded(compose, seed: int):
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return compose


@pytest.mark.parametrize("preset", AUGMENTS.choices)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_presets_keep_shape_type_range_and_softness_without_a_warning(preset, dtype, photo):
    mask = np.tile(np.linspace(0, 255 if dtype == np.uint8 else 1, 128).astype(dtype), (96, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compose = build_augmentation(preset, (96, 128))
        for seed in range(30):
            out = seeded(compose, seed)(image=photo(96, 128), mask=mask)
            assert out["image"].shape == (96, 128, 3) and out["image"].dtype == np.uint8
            assert out["mask"].shape == (96, 128) and out["mask"].dtype == dtype
            assert out["mask"].min() >= 0 and out["mask"].max() <= mask.max()
            assert len(np.unique(out["mask"])) > 60


@pytest.mark.parametrize("preset", ["light", "standard", "strong"])
def test_image_and_mask_move_together(preset):
    """The image shows the mask itself: white disc on black. Wherever colour changes leave it
    recognisable, thresholding the image must give the mask back."""
    y, x = np.mgrid[:96, :96]
    shape = ((y - 40) ** 2 + (x - 58) ** 2 < 24**2) & (y < 52)  # symmetric to nothing
    mask = shape.astype(np.uint8) * 255
    image = np.repeat(np.where(shape, 200, 50).astype(np.uint8)[..., None], 3, 2)
    compose = build_augmentation(preset, (96, 96))
    scores, moved = [], 0
    for seed in range(60):
        out = seeded(compose, seed)(image=image, mask=mask)
        grey = out["image"].mean(axis=2)
        white = grey > (np.percentile(grey, 2) + np.percentile(grey, 98)) / 2
        truth = out["mask"] > 127
        scores.append((white & truth).sum() / max(1, (white | truth).sum()))
        moved += not np.array_equal(truth, shape)
    assert np.median(scores) > 0.95 and moved > 20
    assert np.mean(np.array(scores) > 0.8) > (0.8 if preset == "strong" else 0.95)


def test_nothing_black_comes_in_at_the_border():
    image = np.full((64, 64, 3), 180, np.uint8)
    for preset in ("standard", "strong"):
        affine = [t for t in build_augmentation(preset, (64, 64)) if isinstance(t, A.Affine)]
        compose = A.Compose(affine)
        for seed in range(20):
            out = seeded(compose, seed)(image=image, mask=np.full((64, 64), 255, np.uint8))
            assert out["image"].min() > 170 and out["mask"].min() > 250


def test_paste_puts_the_figure_on_the_photo_and_joins_the_masks():
    figure, image = np.full((1, 4, 3), 200, np.uint8), np.full((1, 4, 3), 100, np.uint8)
    matte = np.array([[0, 51, 255, 0]], np.uint8)
    mask = np.array([[0, 255, 0, 128]], np.uint8)
    blended, joined = paste(figure, matte, image, mask)
    assert blended[0, :, 0].tolist() == [100, 120, 200, 100]  # 51 / 255 is a fifth
    assert joined.tolist() == [[0, 255, 255, 128]]
