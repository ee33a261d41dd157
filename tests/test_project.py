"""The shape of the project: who imports whom, one list of versions, one address, tidy notebooks."""

import ast
import itertools
import json
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "unetlib"
MODULES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Imports point to the left only. Modules of one group may not import each other.
LAYERS = [
    ["paths", "device", "config", "models", "matting", "trouble", "exercise"],
    ["data", "optim", "distributed"],
    ["pretrained"],
    ["losses", "metrics", "runtime", "difficulty"],
    ["checkpoint"],
    ["engine"],
    ["keeper"],
    ["training"],
    ["export"],
    ["predict"],
    ["cutting"],
    ["video"],
    ["summaries"],
    ["evaluate", "baselines"],
    ["leaderboard"],
    ["timelapse"],
    ["plots"],
    ["tracking"],
    ["app"],
    ["__main__"],
]
ALONE = {"models", "losses", "metrics", "matting", "plots", "difficulty", "exercise"}
# Needed by some users or some modules only: imported where they are used.
OPTIONAL = {"ipywidgets", "IPython", "papermill", "nbformat", "nbclient", "jinja2", "kagglehub"}
OPTIONAL |= {"pandas", "skimage", "imageio", "requests", "pymatting", "playwright", "voila"}
OPTIONAL |= {"onnx", "onnxruntime", "onnxscript", "numba"}
OPTIONAL |= {"accelerate", "tensorboard", "wandb", "yaml", "pycocotools", "scipy"}
OPTIONAL |= {"psutil", "timm"}


def part_of(path: Path) -> str:
    """unetlib/data/images.py -> "data", unetlib/losses.py -> "losses"."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide the graph"
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("unetlib.")}
    return found & {part_of(module) for module in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    part = part_of(path)
    if part == "__init__":
        assert not imported_parts(path)
        return
    levels = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    assert part in levels, f"{part} is new: give it a place in LAYERS"
    for other in imported_parts(path) - {part}:
        assert levels[other] < levels[part], f"{path.name} imports {other}, which is not below it"
        assert part not in ALONE, f"{part} imports nothing of unetlib, but here {other}"


def test_the_library_stays_thin():
    """A total, not a limit for each file: one idea per file, however long that is."""
    total = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES)
    assert total <= 19_100, f"{total} lines: something can go"


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in sys.modules after a statement, in a fresh interpreter."""
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_import_unetlib_loads_the_standard_library_only():
    new = loaded_by("import unetlib") - loaded_by("pass")
    assert new - set(sys.stdlib_module_names) == {"unetlib"}


def test_the_library_loads_no_optional_package():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in MODULES
        if part_of(path) not in ("app", "__main__")
    ]
    ours = loaded_by("import " + ", ".join(names))
    assert not OPTIONAL & (ours - loaded_by("import albumentations, torch, torchvision"))


def test_the_command_line_is_light():
    assert not {"torch", "numpy", "papermill", "matplotlib"} & loaded_by("import unetlib.app.cli")


def test_every_third_party_import_is_a_dependency():
    names = {
        "PIL": "pillow",
        "cv2": "opencv-python-headless",
        "skimage": "scikit-image",
        "zlib_ng": "zlib-ng",
        "imageio_ffmpeg": "imageio",
    }
    names |= {"IPython": "ipykernel", "nbformat": "papermill", "nbclient": "papermill"}
    names |= {"jupyter_client": "ipykernel"}
    names |= {"yaml": "pyyaml", "google": "colab", "matplotlib_inline": "ipykernel"}
    names |= {"tornado": "voila", "traitlets": "voila"}
    required = {re.split(r"[\[<>=! ]", text)[0] for text in PROJECT["project"]["dependencies"]}
    extras = PROJECT["project"]["optional-dependencies"]
    required |= {re.split(r"[\[<>=! ]", t)[0] for t in itertools.chain(*extras.values())}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module]
            for module in modules:
                top = module.split(".")[0]
                if top in sys.stdlib_module_names or top in ("unetlib", "google"):
                    continue
                assert names.get(top, top) in required, f"{path.name} imports {top}"


def test_dependencies_are_ranges_without_pins():
    for text in PROJECT["project"]["dependencies"]:
        assert ">=" in text and "==" not in text, text


def test_conda_environment_lists_no_versions():
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    packages = yaml.safe_load(text)["dependencies"]
    by_pip = next(entry["pip"] for entry in packages if isinstance(entry, dict))
    assert by_pip == ["-e .[lab,test]"]
    plain = [entry for entry in packages if isinstance(entry, str)]
    assert [entry.split("=")[0] for entry in plain] == ["python", "pip"]
    assert sum("=" in entry for entry in plain) == 1  # Python's own, within requires-python
    version = tuple(int(n) for n in plain[0].split("=")[1].split("."))
    assert version >= (3, 11) and PROJECT["project"]["requires-python"] == ">=3.11"


def test_readme_commands():
    commands = dict(re.findall(r"<!-- the (main|test) command -->\n```bash\n(.+?)\n```", README))
    assert commands == {
        "main": 'pip install -e ".[lab]" && unetlib run',
        "test": 'pip install -e ".[test]" && pytest',
    }
    assert "the test command" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for extra in re.findall(r"-e \"?\.\[([\w,]+)\]", README):
        assert set(extra.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_readme_links_and_options_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    from click.testing import CliRunner

    from unetlib.app.cli import app

    options = set(re.findall(r"unetlib run [^\n`]*?(--[a-z]+)", README)) | {"--timeout"}
    text = CliRunner().invoke(app, ["run", "--help"]).output
    assert options and all(option in text for option in options)


def test_one_address():
    address = PROJECT["project"]["urls"]["Repository"]
    slug = address.removeprefix("https://github.com/")
    assert set(re.findall(r"github\.com/([\w-]+/[\w-]+)", README)) == {slug}
    assert set(re.findall(r"colab\.research\.google\.com/github/([\w-]+/[\w-]+)", README)) == {slug}
    found = {
        match
        for path in [*MODULES, *NOTEBOOKS]
        for match in re.findall(r"github\.com/(unetlib/[\w-]+)", path.read_text(encoding="utf-8"))
    }
    assert found <= {slug}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def course():
    names = ["01_data", "02_model", "03_train", "04_evaluate", "05_inference_widget"]
    assert [path.stem for path in NOTEBOOKS] == [*names, "06_timelapse"]
    return {path.stem: nbformat.read(path, as_version=4) for path in NOTEBOOKS}


def test_the_first_code_cell_is_the_same_everywhere_and_names_the_address(course):
    first = {code_cells(notebook)[0].source for notebook in course.values()}
    assert len(first) == 1
    address = PROJECT["project"]["urls"]["Repository"]
    assert re.findall(r"https://github\.com/[\w/-]+", first.pop()) == [address]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestNotebook:
    @pytest.fixture
    def notebook(self, path):
        return nbformat.read(path, as_version=4)

    def test_valid_small_and_for_any_python3(self, path, notebook):
        nbformat.validate(notebook)
        assert path.stat().st_size < 1_000_000
        assert notebook.metadata.kernelspec.name == "python3"
        assert "/home/" not in path.read_text(encoding="utf-8")

    def test_one_parameters_cell_of_scalars_near_the_top(self, path, notebook):
        tagged = [
            i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])
        ]
        assert len(tagged) == 1 and tagged[0] <= 4
        for node in ast.parse(notebook.cells[tagged[0]].source).body:
            assert isinstance(node, ast.Assign) and len(node.targets) == 1
            value = ast.literal_eval(node.value)
            assert isinstance(value, str | int | float | bool), ast.unparse(node)
        names = set(re.findall(r"^(\w+) =", notebook.cells[tagged[0]].source, re.M))
        assert "outputs_dir" in names

    def test_executed_in_order_from_a_clean_kernel(self, path, notebook):
        cells = [cell for cell in code_cells(notebook) if cell.source.strip()]
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        for cell in cells:
            expected = "raises-exception" in cell.metadata.get("tags", [])
            assert expected or all(out.output_type != "error" for out in cell.outputs)

    def test_cells_are_short_and_come_with_prose(self, path, notebook):
        lengths = [len(cell.source.splitlines()) for cell in code_cells(notebook)]
        assert max(lengths) <= 30
        assert statistics.median(lengths) <= 8
        prose = len(notebook.cells) - len(lengths)
        assert 0.6 <= prose / len(lengths) <= 1.6

    def test_opens_with_a_title_and_ends_with_summary_and_exercises(self, path, notebook):
        assert notebook.cells[0].cell_type == "markdown"
        assert notebook.cells[0].source.startswith("# ")
        titles = [
            line
            for cell in notebook.cells
            if cell.cell_type == "markdown"
            for line in cell.source.splitlines()
            if line.startswith("## ")
        ]
        assert titles[-2:] == ["## Summary", "## Exercises"]
        solutions = [c for c in code_cells(notebook) if "### BEGIN SOLUTION" in c.source]
        assert len(solutions) >= 3
        assert all("### END SOLUTION" in cell.source for cell in solutions)

    def test_what_nbval_ignores_prints_no_shape_and_no_check(self, path, notebook):
        for cell in code_cells(notebook):
            if "nbval-ignore-output" in cell.metadata.get("tags", []):
                text = "".join(out.get("text", "") for out in cell.outputs)
                assert not re.search(r"\bTrue\b|\bFalse\b|\(\d+(, \d+)+,?\)|\[\d+(, \d+)+\]", text)

    def test_outputs_are_compared_to_the_last_character(self, path, notebook, request):
        """Every stored text of every cell that nbval checks, changed by one digit, must differ."""
        import copy

        from nbval.plugin import IPyNbFile, coalesce_streams

        collector = IPyNbFile.from_parent(request.session, path=path)
        checked = 0
        for item in collector.collect():
            if not item.options["check"]:
                continue
            stored = coalesce_streams(item.cell.outputs)
            assert item.compare_outputs(stored, copy.deepcopy(stored))
            for index, out in enumerate(stored):
                changed = copy.deepcopy(stored)
                if out.output_type == "stream":
                    changed[index].text = alter(out.text)
                elif "text/plain" in out.get("data", {}):
                    changed[index].data["text/plain"] = alter(out.data["text/plain"])
                else:
                    continue
                assert not item.compare_outputs(stored, changed)
                checked += 1
        assert checked >= 3


def alter(text: str) -> str:
    """The text with its last digit changed, or a character more where it has none."""
    changed = re.sub(r"\d(?=\D*$)", lambda m: str((int(m[0]) + 1) % 10), text, count=1)
    return changed if changed != text else text + "."


def test_a_changed_number_makes_pytest_fail(tmp_path):
    """The whole way: pytest with the project's own options, over a notebook and changed copies."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    sources = ["import numpy as np", "print(np.zeros((3, 4)).shape)", "40 + 2", "print(2 > 1)"]
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    notebook.cells.append(
        new_code_cell("import time; print(time.time())", metadata={"tags": ["nbval-ignore-output"]})
    )
    NotebookClient(notebook, kernel_name="python3").execute()
    swaps = {
        "as_it_is": ("", ""),
        "shape": ("(3, 4)", "(3, 5)"),
        "count": ("42", "43"),
        "check": ("True", "False"),
    }
    for name, (old, new) in swaps.items():
        text = nbformat.writes(notebook)
        head, _, outputs = text.partition('"outputs"')
        changed = head + '"outputs"' + outputs.replace(f'"{old}', f'"{new}') if old else text
        assert (changed != text) == bool(old)
        (tmp_path / f"{name}.ipynb").write_text(changed, encoding="utf-8")
    options = PROJECT["tool"]["pytest"]["ini_options"]["addopts"].split()
    options = [option for option in options if not option.startswith("--ignore")]
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rf", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    failed = set(re.findall(r"^FAILED (\w+)\.ipynb::Cell (\d)", done.stdout, re.M))
    assert failed == {("shape", "1"), ("count", "2"), ("check", "3")}, done.stdout
