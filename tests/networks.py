"""Networks whose answer is known, written without this project."""

from pathlib import Path

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def write_color_network(path: Path, channel: int = 0, strength: float = 12) -> Path:
    """An ONNX file: probability = sigmoid(strength * (value - 0.5)), value being how red (0), green
    (1) or blue (2) a pixel is, 0…1."""
    import onnx
    from onnx import TensorProto, helper

    numbers = {"start": [channel], "end": [channel + 1], "axis": [1]}
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [1], value) for name, value in numbers.items()
    ]
    scale, shift = strength * STD[channel], strength * (MEAN[channel] - 0.5)
    for name, value in (("scale", scale), ("shift", shift)):
        constants.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["one"]),
        helper.make_node("Mul", ["one", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["soft"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, "h", "w"])
        for name, channels in (("x", 3), ("soft", 1))
    ]
    graph = helper.make_graph(nodes, "colour", ends[:1], ends[1:], constants)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path
