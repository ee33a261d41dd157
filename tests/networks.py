"""Networks whose answer is known, written without this project."""

from pathlib import Path

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def write_graph(path: Path, inputs: str, outputs: str, body: str) -> Path:
    """An ONNX file, its graph in the words of onnx.parser."""
    import onnx
    from onnx.parser import parse_model

    about = '<ir_version: 8, opset_import: ["": 13]>'
    onnx.save(parse_model(f"{about} graph ({inputs}) => ({outputs}) {{ {body} }}"), path)
    return path


def write_color_network(path: Path, channel: int = 0, strength: float = 12) -> Path:
    """An ONNX file: probability = sigmoid(strength * (value - 0.5)), value being how red (0), green
    (1) or blue (2) a pixel is, 0…1."""
    scale, shift = strength * STD[channel], strength * (MEAN[channel] - 0.5)
    body = f"""
        index = Constant <value_ints = [{channel}]> ()
        scale = Constant <value_float = {scale}> ()
        shift = Constant <value_float = {shift}> ()
        one = Gather <axis = 1> (x, index)
        scaled = Mul (one, scale)
        logits = Add (scaled, shift)
        soft = Sigmoid (logits)
    """
    return write_graph(path, "float[n, 3, h, w] x", "float[n, 1, h, w] soft", body)
