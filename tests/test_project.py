"""The shape of the project: its size, who imports whom, one list of versions, tidy notebooks."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "unetlib"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Imports point upward only: a part uses what stands above it, not its neighbours of the same line.
LAYERS = [
    ["errors", "paths"],
    ["config"],
    ["models", "losses", "metrics", "matting", "plots"],
    ["scores"],
    ["data"],
    ["pretrained"],
    ["checkpoint"],
    ["predict"],
    ["export"],
    ["timelapse"],
    ["training"],
    ["cutting"],
    ["video"],
    ["evaluate"],
    ["checks"],
    ["app"],
    ["__main__"],
]
# Needed by some users or some modules only: imported where they are used.
OPTIONAL = {"accelerate", "gradio", "imageio", "imageio_ffmpeg", "IPython"}
OPTIONAL |= {"ipywidgets", "kagglehub", "matplotlib", "nbclient", "nbconvert", "nbformat", "onnx"}
OPTIONAL |= {"onnxruntime", "onnxscript", "pandas", "papermill", "playwright", "py_sod_metrics"}
OPTIONAL |= {"pooch", "pyarrow", "pycocotools", "pymatting", "ray", "skimage"}
OPTIONAL |= {"tabulate", "tensorboard", "timm", "wandb"}
OPTIONAL |= {"fastapi", "fastapi_offline", "prometheus_client", "psutil", "pydantic"}
OPTIONAL |= {"pythonjsonlogger", "starlette", "uvicorn", "yaml"}
# Imports whose distribution has another name.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "skimage": "scikit-image"}
DISTRIBUTIONS |= {"imageio_ffmpeg": "imageio-ffmpeg", "yaml": "pyyaml", "nbformat": "papermill"}
DISTRIBUTIONS |= {"IPython": "ipykernel", "jupyter_client": "ipykernel"}
DISTRIBUTIONS |= {"py_sod_metrics": "pysodmetrics", "pillow_heif": "pillow-heif"}
DISTRIBUTIONS |= {"prometheus_client": "prometheus-client", "starlette": "fastapi"}
DISTRIBUTIONS |= {"fastapi_offline": "fastapi-offline", "pythonjsonlogger": "python-json-logger"}


@cache
def imports(source: str) -> tuple[frozenset[str], frozenset[str]]:
    """Modules of unetlib and top-level third-party packages that code names, also in functions."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the graph"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inside]
        for name in names:
            if name.split(".")[0] == "unetlib":
                ours.add(name)
            elif name.split(".")[0] not in sys.stdlib_module_names:
                others.add(name.split(".")[0])
    return frozenset(ours), frozenset(others)


GRAPH = {name: imports(path.read_text(encoding="utf-8"))[0] for name, path in MODULES.items()}


def closure(names) -> set[str]:
    """Modules with all that they import, and the packages that they lie in."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [*GRAPH[name], *filter(None, [name.rpartition(".")[0]])]
    return found


def lines(names) -> int:
    return sum(len(MODULES[name].read_text(encoding="utf-8").splitlines()) for name in names)


def part_of(name: str) -> str:
    """unetlib.data.images -> "data"."""
    return name.split(".")[1]


def test_the_library_stays_thin():
    assert lines(MODULES) <= 8_388 and len(MODULES) <= 50
    for path in MODULES.values():
        assert "fmt:" not in path.read_text(encoding="utf-8"), f"{path} squeezes lines"
    templates = [p for p in PACKAGE.rglob("*") if p.suffix in (".html", ".css", ".js", ".j2")]
    assert sum(len(p.read_text(encoding="utf-8").splitlines()) for p in templates) <= 120
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py")]
    assert sum(len(text.splitlines()) for text in tests) <= 9_000


def test_a_student_pulls_in_little():
    cells = [cell for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells]
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    plain = [re.sub(r"(?m)^( *)[%!].*", r"\1pass", source) for source in sources]
    used = {name for source in plain for name in imports(source)[0]}
    assert lines(closure(used)) <= 4_000
    assert not [name for name in closure(used) if name.startswith("unetlib.app")]


def test_no_import_circles():
    """Also between files of one folder, and for imports inside functions."""
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the circle


def test_imports_point_one_way():
    levels = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    assert not GRAPH["unetlib"]
    for name in MODULES.keys() - {"unetlib"}:
        assert part_of(name) in levels, f"{name} is new: give it a place in LAYERS"
        for other in {part_of(other) for other in GRAPH[name] if other != "unetlib"}:
            assert other == part_of(name) or levels[other] < levels[part_of(name)], (name, other)


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in sys.modules after a statement, in a fresh interpreter."""
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in ast.literal_eval(done.stdout.splitlines()[-1])}


def test_what_an_import_loads():
    third_party = loaded_by("import unetlib") - loaded_by("pass") - set(sys.stdlib_module_names)
    assert third_party == {"unetlib"}
    assert not {"torch", "numpy", "papermill", "pandas"} & loaded_by("import unetlib.app.cli")
    tool = loaded_by("import unetlib.cutting, unetlib.video, unetlib.pretrained")
    assert not (OPTIONAL | {"torch"}) & tool


def distributions(requirements) -> set[str]:
    return {re.split(r"[\[<>=! ]", text)[0] for text in requirements}


def test_every_third_party_import_is_a_dependency_and_the_base_uses_all_of_its_own():
    assert all(">=" in text and "==" not in text for text in PROJECT["project"]["dependencies"])
    base = distributions(PROJECT["project"]["dependencies"])
    extras = PROJECT["project"]["optional-dependencies"]
    known = base | distributions(itertools.chain(*extras.values()))
    used = {}
    for name, path in MODULES.items():
        packages = imports(path.read_text(encoding="utf-8"))[1]
        used[name] = {DISTRIBUTIONS.get(package, package) for package in packages}
        assert used[name] <= known, f"{name} imports {used[name] - known}"
    tool = closure(["unetlib.app.cut", "unetlib.app.cli"])
    tool = {name for name in tool if part_of(f"{name}.") != "app"}
    tool |= {"unetlib.app.cut", "unetlib.app.evaluate"}
    assert base <= set.union({"click"}, *(used[name] for name in tool))


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
        for path in [*MODULES.values(), *NOTEBOOKS]
        for match in re.findall(r"github\.com/(unetlib/[\w-]+)", path.read_text(encoding="utf-8"))
    }
    assert found <= {slug}


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
