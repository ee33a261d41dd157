"""One file that runs anywhere: a checkpoint -> ONNX. What runs it is `OnnxNetwork`."""

from __future__ import annotations

import copy
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unetlib.config import hint
from unetlib.data.photo import read_photo
from unetlib.data.preprocess import Preprocess, to_array
from unetlib.paths import whole
from unetlib.runtime import FORMAT, VERSION, OnnxNetwork, need
from unetlib.trouble import CheckpointError

__all__ = ["PRECISIONS", "OnnxNetwork", "export_onnx"]

PRECISIONS = ("float32", "float16", "int8")
# The sizes (H, W) that a network is traced at. With the first, which is odd however often it is
# halved, a U-Net meets its skips with a resize, which any other size then goes through as well
# (and costs nothing where it is not needed). The second is for networks that refuse odd sizes.
TRACED = ((1023, 1535), (1024, 1536))


def export_onnx(
    checkpoint: Any, path: str | Path, precision: str = "float32", calibration: Iterable = None
) -> Path:
    """Write a network as one ONNX file, whole or not at all. Returns its path.

    Input "image": float32 (N, 3, H, W), normalised as the checkpoint says; output "probability":
    float32 (N, 1, H, W) in [0, 1]. N, H and W are free. `checkpoint`: a file or a Checkpoint, or a
    float32 file that was written by this function, which is quicker than to begin anew.

    precision: "float32"; "float16", whose weights are stored at half precision and computed with
    in float32 (CPUs compute no faster in float16); or "int8",
    8-bit integers whose ranges are those seen on `calibration`, photos of the train set (anything
    that `read_photo` takes), see Jacob et al., "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference", CVPR 2018, https://arxiv.org/abs/1712.05877.

    Raises CheckpointError for an unusable checkpoint, ValueError for an unknown precision or int8
    without photos, ImportError without the extra "onnx", OSError where it cannot be written.
    """
    if precision not in PRECISIONS:
        near = hint(precision, PRECISIONS)
        raise ValueError(f"precision {precision!r}: there are {', '.join(PRECISIONS)}.{near}")
    need("onnx", "onnxruntime", "onnxscript")
    import onnx

    path = Path(path)
    with _quiet():
        if isinstance(checkpoint, (str, os.PathLike)) and str(checkpoint).endswith(".onnx"):
            facts = dict(OnnxNetwork(checkpoint, "cpu").facts)
            if facts.get("precision") != "float32":
                raise CheckpointError(f"{checkpoint} is no float32 file of `unetlib export`")
            proto = onnx.load(checkpoint)
        else:
            proto, facts = _trace(checkpoint)
        if precision == "float16":
            proto = _halved(proto)
        elif precision == "int8":
            how = Preprocess.from_dict(facts["preprocess"])
            inputs = [to_array(read_photo(photo), how)[None] for photo in calibration or ()]
            if not inputs:
                raise ValueError("int8 is calibrated on photos of the train set: none were given")
            proto = _quantized(proto, inputs)
    facts["precision"] = precision
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {key: json.dumps(value) for key, value in facts.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        onnx.save(proto, part)
    return path


def _trace(checkpoint: Any) -> tuple[Any, dict[str, Any]]:
    """The graph of a checkpoint's network with a sigmoid behind it, and what the file says of it.

    The exporter folds each batch norm into its convolution.
    """
    import torch

    from unetlib.checkpoint import Checkpoint, load_checkpoint

    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    model = copy.deepcopy(checkpoint.model).cpu().float().eval()

    class Probability(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, image):
            return torch.sigmoid(self.model(image))

    shape = (2, 3, *TRACED[0])
    try:
        copy.deepcopy(model).to("meta")(torch.empty(shape, device="meta"))  # no numbers: quick
    except ValueError:  # it takes only multiples of something
        shape = (2, 3, *TRACED[1])
    program = torch.onnx.export(
        Probability().eval(),
        (torch.zeros(shape),),
        dynamo=True,
        input_names=["image"],
        output_names=["probability"],
        dynamic_shapes={"image": {0: "N", 2: "H", 3: "W"}},
        verbose=False,
    )
    proto = program.model_proto
    for part in (proto.graph, *proto.graph.node, *proto.graph.value_info):
        del part.metadata_props[:]  # the exporter's notes, with paths of this machine
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "model": (getattr(model, "spec", None) or {}).get("name", type(model).__name__),
        "preprocess": checkpoint.preprocess.to_dict(),
        "epoch": checkpoint.epoch,
        "metrics": checkpoint.metrics,
    }
    return proto, facts


def _halved(proto: Any) -> Any:
    """Each float32 weight becomes a float16 one and a cast, which runtimes fold when they start."""
    import onnx
    from onnx import numpy_helper

    casts = []
    for weight in proto.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or not weight.dims:
            continue
        name, values = weight.name, numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=1))
    nodes = [*casts, *proto.graph.node]
    proto.graph.ClearField("node")
    proto.graph.node.extend(nodes)
    return proto


def _quantized(proto: Any, inputs: list[np.ndarray]) -> Any:
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        waiting = iter(inputs)

        def get_next(self):
            batch = next(self.waiting, None)
            return None if batch is None else {"image": batch}

    unsigned, signed = quantization.QuantType.QUInt8, quantization.QuantType.QInt8
    with tempfile.TemporaryDirectory(prefix="unetlib-export-") as folder:
        given, result = (os.path.join(folder, name) for name in ("given.onnx", "int8.onnx"))
        onnx.save(proto, given)
        quantization.quantize_static(
            given,
            result,
            Reader(),
            per_channel=True,
            activation_type=unsigned,
            weight_type=signed,
            reduce_range=True,  # 7 bits: sums of 8 overflow on x86 processors without VNNI
        )
        return onnx.load(result)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' advice to their own developers stays out of sight; errors do not."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
