"""Foreground colours in the edge, where photo and old background are mixed."""

import cv2
import numpy as np

from unetlib.matting.compose import check_image


def estimate_foreground(
    image: np.ndarray, alpha: np.ndarray, background_kept: bool = True
) -> np.ndarray:
    """The foreground's own colours, uint8 (H, W, 3): what the photo would show at alpha 1.

    A pixel of the edge is a mixture, image = alpha * F + (1 - alpha) * B. Used as it is on a new
    background it carries a fringe of the old one. F and B are blurred from where they are seen
    alone and F is corrected so that the mixture gives the photo again; a second pass with a small
    radius sharpens it. Pixels of alpha 1 are returned unchanged. Without `background_kept` nothing
    is known of the old background under alpha 0, as in most cut-outs: it is learned from the edge
    alone, most of all where that is thin. (1 - alpha) cubed did best on the synthetic set. Colours
    that are the foreground's own already stay nearly what they are.

    Method: M. Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021 (blur fusion, two
    passes). The radii are 90 and 6 in the paper; the first follows the size of small photos.
    """
    check_image(image)
    result = image.copy()
    edge = (alpha > 0) & (alpha < 1)
    rows, cols = np.flatnonzero(edge.any(axis=1)), np.flatnonzero(edge.any(axis=0))
    if not len(rows):
        return result
    wide = int(np.clip(max(image.shape[:2]) // 8, 12, 90))
    box = tuple(slice(max(0, r[0] - wide), r[-1] + wide + 1) for r in (rows, cols))
    mix = image[box].astype(np.float32)
    a = alpha[box].astype(np.float32)[..., None]
    shows_back = 1 - a if background_kept else (1 - a) ** 3 * (a > 0)
    front = back = mix
    for radius in (wide, 6):
        front, back = _blur_fusion(mix, front, back, a, shows_back, radius)
    inside = edge[box]
    result[box][inside] = np.rint(front[inside]).astype(np.uint8)
    return result


def _blur_fusion(mix, front, back, a, shows_back, radius):
    """One pass: better estimates of the foreground's and the background's colours, float32."""
    size = (radius, radius)
    mean_front = cv2.blur(front * a, size) / (cv2.blur(a, size)[..., None] + 1e-5)
    mean_back = cv2.blur(back * shows_back, size) / (cv2.blur(shows_back, size)[..., None] + 1e-5)
    front = mean_front + a * (mix - a * mean_front - (1 - a) * mean_back)
    return np.clip(front, 0, 255), mean_back
