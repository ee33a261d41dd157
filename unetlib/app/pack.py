"""A training's checkpoint -> the files of a network that comes with the package.

python -m unetlib.app.pack outputs/people/checkpoints/best_model.pth people
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

from unetlib.checkpoint import load_checkpoint, save_checkpoint
from unetlib.pretrained import SHIPPED


def pack(
    checkpoint: str | Path, name: str, folder: Path = SHIPPED, onnx: bool = True
) -> list[Path]:
    """Writes NAME.pth and, with `onnx`, NAME.onnx into `folder`; returns their paths.

    Weights are stored at half precision, which halves the files; they are computed with in float32.
    Of the training the scores stay, and of its photos the names of the sets without their folders.
    Raises CheckpointError for an unusable checkpoint.
    """
    loaded = load_checkpoint(checkpoint)
    halved = loaded.model.to(torch.float16)  # rounded once: both files hold the same weights
    sets = re.sub(r":[^ ?]*/", ":", str(loaded.extra.get("source", "")))
    extra = {"source": sets, "image_size": loaded.extra.get("image_size")}
    small = replace(loaded, model=halved, history=[], extra=extra)
    files = [save_checkpoint(folder / f"{name}.pth", small)]
    if onnx:
        from unetlib.export import export_onnx

        exact = replace(small, model=halved.float())
        files.append(export_onnx(exact, folder / f"{name}.onnx", "float16"))
    return files


if __name__ == "__main__":
    checkpoint, name = sys.argv[1:]
    # the course's network is for PyTorch: it goes into the student's own class
    for file in pack(checkpoint, name, onnx=name != "people_unet"):
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
