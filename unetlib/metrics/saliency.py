"""The scores of saliency papers: of a soft mask `soft`, float32 (H, W) in [0, 1], against a bool
`truth` (H, W).

They follow the authors' definitions as PySODMetrics has them, which most papers use, with the
prediction as it is (that package stretches it to [0, 1] first unless told not to). Where it
returns no number, this is what they are here:

- S-measure: a quadrant without pixels (the object's centre is on the last row or column) weighs
  nothing; an even quadrant has a variance of exactly 0, whatever rounding makes of it.
- E-measure: it divides by the number of pixels less one, so that it can exceed 1, by 1 / 262143 in
  an image of 512x512. In one of a single pixel it divides by 1.
"""

from __future__ import annotations

import cv2
import numpy as np

BETA2 = 0.3  # weighs precision more, the habit since Achanta et al., CVPR 2009
WINDOW = 7  # of weighted F: errors are smoothed over 7x7 pixels
REACH = WINDOW // 2
EPS = np.spacing(1)  # as in the authors' code; it shows where an object has a single pixel
# Steps to the pixels that can be the nearest to one within a window, nearest first. Of several at
# the same distance the leftmost, then the topmost counts (SciPy's order; any would do).
_STEPS = sorted(
    ((dy, dx) for dy in range(-4, 5) for dx in range(-4, 5) if 0 < dy * dy + dx * dx <= 18),
    key=lambda step: (step[0] ** 2 + step[1] ** 2, step[1], step[0]),
)


def f_measure(tp, fp, positives: int) -> np.ndarray:
    """F with beta² = 0.3 of (arrays of) true and false positives among `positives` true pixels.

    0.0 where nothing is found, so also where the truth is empty, unlike `Counts.f_beta`.
    R. Achanta et al., Frequency-tuned salient region detection, CVPR 2009
    """
    tp = np.asarray(tp, np.float64)
    return np.minimum(1, (1 + BETA2) * tp / np.maximum(tp + fp + BETA2 * positives, BETA2))


def e_measure(tp, fp, positives: int, size: int) -> np.ndarray:
    """Enhanced alignment of (arrays of) true and false positives of masks of `size` pixels.

    Every pixel belongs to one of four kinds, tp, fp, fn and tn, whose alignment is the same number,
    so that the counts are all it needs.
    D.-P. Fan et al., Enhanced-alignment measure, IJCAI 2018, https://arxiv.org/abs/1805.10421
    """
    tp, fp = np.asarray(tp, np.float64), np.asarray(fp, np.float64)
    fn, tn = positives - tp, size - positives - fp
    if positives in (0, size):
        aligned = tn + tp
    else:
        mean, true_mean = (tp + fp) / size, positives / size
        aligned = 0.0
        for number, guess, true in ((tp, 1, 1), (fp, 1, 0), (fn, 0, 1), (tn, 0, 0)):
            a, b = guess - mean, true - true_mean
            aligned = aligned + number * (2 * a * b / (a * a + b * b + EPS) + 1) ** 2 / 4
    return aligned / max(1, size - 1)


def thresholded(soft: np.ndarray, truth: np.ndarray, histogram: np.ndarray) -> dict[str, float]:
    """e_measure, e_max, e_adaptive, f_max, f_adaptive.

    `histogram`: pixels by truth and by the soft mask in steps of 1/255, rounded down: int (2, 256).
    The mean and the maxima are over the 256 thresholds 0, 1/255, ..., 1.
    """
    positives, size = int(histogram[1].sum()), soft.size
    fp, tp = histogram[:, ::-1].cumsum(axis=1)
    curve = e_measure(tp, fp, positives, size)
    above = soft >= np.float32(min(1.0, 2 * cv2.mean(soft)[0]))
    found = np.count_nonzero(above & truth)
    other = np.count_nonzero(above) - found
    return {
        "e_measure": float(curve.mean()),
        "e_max": float(curve.max()),
        "e_adaptive": float(e_measure(found, other, positives, size)),
        "f_max": float(f_measure(tp, fp, positives).max()),
        "f_adaptive": float(f_measure(found, other, positives)),
    }


def s_measure(soft: np.ndarray, truth: np.ndarray) -> float:
    """Structure measure: half the evenness of object and background, half the likeness of the four
    quadrants around the object's centre. An empty or full truth: how dark or bright `soft` is.

    D.-P. Fan et al., Structure-measure, ICCV 2017, https://arxiv.org/abs/1708.00786
    """
    positives, size = np.count_nonzero(truth), truth.size
    if positives in (0, size):
        mean = cv2.sumElems(soft)[0] / size
        return mean if positives else 1 - mean
    inside = soft * truth
    height, width = truth.shape
    cy, cx = (
        round(float(truth.sum(axis=axis) @ np.arange(n) / positives)) + 1
        for axis, n in ((1, height), (0, width))
    )
    region, sums = 0.0, np.zeros(6)
    for rows in (slice(0, cy), slice(cy, height)):
        for columns in (slice(0, cx), slice(cx, width)):
            part, marked, both = (array[rows, columns] for array in (soft, truth, inside))
            if part.size:
                quadrant = _sums(part, marked, both)
                low, high, *_ = cv2.minMaxLoc(part)
                region += _likeness(*quadrant[:5], even=low == high) * part.size / size
                sums += quadrant
    n, marked, total, squares, fg_total, fg_squares = sums
    object_ = marked / n * _evenness(marked, fg_total, fg_squares)
    rest, rest_total, rest_squares = n - marked, total - fg_total, squares - fg_squares
    # of 1 - soft
    rest_squares = rest - 2 * rest_total + rest_squares
    object_ += rest / n * _evenness(rest, rest - rest_total, rest_squares)
    return min(1.0, max(0.0, float(object_ + region) / 2))


def _sums(part: np.ndarray, marked: np.ndarray, both: np.ndarray) -> np.ndarray:
    """Pixels, true ones; sum and sum of squares of the soft mask, and the same of its true part."""
    values = [(cv2.sumElems(a)[0], cv2.norm(a, cv2.NORM_L2SQR)) for a in (part, both)]
    return np.array([part.size, np.count_nonzero(marked), *values[0], *values[1]])


def _variance(n: float, total: float, squares: float) -> float:
    """Of a sample, from sums."""
    return max(0.0, squares - total * total / n) / max(1, n - 1)


def _evenness(n: float, total: float, squares: float) -> float:
    mean = total / n
    return 2 * mean / (mean * mean + 1 + _variance(n, total, squares) ** 0.5)


def _likeness(n, marked, total, squares, fg_total, *, even: bool) -> float:
    """SSIM without constants of one quadrant of `soft` and the truth. `even`: `soft` has one value
    there, which rounding could hide; two even quadrants are alike, one even and one not are not."""
    if even or marked in (0, n):
        return float(even and marked in (0, n))
    x, y = total / n, marked / n
    together = (fg_total - total * y) / max(1, n - 1)
    variances = _variance(n, total, squares) + _variance(n, marked, marked)
    return 4 * x * y * together / ((x * x + y * y) * variances + EPS)


def weighted_f(soft: np.ndarray, truth: np.ndarray) -> float:
    """Weighted F (beta² = 1). An error within the object counts no more than the mean error around
    it, one outside up to twice, the further from the object. 0.0 where the truth is empty.

    R. Margolin et al., How to evaluate foreground maps?, CVPR 2014
    """
    positives, size = np.count_nonzero(truth), truth.size
    if positives == 0:
        return 0.0
    inside, outside = truth.view(np.uint8), (~truth).view(np.uint8)
    error = cv2.absdiff(soft, truth.astype(np.float32))
    spread, window = _spread(error, truth), (WINDOW, WINDOW)
    # large arrays are used again where they can be, since new ones take more time than the sums
    local = cv2.GaussianBlur(spread, window, 5, dst=spread, borderType=cv2.BORDER_CONSTANT)
    missed = cv2.mean(np.minimum(error, local, out=local), inside)[0] * positives
    weight = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    weight *= weight  # OpenCV's last bit differs from run to run; squares are whole numbers
    np.sqrt(np.rint(weight, out=weight), out=weight)
    weight *= np.float32(np.log(0.5) / 5)
    np.subtract(2, cv2.exp(weight, weight), out=weight)
    weight *= error
    made_up = cv2.mean(weight, outside)[0] * (size - positives)
    recall, found = 1 - missed / positives, positives - missed
    if found <= 0:
        return 0.0
    precision = found / (found + made_up)
    return float(2 * recall * precision / (recall + precision))


def _spread(error: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The error, and around the object, as far as its pixels' windows reach, that of the nearest
    pixel of the object. Further away nothing depends on it."""
    edge = max(abs(dy) for dy, _ in _STEPS)
    around = {"borderType": cv2.BORDER_CONSTANT, "value": 0}
    marked = cv2.copyMakeBorder(truth.view(np.uint8), *4 * [edge], **around)
    spread = cv2.copyMakeBorder(error, *4 * [edge], **around)
    square = np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8)
    near = cv2.dilate(marked, square) & (1 - marked)
    near[:edge] = near[-edge:] = near[:, :edge] = near[:, -edge:] = 0  # beyond the image
    left = np.flatnonzero(near.view(bool))
    flat, values = marked.ravel().view(bool), spread.ravel()
    for dy, dx in _STEPS:
        there = left + (dy * marked.shape[1] + dx)
        hit = flat[there]
        values[left[hit]] = values[there[hit]]
        left = left[~hit]
    return spread[edge:-edge, edge:-edge]
