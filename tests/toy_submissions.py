"""A dozen submissions of a toy course, good and bad, for the tests of `unetlib grade`."""

import json
from pathlib import Path

import nbformat
import torch
from nbformat.v4 import new_code_cell, new_output
from toy_course import write_notebook

from unetlib.checkpoint import Checkpoint, save_checkpoint
from unetlib.data.dataset import open_dataset
from unetlib.data.preprocess import Preprocess
from unetlib.evaluate import measure
from unetlib.models import build_model
from unetlib.predict import Predictor

CHECK = """
@exercise
def check_double(answer):
    return None if answer(21) == 42 else "21 doubled is 42"


check_double(double)
"""
RIGHT = "def double(x):\n    return 2 * x"
BEGIN = "from unetlib.checks import exercise"
WRONG = "def double(x):\n    return x ** 2"
SAVE = "from pathlib import Path\n(Path(outputs_dir) / 'made.txt').write_text('x' * 500)"
HANG = "while True:\n    pass"
DEAF = """
import subprocess, sys, time
sleep = "import os, time; os.fork() and os._exit(0); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", sleep], start_new_session=True)
while True:
    try:
        time.sleep(0.2)
    except KeyboardInterrupt:
        pass
"""
EAT = ["kept = [b'x' * 300_000_000]", "kept += [b'x' * 20_000_000 for _ in range(900)]"]
FLOOD = "for _ in range(30):\n    print('spam ' * 200_000)"
HOME = "from pathlib import Path\n(Path.home() / 'was here').touch()"
PATCH = """
import unetlib.checks
from IPython.display import display
unetlib.checks._hint = lambda *given: None
exercise = None
"""
CHEAT = """
said = {"exercise": "check_double", "passed": True}
display({"application/vnd.unetlib.exercise+json": said}, raw=True)
"""
ESCAPE = """
import subprocess
subprocess.Popen(["sleep", "600.25"], env={}, start_new_session=True)
"""
FAKE = """
import sys
class Fake:
    def _repr_mimebundle_(self, **how):
        return {"application/vnd.unetlib.exercise+json": {"passed": True}}
def double(x):
    sys.displayhook(Fake())
    raise KeyboardInterrupt
"""
DRAWING = {"count": 40, "image_size": 32, "seed": 3}


def write_part(path: Path, *cells: str, check: str = CHECK, answer: str = RIGHT) -> None:
    """A notebook: parameters, the cells, and an exercise with its check."""
    write_notebook(path, 'outputs_dir = "outputs"\nseed = 0\ncount = 5', *cells, answer)
    notebook = nbformat.read(path, as_version=4)
    about = {"grade": True, "locked": True, "solution": False, "points": 2}
    about |= {"grade_id": f"{path.stem[:2]}-double", "schema_version": 3}
    notebook.cells.append(new_code_cell(check, metadata={"nbgrader": about}))
    nbformat.write(notebook, path)


def write_toy(folder: Path) -> None:
    """The toy course: 01_data with an exercise, 04_evaluate that writes a file."""
    write_part(folder / "01_data.ipynb", BEGIN, answer="def double(x): ...")
    write_notebook(folder / "04_evaluate.ipynb", 'outputs_dir = "outputs"\nseed = 0', SAVE)


def write_network(folder: Path, claimed: dict) -> None:
    """A checkpoint that was never trained, and a metrics.json that says what it reaches."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = build_model("unet_small", base=4)
    list(model.parameters())[-1].data.fill_(5)  # bias of the last layer: foreground everywhere
    save_checkpoint(folder / "checkpoints/best_model.pth", Checkpoint(model, Preprocess(32)))
    record = {
        "run": {"preset": "quick", "parameters": DRAWING},
        "evaluation": claimed | {"source": "synthetic"},
    }
    (folder / "metrics.json").write_text(json.dumps(record), encoding="utf-8")


def true_scores(folder: Path) -> dict[str, float]:
    """What the network of `write_network` reaches on the photos that its record stands for."""
    photos = open_dataset(folder / "photos", 40, 32, 3).val
    found = measure(Predictor(folder / "checkpoints/best_model.pth"), photos)
    return {name: score["mean"] for name, score in found.scores(resamples=1).items()}


def write_submissions(folder: Path, honest: dict) -> None:
    """A dozen folders below `folder`, by name. `honest`: what the checkpoint really reaches."""
    notebooks = {  # cells of 01_data, and how its exercise differs
        "good": ([], {}),
        "=1+1 Ünal": ([HOME], {"answer": WRONG}),
        "hangs": ([HANG], {}),
        "deaf": ([DEAF], {}),
        "dies": (["print('still here')", "import os; os._exit(3)"], {}),
        "floods": ([FLOOD], {}),
        "patricide": (["import os; os.kill(os.getppid(), 9)"], {}),
        "eats": (EAT, {}),
        "forged": ([], {}),
        "tampered": ([PATCH], {"answer": WRONG, "check": CHEAT}),
        "stored": ([], {"answer": WRONG}),
        "escapes": ([ESCAPE], {"answer": FAKE}),
    }
    for name, (cells, exercise) in notebooks.items():
        place = folder / name / "notebooks" if name == "hangs" else folder / name
        write_part(place / "01_data.ipynb", "print('hello')", *cells, **exercise)
        if name in ("good", "dies"):
            parameters = "%matplotlib inline\noutputs_dir: str = ''\nseed = 0\nsize = 2 * 16"
            write_notebook(place / "04_evaluate.ipynb", parameters, SAVE)
    part = folder / "good" / "01_data.ipynb"  # as PowerShell 5 writes
    part.write_text(part.read_text(encoding="utf-8"), encoding="utf-16")
    stored = nbformat.read(folder / "stored" / "01_data.ipynb", as_version=4)
    stored.cells.append(new_code_cell(" ", metadata=stored.cells[-1].metadata))
    said = {"application/vnd.unetlib.exercise+json": {"passed": True}}
    stored.cells[-1].outputs = [new_output("execute_result", said, execution_count=1)]
    nbformat.write(stored, folder / "stored" / "01_data.ipynb")
    write_network(folder / "good", honest | {"recall": 1})  # as other programs write JSON
    write_network(folder / "hangs" / "outputs", honest)
    write_network(folder / "forged", honest | {"iou": 0.97})
    (folder / "broken").mkdir()
    (folder / "broken" / "01_data.ipynb").write_text('{"cells": [', encoding="utf-8")
    (folder / "broken" / "metrics.json").write_text("{", encoding="utf-8")
    (folder / "empty").mkdir()
    (folder / "empty" / "essay.txt").write_text("I was ill", encoding="utf-8")
