"""Colours, backgrounds, and laying a cut-out over them."""

import cv2
import numpy as np
from PIL import ImageColor


def composite(rgba: np.ndarray, background=None) -> np.ndarray:
    """Lay a cut-out over a background.

    `background` is a colour (a tuple or anything `parse_color` takes) or an image, uint8
    (h, w, 3), enlarged or shrunk to cover the cut-out and cropped in the middle: the result is
    uint8 (H, W, 3). None keeps it transparent: a copy, uint8 (H, W, 4).
    """
    if rgba.dtype != np.uint8 or rgba.ndim != 3 or rgba.shape[2] != 4:
        raise ValueError(f"a cut-out is uint8 (H, W, 4), this is {rgba.dtype} {rgba.shape}")
    if background is None:
        return rgba.copy()
    if isinstance(background, np.ndarray) and background.ndim == 3:
        check_image(background)
        below = fit_cover(background, *rgba.shape[:2]).astype(np.float32)
    else:
        below = np.array(parse_color(background), dtype=np.float32)
    a = rgba[:, :, 3:].astype(np.float32) / 255
    return np.rint(a * rgba[:, :, :3] + (1 - a) * below).astype(np.uint8)


def fit_cover(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale an image, its shape kept, until it covers (height, width), and crop the middle."""
    h, w = image.shape[:2]
    if (h, w) == (height, width):
        return image
    scale = max(height / h, width / w)
    size = max(width, round(w * scale)), max(height, round(h * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(image, size, interpolation=method)
    top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
    return scaled[top : top + height, left : left + width]


def chequerboard(height: int, width: int, cell: int = 12) -> np.ndarray:
    """The grey and white board that shows transparency, uint8 (height, width, 3)."""
    y, x = np.ogrid[:height, :width]
    odd = (y // cell + x // cell) % 2 == 1
    return np.where(odd, 208, 250).astype(np.uint8)[..., None].repeat(3, axis=2)


def parse_color(color) -> tuple[int, int, int]:
    """A colour as people write it -> (red, green, blue), each 0…255."""
    if isinstance(color, str):
        text = color.strip()
        bare = text[:1].isdigit()  # Pillow knows #hex, rgb(...) and CSS names, not "0,255,0"
        try:
            values = ImageColor.getrgb(f"rgb({text})" if bare else text)
        except ValueError:
            values = []
    else:
        values = list(np.ravel(color)) if np.size(color) in (3, 4) else []
    opaque = len(values) == 3 or (len(values) == 4 and values[3] == 255)
    if not opaque or any(not 0 <= v <= 255 or v != int(v) for v in values):
        raise ValueError(
            f"{color!r} is no opaque colour: write it as '#0a4678', '#fff', three numbers from "
            "0 to 255 as in '0,255,0', or a CSS name as in 'white' or 'steelblue'"
        )
    return int(values[0]), int(values[1]), int(values[2])


def check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a photo is uint8 (H, W, 3), this is {image.dtype} {image.shape}")


def blurred(image: np.ndarray, alpha: np.ndarray, strength: float = 0.03) -> np.ndarray:
    """The photo's background out of focus, uint8 (H, W, 3): `composite` lays the cut-out on it.

    `strength` is the standard deviation of the blur as a share of the longer side. Pixels count
    with 1 - alpha, so that the figure does not glow around its own edge; deep inside it, where
    nothing of the background is near, its own blurred colours stay (they are covered).
    """
    check_image(image)
    if not 0 < strength <= 0.5:
        raise ValueError(f"blur strength {strength!r}: it is a share of the photo, above 0 to 0.5")
    h, w = image.shape[:2]
    # A blurred picture has no detail: half a pixel of blur and more remain at the smaller size.
    scale = min(1.0, 4 / (strength * max(h, w)))
    size = max(1, round(w * scale)), max(1, round(h * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    shows = 1 - cv2.resize(np.float32(alpha), size, interpolation=cv2.INTER_AREA)
    shows = np.maximum(shows, 1e-3)
    sigma = max(0.1, strength * max(small.shape[:2]))

    def blur(values):
        return cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)

    result = blur(small * shows[..., None]) / blur(shows)[..., None]
    result = np.rint(result.clip(0, 255)).astype(np.uint8)
    return cv2.resize(result, (w, h), interpolation=cv2.INTER_LINEAR)


def greyed(image: np.ndarray) -> np.ndarray:
    """The photo without its colours (luma of Rec. 601), uint8 (H, W, 3)."""
    check_image(image)
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def mixed(image: np.ndarray, color, weight: float) -> np.ndarray:
    """The photo with a colour over it, uint8 (H, W, 3): weight * color + (1 - weight) * image."""
    check_image(image)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight {weight!r} of the colour: it is from 0 to 1")
    table = np.arange(256)[:, None] * (1 - weight) + weight * np.array(parse_color(color))
    return cv2.LUT(image, np.rint(table).astype(np.uint8)[None])
