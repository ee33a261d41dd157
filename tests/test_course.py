"""The notebooks as they are committed: short cells with words, one run, numbers that agree."""

import ast
import base64
import io
import re
import shutil
import statistics
from pathlib import Path

import nbformat
import papermill
import pytest
from PIL import Image

from unetlib.pretrained import SHIPPED

ROOT = Path(__file__).resolve().parents[1]
SIX = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
APPENDIX = sorted((ROOT / "notebooks" / "appendix").glob("*.ipynb"))
SOLUTIONS = ROOT / "notebooks" / "solutions.ipynb"
ALL = [*SIX, *APPENDIX, SOLUTIONS]
COURSE = {path.stem: nbformat.read(path, as_version=4) for path in ALL}
each = pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def is_check(cell) -> bool:
    return "nbgrader" in cell.metadata


def is_answer(cell) -> bool:
    return "# your code" in cell.source or "???" in cell.source or '["?"' in cell.source


def printed(notebook) -> str:
    """All text that the cells gave out."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    texts = [out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in outputs]
    return "\n".join(texts)


def names_used(notebook) -> set[str]:
    """What a notebook imports from unetlib, as module.name."""
    found = set()
    for cell in code_cells(notebook):
        source = re.sub(r"(?m)^( *)[%!].*", r"\1pass", cell.source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "unetlib":
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_course_is_short():
    assert [path.stem[:2] for path in SIX] == ["01", "02", "03", "04", "05", "06"]
    six = [COURSE[path.stem] for path in SIX]
    cells = [cell for notebook in six for cell in code_cells(notebook)]
    lengths = [len(cell.source.splitlines()) for cell in cells]
    assert len(cells) <= 170 and statistics.median(lengths) <= 7 and max(lengths) <= 25
    names = [names_used(notebook) for notebook in six]
    assert len(set.union(*names)) <= 45 and max(map(len, names)) <= 12
    # A student's time: words at 130 a minute, 7 lines of code, a figure, 12 for an exercise.
    core = [cell for cell in cells if not is_check(cell) and not is_answer(cell)]
    lines = sum(len([x for x in cell.source.splitlines() if x.strip()]) for cell in core)
    words = sum(len(text.split()) for notebook in six for text in prose(notebook))
    figures = sum(bool(images(cell)) for cell in cells)
    exercises = sum(map(is_check, cells))
    assert 12 <= exercises <= 15
    assert words / 130 + lines / 7 + figures + 12 * exercises <= 270


@each
def test_tidy(path):
    notebook = COURSE[path.stem]
    nbformat.validate(notebook)
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 1_000_000 and "/home/" not in text and "/tmp/" not in text
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].source.startswith("# ")
    assert max(len(cell.source.splitlines()) for cell in code_cells(notebook)) <= 25
    if path != SOLUTIONS:
        assert len(prose(notebook)) >= len(code_cells(notebook))
    parameters = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(parameters) == 1 and len(parameters[0].source.splitlines()) <= 8
    for node in ast.parse(parameters[0].source).body:
        assert isinstance(node, ast.Assign) and len(node.targets) == 1
        assert isinstance(ast.literal_eval(node.value), str | int | float | bool)
    assert re.search(r"^outputs_dir = ", parameters[0].source, re.M)
    if path in SIX:
        assert any(re.search("^## Summary", source, re.M) for source in prose(notebook))


@each
def test_executed_in_one_run_without_an_error(path):
    cells = code_cells(COURSE[path.stem])
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert all(output.output_type != "error" for output in cell.outputs)
        said = "".join(output.get("text", "") for output in cell.outputs)
        assert not re.search(r"\b(True|False)\b", said), "print numbers instead"


def test_photos_of_any_size_can_be_evaluated(root, make_pairs):
    folder = make_pairs("fghij", make_pairs("abcde"), 40, 48)
    (root / "checkpoints").mkdir(parents=True)
    shutil.copy(SHIPPED / "people_unet.pth", root / "checkpoints" / "best_model.pth")
    settings = {"data_dir": str(folder), "outputs_dir": str(root)}
    papermill.execute_notebook(SIX[3], root / "04.ipynb", settings, kernel_name="python3")


@each
def test_a_number_that_the_text_quotes_was_printed(path):
    """A number in `code font` is quoted from an output of the same notebook."""
    said = printed(COURSE[path.stem])
    for source in prose(COURSE[path.stem]):
        for number in re.findall(r"`(-?\d+(?:[.,]\d+)*)`", source):
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", said), number


def images(cell) -> list[bytes]:
    data = [output.get("data", {}) for output in cell.outputs]
    return [
        base64.b64decode(value)
        for bundle in data
        for kind, value in bundle.items()
        if kind in ("image/png", "image/jpeg")
    ]


@each
def test_figures_are_large_and_explained(path):
    cells = COURSE[path.stem].cells
    for i, cell in enumerate(cells):
        for picture in images(cell) if cell.cell_type == "code" else ():
            assert Image.open(io.BytesIO(picture)).width >= 1000
            assert cells[i - 1].cell_type == "markdown"  # what to look at
            assert i + 1 == len(cells) or cells[i + 1].cell_type == "markdown"  # what was seen


def test_the_first_code_cell_is_the_same_everywhere_and_names_the_address():
    first = {code_cells(notebook)[0].source for notebook in COURSE.values()}
    assert len(first) == 1 and len(first.pop().splitlines()) == 4


def test_exercises_are_checked_in_the_library_and_solved():
    """An answer's cell, then its check, which shows no solution; solutions.ipynb passes all."""
    checks = []
    for path in (*SIX, *APPENDIX):
        cells = COURSE[path.stem].cells
        for i, cell in enumerate(cells):
            if cell.cell_type == "code" and is_check(cell):
                assert is_answer(cells[i - 2]) or "return photo  # your code" in cells[i - 2].source
                calls = re.findall(r"^checks\.(\w+)\(\w+\)$", cell.source, re.M)
                assert len(calls) == 1 and len(cell.source.splitlines()) <= 3
                checks += calls
                assert cell.outputs[0]["data"]["text/plain"].startswith("not yet: ")
    solved = printed(COURSE["solutions"])
    answers = [c.source for c in code_cells(COURSE["solutions"])]
    found = re.findall(r"^checks\.(\w+)\(", "\n".join(answers), re.M)
    assert found == checks and solved.split() == ["correct"] * len(checks)
