"""`unetlib run` on a toy course, with real papermill and real kernels: folders, errors, report."""

import json
import re
import sys
import time
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from toy_course import text_of, write_course

from unetlib.app.run import (
    PRESETS,
    declared_parameters,
    find_notebooks,
    publish,
    read_record,
    write_record,
    write_report,
)
from unetlib.app.run import run as command


def run(*args):
    return CliRunner().invoke(command, [str(arg) for arg in args])


def printed(path: Path) -> list[str]:
    return [
        "".join(out.text for out in cell.outputs if out.output_type == "stream").strip()
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    ]


@pytest.fixture
def course(root) -> Path:
    return write_course(root / "notebooks")


def test_a_run_from_start_to_published_files(root, course, tmp_path, monkeypatch):
    stray = tmp_path / "home" / "kernels" / "python3"  # a kernel of the user's is not taken
    stray.mkdir(parents=True)
    spec = {"argv": ["/nonexistent/python", "-f", "{connection_file}"], "display_name": "stray"}
    (stray / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "home"))
    (tmp_path / "me.jpg").touch()
    (root / "outputs" / "checkpoints").mkdir(parents=True)
    (root / "outputs" / "checkpoints" / "best_model.pth").write_text("trained by hand")
    values = ["-p", "seed", 7, "-p", "lr", -1, "-p", "flag", "Yes", "-p", "photo", "me.jpg"]
    result, folder = run("--name", "a", *values), root / "outputs" / "runs" / "a"
    assert result.exit_code == 0, result.output
    said = printed(folder / "01_data.ipynb")
    assert said[2] == f"7 -1.0 True {tmp_path / 'me.jpg'}"
    assert said[3].splitlines() == [str(tmp_path), "data", sys.executable]
    assert printed(folder / "06_timelapse.ipynb")[-1] == "4"
    record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert record["evaluation"] == {"iou": 0.9125, "images": 12, "loss": None}
    about = record["run"]
    assert (about["status"], about["preset"], about["parameters"]["seed"]) == ("ok", "quick", 7)
    assert about["versions"]["torch"]
    assert {state["status"] for state in about["notebooks"].values()} == {"ok"}
    kept = sorted(path.read_text() for path in (root / "outputs/checkpoints").glob("*.pth"))
    assert kept == ["seed 7", "trained by hand"]
    page = folder / "report.html"
    assert all(word in text_of(page) for word in ("0.912", "-p seed 7", "torch", "12"))
    assert f"7 -1.0 True {tmp_path / 'me.jpg'}" in text_of(page)  # and the notebooks themselves
    assert "print(seed" not in text_of(page)


def test_a_part_goes_on_in_the_same_folder(root, course):
    said = run("--list").output
    assert "04_evaluate\n" in said and "  lr             0.001\n" in said
    assert not (root / "outputs").exists()
    assert run("smoke", "--name", "old").exit_code == 0
    old, new = root / "outputs/runs/old", root / "outputs/runs/new"
    assert "outputs/smoke" in printed(old / "01_data.ipynb")[3]  # its data are not those of others
    assert run("--name", "new", "-p", "seed", 2).exit_code == 0
    assert run("--from", "6", "-p", "fps", 9).exit_code == 0  # in the newest
    assert printed(new / "06_timelapse.ipynb")[-1] == "9"
    record = read_record(new)
    assert record["run"]["parameters"] == {"seed": 2, "fps": 9} and record["run"]["status"] == "ok"
    assert record["evaluation"]["iou"] == 0.9125
    assert run("--from", "04", "--name", "old").exit_code == 0
    assert (root / "outputs/checkpoints/best_model.pth").read_bytes() == b"seed 2"  # not by smoke
    assert "there is a run new already" in str(run("--name", "new").exception)
    write_course(course, "1 / 0")  # and what fails now does not pass for what ran before
    assert run("smoke", "--from", "04", "--name", "new").exit_code == 1
    record = read_record(new)
    assert record["run"]["preset"] == "smoke"
    assert record["evaluation"] == {} and record["run"]["status"] == "failed"
    assert record["run"]["notebooks"]["06_timelapse"]["status"] == "not run"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = 1\nraise ValueError(f'no\\nthing: <b>{x}</b>')", "ValueError: no thing: <b>1</b>"),
        ("import time; time.sleep(60)", "Timeout: it ran longer than 2 s"),
        ("import os; os._exit(3)", "DeadKernelError: the notebook's Python died, most often for"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),  # as Ctrl-C does
    ],
)
def test_a_failing_notebook_is_one_line_and_what_ran_is_kept(root, unetlib, code, words):
    write_course(root / "notebooks", code)
    result, folder = unetlib("run", "--name", "x", "--timeout", 2), root / "outputs/runs/x"
    assert result.returncode == (130 if words == "KeyboardInterrupt" else 1)
    assert "01_data                ok" in result.stdout and "report.html" in result.stdout
    assert result.stderr.splitlines()[-1].startswith(f"04_evaluate, cell 3: {words}")
    record = read_record(folder)
    states = [state["status"] for state in record["run"]["notebooks"].values()]
    assert states == ["ok", "failed", "not run"] and record["run"]["status"] == "failed"
    assert printed(folder / "04_evaluate.ipynb")[-1] == ""  # nothing ran after it
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert words.partition(":")[0] in page and "not run" in page and "<b>1</b>" not in page
    assert not (root / "outputs" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-p", "sed", "1"], "called 'sed'. Did you mean 'seed'? There are data_dir, flag, fps"),
        (["-p", "seed", "1.5"], "-p seed: '1.5' is not a valid integer. Default: 0"),
        (["-p", "outputs_dir", "x"], "no parameter is called 'outputs_dir'"),
        (["--from", "07"], "no notebook '07': --from names one of 01_data, 04_evaluate"),
        (["--name", "../up"], "a run's name is letters"),
    ],
)
def test_requests_that_make_no_sense(root, course, args, words):
    result = run(*args)
    assert result.exit_code and words in str(result.exception) + result.output
    assert not (root / "outputs").exists()  # nothing was begun


def test_a_run_has_its_folder_to_itself(root, begin):
    write_course(
        root / "notebooks", f"open({str(root / 'begun')!r}, 'w'); import time; time.sleep(99)"
    )
    with begin("run", "--name", "a") as first:
        while not (root / "begun").exists() and first.poll() is None:
            time.sleep(0.1)
        before = (root / "outputs/runs/a/metrics.json").read_bytes()
        for args in (["--name", "a"], ["--from", "04", "--name", "a"], ["--from", "06"]):
            words = f"process {first.pid}, since 20"
            assert words in str(run(*args).exception)
        assert (root / "outputs/runs/a/metrics.json").read_bytes() == before
        first.kill()
    assert run("--from", "6").exit_code == 0  # the lock ends with its process


def test_publish_mixes_no_frames_and_keeps_no_copies_of_what_a_run_holds(root):
    for name in "ab":
        for part in (f"checkpoints/{name}", f"timelapse/{name}"):
            (root / "outputs" / "runs" / name / part).mkdir(parents=True)
        (root / "outputs" / "runs" / name / "checkpoints" / "best_model.pth").write_text(name)
        assert publish(root / "outputs" / "runs" / name) == ["checkpoints", "timelapse"]
    files = [path for path in (root / "outputs" / "checkpoints").iterdir() if path.is_file()]
    assert [path.read_text() for path in files] == ["b"]
    assert [p.name for p in (root / "outputs" / "timelapse").iterdir()] == ["b"]


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 10**5, "null"])
def test_a_record_that_is_none(tmp_path, text):
    assert read_record(tmp_path) == {"run": {}, "evaluation": {}}
    (tmp_path / "metrics.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics\.json should hold a JSON object"):
        read_record(tmp_path)
    (tmp_path / "metrics.json").write_text('{"iou": 0.5}', encoding="utf-16")  # PowerShell's
    assert read_record(tmp_path)["evaluation"] == {"iou": 0.5}


def test_presets_name_parameters_that_the_course_has(monkeypatch):
    monkeypatch.delenv("UNETLIB_ROOT", raising=False)
    known = {k: v for path in find_notebooks() for k, v in declared_parameters(path).items()}
    for values in PRESETS.values():
        assert {name: type(known[name]) for name in values} == {
            name: type(value) for name, value in values.items()
        }


def test_everything_is_in_the_report_and_nothing_is_run_or_loaded(tmp_path):
    evil = "<script>alert(1)</script>"
    run = {"preset": "quick", "status": "failed", "started": "2026-01-02 03:04:05"}
    run |= {"parameters": {"x": evil}, "versions": {"numpy": "2.1"}}
    run["notebooks"] = {
        "03_train": {"status": "ok", "seconds": 9, "error": ""},
        "04_evaluate": {"status": "failed", "seconds": 1, "error": evil},
    }
    evaluation = {"source": evil, "iou": 0.91249, "n": 240, "baselines": {"GrabCut": 0.52}}
    evaluation |= {"intervals": {"iou": [0.9, 0.93]}}
    write_record(tmp_path, {"run": run, "evaluation": evaluation})
    verdict = {"passed": False, "hint": "it is 42"}
    data = {"application/vnd.unetlib.exercise+json": verdict, "text/plain": ""}
    out = nbformat.v4.new_output("execute_result", data=data, execution_count=1)
    about = {"nbgrader": {"grade_id": "03-double"}}
    shown = [{"text/html": evil}, {"image/png": "iVBORw0KGgo="}]
    outputs = [out, *(nbformat.v4.new_output("display_data", data) for data in shown)]
    cell = nbformat.v4.new_code_cell("1", outputs=outputs, metadata=about)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "03_train.ipynb")
    source = write_report(tmp_path).read_text(encoding="utf-8")
    text = text_of(tmp_path / "report.html")
    for words in ("0.912", "[0.9, 0.93]", "GrabCut", "0.520", "240", "2.1", "2026-01-02"):
        assert words in text, words
    assert all(words in text for words in ("0 of 1 solved", "03-double", "it is 42")), text
    assert "alert(1)" in text and "<script>alert" not in source
    assert re.findall('src="([^"]{22})', source) == ["data:image/png;base64,"]
