"""Augmentation presets with Albumentations 2.0.8: image and mask through the same transform."""

import itertools
import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would look for updates on import

import albumentations as A
import cv2
import numpy as np

from unetlib.matting import estimate_foreground

PRESETS = ("none", "light", "standard", "strong")
PASTE_SHARE = {"strong": 0.5}  # how many samples get another photo's figure pasted in


def build_augmentation(preset: str, size: tuple[int, int]) -> A.Compose:
    """`compose(image=uint8 (H, W, 3), mask=uint8 or float32 (H, W))` -> both, in size (H, W).

    - "none": nothing. - "light": mirrored half the time, mild brightness and contrast.
    - "standard": also turned (±12°), scaled (0.8-1.2), moved, and a little blur now and then.
    - "strong", for small sets of real photos: crops, turns and scales further, and changes colour,
      grain, JPEG quality; grey photos and covered patches too; and `paste` on every second photo.

    What a turn or a move uncovers is filled by reflection, in image and mask alike: black corners
    would teach the network that black means background, a mirrored arm is still an arm. Masks are
    interpolated linearly, so soft mattes stay soft. A covered patch stays what it is in the mask.
    """
    if preset not in PRESETS:
        raise ValueError(f"augmentation '{preset}' is unknown: use one of {', '.join(PRESETS)}")
    flip = A.HorizontalFlip(p=0.5)
    if preset == "none":
        steps = []
    elif preset == "light":
        steps = [flip, A.RandomBrightnessContrast(0.15, 0.15, p=0.5)]
    elif preset == "standard":
        steps = [
            flip,
            _affine(scale=(0.8, 1.2), rotate=(-12, 12), move=0.06, p=0.8),
            A.RandomBrightnessContrast(0.2, 0.2, p=0.6),
            A.GaussianBlur(blur_limit=(3, 5), sigma_limit=(0.3, 1.2), p=0.15),
        ]
    else:
        steps = [
            flip,
            A.RandomResizedCrop(size, scale=(0.5, 1.0), ratio=(0.75, 1.33), p=0.5),
            _affine(scale=(0.6, 1.3), rotate=(-20, 20), move=0.1, p=0.8),
            A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.05, 0.05), p=0.8),
            A.ToGray(p=0.1),
            A.OneOf(
                [
                    A.GaussianBlur(blur_limit=(3, 7), sigma_limit=(0.3, 2.0)),
                    A.GaussNoise(std_range=(0.02, 0.08)),
                    A.ImageCompression(quality_range=(30, 90)),
                ],
                p=0.4,
            ),
            A.CoarseDropout((1, 3), (0.08, 0.2), (0.08, 0.2), fill="random_uniform", p=0.25),
        ]
    return A.Compose(steps, mask_interpolation=cv2.INTER_LINEAR)


def split_augmentation(preset: str, size: tuple[int, int]) -> tuple[A.Compose, A.Compose]:
    """The preset as (what moves pixels, what changes colours): the first can take photo and mask
    as one uint8 (H, W, 4), which costs it no more than the photo alone; the second the photo."""
    steps = build_augmentation(preset, size).transforms
    moves = list(itertools.takewhile(lambda step: isinstance(step, A.DualTransform), steps))
    return A.Compose(moves), A.Compose(steps[len(moves) :])


def _affine(scale: tuple, rotate: tuple, move: float, p: float) -> A.Affine:
    return A.Affine(
        scale=scale,
        rotate=rotate,
        translate_percent=(-move, move),
        keep_ratio=True,
        interpolation=cv2.INTER_LINEAR,
        border_mode=cv2.BORDER_REFLECT_101,
        p=p,
    )


def paste(
    figure: np.ndarray, matte: np.ndarray, image: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put the foreground of one photo onto another, and join the masks: uint8 (H, W, 3), (H, W).

    It takes its own colours along, without a fringe of the old background that would give it away.
    A figure before ever new surroundings is what a few hundred photos lack most. Ghiasi et al.,
    "Simple Copy-Paste is a Strong Data Augmentation Method", https://arxiv.org/abs/2012.07177.
    """
    alpha = matte.astype(np.float32) / 255
    figure, alpha = estimate_foreground(figure, alpha), alpha[..., None]
    blended = np.rint(alpha * figure + (1 - alpha) * image).astype(np.uint8)
    return blended, np.maximum(mask, matte)
