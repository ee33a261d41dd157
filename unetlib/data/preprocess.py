"""How a photo becomes network input, in training and in prediction alike."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Resize to `size` = (H, W), then (x / 255 - mean) / std. Raises ValueError for what cannot be.

    As some public networks have it: `divide_by_max` divides by the photo's brightest value instead
    of 255; `keep_shape` makes the shorter side about min(size), both sides multiples of 32."""

    size: tuple[int, int]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    divide_by_max: bool = False
    keep_shape: bool = False

    def __post_init__(self):
        for name, kind, length in (("size", int, 2), ("mean", float, 3), ("std", float, 3)):
            values = np.broadcast_to(getattr(self, name), length)
            object.__setattr__(self, name, tuple(map(kind, values)))
        if min(*self.size, *self.std) <= 0:
            raise ValueError(f"size and std are above 0, not {self}")

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) that a photo of this size is resized to."""
        if not self.keep_shape:
            return self.size
        side, short, long = min(self.size), min(height, width), max(height, width)
        scale = side / short if long < side or short > side else 1
        return tuple(max(32, int(n * scale) // 32 * 32) for n in (height, width))


def to_array(rgb: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """uint8 (H, W, 3) photo -> float32 (3, *preprocess.size).

    Resized by Lanczos' filter, as other background removers do; large photos are reduced first."""
    if rgb.dtype != np.uint8 or rgb.shape[2:] != (3,):
        raise ValueError(f"expected uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}")
    photo, size, method = Image.fromarray(rgb), preprocess.size, Image.Resampling.LANCZOS
    rgb = np.asarray(photo.resize(size[::-1], method, reducing_gap=2.0))
    brightest = max(int(rgb.max()), 1) if preprocess.divide_by_max else 255
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    normalised = rgb * np.float32(1 / (brightest * std)) - np.float32(mean / std)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))
