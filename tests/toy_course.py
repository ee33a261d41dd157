"""A course of three tiny notebooks for the tests of the pipeline: real files, real kernels."""

import html
import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

DATA = "print(seed, lr, flag, photo)"
EVALUATE = """
import json
from pathlib import Path
folder = Path(outputs_dir)
scores = {"iou": 0.9125, "images": 12, "loss": float("nan")}
(folder / "metrics.json").write_text(json.dumps(scores))
(folder / "checkpoints").mkdir(exist_ok=True)
(folder / "checkpoints" / "best_model.pth").write_bytes(b"seed %d" % seed)
"""


def write_notebook(path: Path, parameters: str, *cells: str, tags: dict | None = None) -> Path:
    """A notebook with a markdown cell, a parameters cell and the given code cells."""
    notebook = new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        }
    )
    notebook.cells = [
        new_markdown_cell("# A toy"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *(new_code_cell(source) for source in cells),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def write_course(folder: Path, evaluate: str = EVALUATE) -> Path:
    """01_data, 04_evaluate (the cell given) and 06_timelapse in ``folder``."""
    common = 'outputs_dir = "outputs"\nseed = 0  # of everything\n'
    write_notebook(
        folder / "01_data.ipynb",
        common + 'data_dir = "data"\nlr = 1e-3\nflag = False\nphoto = ""',
        DATA,
        "import os, sys\nprint(os.getcwd())\nprint(data_dir)\nprint(sys.executable)",
    )
    write_notebook(folder / "04_evaluate.ipynb", common, evaluate, "print('after')")
    write_notebook(folder / "06_timelapse.ipynb", common + "fps = 4", "print(fps)")
    return folder


def text_of(page: Path) -> str:
    """What a page of a report shows, also within the notebooks that are in it."""
    body = page.read_text(encoding="utf-8").partition("<body")[2]
    return html.unescape(html.unescape(re.sub("<[^>]+>", " ", body)))
