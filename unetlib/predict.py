"""Photo -> soft mask at the photo's own size.

This is the only place that turns logits of photos into probabilities.
"""

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from unetlib.checkpoint import Checkpoint, load_checkpoint
from unetlib.data.images import Preprocess, load_image, to_tensor
from unetlib.device import choose_device, describe_device

__all__ = ["Predictor", "choose_device", "read_photo"]

MIN_SIZE = 32  # below this the deepest level of a U-Net has no pixels left to look at
MAX_SIZE = 4096


def read_photo(image: Any) -> np.ndarray:
    """Anything that shows a photo -> uint8 (H, W, 3) RGB, upright.

    `image` is a path, an open file, bytes, a Pillow image, or a uint8 array of shape (H, W),
    (H, W, 1), (H, W, 3) or (H, W, 4). Raises ImageError for an unreadable file and ValueError for
    an array of another kind.
    """
    if not isinstance(image, np.ndarray):
        return np.asarray(load_image(image))
    if image.dtype != np.uint8:
        raise ValueError(
            f"a photo as an array has uint8 values 0…255, this one is {image.dtype}: convert it "
            "first, e.g. (255 * image).round().astype('uint8') for values in 0…1"
        )
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
        raise ValueError(f"a photo is an array (H, W, 3), this one has the shape {image.shape}")
    if image.ndim == 3 and image.shape[2] == 3:
        return image
    return np.asarray(load_image(Image.fromarray(image)))  # grey and RGBA go the way of the files


def resize_soft(soft: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a soft mask, float32 (h, w) in [0, 1], to (height, width); the range is kept.

    Cubic when it grows (bilinear shows the grid of the small mask along a slanted edge), area
    averages when it shrinks.
    """
    if soft.shape == (height, width):
        return soft
    shrinks = height <= soft.shape[0] and width <= soft.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    resized = cv2.resize(soft, (width, height), interpolation=method)
    return np.clip(resized, 0.0, 1.0, out=resized)


@torch.inference_mode()
def probabilities(
    model: torch.nn.Module, batch: torch.Tensor, device: torch.device | None = None
) -> np.ndarray:
    """Normalised (N, 3, H, W) -> probability of foreground, float32 (N, H, W), on the CPU.

    The one place that turns logits into probabilities. The model should be in eval mode.
    """
    device = device or next(model.parameters()).device
    logits = model(batch.to(device).contiguous(memory_format=torch.channels_last))
    return torch.sigmoid(logits.float())[:, 0].cpu().numpy()


class Predictor:
    """A trained model that is handed photos and returns soft masks.

    `checkpoint` is a file written by training, or a Checkpoint in memory (its model is moved to
    `device` and put into eval mode). `size` is the working size, an int for a square or (H, W);
    None takes the one of the training. Photos are stretched to it, as they were in training.

    Raises CheckpointError for a missing or unusable file and RuntimeError for an absent device.
    Safe to call from several threads: prediction changes nothing in the object.
    """

    def __init__(self, checkpoint: Any, device: str = "auto", size: Any = None):
        self.device = choose_device(device)  # before the file is read: the cheaper check first
        loaded = checkpoint
        if not isinstance(checkpoint, Checkpoint):
            loaded = load_checkpoint(checkpoint, device="cpu")
        self.checkpoint = loaded
        model = loaded.model.eval().to(self.device)
        self.model = model.to(memory_format=torch.channels_last)
        self.preprocess = self._at_size(size)

    def _at_size(self, size: Any) -> Preprocess:
        """The checkpoint's preprocessing with another working size."""
        trained = self.checkpoint.preprocess
        if size is None:
            return getattr(self, "preprocess", trained)
        height, width = (size, size) if np.ndim(size) == 0 else size
        for side in (height, width):
            if side != int(side) or not MIN_SIZE <= side <= MAX_SIZE:
                raise ValueError(
                    f"working size {size!r}: sides are {MIN_SIZE} to {MAX_SIZE} pixels"
                )
        return Preprocess((int(height), int(width)), trained.mean, trained.std)

    def predict(self, image: Any, size: Any = None) -> np.ndarray:
        """One photo (anything `read_photo` takes) -> soft mask, float32 (H, W) in [0, 1], (H, W)
        being the photo's own size. `size` replaces the working size for this call."""
        return self.predict_batch([image], size=size)[0]

    def predict_batch(
        self, images: Iterable[Any], size: Any = None, batch_size: int = 8
    ) -> list[np.ndarray]:
        """The same for many photos, of any sizes: a list of soft masks in the order given."""
        preprocess = self._at_size(size)
        masks: list[np.ndarray] = []
        tensors: list[torch.Tensor] = []
        shapes: list[tuple[int, int]] = []

        def flush() -> None:
            soft = self._run(torch.stack(tensors))
            masks.extend(resize_soft(s, *hw) for s, hw in zip(soft, shapes, strict=True))
            tensors.clear()
            shapes.clear()

        for image in images:
            rgb = read_photo(image)
            shapes.append(rgb.shape[:2])
            tensors.append(to_tensor(rgb, preprocess))
            if len(tensors) >= max(1, batch_size):
                flush()
        if tensors:
            flush()
        return masks

    def _run(self, batch: torch.Tensor) -> np.ndarray:
        try:
            soft = probabilities(self.model, batch, self.device)
        except torch.cuda.OutOfMemoryError as error:
            n, _, h, w = batch.shape
            raise RuntimeError(
                f"{self.device} ran out of memory for a batch of {n} at {h}×{w}: "
                "use a smaller batch_size, a smaller size, or device='cpu'"
            ) from error
        if not np.isfinite(soft).all():
            raise ValueError(
                "the model gives values that are no numbers (NaN): its checkpoint is broken, "
                "train again or use an earlier one"
            )
        return soft

    def describe(self, size: Any = None) -> str:
        """One line: model, working size, device, and what training said of it."""
        name = (getattr(self.model, "spec", None) or {}).get("name", type(self.model).__name__)
        height, width = self._at_size(size).size
        line = f"{name} at {height}×{width} on {describe_device(self.device)}"
        if self.checkpoint.epoch:
            line += f", epoch {self.checkpoint.epoch}"
        iou = self.checkpoint.metrics.get("val_iou")
        return line if iou is None else f"{line}, val IoU {iou:.3f}"
