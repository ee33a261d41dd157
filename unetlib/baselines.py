"""Three ways to cut out without learning what people look like: what a network has to beat.

Each is a function from a photo, uint8 (H, W, 3) RGB, to a bool mask (H, W), with the same result
on every call, and can be handed to `evaluate` like a predictor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np

from unetlib.data import Pair, binarize, load_mask

WORKING_SIDE = 256  # k-means and GrabCut look at photos no larger than this
CLUSTERS = 5
BOX_MARGIN = 0.05  # GrabCut's box leaves out so much of the photo on each of its four sides


def constant_mask(train: Iterable[Pair], size: int = 64) -> Callable[[np.ndarray], np.ndarray]:
    """The one mask that fits the training set best, whatever the photo shows.

    The mean of all training masks, stretched to a square of `size`, is cut at the threshold where
    the mean IoU over the training set is highest. Returns the function that stretches this mask
    to a photo.
    """
    masks = []
    for pair in train:
        matte = load_mask(pair.mask, kind=pair.mask_kind)
        small = cv2.resize(matte, (size, size), interpolation=cv2.INTER_AREA)
        masks.append(binarize(small).ravel())
    if not masks:
        raise ValueError("the best constant mask is learned from a training set, this one is empty")
    truth = np.stack(masks).astype(np.float32)
    mean = truth.mean(0)
    candidates = mean >= np.linspace(0.05, 0.95, 37)[:, None]
    both = truth @ candidates.T.astype(np.float32)  # (images, thresholds): pixels in both masks
    either = truth.sum(1)[:, None] + candidates.sum(1) - both
    iou = np.where(either == 0, 1.0, both / np.maximum(either, 1)).mean(0)
    best = candidates[iou.argmax()].reshape(size, size).astype(np.uint8)

    def predict(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        return cv2.resize(best, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)

    return predict


def kmeans_mask(image: np.ndarray) -> np.ndarray:
    """Group the pixels by colour (k-means in Lab); foreground are the groups that shun the border.

    A group is foreground when its share of the border is less than its share of the photo. The
    lower border does not count: people are often cut off there.
    """
    small = _shrink(image)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
    if len(lab) < CLUSTERS:  # a photo of so few pixels shows nothing to group
        return np.ones(image.shape[:2], bool)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    cv2.setRNGSeed(0)
    _, labels, _ = cv2.kmeans(lab, CLUSTERS, None, stop, 2, cv2.KMEANS_PP_CENTERS)
    labels = labels.reshape(small.shape[:2])
    border = np.concatenate([labels[0], labels[:, 0], labels[:, -1]])
    at_border = np.bincount(border, minlength=CLUSTERS) / border.size
    overall = np.bincount(labels.ravel(), minlength=CLUSTERS) / labels.size
    return _stretch(at_border[labels] < overall[labels], image)


def grabcut_mask(image: np.ndarray) -> np.ndarray:
    """OpenCV's GrabCut (Rother and others, 2004), told only that the object is in a centred box.

    What reaches the photo's border is lost to it. A box drawn by someone who knows where the object
    is cut off does better; but then a person has done half of the work.
    """
    small = _shrink(image)
    height, width = small.shape[:2]
    left, top = round(width * BOX_MARGIN), round(height * BOX_MARGIN)
    box = (left, top, width - 2 * left, height - 2 * top)
    if min(left, top) < 1:  # no pixel outside of the box to learn the background from
        return np.ones(image.shape[:2], bool)
    labels = np.zeros((height, width), np.uint8)
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(small[..., ::-1]),
        labels,
        box,
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        3,
        cv2.GC_INIT_WITH_RECT,
    )
    return _stretch((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD), image)


def _shrink(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    scale = WORKING_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _stretch(mask: np.ndarray, image: np.ndarray) -> np.ndarray:
    size = (image.shape[1], image.shape[0])
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
