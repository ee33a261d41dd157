"""Checkpoint -> ONNX file -> the callable that `Predictor` runs, the last without PyTorch."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from unetlib.config import EXPORTED
from unetlib.data.images import open_photo
from unetlib.data.preprocess import Preprocess, to_array
from unetlib.errors import CheckpointError, need
from unetlib.paths import write_whole
from unetlib.pretrained import recognise

FORMAT = "unetlib-onnx"


class OnnxNetwork:
    """A network of an ONNX file: float32 (N, 3, H, W) -> float32 (N, H, W), without PyTorch.

    device: "cpu", "cuda", "cuda:1", or "auto": CUDA where it works. threads: cores, None: all.
    Safe to call from several threads. Other programs' files work too if they map an input (N, 3, H,
    W) to probabilities (N, 1, H, W); their normalisation is ImageNet's, or known by `pretrained`.
    Raises CheckpointError, RuntimeError for an absent GPU, ValueError also when called: for a size
    that it cannot take.
    """

    def __init__(self, path: str | Path, device: str = "auto", threads: int | None = None):
        need("onnxruntime", extra="onnx")
        import onnxruntime

        self.path = Path(path)
        kind, _, index = str(device).lower().partition(":")
        if kind not in ("auto", "cpu", "cuda") or not (index or "0").isdigit():
            raise ValueError(f"device {device!r}: .onnx networks run on auto, cpu, cuda or cuda:1")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4  # its errors are raised as well
        options.add_session_config_entry("session.force_spinning_stop", "1")  # cores are left free
        providers = ["CPUExecutionProvider"]
        if kind != "cpu" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(index or 0)}))
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors have no class in common
            raise CheckpointError(f"{path} is missing, damaged or no ONNX file") from error
        self.device = "cuda" if "CUDA" in self.session.get_providers()[0] else "cpu"
        if kind == "cuda" and self.device == "cpu":
            raise RuntimeError(
                "ONNX Runtime finds no GPU: pip install onnxruntime-gpu, or use auto"
            )
        self.runs_on = f"{self.device} (ONNX Runtime)"
        (given, *more), output = self.session.get_inputs(), self.session.get_outputs()[0]
        self.input, self.output = given.name, output.name
        fixed = [[n if isinstance(n, int) else None for n in one.shape] for one in (given, output)]
        match given.type, fixed, more:
            case "tensor(float)", [[_, 3, h, w], [_, None | 1, _, _]], []:
                usual = {"size": (h or 320, w or 320)}  # what rembg feeds
            case _:
                found = f"{given.type} {given.shape} and {output.shape}"
                raise CheckpointError(f"{path}: not float (N, 3, H, W) to (N, 1, H, W) but {found}")
        meta = self.session.get_modelmeta().custom_metadata_map
        own = meta.get("format") == json.dumps(FORMAT)
        facts = {key: json.loads(value) for key, value in meta.items()} if own else {}
        self.name = facts.get("model", self.path.stem)
        self.epoch, self.metrics = facts.get("epoch", 0), facts.get("metrics", {})
        self.preprocess = Preprocess(**facts.get("preprocess", usual))
        self.answer = "probability"
        if not own and (public := recognise(self.path)):
            self.preprocess, self.answer = public.preprocess, public.answer

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        soft = np.empty((len(batch), *batch.shape[2:]), np.float32)
        try:  # one by one: a batch makes a CPU no quicker, and takes more memory
            for one, answer in zip(batch, soft, strict=True):
                answer[:] = self.session.run([self.output], {self.input: one[None]})[0][0, 0]
        except Exception as error:  # as above
            sizes = f"{batch.shape[2:]}, its own size is {self.preprocess.size}"
            raise ValueError(f"{self.path.name} failed at {sizes}: {str(error):.200}") from error
        if self.answer == "logits":
            soft = 1 / (1 + np.exp(-soft))
        elif self.answer == "range":
            low, high = (end(soft, axis=(1, 2), keepdims=True) for end in (np.min, np.max))
            soft = (soft - low) / np.maximum(high - low, np.float32(1e-12))
        if soft.min() < -1e-5 or soft.max() > 1 + 1e-5:  # beyond rounding
            raise ValueError(f"{self.path.name} gives no probabilities in [0, 1], perhaps logits")
        return np.clip(soft, 0, 1, out=soft)


def export_onnx(checkpoint: Any, path: Any, precision="float32", calibration=()) -> Path:
    """Write a network as one ONNX file, whole or not at all. Returns its path.

    Input "image": float32 (N, 3, H, W), normalised as the checkpoint says; output "probability":
    float32 (N, 1, H, W) in [0, 1]; all but 3 are free. `checkpoint`: a file, a Checkpoint, or a
    float32 file of this function. precision: "float32"; "float16", of its weights; or "int8", in
    the ranges seen on `calibration`, photos of the train set (Jacob et al., CVPR 2018).

    Raises CheckpointError, ValueError for another precision or int8 without photos, ImportError
    without the extra "onnx", OSError.
    """
    if precision not in EXPORTED:
        raise ValueError(f"precision {precision!r}: there are {', '.join(EXPORTED)}")
    need("onnx", "onnxruntime", "onnxscript", extra="onnx")
    import onnx

    if str(checkpoint).endswith(".onnx"):
        proto = onnx.load(checkpoint)
        facts = {item.key: json.loads(item.value) for item in proto.metadata_props}
    else:
        proto, facts = _trace(checkpoint)
    if facts.get("precision") != "float32":
        raise CheckpointError(f"{checkpoint} is no float32 file of `unetlib export`")
    if precision == "float16":
        _halve(proto)
    elif precision == "int8":
        how = Preprocess(**facts["preprocess"])
        proto = _quantized(proto, [to_array(open_photo(p).rgb, how)[None] for p in calibration])
    facts = {key: json.dumps(value) for key, value in {**facts, "precision": precision}.items()}
    onnx.helper.set_model_props(proto, facts)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, proto.SerializeToString())
    return path


def _trace(checkpoint: Any) -> tuple[Any, dict[str, Any]]:
    """The graph of a checkpoint's network with a sigmoid behind it, and what the file says."""
    import torch

    from unetlib.checkpoint import Checkpoint, load_checkpoint

    own = isinstance(checkpoint, Checkpoint)
    checkpoint = checkpoint if own else load_checkpoint(checkpoint)
    network = copy.deepcopy(checkpoint.model).cpu().float()
    model = torch.nn.Sequential(network, torch.nn.Sigmoid()).eval()
    image = torch.empty(2, 3, 1024, 1536)
    with suppress(ValueError):  # of networks that take only multiples of something
        # Sides that are odd however often they are halved: so a U-Net meets its skips with a
        # resize, which any other size then goes through as well.
        copy.deepcopy(model).to("meta")(torch.empty(2, 3, 1023, 1535, device="meta"))
        image = image[..., :-1, :-1].contiguous()
    ends = {"input_names": ["image"], "output_names": ["probability"]}
    ends |= {"dynamic_shapes": [{0: "N", 2: "H", 3: "W"}], "dynamo": True, "verbose": False}
    with warnings.catch_warnings(action="ignore"):  # advice to its own developers
        proto = torch.onnx.export(model, image, **ends).model_proto
    for part in (proto.graph, *proto.graph.node, *proto.graph.value_info):
        del part.metadata_props[:]  # the exporter's notes, with paths of this machine
    name = (getattr(network, "spec", None) or {}).get("name", type(network).__name__)
    facts = {"format": FORMAT, "version": 1, "precision": "float32", "model": name}
    facts |= {"epoch": checkpoint.epoch, "metrics": checkpoint.metrics}
    return proto, facts | {"preprocess": checkpoint.preprocess.to_dict()}


def _halve(proto: Any) -> None:
    """Each float32 weight becomes a float16 one and a cast, which runtimes fold when they start."""
    from onnx import TensorProto, helper, numpy_helper

    for weight in proto.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and weight.dims:
            name, values = weight.name, numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
            cast = helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT)
            proto.graph.node.insert(0, cast)


def _quantized(proto: Any, inputs: list[np.ndarray]) -> Any:
    """The graph with int8 weights, and uint8 between the layers in the ranges seen on `inputs`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    if not inputs:
        raise ValueError("int8 is calibrated on photos of the train set: none were given")
    waiting = iter([{"image": batch} for batch in inputs])
    reader = SimpleNamespace(get_next=lambda: next(waiting, None))
    # reduce_range, 7 bits: sums of 8 overflow on x86 processors without VNNI
    how = {"activation_type": QuantType.QUInt8, "per_channel": True, "reduce_range": True}
    logging.disable(logging.WARNING)  # advice that does not apply
    try:
        with tempfile.TemporaryDirectory(prefix="unetlib-export-") as folder:
            quantize_static(proto, f"{folder}/int8.onnx", reader, **how)
            return onnx.load(f"{folder}/int8.onnx")
    finally:
        logging.disable(logging.NOTSET)
