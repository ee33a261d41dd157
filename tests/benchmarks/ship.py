"""A training's best network becomes a file of the package, at half precision.

    python tests/benchmarks/ship.py CHECKPOINT NAME

NAME is one of unetlib/pretrained/networks.json: `people` is written as .pth and as .onnx,
`people_unet` as .pth. Of the training its scores stay. Measure it then with people.py.
"""

import sys
from dataclasses import replace

from unetlib.checkpoint import load_checkpoint, save_checkpoint
from unetlib.export import export_onnx
from unetlib.pretrained import NETWORKS, SHIPPED

source, name = sys.argv[1:]
trained = load_checkpoint(source)
halved = trained.model.half()  # rounded once: both files hold the same weights
shipped = replace(trained, model=halved, history=[], extra={})
path = save_checkpoint(SHIPPED / f"{name}.pth", shipped)
print(f"written: {path}")
if NETWORKS[name].path != path:
    print(f"written: {export_onnx(shipped, path.with_suffix('.onnx'), 'float16')}")
