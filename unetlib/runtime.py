"""ONNX -> the callable that `Predictor` runs, with ONNX Runtime and without PyTorch."""

from __future__ import annotations

import json
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from unetlib.data.download import cache_dir
from unetlib.data.preprocess import Preprocess
from unetlib.pretrained import recognise
from unetlib.trouble import CheckpointError

FORMAT = "unetlib-onnx"
VERSION = 1
FOREIGN_SIZE = 320  # of networks that do not say theirs: what rembg feeds
ROUNDING = 1e-5  # a sigmoid may end so far outside of [0, 1]


def need(*packages: str) -> None:
    """Raises ImportError that says how to get what is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ImportError(f'{", ".join(missing)} is not installed: pip install "unetlib[onnx]"')


class OnnxNetwork:
    """A network of an ONNX file: float32 (N, 3, H, W) -> float32 (N, H, W), without PyTorch.

    device: "cpu"; "cuda" or "cuda:1", through TensorRT where it is installed; or "auto", the first
    of TensorRT, CUDA and CPU that works. threads: cores that a call takes, None: all.

    The public networks of `pretrained` are known by their content and get the preprocessing of
    their authors. Files of other programs work too if they have one input (N, 3, H, W) and a map
    (N, 1, H, W) of probabilities first among their outputs; ImageNet's normalisation is then
    assumed. Safe to call from several threads.

    Raises CheckpointError for a missing, damaged or unfitting file, RuntimeError for an absent GPU,
    ValueError for an unknown device, ImportError without ONNX Runtime; when called, ValueError for
    a size that the network cannot take.
    """

    def __init__(self, path: str | Path, device: str = "auto", threads: int | None = None):
        need("onnxruntime")
        self.path, self.threads = Path(path), threads
        self.providers = _providers(device)
        if not self.path.is_file():
            raise CheckpointError(
                f"there is no network at {path}. `unetlib export` makes one of a checkpoint"
            )
        probe = self._open(probe=True)  # 15 ms: what the file says of itself
        self.input, self.output, self.fixed = _ends(probe, self.path)
        meta = probe.get_modelmeta().custom_metadata_map
        own = meta.get("format") == json.dumps(FORMAT)
        self.facts = {key: json.loads(value) for key, value in meta.items()} if own else {}
        if self.facts.get("version", VERSION) > VERSION:
            raise CheckpointError(f"{path} was written by a newer unetlib: update unetlib")
        size = tuple(side or FOREIGN_SIZE for side in self.fixed[1:])
        self.preprocess = Preprocess.from_dict(self.facts.get("preprocess", {"size": size}))
        public = None if own else recognise(self.path)
        self.answer = public.answer if public else "probability"
        if public:
            self.preprocess = public.preprocess
        self.name = self.facts.get("model", self.path.stem)
        self.epoch, self.metrics = self.facts.get("epoch", 0), self.facts.get("metrics", {})
        self._lock, self._sessions = threading.Lock(), {}
        provider = "CPU"
        if len(self.providers) > 1:  # whether a GPU can be had is known when one was tried
            self._sessions[None] = self._open()
            provider = self._sessions[None].get_providers()[0].removesuffix("ExecutionProvider")
        self.device = "cpu" if provider == "CPU" else "cuda"
        if self.device == "cpu" and "cuda" in str(device).lower():
            raise RuntimeError(
                f"device {str(device)!r} was asked for, but ONNX Runtime could not start it and "
                "took the CPU: its CUDA or cuDNN libraries are missing or of another version"
            )
        self.runs_on = f"{self.device} (ONNX Runtime{'' if provider == 'CPU' else ', ' + provider})"

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        import onnxruntime

        (n, _, *size), trained = batch.shape, "×".join(map(str, self.preprocess.size))
        given = "×".join(map(str, size))
        if any(side and side != own for side, own in zip(self.fixed[1:], size, strict=True)):
            raise ValueError(f"{self.path.name} works at {trained} only, not at {given}")
        # a batch makes a CPU no quicker, and one photo at a time takes less memory
        step = 1 if self.device == "cpu" or self.fixed[0] else n
        quiet = onnxruntime.RunOptions()
        quiet.log_severity_level = 4  # the error that it raises says the same
        try:
            session, soft = self._session(tuple(size)), np.empty((n, *size), np.float32)
            for i in range(0, n, step):
                part = {self.input: batch[i : i + step]}
                soft[i : i + step] = session.run([self.output], part, quiet)[0][:, 0]
        except Exception as error:  # ONNX Runtime's errors have no class in common
            reason = f"{self.path.name} failed at {given}: {_first_line(error)}"
            if tuple(size) == self.preprocess.size:
                raise RuntimeError(reason) from error
            raise ValueError(f"{reason}. Its own size is {trained}") from error
        if self.answer == "logits":
            soft = 1 / (1 + np.exp(-soft))
        elif self.answer == "range":
            low, high = (end(soft, axis=(1, 2), keepdims=True) for end in (np.min, np.max))
            soft = (soft - low) / np.maximum(high - low, np.float32(1e-12))
        if soft.size and (soft.min() < -ROUNDING or soft.max() > 1 + ROUNDING):
            raise ValueError(
                f"{self.path.name} gives values from {soft.min():.4g} to {soft.max():.4g} where "
                "probabilities in [0, 1] are expected (are these logits?)"
            )
        return np.clip(soft, 0, 1, out=soft)

    def _session(self, size: tuple[int, int]):
        """On a CPU a session planned for one size is 12 % quicker and ready sooner than one for
        all: the first size asked for gets it, all others share one for any size."""
        with self._lock:
            planned = self.facts and self.device == "cpu" and self._sessions.keys() <= {size}
            key = size if planned or size in self._sessions else None
            if key not in self._sessions:
                self._sessions[key] = self._open(key)
            return self._sessions[key]

    def _open(self, size: tuple[int, int] | None = None, probe: bool = False):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1 if probe else self.threads or 0
        # threads wait busily within a call, which is 5 % quicker, but leave the cores after it
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if probe:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if size:
            for name, length in zip("NHW", (1, *size), strict=True):
                options.add_free_dimension_override_by_name(name, length)
        providers = self.providers[-1:] if probe else self.providers
        if len(providers) == 1:
            options.log_severity_level = 4  # of a GPU that does not start, the reason is shown
        try:
            return onnxruntime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:  # as above
            raise CheckpointError(
                f"{self.path} is damaged or no ONNX file: {_first_line(error)}"
            ) from error


def _providers(device: str) -> list:
    """ONNX Runtime's names of what may compute, first choice first; the CPU is always last."""
    import onnxruntime

    kind, _, index = str(device).strip().lower().partition(":")
    if kind not in ("", "auto", "cpu", "cuda") or not (index or "0").isdigit():
        raise ValueError(f"device {str(device)!r}: .onnx networks run on auto, cpu, cuda or cuda:1")
    kept = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache_dir() / "tensorrt")}
    gpus = {"Tensorrt": kept, "CUDA": {}}  # TensorRT plans for minutes, so plans are kept
    there = onnxruntime.get_available_providers() if kind != "cpu" else []
    chosen: list = [
        (f"{name}ExecutionProvider", {"device_id": int(index or 0), **options})
        for name, options in gpus.items()
        if f"{name}ExecutionProvider" in there
    ]
    if kind == "cuda" and not chosen:
        raise RuntimeError(
            f"device {str(device)!r} was asked for, but the installed ONNX Runtime is one for "
            "the CPU: pip install onnxruntime-gpu, or use device='auto'"
        )
    return [*chosen, "CPUExecutionProvider"]


def _ends(session: Any, path: Path) -> tuple[str, str, list[int | None]]:
    """Names of input and output, and [N, H, W], None where it is free. Raises CheckpointError."""
    inputs, output = session.get_inputs(), session.get_outputs()[0]
    shape = inputs[0].shape if inputs else []
    fits = len(inputs) == 1 and len(shape) == 4 and inputs[0].type == "tensor(float)"
    fits = fits and shape[1] == 3 and (shape[0] == 1 or not isinstance(shape[0], int))
    channels = output.shape[1] if len(output.shape) == 4 else 0
    if not fits or (isinstance(channels, int) and channels != 1):
        found = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise CheckpointError(
            f"{path} is another kind of network: expected one input float (N, 3, H, W) and a map "
            f"(N, 1, H, W), found {found or 'no input'} and {output.name} {output.shape}"
        )
    fixed = [shape[axis] if isinstance(shape[axis], int) else None for axis in (0, 2, 3)]
    return inputs[0].name, output.name, fixed


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rpartition(" : ")[2]
