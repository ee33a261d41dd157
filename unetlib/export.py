"""Checkpoint -> ONNX file -> the callable that `Predictor` runs, the last without PyTorch."""

import copy
import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from unetlib.config import EXPORTED
from unetlib.data.images import open_photo
from unetlib.data.preprocess import Preprocess, to_array
from unetlib.errors import CheckpointError, need
from unetlib.paths import whole
from unetlib.pretrained import NETWORKS

FORMAT = "unetlib-onnx"
CUDA = "CUDAExecutionProvider"


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

        place = re.fullmatch(r"auto|cpu|(cuda)(?::(\d+))?", str(device).strip().lower())
        if not place:
            raise ValueError(f"device {device}: {path} runs on cpu or cuda (ONNX Runtime)")
        self.path, self.runs_on = Path(path), f"{place[1] and place[0] or 'cpu'} (ONNX Runtime)"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.enable_cpu_mem_arena = False  # no quicker, and keeps what all threads ever needed
        options.log_severity_level = 4  # its errors are raised as well
        options.add_session_config_entry("session.force_spinning_stop", "1")  # cores are left free
        providers = ["CPUExecutionProvider"]
        if place[1] and CUDA in onnxruntime.get_available_providers():
            onnxruntime.preload_dlls()  # of pip's packages of CUDA and cuDNN
            providers.insert(0, (CUDA, {"device_id": int(place[2] or 0)}))
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors have no class in common
            why = " ".join(str(error).split())
            raise CheckpointError(f"{path} is damaged, or no ONNX file: {why:.400}") from error
        if place[1] and self.session.get_providers()[0] != CUDA:  # it would go on without a word
            why = 'ONNX Runtime cannot use one here. It takes "unetlib[gpu]", see the README'
            raise RuntimeError(f"device {device} was asked for, but {why}")
        ends = [*self.session.get_inputs(), self.session.get_outputs()[0]]
        self.input, self.output = ends[0].name, ends[-1].name
        shapes = [[n if isinstance(n, int) else None for n in one.shape] for one in ends]
        match ends[0].type, shapes:
            case "tensor(float)", [[None | 1, 3, h, w], [None | 1, None | 1, _, _]]:
                usual = {"size": (h or 320, w or 320)}  # what rembg feeds
            case _:
                *inputs, output = (f"{one.type} {one.shape}" for one in ends)
                found = f"maps {' and '.join(inputs)} to {output}"
                wanted = "tensor(float) (N, 3, H, W) to (N, 1, H, W)"
                raise CheckpointError(f"{path} {found}: export it as a network from {wanted}")
        meta = self.session.get_modelmeta().custom_metadata_map
        own = meta if FORMAT in meta.get("format", "") else {}
        facts = {key: json.loads(value) for key, value in own.items()}
        size = self.path.stat().st_size  # by which public files are known, whatever their names
        public = next((one for one in NETWORKS.values() if one.bytes == size and not own), None)
        self.name = facts.get("model", self.path.stem)
        self.epoch, self.metrics = facts.get("epoch", 0), facts.get("metrics", {})
        self.answer = public.answer if public else "probability"
        how = public.preprocess if public else facts.get("preprocess", usual)
        self.preprocess = Preprocess(**how)

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

    proto, facts = _trace(checkpoint)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        if precision == "float16":
            _halve(proto)
        elif precision == "int8":
            how, photos = Preprocess(**facts["preprocess"]), map(open_photo, calibration)
            batches = ({"image": to_array(photo.rgb, how)[None]} for photo in photos)
            reader = SimpleNamespace(get_next=lambda: next(batches, None))
            # reduce_range, 7 bits: sums of 8 overflow on x86 processors without VNNI
            kind = {"activation_type": QuantType.QUInt8, "per_channel": True, "reduce_range": True}
            known = {"onnx.quant.pre_process": "onnxruntime.quant"}  # else that is advised
            onnx.helper.set_model_props(proto, known)
            quantize_static(proto, part, reader, **kind)
            proto = onnx.load(part)
        facts["precision"] = precision
        onnx.helper.set_model_props(proto, {key: json.dumps(facts[key]) for key in facts})
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
    facts = {"format": FORMAT, "version": 1, "model": name, "epoch": checkpoint.epoch}
    facts |= {"metrics": checkpoint.metrics, "preprocess": checkpoint.preprocess.to_dict()}
    return proto, facts


def _halve(proto: Any) -> None:
    """Each float32 weight becomes a float16 one and a cast, which runtimes fold when they start."""
    from onnx import TensorProto, helper, numpy_helper

    for weight in proto.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and weight.dims:
            name, values = weight.name, numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
            cast = helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT)
            proto.graph.node.insert(0, cast)
