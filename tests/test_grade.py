"""`unetlib grade` on a dozen submissions of a toy course, with real kernels and real limits."""

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import psutil
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_submissions import (
    BEGIN,
    CHECK,
    DRAWING,
    HANG,
    WRONG,
    write_network,
    write_part,
    write_submissions,
    write_toy,
)

from unetlib.app import course as course_module
from unetlib.app import grade, limits, rubric, runner, worker
from unetlib.app.cli import app
from unetlib.app.limits import Limits
from unetlib.app.marks import apply_rubric
from unetlib.app.pipeline import run_course
from unetlib.app.submission import (
    Evidence,
    find_notebook,
    find_submissions,
    missing_notebook,
    outputs_of,
)
from unetlib.metrics import SCORES

TAG = uuid.uuid4().hex
RUBRIC = """
items:
  - {notebook: 01_data, points: 10}
  - {notebook: 04_evaluate, points: 10}
  - {title: Double, exercise: 01-double, points: 10}
  - {title: =File, file: made.txt, at_least_bytes: 100, points: 5}
  - {title: IoU, metric: iou, at_least: 0.9, partial: {0.1: 3, 0.8: 6}, points: 10}
"""
EXPECTED = {  # points of the five items, and what the reason and the flags say
    "good": ([10, 10, 10, 5, 3], "iou 0.*, asked is at least 0.9", "photos: count 40, im"),
    "=1+1 Ünal": ([10, 0, 0, 0, 0], "21 doubled is 42", ""),
    "hangs": ([8, 0, 10, 0, 3], "cell 3: ran longer than 8 s", "as forged, good"),
    "deaf": ([4, 0, 0, 0, 0], "cell 3: ran longer than 8 s and ignored", "01_data: stopped"),
    "dies": ([5, 10, 0, 5, 0], "cell 4: the notebook's Python died", "01_data: stopped"),
    "floods": ([10, 0, 10, 0, 0], "there is no notebook 04_evaluate", "output was dropped"),
    "patricide": ([4, 0, 0, 0, 0], "cell 3: its process died", "01_data: stopped"),
    "eats": ([5, 0, 0, 0, 0], r"cell 4: it took [\d.]+ GB of memory", "01_data: stopped"),
    "forged": ([10, 0, 10, 0, 0], "iou 0.97 is claimed, but the checkpoint gives 0.", "forged"),
    "tampered": ([10, 0, 0, 0, 0], "21 doubled is 42", "changed check cells: 01-double"),
    "broken": ([0, 0, 0, 0, 0], "no readable notebook.*not readable as JSON", "no notebook"),
    "empty": ([0, 0, 0, 0, 0], "there is no notebook 01_data", "no notebook that runs"),
}


def of_course(folder: Path):
    return lambda given=None: course_module.find_notebooks(given or folder)


def checksums(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest() for p in files}


def left_running() -> list[str]:
    """What the tests' graders started and did not end: it all inherits this variable."""
    found = []
    for process in psutil.process_iter(["environ", "cmdline"]):
        if (process.info["environ"] or {}).get("TESTS_OF_GRADE") == TAG:
            found.append(" ".join(process.info["cmdline"] or []))
    return found


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A toy course and its rubric."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "rubric.yaml").write_text(RUBRIC, encoding="utf-8")
    return write_toy(folder)


@pytest.fixture(scope="module")
def graded(toy, tmp_path_factory):
    """The folder of submissions after `unetlib grade`, what was printed, their earlier files."""
    root = tmp_path_factory.mktemp("graded")
    write_network(root, {})
    honest = measure(root / runner.CHECKPOINT, root / "photos")
    write_submissions(root / "submissions", honest)
    before = checksums(root / "submissions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rubric, "find_notebooks", of_course(toy))
        patch.setenv("UNETLIB_ROOT", str(root))
        patch.setenv("TESTS_OF_GRADE", TAG)
        (root / "home").mkdir()
        patch.setenv("HOME", str(root / "home"))
        patch.setenv("USERPROFILE", str(root / "home"))
        given = ["--rubric", str(toy / "rubric.yaml"), "--timeout", "8", "--memory", "1"]
        call = ["grade", str(root / "submissions"), "--jobs", "3", *given]
        result = CliRunner().invoke(app, call, catch_exceptions=False)
    return root / "submissions", result, before


def measure(checkpoint: Path, photos: Path, **settings) -> dict:
    """What the grader's own measuring gives, in this process."""
    said = []
    settings = {"source": "synthetic", "source_root": "", **DRAWING, **settings}
    job = {"checkpoint": checkpoint, "source": "", "settings": settings, "parameters_of": ""}
    worker.evaluate_checkpoint(job | {"threshold": 0.5, "data": photos}, lambda **e: said.append(e))
    return {name: float(value) for name, value in said[-1]["measured"].items()}


def test_each_submission_gets_a_line_with_its_points_and_reasons(graded):
    folder, result, _ = graded
    assert result.exit_code == 0, result.output
    with open(folder / "grades.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    titles = ["notebook 01_data", "notebook 04_evaluate", "Double", "'=File", "IoU"]
    assert list(rows[0]) == ["submission", "points", "out_of", *titles, "flags", "reason"]
    by_name = {row["submission"].removeprefix("'"): row for row in rows}
    assert len(rows) == len(by_name) and by_name.keys() == EXPECTED.keys()
    for name, (points, reason, flag) in EXPECTED.items():
        row = by_name[name]
        assert [float(row[title]) for title in titles] == points, (name, row)
        assert float(row["points"]) == sum(points) and float(row["out_of"]) == 45
        assert re.search(reason, row["reason"]), (name, row["reason"])
        assert flag in row["flags"] and bool(flag) == bool(row["flags"]), (name, row["flags"])
        assert f"{sum(points):g} of 45" in result.output
    assert (folder / "grades.csv").read_bytes().startswith(b"\xef\xbb\xbf")


def test_no_cell_of_the_table_is_a_formula(graded):
    with open(graded[0] / "grades.csv", encoding="utf-8-sig", newline="") as file:
        for value in (value for row in csv.reader(file) for value in row):
            assert not value.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_nothing_goes_on_afterwards(graded):
    assert not left_running()


def test_submissions_are_not_changed(graded):
    folder, _, before = graded
    after = checksums(folder)
    assert {name: after.get(name) for name in before} == before
    new = {Path(name).parts[-1] for name in after.keys() - before.keys() if "executed" not in name}
    assert new == {"grade.json", "grade.html", "grades.csv", "grades.html"}
    assert not (folder.parent / "home" / "was here").exists()


def test_a_flood_is_cut_short(graded):
    executed = graded[0] / "floods" / "executed" / "01_data.ipynb"
    assert executed.stat().st_size < 6_000_000
    cells = nbformat.read(executed, as_version=4).cells
    assert "output was dropped" in cells[3].outputs[-1].text and cells[-1].outputs  # the check ran


class Page(HTMLParser):
    """Text, links and open tags of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.text, self.links, self.open, self.outside = "", [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key == "href"]
        self.outside += [value for key, value in attrs if key == "src"]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_pages(graded):
    from urllib.parse import unquote

    folder = graded[0]
    overview = Page(folder / "grades.html")
    assert not overview.open and not overview.outside
    pages = [link for link in overview.links if link.endswith("grade.html")]
    assert len(pages) == len(EXPECTED) and all((folder / unquote(link)).is_file() for link in pages)
    page = Page(folder / "dies" / "grade.html")
    assert not page.open and not page.outside and "20 of 45 points" in page.text
    assert "3 of 6 cells ran" in page.text and "the notebook's Python died" in page.text
    assert "made by this run" in page.text
    page = Page(folder / "forged" / "grade.html")
    assert "metrics.json says iou 0.97" in page.text and " on 3 photos" in page.text
    page = Page(folder / "=1+1 Ünal" / "grade.html")
    assert "21 doubled is 42" in page.text
    record = json.loads((folder / "good" / "grade.json").read_text(encoding="utf-8"))
    assert (record["points"], record["out_of"]) == (38, 45)
    assert record["flags"] == [
        "scores on easy photos: count 40, image_size 32",
        "network: same file as forged, hangs",
    ]
    assert [item["points"] for item in record["items"]] == EXPECTED["good"][0]


def test_a_run_of_ones_own(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path))
    result = run_course("quick", "mine", notebooks_dir=toy, echo=lambda text: None)
    failing = write_toy(tmp_path / "failing")
    write_part(failing / "01_data.ipynb", BEGIN, "1 / 0")
    failed = run_course("quick", "failed", notebooks_dir=failing, echo=lambda text: None)
    monkeypatch.setattr(rubric, "find_notebooks", of_course(toy))
    own = grade.grade_run(result.folder, rubric_file=toy / "rubric.yaml")
    points = [mark.points for mark in own.items]
    assert points == [10, 10, 0, 5, 0] and "no scores" in own.items[4].reason
    assert "nothing is returned" in own.items[2].reason
    assert json.loads((result.folder / "grade.json").read_text("utf-8"))["points"] == 25
    write_network(result.folder, {"iou": 0.85})
    call = ["grade", "mine", "--as-is", "--rubric", str(toy / "rubric.yaml")]
    done = CliRunner().invoke(app, call, catch_exceptions=False)
    assert done.exit_code == 0 and "31 of 45" in done.output

    own = grade.grade_run(failed.folder, rubric_file=toy / "rubric.yaml")
    assert [mark.points for mark in own.items] == [round(10 * 2 / 5, 2), 0, 0, 0, 0]
    assert "cell 4 (1 / 0): ZeroDivisionError" in own.items[0].reason  # as In [4] there
    assert "ZeroDivisionError" in own.items[0].tail
    assert "did not run" in own.items[2].reason


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill is no Ctrl-C on Windows")
def test_ctrl_c_ends_the_children_and_keeps_what_is_done(toy, tmp_path):
    folder = tmp_path / "submissions"
    folder.mkdir()
    (folder / "a").mkdir()
    marker = tmp_path / "it runs"
    write_part(folder / "b" / "01_data.ipynb", f"open({str(marker)!r}, 'w').close()", HANG)
    code = (
        "import sys; from pathlib import Path; from unetlib.app import rubric, cli\n"
        "find = rubric.find_notebooks\n"
        f"rubric.find_notebooks = lambda folder=None: find(Path({str(toy)!r}))\n"
        "cli.main(sys.argv[1:])"
    )
    call = ["grade", str(folder), "--rubric", str(toy / "rubric.yaml")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *call], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "UNETLIB_ROOT": str(tmp_path), "TESTS_OF_GRADE": TAG},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "stopped with Ctrl-C: 1 of 2 graded" in output
    assert (folder / "a" / "grade.json").is_file() and not (folder / "b" / "grade.json").exists()
    assert (folder / "grades.csv").read_text("utf-8-sig").count("\n") == 2
    assert not left_running()


def test_missing_and_unreadable_networks(tmp_path):
    evidence = Evidence([tmp_path])
    evidence.read_claims()
    assert evidence.doubt == "there is no metrics.json: 04_evaluate writes it"
    write_network(tmp_path, {"iou": 0.5})
    checkpoint = tmp_path / runner.CHECKPOINT
    for wrong, words in [
        ({"source": "folder:mine"}, "measured on folder:mine: say with --source"),
        ({"count": 10**6, "image_size": 2000}, "too many to be drawn again"),
        ({"count": -1}, "too many"),
        ({"seed": "x"}, "invalid literal"),
    ]:
        with pytest.raises((RuntimeError, ValueError), match=words):
            measure(checkpoint, tmp_path / "photos", **wrong)
    checkpoint.write_bytes(b"no network")
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        measure(checkpoint, tmp_path / "photos")


@pytest.mark.parametrize("claim", [0.97, "0.37", True, float("nan"), 10**400, [0.37], {}])
def test_what_is_no_honest_claim(claim):
    assert not runner._agree(claim, 0.37)
    assert runner._agree(0.3899, 0.37) and runner._agree(1, 0.99)


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"a": NaN', "[" * 100_000, '{"evaluation": 5, "run": {}}']
)
def test_a_spoilt_metrics_file_is_a_reason(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text, encoding="utf-8")
    evidence = Evidence([tmp_path])
    assert isinstance(evidence.read_claims(), dict) and evidence.doubt and not evidence.claimed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("items: [", "no YAML file"),
        ("[]", "should hold `items:`"),
        ("items: []", "should hold `items:`"),
        ("items: [1]", "item 1 should hold lines"),
        ("items: [{notebok: 01_data}]", "no key 'notebok'. Did you mean 'notebook'"),
        ("items: [{notebook: 01_dat, points: 1}]", "Did you mean '01_data'. Known: 01_data, 04_ev"),
        ("items: [{metric: iuo, points: 1, at_least: 1}]", "no metric 'iuo'. Did you mean 'iou'"),
        ("items: [{exercise: 01-doubel, points: 1}]", "Did you mean '01-double'. Known: all"),
        ("items: [{notebook: 01_data}]", "points should be a number"),
        ("items: [{notebook: 01_data, points: -1}]", "points should be a number, 0 or above"),
        ("items: [{notebook: 01_data, points: .nan}]", "points should be a number"),
        ("items: [{notebook: 01_data, points: 0}]", "worth 0 points"),
        ("items: [{notebook: 01_data, file: x, points: 1}]", "needs one of"),
        ("items: [{points: 1}]", "needs one of notebook, file, metric, exercise"),
        ("items: [{notebook: 01_data, at_least: 1, points: 1}]", "no key for a notebook 'at_lea"),
        ("items: [{exercise: 04_evaluate, points: 1}]", "no exercise '04_evaluate'"),
        ("items: [{metric: iou, points: 1}]", "either at_least or at_most"),
        ("items: [{metric: iou, points: 1, at_least: 1, partial: {0.5: 2}}]", "2 of 1 points"),
        ("items: [{metric: mae, points: 1, at_most: 0.1, partial: {0.05: 1}}]", "not easier"),
        ("items: [{file: ../x, points: 1}]", "pattern below the outputs"),
        ("items: [{file: /etc/passwd, points: 1}]", "pattern below the outputs"),
        ("items: [{file: '**x', points: 1}]", "no pattern of files"),
        ("items: [{file: '', points: 1}]", "no pattern of files"),
        ("items: [{title: a, file: x, points: 1}, {title: a, file: y, points: 1}]", "2 items .*'"),
        ("itms: []", "should hold `items:`"),
    ],
)  # fmt: skip
def test_a_rubric_that_makes_no_sense(toy, tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words) as error:
        rubric.read_rubric(path, rubric.read_course(toy))
    assert str(path) in str(error.value)


def test_steps_of_a_metric(toy):
    course = rubric.read_course(toy)
    item = rubric.Item("metric", "mae", "MAE", 10, at_most=0.05, partial={0.2: 4, 0.1: 7})
    for value, points in [(0.05, 10), (0.051, 7), (0.1, 7), (0.15, 4), (0.3, 0), (None, 0)]:
        evidence = Evidence([toy], measured={"mae": value})
        assert apply_rubric("x", [item], evidence, course).points == points


EVENT = st.fixed_dictionaries(
    {},
    optional={
        "cells": st.integers(0, 9),
        "start": st.integers(1, 9),
        "error": st.text(max_size=5),
        "missing": st.lists(st.sampled_from(["01-double", "x"])),
    },
)
DONE = st.builds(
    lambda number, problem, value: {
        **{"done": number, "problem": problem, "tail": ""},
        **{"check": "01-double", "value": value},
    },
    st.integers(1, 9),
    st.sampled_from(["", "ValueError: x"]),
    st.none() | st.booleans() | st.fixed_dictionaries({"passed": st.booleans() | st.text()}),
)


@given(st.lists(EVENT | DONE), st.text(max_size=5))
@settings(deadline=None)
def test_points_are_never_more_than_there_are(toy, events, reason):
    course = rubric.read_course(toy)
    items = rubric.read_rubric(toy / "rubric.yaml", course)[::2][:2]  # a notebook, its exercise
    evidence = Evidence([toy])
    evidence.add_notebook(course["01_data"], events, reason)
    marks = apply_rubric("x", items, evidence, course).items
    assert all(0 <= mark.points <= mark.out_of for mark in marks)
    done = [event for event in events if "done" in event]
    passed = done and isinstance(done[-1]["value"], dict) and done[-1]["value"]["passed"] is True
    assert bool(marks[1].points) == bool(passed)
    assert marks[0].points < 10 or len(done) >= course["01_data"].cells


def test_cells_that_were_left_out_are_missed(toy):
    course = rubric.read_course(toy)
    evidence = Evidence([toy])
    evidence.add_notebook(course["01_data"], [{"cells": 1}, {"done": 1, "problem": ""}])
    item = rubric.Item("notebook", "01_data", "01", 8)
    mark = apply_rubric("x", [item], evidence, course).items[0]
    assert mark.points == 2 and mark.reason == "only 1 of 4 cells ran"


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need rights there")
def test_links_are_not_followed(tmp_path):
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    for part in ("checkpoints", "images"):
        (tmp_path / "handed in" / part).mkdir(parents=True)
        (tmp_path / "handed in" / part / "link").symlink_to(tmp_path / "secret")
        (tmp_path / "handed in" / part / "file").touch()
    runner._lend(tmp_path / "handed in", tmp_path / "outputs")
    names = [p.relative_to(tmp_path / "outputs").as_posix() for p in tmp_path.glob("outputs/*/*")]
    assert names == ["checkpoints/file"]


def test_the_default_rubric_fits_the_course_and_the_scores(tmp_path):
    course = rubric.read_course()
    assert sum(item.points for item in rubric.read_rubric(None, course)) == 100
    shown = CliRunner().invoke(app, ["grade", "--show-rubric"]).output
    assert shown == rubric.DEFAULT.read_text(encoding="utf-8")
    write_network(tmp_path, {})
    assert set(rubric.METRICS) == {*SCORES, "pooled_iou", "pooled_dice"}
    assert set(rubric.METRICS) <= measure(tmp_path / runner.CHECKPOINT, tmp_path / "p").keys()


def test_paths_that_are_no_submission(tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs/runs/quick-1").mkdir(parents=True)
    (tmp_path / "nothing" / "here").mkdir(parents=True)
    (tmp_path / "file.txt").write_text("x", encoding="utf-8")
    for path, words in [
        ("nothing", "no run and no submission: expected were notebooks"),
        ("file.txt", "is a file"),
        ("quik-1", "no run of that name. Did you mean 'quick-1'"),
        ("../../x", "no folder"),
    ]:
        with pytest.raises(ValueError, match=words):
            find_submissions([path])
    assert CliRunner().invoke(app, ["grade"]).exit_code == 2
    with pytest.raises(ValueError, match="above 0"):
        Limits(cell=0)


def test_where_results_are_looked_for(tmp_path):
    for name in ("a/outputs/runs/old", "a/outputs/runs/new", "b/x", "c/x"):
        (tmp_path / name).mkdir(parents=True)
    os.utime(tmp_path / "a/outputs/runs/old", (1, 1))
    assert outputs_of(tmp_path / "a") == tmp_path / "a"
    for name in ("old", "new"):
        (tmp_path / "a/outputs/runs" / name / "metrics.json").write_text("{}", encoding="utf-8")
    os.utime(tmp_path / "a/outputs/runs/old", (1, 1))
    assert outputs_of(tmp_path / "a").name == "new"
    for name in ("b", "c"):
        write_part(tmp_path / name / "x" / "01_data.ipynb", check=CHECK, answer=WRONG)
    found, parent = find_submissions([str(tmp_path / "b" / "x"), str(tmp_path / "c" / "x")])
    assert list(found) == ["x", "x-2"] and parent is None


def test_names_that_browsers_and_archives_give(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path))
    folder = tmp_path / "class"
    colab = write_part(folder / "ann" / "unet-main" / "notebooks" / "Copy of 01_data (1).ipynb")
    two = [write_part(folder / "bob" / f"01_data{end}.ipynb") for end in (" (1)", "_final")]
    for name in ("__MACOSX", "graded before", "cleo/images"):
        (folder / name).mkdir(parents=True)
    (folder / "graded before" / "grades.html").touch()
    (folder / "bob" / "grades.html").touch()  # does not hide a submission
    (folder / "dan.zip").touch()
    found, parent = find_submissions([str(folder)])
    inner = folder / "ann" / "unet-main"
    assert found == {"ann": inner, "bob": folder / "bob", "cleo": folder / "cleo"}
    assert parent == folder and find_notebook(inner, "01_data") == colab
    assert find_notebook(folder / "bob", "01_data") is None
    assert missing_notebook(folder / "bob", "01_data").endswith(" (1).ipynb, 01_data_final.ipynb")
    write_part(folder / "bob" / "01_data.ipynb")
    assert find_notebook(folder / "bob", "01_data").name == "01_data.ipynb" and len(two) == 2
    monkeypatch.setattr(rubric, "find_notebooks", of_course(toy))
    call = ["grade", str(folder), "--as-is", "--rubric", str(toy / "rubric.yaml")]
    result = CliRunner().invoke(app, call, catch_exceptions=False)
    assert "unpack them first: dan.zip" in result.output and "3 to grade" in result.output


def test_notebooks_from_editors_that_drop_tags_and_grade_ids(tmp_path):
    notebook = nbformat.read(write_part(tmp_path / "01_data.ipynb"), as_version=4)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"id": "x"})
    found = worker.prepare(notebook, {"count": 7}, {"01-double": CHECK})
    assert (found["missing"], found["changed"]) == ([], [])
    assert notebook.cells[1].source.endswith("count = 7")
    assert notebook.cells[-1].metadata["nbgrader"] == {"grade_id": "01-double"}


def test_files_that_several_have(toy, tmp_path):
    folders = {name: tmp_path / name for name in "abcdefg"}
    for name, folder in folders.items():
        write_part(folder / "01_data.ipynb", f"print({name!r})")
        write_network(folder, {})  # all seven: that is what the defaults give
    (folders["c"] / "01_data.ipynb").write_bytes((folders["a"] / "01_data.ipynb").read_bytes())
    flags = grade.shared_files(folders, rubric.read_course(toy))
    assert {name: flag for name, flag in flags.items() if flag} == {
        "a": ["01_data: same file as c"],
        "c": ["01_data: same file as a"],
    }


def test_environments_and_hidden_folders_are_not_copied(tmp_path):
    for name in (".git", ".venv", "mine", "data", "helpers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x" * 10)
    (tmp_path / "mine" / "pyvenv.cfg").touch()
    names = os.listdir(tmp_path)
    assert set(names) - set(runner._not_copied(str(tmp_path), names)) == {"helpers"}
    assert limits.folder_size(tmp_path, runner._not_copied) == 10 < limits.folder_size(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such names")
def test_a_name_that_is_no_text(tmp_path):
    one = grade.Grade("b\udcff", [], [])
    grade.write_overview([one], tmp_path, {one.submission: tmp_path / one.submission / "x.html"})
    assert "b%FF/x.html" in (tmp_path / "grades.html").read_text("utf-8")


def test_a_closed_pipe_ends_the_grading(toy, tmp_path, monkeypatch):
    started = []

    def slow(folder, course):
        started.append(folder)
        time.sleep(0.1)
        return Evidence([folder])

    def closed(text):
        raise BrokenPipeError

    monkeypatch.setattr(grade, "as_it_is", slow)
    folders = {str(n): tmp_path / str(n) for n in range(30)}
    with pytest.raises(BrokenPipeError):
        grade.grade_all(folders, [], {}, folders.get, as_is=True, echo=closed)
    assert len(started) < 20


def test_one_that_cannot_be_graded(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(rubric, "find_notebooks", of_course(toy))
    monkeypatch.setattr(runner, "folder_size", lambda *_: 10**12)
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path))
    write_part(tmp_path / "smith" / "01_data.ipynb")
    call = ["grade", str(tmp_path / "smith"), "--rubric", str(toy / "rubric.yaml")]
    result = CliRunner().invoke(app, [*call, "-o", str(tmp_path / "into")])
    assert (
        result.exit_code == 1 and "not graded" in result.output and "larger than" in result.output
    )
