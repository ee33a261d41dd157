"""Photo -> soft mask at the photo's own size.

This is the only place that turns logits of photos into probabilities. torch is imported where it
is used: an exported network (.onnx) runs without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from unetlib import pretrained
from unetlib.data.photo import read_photo
from unetlib.data.preprocess import Preprocess, to_array
from unetlib.trouble import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["Predictor", "probabilities", "read_photo", "resize_soft"]

MIN_SIZE = 32  # below this the deepest level of a U-Net has no pixels left to look at
MAX_SIZE = 4096


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


def probabilities(
    model: torch.nn.Module, batch: torch.Tensor, device: torch.device | None = None
) -> np.ndarray:
    """Normalised (N, 3, H, W) -> probability of foreground, float32 (N, H, W), on the CPU.

    The one place that turns logits into probabilities. The model should be in eval mode.
    """
    import torch

    device = device or next(model.parameters()).device
    with torch.inference_mode():
        logits = model(batch.to(device).contiguous(memory_format=torch.channels_last))
        return torch.sigmoid(logits.float())[:, 0].cpu().numpy()


class TorchNetwork:
    """A checkpoint that PyTorch runs: float32 (N, 3, H, W) -> float32 (N, H, W)."""

    def __init__(self, checkpoint: Any, device: Any = "auto", threads: int | None = None):
        import torch

        from unetlib.checkpoint import Checkpoint, load_checkpoint
        from unetlib.device import choose_device, describe_device

        self.device = choose_device(device)  # before the file is read: the cheaper check first
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = load_checkpoint(checkpoint, device="cpu")
        if threads:
            torch.set_num_threads(threads)  # of the calling thread, and of those started later
        self.checkpoint, self.preprocess = checkpoint, checkpoint.preprocess
        model = checkpoint.model.eval().to(self.device)
        self.model = model.to(memory_format=torch.channels_last)
        spec = getattr(model, "spec", None) or {}
        self.name, self.runs_on = (
            spec.get("name", type(model).__name__),
            describe_device(self.device),
        )
        self.epoch, self.metrics = checkpoint.epoch, checkpoint.metrics

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        import torch

        try:
            return probabilities(self.model, torch.from_numpy(batch), self.device)
        except torch.cuda.OutOfMemoryError as error:
            n, _, h, w = batch.shape
            raise RuntimeError(
                f"{self.device} ran out of memory for a batch of {n} at {h}×{w}: "
                "use a smaller batch_size, a smaller size, or device='cpu'"
            ) from error


def load_network(checkpoint: Any, device: Any = "auto", threads: int | None = None):
    """A network by name, a checkpoint (file or in memory) or an .onnx file, ready to be called."""
    if isinstance(checkpoint, (str, os.PathLike)):
        try:
            checkpoint = pretrained.find(checkpoint)
        except FileNotFoundError as error:
            raise CheckpointError(str(error)) from error
        if checkpoint.suffix.lower() == ".onnx":
            from unetlib.runtime import OnnxNetwork

            return OnnxNetwork(checkpoint, device, threads)
    return TorchNetwork(checkpoint, device, threads)


class Predictor:
    """A trained model, or several, that is handed photos and returns soft masks.

    `network` is a name ("people", see `pretrained.NETWORKS`), a file written by training or by
    `unetlib export` (.onnx, needs no PyTorch), a Checkpoint in memory (its model is moved to
    `device` and put into eval mode), or a list of these, whose answers are averaged.
    `size` is the working size, an int for a square or (H, W); None takes that of the training (of
    the first). Photos are stretched to it, as they were in training. `flip` averages with the
    answer for the mirror image: twice the time, a little better. None: as the network's entry in
    `pretrained.NETWORKS` says, which is yes for "people" and no for files.
    `threads` limits the cores that a prediction takes; None: all.

    Raises CheckpointError for a missing or unusable file and RuntimeError for an absent device.
    Safe to call from several threads: prediction changes nothing in the object.
    """

    def __init__(
        self,
        network: Any = pretrained.DEFAULT,
        device: Any = "auto",
        size: Any = None,
        flip: bool | None = None,
        threads: int | None = None,
    ):
        several = network if isinstance(network, (list, tuple)) else [network]
        if not several:
            raise ValueError("no network given: the list is empty")
        self.networks = [load_network(one, device, threads) for one in several]
        if flip is None:
            files = [one for one in several if isinstance(one, (str, os.PathLike))]
            names = filter(None, map(pretrained.name_of, files))
            flip = any(pretrained.NETWORKS[name].flip for name in names)
        self.flip = flip
        first = self.networks[0]
        self.device, self.model = first.device, getattr(first, "model", None)
        self.preprocess = self._at_size(size)

    def _at_size(self, size: Any) -> Preprocess:
        """The first network's preprocessing with another working size."""
        trained = self.networks[0].preprocess
        if size is None:
            return getattr(self, "preprocess", trained)
        height, width = (size, size) if np.ndim(size) == 0 else size
        for side in (height, width):
            if side != int(side) or not MIN_SIZE <= side <= MAX_SIZE:
                raise ValueError(
                    f"working size {size!r}: sides are {MIN_SIZE} to {MAX_SIZE} pixels"
                )
        return replace(trained, size=(int(height), int(width)), keep_shape=False)

    def predict(self, image: Any, size: Any = None) -> np.ndarray:
        """One photo (anything `read_photo` takes) -> soft mask, float32 (H, W) in [0, 1], (H, W)
        being the photo's own size. `size` replaces the working size for this call."""
        return self.predict_batch([image], size=size)[0]

    def predict_batch(
        self, images: Iterable[Any], size: Any = None, batch_size: int = 8
    ) -> list[np.ndarray]:
        """The same for many photos, of any sizes: a list of soft masks in the order given."""
        masks: list[np.ndarray] = []
        waiting: list[np.ndarray] = []

        def flush() -> None:
            small = self.predict_small(waiting, size)
            pairs = zip(small, waiting, strict=True)
            masks.extend(resize_soft(soft, *photo.shape[:2]) for soft, photo in pairs)
            waiting.clear()

        for image in images:
            waiting.append(read_photo(image))
            if len(waiting) >= (1 if self.preprocess.keep_shape else max(1, batch_size)):
                flush()
        if waiting:
            flush()
        return masks

    def predict_small(self, photos: Sequence[np.ndarray], size: Any = None) -> np.ndarray:
        """Photos, uint8 (H, W, 3) of any sizes, as one batch -> soft masks at the working size,
        float32 (N, h, w) in [0, 1]: what `predict` enlarges."""
        working = self._at_size(size)
        total, batches = 0, {}
        for network in self.networks:
            own = network.preprocess
            shape = working.size_for(*photos[0].shape[:2]) if len(photos) else working.size
            how = replace(own, size=shape, keep_shape=False)
            if how not in batches:
                batch = np.empty((len(photos), 3, *how.size), np.float32)
                for photo, out in zip(photos, batch, strict=True):
                    to_array(photo, how, out)
                batches[how] = batch
            total = total + network(batches[how])
            if self.flip:
                mirrored = np.ascontiguousarray(batches[how][..., ::-1])
                total = total + network(mirrored)[..., ::-1]
        soft = total / np.float32(len(self.networks) * (1 + self.flip))
        if not np.isfinite(soft).all():
            raise ValueError(
                "the model gives values that are no numbers (NaN): its checkpoint is broken, "
                "train again or use an earlier one"
            )
        return soft.astype(np.float32, copy=False)

    def describe(self, size: Any = None) -> str:
        """One line: model, working size, device, and what training said of it."""
        first = self.networks[0]
        name = " + ".join(network.name for network in self.networks)
        height, width = self._at_size(size).size
        line = f"{name} at {height}×{width} on {first.runs_on}"
        line += ", with its mirror image" if self.flip else ""
        if len(self.networks) > 1:
            return line
        if first.epoch:
            line += f", epoch {first.epoch}"
        iou = first.metrics.get("val_iou")
        return line if iou is None else f"{line}, val IoU {iou:.3f}"
