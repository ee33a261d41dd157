"""`unetlib grade` on a dozen submissions of a toy course, with real kernels and real limits."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import nbformat
import psutil
import pytest
from loopback import tree
from toy_submissions import (
    DRAWING,
    HANG,
    true_scores,
    write_network,
    write_part,
    write_submissions,
    write_toy,
)

from unetlib.app.grade import read_rubric

TAG = uuid.uuid4().hex
ITEMS = """
items:
  - {notebook: 01_data, points: 10}
  - {notebook: 04_evaluate, points: 10}
  - {title: Double, exercise: 01-double, points: 10}
  - {title: File, file: made.txt, at_least_bytes: 100, points: 5}
  - {title: IoU, metric: iou, at_least: 0.9, partial: {0.1: 3, 0.8: 6}, points: 10}
"""
EXPECTED = {  # points of the five items, and what the reasons and the flags say
    "good": ([10, 10, 10, 5, 3], "iou 0.* on 3 photos, asked is 0.9"),
    "=1+1 Ünal": ([10, 0, 0, 0, 0], "21 doubled is 42"),
    "hangs": ([8, 0, 10, 0, 3], "cell 3: Timeout: it ran longer than 6 s"),
    "deaf": ([4, 0, 0, 0, 0], "cell 3: Timeout: it ran longer than 6 s"),
    "dies": ([5, 10, 0, 5, 0], "3 of 6 cells ran. .*Kernel died"),
    "floods": ([10, 0, 10, 0, 0], "there is no notebook 04_evaluate"),
    "patricide": ([4, 0, 0, 0, 0], "2 of 5 cells ran. its process died"),
    "eats": ([5, 0, 0, 0, 0], r"3 of 6 cells ran. it took [\d.]+ GB of memory"),
    "forged": ([10, 0, 10, 0, 0], "forged: iou 0.97, measured was 0."),
    "tampered": ([10, 0, 0, 0, 0], "21 doubled is 42"),
    "stored": ([10, 0, 0, 0, 0], "21 doubled is 42"),
    "escapes": ([8, 0, 0, 0, 0], "4 of 5 cells ran. cell 5: KeyboardInterrupt"),
    "broken": ([0, 0, 0, 0, 0], "no readable notebook.*should hold a JSON object"),
    "empty": ([0, 0, 0, 0, 0], "there is no notebook 01_data"),
}


def unetlib(root: Path, *args, **more):
    home = {"HOME": str(root / "home"), "UNETLIB_ROOT": str(root), "TESTS_OF_GRADE": TAG}
    command = [sys.executable, "-m", "unetlib", "grade", *map(str, args)]
    options = {"env": os.environ | home, "text": True, "encoding": "utf-8"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, **options, **pipes, **more)


def rows_of(file: Path) -> dict[str, dict]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        return {row["submission"].removeprefix("'"): row for row in csv.DictReader(lines)}


def left_running() -> list[str]:
    """What the tests' graders started and did not end: it all inherits this variable."""
    found = [*psutil.process_iter(["environ", "cmdline"])]
    ours = [p.info for p in found if TAG in (p.info["environ"] or {}).values()]
    escaped = [p.info for p in found if "600.25" in (p.info["cmdline"] or ())]
    return [info["cmdline"] for info in ours + escaped]


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A project root with a toy course and its rubric."""
    root = tmp_path_factory.mktemp("toy")
    (root / "rubric.yaml").write_text(ITEMS, encoding="utf-8")
    (root / "home").mkdir()
    write_toy(root / "notebooks")
    return root


@pytest.fixture(scope="module")
def graded(toy):
    """The folder of submissions after `unetlib grade`, what was printed, their earlier files."""
    write_network(toy / "net", {})
    folder = toy / "submissions"
    write_submissions(folder, true_scores(toy / "net"))
    before = tree(folder)
    limits = ["--rubric", toy / "rubric.yaml", "--timeout", 6, "--memory", 1.5, "--jobs", 3]
    process = unetlib(toy, folder, *limits)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return folder, output, before


@pytest.mark.parametrize("name", EXPECTED)
def test_each_submission_gets_the_points_that_it_deserves(graded, name):
    points, reason = EXPECTED[name]
    grade = json.loads((graded[0] / name / "grade.json").read_text(encoding="utf-8"))
    text = " ".join(item["reason"] for item in grade["items"]) + grade["flags"]
    assert [item["points"] for item in grade["items"]] == points, text
    assert re.search(reason, text), text
    assert f"{sum(points):g} of 45" in graded[1]
    assert f"{sum(points):g} of 45" in (graded[0] / name / "grade.html").read_text("utf-8")


def test_nothing_goes_on_and_nothing_is_changed(graded):
    folder, _, before = graded
    assert not left_running()
    after = tree(folder)
    assert {name: after.get(name) for name in before} == before
    new = {Path(name).name for name in after.keys() - before.keys()}
    assert new == {"grade.json", "grade.html", "grades.csv"}
    assert not (folder.parent / "home" / "was here").exists()


def test_the_table_of_them_all(graded):
    rows = rows_of(graded[0] / "grades.csv")
    titles = ["notebook 01_data", "notebook 04_evaluate", "Double", "File", "IoU"]
    assert list(rows["good"]) == ["submission", "points", "out_of", "flags", *titles]
    assert {name: float(row["points"]) for name, row in rows.items()} == {
        name: sum(points) for name, (points, _) in EXPECTED.items()
    }
    values = (value for row in rows.values() for value in row.values())
    assert not [value for value in values if value.startswith(("=", "+", "-", "@"))]  # no formula


def test_ctrl_c_ends_the_children_and_keeps_what_is_done(toy, tmp_path):
    folder, marker = tmp_path / "submissions", tmp_path / "it runs"
    (folder / "a").mkdir(parents=True)
    write_part(folder / "b" / "01_data.ipynb", f"open({str(marker)!r}, 'w').close()", HANG)
    process = unetlib(toy, folder, "--rubric", toy / "rubric.yaml")
    while not marker.exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "stopped with Ctrl-C" in output
    assert (folder / "a" / "grade.json").is_file() and not (folder / "b" / "grade.json").exists()
    assert not left_running()


def test_files_that_are_not_the_students_own(toy, tmp_path):
    """Links out of the submission, a folder where the grader's file belongs, names of a browser, a
    kernel of another machine."""
    good, sly, blocked = (tmp_path / "class" / name for name in ("ann", "bob", "cleo"))
    write_part(good / "unet" / "01_data.ipynb", "print('hello')")
    text = (good / "unet" / "01_data.ipynb").read_text(encoding="utf-8")
    (good / "unet" / "01_data.ipynb").unlink()
    text = text.replace('"name": "python3"', '"name": "hers"')  # a kernel that only she has
    (good / "unet" / "Copy of 01_data (1).ipynb").write_text(text, encoding="utf-8")
    write_part(sly / "01_data.ipynb", "import os\nassert not os.path.exists('made.txt')")
    (sly / "04_evaluate.ipynb").symlink_to(toy / "notebooks" / "04_evaluate.ipynb")
    (sly / "made.txt").symlink_to(toy / "rubric.yaml")
    record = {"run": {"parameters": DRAWING}, "evaluation": {"iou": 0.37, "source": "synthetic"}}
    (sly / "metrics.json").write_text(json.dumps(record))
    (blocked / "grade.json").mkdir(parents=True)
    process = unetlib(toy, tmp_path / "class", "--rubric", toy / "rubric.yaml")
    assert process.wait() == 0
    rows = rows_of(tmp_path / "class" / "grades.csv")
    assert float(rows["ann"]["points"]) == 20 and float(rows["bob"]["points"]) == 20
    assert "could not be measured" in rows["bob"]["flags"]
    assert "not graded" in rows["cleo"]["flags"] and float(rows["cleo"]["points"]) == 0


def test_requests_and_rubrics_that_make_no_sense(toy, tmp_path):
    (tmp_path / "nothing").mkdir()
    process = unetlib(toy, tmp_path / "nothing", "--rubric", toy / "rubric.yaml")
    assert "name a run, a submission" in process.communicate()[0]
    cell = nbformat.v4.new_code_cell("1", metadata={"nbgrader": {"grade_id": "a-b", "grade": True}})
    course, path = {"01_data": nbformat.v4.new_notebook(cells=[cell])}, tmp_path / "mine.yaml"
    for text, words in [
        ("items: [", "should be YAML"),
        ("itms: []", "should be YAML"),
        ("items: [{notebook: 01_data}]", "should be YAML"),
        ("items: [{file: x, points: 1, at_least: many}]", "item 1: .*'many'. should be numbers"),
        ("items: [{file: x, points: .nan}]", "should be numbers"),
        ("items: [{notebok: 01_data, points: 1}]", "one of .*notebook.* is needed"),
        ("items: [{file: x, points: 1, at_leest: 2}]", "and some of .*at_least"),
        ("items: [{notebook: 01_dat, points: 1}]", "Did you mean '01_data'"),
        ("items: [{metric: iuo, points: 1, at_least: 1}]", "called 'iuo'. Did you mean 'iou'"),
        ("items: [{exercise: a-c, points: 1}]", "Did you mean 'a-b'. There are all, 01_data"),
    ]:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=f"mine.yaml.*{words}"):
            read_rubric(path, course)


def test_the_default_rubric_is_shown_and_fits_the_course(tmp_path):
    shown = unetlib(tmp_path, "--show-rubric").communicate()[0]
    path = tmp_path / "mine.yaml"
    path.write_text(shown, encoding="utf-16")  # as PowerShell 5 does with >
    notebooks = (Path(__file__).resolve().parents[1] / "notebooks").glob("[0-9]*.ipynb")
    course = {notebook.stem: nbformat.read(notebook, 4) for notebook in notebooks}
    assert sum(item["points"] for item in read_rubric(path, course)) == 100
