"""What makes a photo hard to cut out, measured on the photo and its true matte alone.

fine_detail   hair, fur, leaves: how rough the true edge is
transparency  glass, veils, smoke: what is half there
reflection    highlights: small, steep, and white whatever the object's colour
texture       a background full of edges of its own

Each lies in [0, 1]; 0 also where there is nothing to measure (no object, no background). Photos are
brought to one area first: a thumbnail gets about the same as its photo, but for the detail it lost.
The numbers rank photos; they are no probabilities, and two measures cannot be compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import pandas as pd

DIFFICULTIES = ("fine_detail", "transparency", "reflection", "texture")
TAG_OF = {name: name for name in DIFFICULTIES} | {"fine_detail": "hair"}  # of the synthetic set
SIDE = 256  # all lengths below are pixels of a photo with this side, or of the same area
LOW, HIGH = 0.05, 0.95  # a matte between these is neither background nor object


def difficulties(image: np.ndarray, matte: np.ndarray) -> dict[str, float]:
    """All four, by their names in DIFFICULTIES.

    `image`: uint8 (H, W, 3), RGB. `matte`: the truth, float (H, W) in [0, 1]; where it is 0 or 1
    everywhere, transparency is guessed from the photo (`seen_through`).
    Raises ValueError for another layout, different sizes, or values outside [0, 1].
    """
    image, matte = np.asarray(image), np.asarray(matte)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"expected a photo, uint8 (H, W, 3), got {image.dtype} {image.shape}")
    if matte.shape != image.shape[:2]:
        raise ValueError(f"the photo has shape {image.shape}, its matte {matte.shape}")
    matte = matte.astype(np.float32)
    if not (matte.min() >= 0 and matte.max() <= 1):  # also catches NaN
        raise ValueError(f"a matte lies in [0, 1], got {matte.min():.4g} to {matte.max():.4g}")
    binary = not ((matte > 0) & (matte < 1)).any()
    photo, alpha = _at_work_size(image), _at_work_size(matte)
    mask = alpha >= 0.5
    return {
        "fine_detail": fine_detail(mask),
        "transparency": seen_through(photo, mask) if binary else transparency(alpha),
        "reflection": reflection(photo, mask),
        "texture": texture(photo, alpha),
    }


def fine_detail(mask: np.ndarray) -> float:
    """Share of the edge's length that is gone once the mask, bool (H, W), is smoothed.

    The length is the sum of the gradient's magnitude (the total variation,
    https://en.wikipedia.org/wiki/Total_variation). Smoothing by two pixels leaves a plain outline
    about as long as it was, and takes away hairs and the gaps between them.
    """
    padded = np.pad(mask, 2, "edge").astype(np.float32)
    fine, smooth = (np.hypot(*np.gradient(_blur(padded, sigma))).sum() for sigma in (0.7, 2.0))
    return max(0.0, float(1 - smooth / fine)) if fine > 0 else 0.0


def transparency(alpha: np.ndarray) -> float:
    """Share of the object, in a matte float32 (H, W), that is neither there nor not.

    Edges do not count: a pixel's 5 x 5 neighbours must be fractional and differ by less than 0.25.
    """
    square = np.ones((5, 5), np.uint8)
    low, high = cv2.erode(alpha, square), cv2.dilate(alpha, square)
    return _share((low > LOW) & (high < HIGH) & (high - low < 0.25), alpha > LOW)


def seen_through(photo: np.ndarray, mask: np.ndarray) -> float:
    """A guess at transparency where the truth, bool (H, W), is binary, from the photo's colours.

    Behind glass or a veil the background goes on, only paler. In a band within the object's edge,
    each pixel is paired with the nearest background: the squared correlation of the two in a small
    window, times one minus the saturation (of HSV), averaged. Rougher than `transparency`, and not
    on its scale: do not rank photos with mattes and photos with binary masks together.
    """
    depth, label = cv2.distanceTransformWithLabels(
        mask.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    band = (depth > 2) & (depth < 12)
    if mask.all() or not band.any():
        return 0.0
    here = np.indices(mask.shape).transpose(1, 2, 0)
    nearest = np.argwhere(~mask)[np.argsort(label[~mask])][label - 1]  # labels count from 1
    beyond = nearest + 3 * (nearest - here) / np.maximum(depth, 1)[..., None]  # off the soft edge
    y, x = np.clip(np.rint(beyond).astype(int), 0, np.array(mask.shape) - 1).transpose(2, 0, 1)
    colour = _blur(photo.astype(np.float32), 1.0)
    behind, weight = colour[y, x], band.astype(np.float32)[..., None]
    total = np.maximum(cv2.blur(weight, (31, 31)), 1e-6)[..., None]

    def covariance(a, b):  # of the pixels of the band in a window; the three channels' added up
        product, a, b = (cv2.blur(x * weight, (31, 31)) / total for x in (a * b, a, b))
        return (product - a * b).sum(axis=2)

    own, back = (np.maximum(covariance(c, c), 0) for c in (colour, behind))
    shared = np.maximum(covariance(colour, behind) + 100, 0) ** 2 / ((own + 100) * (back + 100))
    shared = np.minimum(shared, 1) * back / (back + 30)  # a plain background shows nothing
    saturation = cv2.cvtColor(photo, cv2.COLOR_RGB2HSV)[..., 1] / 255
    return float((shared * (1 - saturation))[band].mean())


def reflection(photo: np.ndarray, mask: np.ndarray) -> float:
    """Highlights within the object: x / (x + 1 %), where x is their share of the object.

    A highlight has the colour of the light: the weakest channel, V (1 - S) in HSV, is above 205 of
    255. It is small and steep: it stands out by more than 50 from its morphological opening with a
    disc of radius 12 (the white top-hat), so a wide white shirt does not count; white stripes do.
    S. Shafer, Using color to separate reflection components, Color Research and Application, 1985
    """
    white = np.where(mask, photo.min(axis=2), 0).astype(np.uint8)
    y, x = np.ogrid[-12:13, -12:13]
    disc = (x * x + y * y <= 12.5**2).astype(np.uint8)  # OpenCV's ellipse changes when it is turned
    steep = cv2.morphologyEx(white, cv2.MORPH_TOPHAT, disc) > 50
    found = _share(steep & (white > 205), mask)
    return found / (found + 0.01)


def texture(photo: np.ndarray, alpha: np.ndarray) -> float:
    """Mean of two textures of the background, in what remains of it without its soft shades.

    The share of pixels whose local binary pattern is not flat, and the local standard deviation v
    (in grey levels) as v / (v + 4). The object has no part in it.
    T. Ojala et al., on local binary patterns, 2002, https://doi.org/10.1109/TPAMI.2002.1017623
    """
    from skimage.feature import local_binary_pattern

    background = cv2.dilate(alpha, np.ones((5, 5), np.uint8)) <= LOW
    if not background.any():
        return 0.0
    weight = background.astype(np.float32)
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = np.where(background, _mean(grey, weight, 1.5) - _mean(grey, weight, 5.0), 0)
    levels = np.rint(detail / 4 + 64).astype(np.uint8)  # steps of 4, so that noise is flat
    pattern = local_binary_pattern(levels, P=8, R=2, method="uniform") != 8
    deviation = np.sqrt(_mean(detail**2, weight, 3.0))
    return float((pattern + deviation / (deviation + 4))[background].mean() / 2)


def named(table: pd.DataFrame) -> pd.Series:
    """Which difficulties each photo has, in words: "fine detail, texture", or "".

    `table` has a row per photo and columns of DIFFICULTIES. Named are those in which a photo is
    above the 75th percentile of the table: what is hard *in this set*.
    """
    import pandas as pd

    columns = [name for name in DIFFICULTIES if name in table]
    if not columns:
        raise ValueError(f"the table has none of the columns {', '.join(DIFFICULTIES)}")
    above = table[columns] > table[columns].quantile(0.75)
    words = np.array([name.replace("_", " ") for name in columns])
    return pd.Series([", ".join(words[row]) for row in above.to_numpy()], table.index, str)


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a labelled photo scores above one that is not.

    Ties count half (https://en.wikipedia.org/wiki/Mann-Whitney_U_test). `scores` (N,), `labels`
    bool (N,). Raises ValueError where it is undefined: one class only, or a score that is NaN.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if scores.shape != labels.shape or np.isnan(scores).any():
        raise ValueError(f"expected numbers {labels.shape}, got {scores.shape}, some maybe NaN")
    yes, no = scores[labels], np.sort(scores[~labels])
    if not (len(yes) and len(no)):
        raise ValueError(f"the AUC is undefined: all {len(labels)} labels are of one class")
    ranks = [np.searchsorted(no, yes, side).mean() for side in ("left", "right")]
    return float(sum(ranks) / 2 / len(no))


def _at_work_size(picture: np.ndarray) -> np.ndarray:
    scale = SIDE / np.sqrt(picture.shape[0] * picture.shape[1])
    size = [max(1, round(n * scale)) for n in picture.shape[1::-1]]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=how)


def _blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def _mean(picture: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean of the pixels that count, by `weight` float32 (H, W); far from all: about 0."""
    return _blur(picture * weight, sigma) / np.maximum(_blur(weight, sigma), 1e-6)


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return float((part & whole).sum() / max(1, whole.sum()))
