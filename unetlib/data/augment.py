"""Augmentation presets with Albumentations 2.0.8: image and mask through the same transform."""

import os
from functools import partial

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would look for updates on import

import albumentations as A
import cv2
import numpy as np

from unetlib.matting import composite, estimate_foreground


def build_augmentation(preset: str, size: tuple[int, int]) -> A.Compose:
    """`compose(image=uint8 (H, W, 3), mask=uint8 or float32 (H, W))` -> both, in size (H, W).

    "light" mirrors, and changes brightness and contrast; "standard" also turns, scales, moves and
    blurs a little; "strong", for small sets of real photos, does more of it, crops, covers patches,
    and changes colour, grain and JPEG quality. Raises ValueError for a preset that is none.

    What a turn or a move uncovers is a reflection: black corners would teach that black means
    background. Soft mattes stay soft. A covered patch stays what it is in the mask.
    """
    turn = partial(A.Affine, keep_ratio=True, border_mode=cv2.BORDER_REFLECT_101, p=0.8)
    flip, blur = A.HorizontalFlip(p=0.5), A.GaussianBlur((3, 7), (0.3, 2.0))
    worse = [blur, A.GaussNoise(std_range=(0.02, 0.08)), A.ImageCompression("jpeg", (30, 90))]
    steps = {
        "none": [],
        "light": [flip, A.RandomBrightnessContrast(0.15, 0.15, p=0.5)],
        "standard": [
            flip,
            turn((0.8, 1.2), (-0.06, 0.06), rotate=(-12, 12)),
            A.RandomBrightnessContrast(0.2, 0.2, p=0.6),
            A.GaussianBlur((3, 5), (0.3, 1.2), p=0.15),
        ],
        "strong": [
            flip,
            A.RandomResizedCrop(size, scale=(0.5, 1.0), ratio=(0.75, 1.33), p=0.5),
            turn((0.6, 1.3), (-0.1, 0.1), rotate=(-20, 20)),
            A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.05, 0.05), p=0.8),
            A.ToGray(p=0.1),
            A.OneOf(worse, p=0.4),
            A.CoarseDropout((1, 3), (0.08, 0.2), (0.08, 0.2), fill="random_uniform", p=0.25),
        ],
    }
    if preset not in steps:
        raise ValueError(f"augment: {preset!r} is not one of {', '.join(steps)}")
    return A.Compose(steps[preset], mask_interpolation=cv2.INTER_LINEAR)


def paste(
    figure: np.ndarray, matte: np.ndarray, image: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put the foreground of one photo onto another, and join the masks: uint8 (H, W, 3), (H, W).

    It takes its own colours along, without a fringe of the old background. Ghiasi et al., "Simple
    Copy-Paste is a Strong Data Augmentation Method", https://arxiv.org/abs/2012.07177.
    """
    figure = estimate_foreground(figure, matte.astype(np.float32) / 255)
    return composite(np.dstack([figure, matte]), image), np.maximum(mask, matte)
