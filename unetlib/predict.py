"""Photo -> soft mask at the photo's own size; an exported network (.onnx) runs without torch."""

import json
import os
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np

from unetlib import pretrained
from unetlib.data.images import open_photo
from unetlib.data.preprocess import Preprocess, to_array
from unetlib.errors import CheckpointError

FORMAT, CUDA = "unetlib-onnx", "CUDAExecutionProvider"
METAL = Lock()  # PyTorch aborts where two threads use an Apple GPU
MIN_SIZE, MAX_SIZE = 32, 4096  # working sizes; below, a U-Net's deepest level has no pixels left


def resize_soft(soft: np.ndarray, height: int, width: int) -> np.ndarray:
    """A soft mask, float32 (h, w) in [0, 1], at another size: cubic when it grows (linear shows the
    grid of the small mask along a slanted edge), area averages when it shrinks."""
    shrinks = height <= soft.shape[0] and width <= soft.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    resized = cv2.resize(soft, (width, height), interpolation=method)
    return np.clip(resized, 0.0, 1.0, out=resized)


def probabilities(model: Any, batch: Any) -> np.ndarray:
    """Normalised batch (N, 3, H, W) -> probability of foreground, float32 (N, H, W), on the CPU.

    The one place that turns logits into probabilities. The model should be in eval mode.
    """
    import torch

    batch = torch.as_tensor(batch)
    weight = next(model.parameters(), batch)  # has the model's device and precision
    with torch.inference_mode(), METAL if weight.is_mps else nullcontext():
        logits = model(batch.to(weight).contiguous(memory_format=torch.channels_last))
        return torch.sigmoid(logits.float())[:, 0].cpu().numpy()


class TorchNetwork:
    """A checkpoint that PyTorch runs: float32 (N, 3, H, W) -> float32 (N, H, W)."""

    def __init__(self, checkpoint: Any, device: Any = "auto", threads: int | None = None):
        import torch

        from unetlib.checkpoint import load_checkpoint
        from unetlib.models import choose_device, describe_device

        device = choose_device(device)  # the cheaper check before the file is read
        if isinstance(checkpoint, Path):
            checkpoint = load_checkpoint(checkpoint)
        if threads:
            torch.set_num_threads(threads)
        self.checkpoint, self.preprocess = checkpoint, checkpoint.preprocess
        self.epoch, self.metrics = checkpoint.epoch, checkpoint.metrics
        self.model = checkpoint.model.eval().to(device, memory_format=torch.channels_last)
        self.name = getattr(self.model, "spec", {}).get("name", type(self.model).__name__)
        self.runs_on = describe_device(device)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return probabilities(self.model, batch)


class OnnxNetwork:
    """A network of an ONNX file: float32 (N, 3, H, W) -> float32 (N, h, w), without PyTorch.

    threads: cores, None: all. Safe to call from several threads. Other programs' files work too if
    they map an input (N, 3, H, W) to probabilities (N, 1, h, w); their normalisation is ImageNet's,
    or known by `pretrained`. device: "auto" is the CPU; "cuda" and "cuda:1" need onnxruntime-gpu.
    Raises CheckpointError; ValueError for another device, RuntimeError for one that is not there;
    when called, ValueError for a size that it cannot take.
    """

    def __init__(self, path: str | Path, device: Any = "auto", threads: int | None = None):
        import onnxruntime

        parsed = re.fullmatch(r"auto|cpu|(cuda)(?::(\d+))?", str(device).strip().lower())
        if not parsed:
            raise ValueError(f"device {device}: {path} runs on cpu or cuda (ONNX Runtime)")
        self.path, self.runs_on = Path(path), f"{parsed[1] and parsed[0] or 'cpu'} (ONNX Runtime)"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.enable_cpu_mem_arena = False  # no quicker, and keeps what all threads ever needed
        options.log_severity_level = 4  # its errors are raised as well
        options.add_session_config_entry("session.force_spinning_stop", "1")  # cores are left free
        providers = ["CPUExecutionProvider"]
        if parsed[1] and CUDA in onnxruntime.get_available_providers():
            onnxruntime.preload_dlls()  # of pip's packages of CUDA and cuDNN
            providers.insert(0, (CUDA, {"device_id": int(parsed[2] or 0)}))
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors have no class in common
            why = " ".join(str(error).split())
            raise CheckpointError(f"{path} is damaged, or no ONNX file: {why:.400}") from error
        if parsed[1] and self.session.get_providers()[0] != CUDA:  # it would go on without a word
            why = 'ONNX Runtime cannot use one here. It takes "unetlib[gpu]", see the README'
            raise RuntimeError(f"device {device} was asked for, but {why}")
        nodes = [*self.session.get_inputs(), self.session.get_outputs()[0]]
        self.input, self.output = nodes[0].name, nodes[-1].name
        shapes = [[n if isinstance(n, int) else None for n in one.shape] for one in nodes]
        match nodes[0].type, shapes:
            case "tensor(float)", [[None | 1, 3, h, w], [None | 1, None | 1, _, _]]:
                usual = {"size": (h or 320, w or 320)}  # what rembg feeds
            case _:
                *inputs, output = (f"{one.type} {one.shape}" for one in nodes)
                found = f"maps {' and '.join(inputs)} to {output}"
                wanted = "tensor(float) (N, 3, H, W) to (N, 1, H, W)"
                raise CheckpointError(f"{path} {found}: export it as a network from {wanted}")
        meta = self.session.get_modelmeta().custom_metadata_map
        own = meta if FORMAT in meta.get("format", "") else {}
        stored = {key: json.loads(value) for key, value in own.items()}
        size = self.path.stat().st_size  # by which public files are known, whatever their names
        public = next(
            (one for one in pretrained.NETWORKS.values() if one.bytes == size and not own), None
        )
        self.name = stored.get("model", self.path.stem)
        self.epoch, self.metrics = stored.get("epoch", 0), stored.get("metrics", {})
        self.answer = public.answer if public else "probability"
        preprocess = public.preprocess if public else stored.get("preprocess", usual)
        self.preprocess = Preprocess(**preprocess)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        try:  # one by one: a batch makes a CPU no quicker, and takes more memory
            softs = [self.session.run([self.output], {self.input: one[None]})[0] for one in batch]
        except Exception as error:  # as above
            sizes = f"{batch.shape[2:]}, its own size is {self.preprocess.size}"
            why = " ".join(str(error).split())
            raise ValueError(f"{self.path.name} failed at {sizes}: {why:.400}") from error
        soft = np.concatenate(softs, dtype=np.float32)[:, 0]
        if self.answer == "logits":
            soft = np.exp(-np.logaddexp(0, -soft))
        elif self.answer == "range":
            low, high = (end(soft, axis=(1, 2), keepdims=True) for end in (np.min, np.max))
            soft = (soft - low) / np.maximum(high - low, np.float32(1e-12))
        return soft


class Predictor:
    """One trained model, or several that are averaged: photos in, soft masks out.

    `network`: a name ("people", see `pretrained.NETWORKS`), a file of training or of `unetlib
    export` (ONNX, needs no PyTorch), a Checkpoint in memory (its model is moved to `device`), or a
    list of these, whose answers are averaged. `size`: the working size, an int or (H, W); None:
    that of the training. `flip` averages with the answer for the mirror image, in twice the time;
    None: as NETWORKS says. `threads`: cores; None: all. Safe to call from several threads.

    Raises FileNotFoundError, CheckpointError, RuntimeError for an absent device, ValueError.
    """

    def __init__(self, network: Any = "people", device="auto", size=None, flip=None, threads=None):
        self.networks, self.flip = [], bool(flip)
        for net in network if isinstance(network, (list, tuple)) else [network]:
            kind = TorchNetwork
            if isinstance(net, (str, os.PathLike)):
                net = pretrained.find(net)
                known = pretrained.NETWORKS.get(pretrained.name_of(net))
                self.flip |= flip is None and known is not None and known.flip
                weights = net.with_suffix(".pth")  # the same weights for PyTorch, the first on GPUs
                if str(device) not in ("auto", "cpu") and weights.is_file() and find_spec("torch"):
                    net = weights
                kind = OnnxNetwork if pretrained.is_exported(net) else TorchNetwork
            self.networks.append(kind(net, device, threads))
        self.preprocess = self.networks[0].preprocess
        self.preprocess = self._at_size(size)

    def _at_size(self, size: Any) -> Preprocess:
        """The first network's preprocessing with another working size."""
        if size is None:
            return self.preprocess
        sides = np.broadcast_to(size, 2).tolist()
        if any(side != int(side) or not MIN_SIZE <= side <= MAX_SIZE for side in sides):
            raise ValueError(f"working size {size!r}: sides are {MIN_SIZE} to {MAX_SIZE} pixels")
        return replace(self.preprocess, size=sides, keep_shape=False)

    def predict(self, image: Any, size: Any = None) -> np.ndarray:
        """One photo (anything `open_photo` takes) -> soft mask, float32 (H, W) in [0, 1], of the
        photo's own size. `size` replaces the working size for this call."""
        photo = open_photo(image).rgb
        return resize_soft(self.predict_small([photo], size)[0], *photo.shape[:2])

    def predict_small(self, photos: Sequence[np.ndarray], size: Any = None) -> np.ndarray:
        """Photos, uint8 (H, W, 3) of any sizes, as one batch -> soft masks at the working size,
        float32 (N, h, w) in [0, 1]: what `predict` enlarges. Raises ValueError for a network that
        gives no probabilities."""
        shape, outputs = self._at_size(size).size_for(*photos[0].shape[:2]), []
        for network in self.networks:
            preprocess = replace(network.preprocess, size=shape, keep_shape=False)
            batch = np.stack([to_array(photo, preprocess) for photo in photos])
            outputs.append(network(batch))
            if self.flip:
                outputs.append(network(np.ascontiguousarray(batch[..., ::-1]))[..., ::-1])
            low, high = np.min(outputs), np.max(outputs)
            if not (low >= -1e-5 and high <= 1 + 1e-5):  # NaN fails too; rounding passes
                found = f"probabilities are expected, not {low:.7g} to {high:.7g} (logits?)"
                raise ValueError(f"network {network.name}: {found}")
        return np.mean(outputs, axis=0).clip(0, 1)

    def describe(self, size: Any = None) -> str:
        """One line: model, working size, device, and what training said of a network of yours."""
        first, (height, width) = self.networks[0], self._at_size(size).size
        names = " + ".join(network.name for network in self.networks)
        line = f"{names} at {height}×{width} on {first.runs_on}{', with mirror image' * self.flip}"
        own = len(self.networks) == 1 and not pretrained.name_of(getattr(first, "path", ""))
        if own and "val_iou" in first.metrics:
            line += f", epoch {first.epoch}, val IoU {first.metrics['val_iou']:.3f}"
        return line
