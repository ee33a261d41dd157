"""Checkpoint -> ONNX file, which `Predictor` and other programs run without PyTorch."""

import copy
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from unetlib.config import EXPORTED
from unetlib.data.images import open_photo
from unetlib.data.preprocess import Preprocess, to_array
from unetlib.errors import need
from unetlib.paths import atomic
from unetlib.predict import FORMAT


def export_onnx(checkpoint: Any, path: Any, precision="float32", calibration=()) -> Path:
    """Write a network as one ONNX file, whole or not at all. Returns its path.

    Input "image": float32 (N, 3, H, W), normalised as the checkpoint says; output "probability":
    float32 (N, 1, H, W) in [0, 1]; all but 3 are free. `checkpoint`: a file, or a Checkpoint.
    precision: "float32"; "float16", of its weights; or "int8", in the ranges seen on `calibration`,
    photos of the train set (Jacob et al., CVPR 2018).

    Raises CheckpointError, ValueError for another precision or int8 without photos, ImportError
    without the extra "course", OSError.
    """
    if precision not in EXPORTED:
        raise ValueError(f"precision {precision!r}: there are {', '.join(EXPORTED)}")
    if precision == "int8" and not len(calibration):
        raise ValueError("int8 is calibrated on photos of the train set: --source names them")
    need("onnx", "onnxscript", extra="course")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    proto, metadata = _trace(checkpoint)
    path = Path(path)
    with atomic(path) as part:
        if precision == "float16":
            _halve(proto)
        elif precision == "int8":
            preprocess, photos = Preprocess(**metadata["preprocess"]), map(open_photo, calibration)
            batches = ({"image": to_array(photo.rgb, preprocess)[None]} for photo in photos)
            reader = SimpleNamespace(get_next=lambda: next(batches, None))
            # reduce_range, 7 bits: sums of 8 overflow on x86 processors without VNNI
            kind = {"activation_type": QuantType.QUInt8, "per_channel": True, "reduce_range": True}
            known = {"onnx.quant.pre_process": "onnxruntime.quant"}  # else that is advised
            onnx.helper.set_model_props(proto, known)
            quantize_static(proto, part, reader, **kind)
            proto = onnx.load(part)
        metadata["precision"] = precision
        onnx.helper.set_model_props(proto, {key: json.dumps(metadata[key]) for key in metadata})
        onnx.save(proto, part)
    return path


def _trace(checkpoint: Any) -> tuple[Any, dict[str, Any]]:
    """The graph of a checkpoint's network with a sigmoid behind it, and what the file says."""
    import torch

    from unetlib.checkpoint import Checkpoint, load_checkpoint

    own = isinstance(checkpoint, Checkpoint)
    checkpoint = checkpoint if own else load_checkpoint(checkpoint)
    network = copy.deepcopy(checkpoint.model).cpu().float()
    # Sides that are odd however often they are halved: so a U-Net meets its skips with a resize,
    # which any other size then goes through as well.
    image = torch.empty(2, 3, 1023, 1535)
    ends = {"input_names": ["image"], "output_names": ["probability"]}
    ends |= {"dynamic_shapes": [{0: "N", 2: "H", 3: "W"}], "dynamo": True, "verbose": False}
    model = torch.nn.Sequential(network, torch.nn.Sigmoid()).eval()
    with warnings.catch_warnings(action="ignore"):  # advice to its own developers
        proto = torch.onnx.export(model, image, **ends).model_proto
    for part in (proto.graph, *proto.graph.node, *proto.graph.value_info):
        del part.metadata_props[:]  # the exporter's notes, with paths of this machine
    name = getattr(network, "spec", {}).get("name", type(network).__name__)
    metadata = {"format": FORMAT, "version": 1, "model": name, "epoch": checkpoint.epoch}
    metadata |= {"metrics": checkpoint.metrics, "preprocess": asdict(checkpoint.preprocess)}
    return proto, metadata


def _halve(proto: Any) -> None:
    """Each float32 weight becomes a float16 one and a cast, which runtimes fold when they start."""
    from onnx import TensorProto, helper, numpy_helper

    for weight in proto.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and weight.dims:
            name, values = weight.name, numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
            cast = helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT)
            proto.graph.node.insert(0, cast)
