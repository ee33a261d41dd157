"""Soft mask -> cut-out: alpha, foreground colours, composite. NumPy in, NumPy out.

Images are uint8 (H, W, 3) RGB, soft masks and alphas float32 (H, W) in [0, 1], cut-outs uint8
(H, W, 4) RGBA with straight (not premultiplied) alpha.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageColor

HAZE = 0.04  # alpha below this becomes 0, above 1 - this becomes 1: a network is never quite sure


@dataclass(frozen=True)
class CutOut:
    """What `cut_out` returns, all of the photo's own size.

    soft: float32 (H, W) in [0, 1], the mask as the network gave it.
    binary: uint8 (H, W), 255 where soft >= threshold, else 0.
    rgba: uint8 (H, W, 4); its alpha is >= 128 exactly where binary is 255.
    """

    soft: np.ndarray
    binary: np.ndarray
    rgba: np.ndarray

    @property
    def foreground_share(self) -> float:
        """Share of the pixels that are foreground in the binary mask, 0…1."""
        return float(np.count_nonzero(self.binary)) / self.binary.size


def cut_out(image: np.ndarray, soft: np.ndarray, threshold: float = 0.5) -> CutOut:
    """Photo and soft mask -> soft mask, binary mask and RGBA cut-out.

    The alpha is the soft mask bent so that it crosses one half where the mask crosses `threshold`;
    the edge stays soft. Colours in the edge are estimated, colours under alpha 0 are black.
    """
    _check_image(image)
    soft = np.asarray(soft, dtype=np.float32)
    if soft.shape != image.shape[:2]:
        raise ValueError(f"the photo is {image.shape[:2]} (H, W), its soft mask is {soft.shape}")
    if soft.size and not (soft.min() >= 0 and soft.max() <= 1):  # written so that NaN fails too
        raise ValueError("a soft mask has values in 0…1; did logits come in without the sigmoid?")
    binary = soft >= np.float32(check_threshold(threshold))
    alpha = soft_to_alpha(soft, threshold)
    alpha8 = np.rint(alpha * 255).astype(np.uint8)
    # One half is no whole number of 255ths: rounding must not decide on which side a pixel falls.
    alpha8 = np.where(binary, np.maximum(alpha8, 128), np.minimum(alpha8, 127))
    colours = estimate_foreground(image, alpha)
    colours[alpha8 == 0] = 0  # invisible, but it would cost bytes and leak the old background
    return CutOut(soft, binary.astype(np.uint8) * 255, np.dstack([colours, alpha8]))


def check_threshold(threshold: float) -> float:
    """The threshold as a float; ValueError when it is not in 0…1."""
    if not 0 <= float(threshold) <= 1:
        raise ValueError(f"threshold {threshold!r}: it is a probability, from 0 to 1")
    return float(threshold)


def soft_to_alpha(soft: np.ndarray, threshold: float = 0.5, haze: float = HAZE) -> np.ndarray:
    """Soft mask -> alpha, both float32 (H, W) in [0, 1]; rises with `soft`.

    Two straight pieces carry 0, threshold, 1 to 0, 0.5, 1; then the lowest and highest `haze` are
    cut away, so that the far background is gone and the inside is solid.
    """
    t = check_threshold(threshold)
    below = 0.5 * soft / t if t > 0 else np.zeros_like(soft)
    above = 0.5 + 0.5 * (soft - t) / (1 - t) if t < 1 else np.ones_like(soft)
    alpha = np.where(soft >= np.float32(t), above, below)
    return np.clip((alpha - haze) / (1 - 2 * haze), 0, 1).astype(np.float32)


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
    _check_image(image)
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
        _check_image(background)
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


def encode_png(array: np.ndarray) -> bytes:
    """uint8 (H, W), (H, W, 3) or (H, W, 4), or a float mask (H, W) in [0, 1] -> a PNG file."""
    if array.dtype != np.uint8:
        array = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", compress_level=4)
    return file.getvalue()


def save_cutout(cutout: CutOut, folder: str | Path, stem: str) -> list[Path]:
    """Write `<stem>_mask_binary.png`, `<stem>_mask_soft.png` and `<stem>_foreground.png`.

    The folder is made where it is missing; a file is there whole or not at all. Returns the paths.
    """
    if not stem or Path(stem).name != stem or "\\" in stem:
        raise ValueError(f"{stem!r} is no plain file name: give the photo's name without folders")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, array in cutout_files(cutout).items():
        path = folder / f"{stem}_{suffix}"
        _write_whole(path, encode_png(array))
        paths.append(path)
    return paths


def cutout_files(cutout: CutOut) -> dict[str, np.ndarray]:
    """The three files of a cut-out: the end of the name -> the array in it."""
    names = ("mask_binary.png", "mask_soft.png", "foreground.png")
    return dict(zip(names, (cutout.binary, cutout.soft, cutout.rgba), strict=True))


def _write_whole(path: Path, data: bytes) -> None:
    """Write beside the target and rename: a kill or a full disk never leaves half a file there."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a photo is uint8 (H, W, 3), this is {image.dtype} {image.shape}")
