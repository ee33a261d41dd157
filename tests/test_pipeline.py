"""`unetlib run` on a toy course, with real papermill and real kernels."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from toy_course import write_course, write_notebook

from unetlib.app import runs
from unetlib.app.course import find_notebooks, select, typed
from unetlib.app.execution import clock
from unetlib.app.pipeline import PRESETS, run_course


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty project root; the tests' working directory is another folder."""
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path / "root"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "root"


@pytest.fixture
def course(tmp_path) -> Path:
    return write_course(tmp_path / "course")


def run(course, *args, **kwargs):
    said = []
    result = run_course(*args, notebooks_dir=course, echo=said.append, **kwargs)
    return result, said


def printed(path: Path) -> list[str]:
    notebook = nbformat.read(path, as_version=4)
    return [
        "".join(out.text for out in cell.outputs if out.output_type == "stream").strip()
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_a_run_from_start_to_published_files(root, course, tmp_path):
    (tmp_path / "elsewhere" / "me.jpg").write_bytes(b"")
    given = {"seed": "7", "lr": "1", "flag": "Yes", "photo": "me.jpg"}
    result, said = run(course, parameters=given)

    assert result.exit_code == 0 and result.failure == ""
    assert result.folder.parent == root / "outputs" / "runs"
    assert result.folder.name.startswith("quick-")
    outputs = printed(result.folder / "01_data.ipynb")
    assert outputs[2] == f"7 1.0 True {tmp_path / 'elsewhere' / 'me.jpg'}"
    assert outputs[3].splitlines() == [str(result.folder), str(root / "data"), sys.executable]
    assert printed(result.folder / "06_timelapse.ipynb")[-1] == "4"

    record = json.loads((result.folder / "metrics.json").read_text(encoding="utf-8"))
    assert record["evaluation"] == {"iou": 0.9125, "images": 12, "loss": None}
    about = record["run"]
    assert (about["status"], about["preset"], about["name"]) == ("ok", "quick", result.folder.name)
    assert about["parameters"]["seed"] == 7 and about["parameters"]["flag"] is True
    assert about["versions"]["unetlib"] == "0.1.0" and "cpu" in about["device"] or about["device"]
    assert {n["status"] for n in about["notebooks"].values()} == {"ok"}
    assert sum(n["seconds"] for n in about["notebooks"].values()) == pytest.approx(about["seconds"])
    assert (result.folder / "report.html").is_file()
    assert (root / "outputs" / "checkpoints" / "best_model.pth").read_bytes() == b"seed 7"
    lines = [line for line in said if line.startswith("  0")]
    assert [line.split()[:2] for line in lines] == [
        ["01_data", "ok"],
        ["04_evaluate", "ok"],
        ["06_timelapse", "ok"],
    ]
    assert not list((tmp_path / "elsewhere").glob("*.ipynb"))


def test_a_part_goes_on_in_the_newest_run_of_the_preset(root, course):
    older, _ = run(course, name="older", parameters={"seed": "1"})
    time.sleep(1.1)  # "started" has whole seconds
    newer, _ = run(course, name="newer", parameters={"seed": "2"})
    again, _ = run(course, only=["6"], parameters={"fps": "9"})
    assert again.folder == newer.folder != older.folder
    assert printed(newer.folder / "06_timelapse.ipynb")[-1] == "9"
    assert again.record["run"]["parameters"] == {"seed": 2, "fps": 9}  # the earlier one is kept
    assert again.record["evaluation"]["iou"] == 0.9125
    assert again.record["run"]["status"] == "ok"

    named, _ = run(course, start="04", name="older")
    assert named.folder == older.folder
    assert (root / "outputs/checkpoints/best_model.pth").read_bytes() == b"seed 1"


def test_parts_that_cannot_go_on_say_what_there_is(root, course):
    with pytest.raises(ValueError, match="no quick run .*there: none"):
        run(course, only=["04"])
    first, _ = run(course, "smoke", only=["01"], name="first")  # the first needs no earlier files
    assert first.record["run"]["status"] == "incomplete"
    with pytest.raises(ValueError, match="no run 'second' .*there: first"):
        run(course, only=["04"], name="second")
    with pytest.raises(ValueError, match="no quick run .*there: first"):
        run(course, start="04")
    with pytest.raises(ValueError, match="there is a run first already .*--from 01"):
        run(course, name="first")
    with pytest.raises(ValueError, match="made with smoke, not with full"):
        run(course, "full", start="04", name="first")
    assert sorted(p.name for p in runs.runs_dir().iterdir()) == ["first"]


def test_a_failing_cell(root, tmp_path):
    code = "def f(x):\n    raise ValueError(f'no such\\nthing: <b>{x}</b>')\nf(1)"
    result, said = run(write_course(tmp_path / "course", code))
    assert result.exit_code == 1
    assert result.failure == (
        "04_evaluate, cell 3 (def f(x):): ValueError: no such thing: <b>1</b>"
    )
    states = {name: n["status"] for name, n in result.record["run"]["notebooks"].items()}
    assert states == {"01_data": "ok", "04_evaluate": "failed", "06_timelapse": "not run"}
    assert result.record["run"]["status"] == "failed"
    partial = nbformat.read(result.folder / "04_evaluate.ipynb", as_version=4)
    assert any(
        out.output_type == "error" and out.ename == "ValueError"
        for cell in partial.cells
        for out in cell.get("outputs", [])
    )
    assert printed(result.folder / "04_evaluate.ipynb")[-1] == ""  # nothing ran after it
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;1&lt;/b&gt;" in page and "<b>1</b>" not in page and "not run" in page
    assert not (root / "outputs" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("code", "name", "words"),
    [
        ("# wait\nimport time; time.sleep(60)", "Timeout", "longer than 2 s"),
        ("import os; os._exit(3)", "DeadKernel", "want of memory"),
        ("import sys; sys.exit(4)", "SystemExit", "4"),
        ("x = = 2", "SyntaxError", "invalid syntax"),
    ],
)
def test_hangs_and_deaths_end_with_one_line(root, tmp_path, code, name, words):
    began = time.monotonic()
    result, _ = run(write_course(tmp_path / "course", code), start="01", timeout=2)
    assert time.monotonic() - began < 40
    assert result.exit_code == 1
    source = code.splitlines()[-1]
    assert result.failure.startswith(f"04_evaluate, cell 3 ({source}): {name}: ")
    assert words in result.failure and "\n" not in result.failure
    assert printed(result.folder / "04_evaluate.ipynb")[-1] == ""
    partial = nbformat.read(result.folder / "04_evaluate.ipynb", as_version=4)
    errors = [o for c in partial.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert errors[-1].ename == name  # before it, perhaps, where an interrupt met the cell
    assert name in (result.folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill is no Ctrl-C on Windows")
def test_ctrl_c_keeps_what_there_is(root, tmp_path):
    code = "from pathlib import Path\nimport time\nPath('here').touch()\ntime.sleep(60)"
    course = write_course(tmp_path / "course", code)

    def press():  # once the cell has really begun
        while not (root / "outputs/runs/stopped/here").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    result, _ = run(course, name="stopped")
    assert result.exit_code == 130
    assert "04_evaluate, cell 3 (from pathlib import Path): KeyboardInterrupt" in result.failure
    assert result.record["run"]["notebooks"]["06_timelapse"]["status"] == "not run"
    assert (result.folder / "report.html").is_file()


def test_a_failed_rerun_does_not_pass_for_the_earlier_one(root, course, tmp_path):
    run(course, name="x")
    broken = write_course(tmp_path / "broken", "1 / 0")
    result, _ = run(broken, start="04", name="x")
    assert result.exit_code == 1 and result.record["evaluation"] == {}
    assert result.record["run"]["notebooks"]["06_timelapse"]["status"] == "not run"


def test_the_kernel_is_this_python_whatever_is_installed(root, course, tmp_path, monkeypatch):
    stray = tmp_path / "jupyter" / "kernels" / "python3"
    stray.mkdir(parents=True)
    spec = {"argv": ["/nonexistent/python", "-f", "{connection_file}"], "display_name": "stray"}
    (stray / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    result, _ = run(course, only=["01"])
    assert printed(result.folder / "01_data.ipynb")[3].splitlines()[-1] == sys.executable
    assert os.environ["JUPYTER_PATH"] == str(tmp_path / "jupyter")


def test_smoke_stays_out_of_data_and_publishes_only_where_nothing_is(root, course):
    first, _ = run(course, "smoke", parameters={"seed": "3"})
    assert printed(first.folder / "01_data.ipynb")[3].splitlines()[1] == str(first.folder / "data")
    best = root / "outputs" / "checkpoints" / "best_model.pth"
    assert best.read_bytes() == b"seed 3"
    run(course, "smoke", parameters={"seed": "4"})
    assert best.read_bytes() == b"seed 3"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sed": "1"}, "unknown parameter 'sed': did you mean 'seed'. Known: .*photo, seed"),
        ({"seed": "a"}, "seed is a whole number .*default 0.* not 'a'"),
        ({"seed": "1.5"}, "seed is a whole number"),
        ({"lr": "fast"}, "lr is a number"),
        ({"flag": "maybe"}, "flag is true or false"),
        ({"outputs_dir": "x"}, "use --name"),
    ],
)
def test_parameters_that_make_no_sense(root, course, given, words):
    with pytest.raises(ValueError, match=words):
        run(course, parameters=given)
    assert not root.exists()  # nothing was begun


def test_other_requests_that_make_no_sense(root, course, tmp_path):
    with pytest.raises(FileNotFoundError, match="nope.jpg"):
        run(course, parameters={"photo": "nope.jpg"})
    with pytest.raises(ValueError, match="unknown preset 'quik': did you mean 'quick'"):
        run(course, "quik")
    with pytest.raises(ValueError, match="no notebook '07': the course has 01_data, 04_evaluate"):
        run(course, only=["07"])
    with pytest.raises(ValueError, match="exclude each other"):
        run(course, only=["01"], start="04")
    with pytest.raises(ValueError, match="above 0, not -1"):
        run(course, timeout=-1)
    with pytest.raises(ValueError, match="no notebooks .*a checkout"):
        run(tmp_path / "elsewhere")
    for name in ("../up", "a/b", "", ".hidden"):
        with pytest.raises(ValueError, match="a run's name"):
            run(course, name=name)
    assert not root.exists()


def test_device_that_is_not_there_is_said_before_anything_runs(root, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    write_notebook(tmp_path / "gpu" / "01_data.ipynb", 'outputs_dir = ""\ndevice = "auto"', "1")
    with pytest.raises(RuntimeError, match="cuda"):
        run(tmp_path / "gpu", parameters={"device": "cuda"})
    assert not root.exists()


def test_typed_follows_the_default():
    assert typed("a", "12", 3) == 12 and typed("a", "1e-3", 0.5) == 1e-3
    assert typed("a", "no", True) is False
    assert typed("a", "007", "text") == "007" and typed("a", "x", None) == "x"
    assert typed("a", 5, "text") == 5


def test_select():
    paths = [Path(f"{n}.ipynb") for n in ("01_data", "02_model", "10_more")]
    assert select(paths, (), None) == paths
    assert select(paths, ["10,1", "model"], None) == paths
    assert select(paths, ["02_model.ipynb"], None) == paths[1:2]
    assert select(paths, (), "2") == paths[1:]


def test_clock():
    assert [clock(s) for s in (8.44, 59.96, 125, 11_220)] == [
        "8.4 s",
        "60.0 s",
        "2 min 05 s",
        "3 h 07 min",
    ]


def test_publish_keeps_a_checkpoint_that_no_run_holds(tmp_path):
    outputs = tmp_path / "outputs"
    first, second = outputs / "runs" / "a", outputs / "runs" / "b"
    for folder in (first, second):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "best_model.pth").write_bytes(folder.name.encode())
        (folder / "timelapse" / folder.name).mkdir(parents=True)
    (outputs / "checkpoints").mkdir()
    (outputs / "checkpoints" / "best_model.pth").write_bytes(b"trained by hand")

    assert runs.publish(first, outputs) == ["checkpoints", "timelapse"]
    runs.publish(second, outputs)
    kept = sorted((outputs / "checkpoints").iterdir())
    assert sorted(path.read_bytes() for path in kept) == [b"b", b"trained by hand"]
    assert (outputs / "checkpoints" / "best_model.pth").read_bytes() == b"b"
    assert [p.name for p in (outputs / "timelapse").iterdir()] == ["b"]  # frames do not mix
    assert not list(outputs.rglob("*.tmp")) and not list(outputs.glob("*.new"))


def test_record_is_whole_or_an_error(tmp_path):
    assert runs.read_record(tmp_path) == {"run": {}, "evaluation": {}}
    (tmp_path / "metrics.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics\.json is not readable as JSON"):
        runs.read_record(tmp_path)
    (tmp_path / "metrics.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ValueError, match="should hold a JSON object, not list"):
        runs.read_record(tmp_path)


def test_presets_name_parameters_that_the_course_has():
    from unetlib.app.course import declared_parameters

    known = {name for path in find_notebooks() for name in declared_parameters(path)}
    for preset in PRESETS.values():
        assert set(preset.parameters) <= known
