"""`unetlib evaluate`: its numbers are those of a direct computation, its page and files hold them,
and what is missing, undefined or wrong is said in words."""

import csv
import html.parser
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_leaderboard import save

from unetlib import evaluate as evaluation
from unetlib import leaderboard
from unetlib.app import cli, evaluation_page
from unetlib.app.evaluate import WRITTEN, read_threshold
from unetlib.data import ImageError, load_pair, open_source
from unetlib.evaluate import best_threshold, threshold_sweep
from unetlib.metrics import SCORES
from unetlib.paths import write_whole
from unetlib.predict import Predictor

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def photos(make_pairs, tmp_path) -> str:
    """A set with a space in its name: 9 photos, no two of the same object."""
    folder = make_pairs([f"view {i}" for i in "abcdefghi"], tmp_path / "my set")
    rows, columns = np.mgrid[:24, :32]
    for i, name in enumerate("abcdefghi"):
        mask = (np.hypot(rows - 12, columns - 16) < 3 + i) * np.uint8(255)
        Image.fromarray(mask).save(folder / "masks" / f"view {name}.png")
    return f"folder:{folder}"


@pytest.fixture
def call(capsys):
    """call(*args) -> (exit code, standard output, standard error) of `unetlib evaluate`."""

    def run(*args) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["evaluate", *map(str, args)])
        said = capsys.readouterr()
        return exit_.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def no_figures(monkeypatch):
    """They take most of the time of a call."""
    empty = {"uri": "data:image/png;base64,", "width": 1, "height": 1, "words": "left out"}
    monkeypatch.setattr(evaluation_page, "_drawn", lambda *_: empty)


class Page(html.parser.HTMLParser):
    """The page's text, the cells of its tables, and what it loads from elsewhere."""

    def __init__(self, path: Path):
        super().__init__()
        self.words, self.rows, self.open, self.loaded, self.pictures = [], [], [], [], 0
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "img":
            self.pictures += 1
            if not attributes["src"].startswith("data:image/"):
                self.loaded.append(attributes["src"])
            assert attributes["alt"]
        elif tag in ("link", "script"):
            self.loaded.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def record(folder: Path) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "metrics.json").read_text("utf-8"), parse_constant=refuse)


def pairs_of(source: str):
    return open_source(source, val_fraction=0).train


def direct(path: Path, source: str, threshold: float) -> dict[str, float]:
    """IoU of each photo, counted here."""
    predictor, found = Predictor(path, "cpu"), {}
    for pair in pairs_of(source):
        image, matte = load_pair(pair)
        mask, truth = predictor.predict(image) >= threshold, matte >= 0.5
        either = (mask | truth).sum()
        found[pair.id] = (mask & truth).sum() / either if either else 1.0
    return found


def test_one_network(root, photos, call, tmp_path):
    path = save(tmp_path / "my net.pth", 3)
    args = [path, "--source", photos, "--all-photos", "--threshold", "0.48", "--temperature"]
    code, out, err = call(*args)
    assert (code, err) == (0, "")
    wanted = direct(path, photos, 0.48)
    mean = np.mean(list(wanted.values()))
    assert re.search(rf"^IoU +{mean:.3f} +\d\.\d+ to \d\.\d+ +\d\.\d+$", out, re.M)
    assert "judged on 9 photos of folder" in out and "threshold 0.48" in out
    assert re.search(r"calibration error \d\.\d+, \d\.\d+ with the temperature \d", out)
    for words in ("IoU by quarter", "worst photos", "best threshold: 0.", "boundary IoU"):
        assert words in out
    worst = sorted(wanted, key=wanted.get)[:5]
    assert re.findall(r"^  (\d\.\d{3})  (view [a-i])", out, re.M) == [
        (f"{wanted[id]:.3f}", id) for id in worst
    ]

    folder = root / "outputs/evaluation/my_net"
    assert sorted(p.name for p in folder.iterdir()) == sorted(WRITTEN)
    with (folder / "evaluation.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["id"]: float(row["iou"]) for row in csv.DictReader(file)}
    assert rows == pytest.approx(wanted)
    facts = record(folder)["models"]["my net.pth"]
    assert facts["scores"]["iou"]["mean"] == pytest.approx(mean)
    assert facts["photos"] == 9 and facts["threshold"] == 0.48
    assert [row["id"] for row in facts["worst"]] == worst
    assert facts["temperature"] > 0 and 0 <= facts["calibration_error_scaled"] <= 1
    assert sum(row["n"] for row in facts["by_quartile"]["texture"]) == 9

    page = Page(folder / "evaluation.html")
    assert not page.loaded and page.pictures >= 5 * 4 + 3
    score = next(row for row in page.rows if row[0] == "IoU")
    assert score[1] == f"{mean:.3f}"
    for about in SCORES.values():
        assert all(words in page.text for words in about if isinstance(words, str))
    assert "nan" not in f"{page.text} {out}".lower().split()
    assert all(id in page.text for id in worst)


def test_several_networks(root, photos, call, tmp_path):
    paths = [save(tmp_path / "all.pth", bias=4.0), save(tmp_path / "none.pth", bias=-4.0)]
    spoilt = tmp_path / "spoilt.pth"
    write_whole(spoilt, b"no weights")
    again = tmp_path / "copy of all.pth"
    write_whole(again, paths[0].read_bytes())
    code, out, err = call(spoilt, *paths, again, "--source", photos, "--all-photos", "-o", "board")
    assert code == 1
    assert re.search(r"^not judged: spoilt.pth: .*damaged or not a checkpoint", err, re.M)
    wanted = {path.name: np.mean(list(direct(path, photos, 0.5).values())) for path in paths}
    best, other = wanted.values()
    assert other == 0
    assert re.search(rf"^all.pth +{best:.3f} .*the best ", out, re.M)
    assert re.search(rf"^none.pth +0.000 .* {best:.3f} .* better ", out, re.M)
    assert f"all.pth is also {again}" in out
    found = record(tmp_path / "board")
    assert [row["name"] for row in found["leaderboard"]] == list(wanted)
    assert list(found["failed"]) == ["spoilt.pth"] and set(found["models"]) == set(wanted)
    with (tmp_path / "board/evaluation.csv").open(newline="", encoding="utf-8") as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["all.pth"] * 9 + ["none.pth"] * 9
    page = Page(tmp_path / "board/evaluation.html")
    assert f"also {again}" in page.text and "spoilt.pth could not be judged" in page.text
    assert ["yes, better" in row[3] for row in page.rows if row[0] == "none.pth"][0]
    assert "Where they disagree most" in page.text and not page.loaded
    assert "nan" not in f"{page.text} {out}".lower().split()


@pytest.mark.usefixtures("no_figures")
def test_all_that_earlier_runs_left(root, photos, call):
    for name in ("first", "second"):
        seed = {"first": 1, "second": 2}[name]
        save(root / f"outputs/runs/{name}/checkpoints/best_model.pth", seed, source=photos)
    code, out, err = call("--all", "--no-difficulty")
    assert code == 0, err
    assert re.search("^first +0", out, re.M) and re.search("^second +0", out, re.M)
    assert "val photos (of 9)" in out and "quarter" not in out
    assert (root / "outputs/evaluation/leaderboard/evaluation.html").is_file()
    assert call("second")[0] == 0
    assert (root / "outputs/evaluation/second/evaluation.html").is_file()


@pytest.mark.usefixtures("no_figures")
def test_without_a_name_it_is_the_best_model_on_its_own_val_photos(root, photos, call):
    save(root / "outputs/checkpoints/best_model.pth", 1, source=photos)
    code, out, _ = call()
    val = open_source(photos).val
    assert code == 0 and f"judged on {len(val)} val photos (of 9) of folder" in out
    assert "trained on" not in out


@pytest.mark.usefixtures("no_figures")
def test_photos_that_were_trained_on_are_named(photos, call, tmp_path):
    path = save(tmp_path / "net.pth", source=photos)
    data = open_source(photos)
    _, out, _ = call(path, "--all-photos")
    assert (
        f"net.pth was trained on {len(data.train)} of these photos: it looks better than it is"
        in out
    )
    _, out, _ = call(path, "--source", photos)
    assert "was trained on" not in out and f"judged on {len(data.val)} val" in out
    other = save(tmp_path / "other.pth", 2, source="folder:gone")
    _, out, _ = call(other, "--source", photos)
    assert "Not known whether these photos were trained on: other.pth" in out


def test_masks_of_another_program(root, photos, call, tmp_path):
    truth, made = tmp_path / "my set/masks", tmp_path / "their masks"
    made.mkdir()
    wanted = []
    for path in sorted(truth.iterdir()):
        mask = np.asarray(Image.open(path)) > 127
        moved = np.roll(mask, 2, axis=1)
        Image.fromarray(moved * np.uint8(255)).save(made / path.name)
        wanted.append((mask & moved).sum() / (mask | moved).sum())
    code, out, err = call("--predictions", made, "--masks", truth)
    assert code == 0, err
    assert re.search(rf"^IoU +{np.mean(wanted):.3f} ", out, re.M) and "their masks, thresh" in out
    folder = root / "outputs/evaluation/their_masks"
    assert "leaderboard" not in record(folder)
    page = Page(folder / "evaluation.html")
    assert page.pictures >= 5 * 3 and "view a" in page.text

    assert "it flatters" in call("--predictions", made, "--masks", truth, "--threshold", "best")[1]

    Image.new("L", (20, 20)).save(made / "view d.png")
    code, _, err = call("--predictions", made, "--masks", truth)
    assert code == 2 and "view d.png is 20 x 20" in err and "32 x 24" in err
    (made / "view d.png").unlink()
    code, _, err = call("--predictions", made, "--masks", truth)
    assert code == 2 and "1 of 9 masks" in err and "view d" in err
    code, _, err = call("--predictions", made, "--masks", tmp_path / "gone")
    assert code == 1 and "gone' not found" in err
    made = sorted(p.name for p in folder.parent.iterdir())
    assert made == ["their_masks", "their_masks-2"]  # nothing half done


def test_one_photo_has_no_interval(root, make_pairs, call, tmp_path):
    folder = make_pairs(["only one"], tmp_path / "one")
    paths = [save(tmp_path / "all.pth", bias=4.0), save(tmp_path / "none.pth", bias=-4.0)]
    code, out, err = call(*paths, "--source", f"folder:{folder}")
    assert code == 2 and "--all-photos judges on all of them" in err
    code, out, err = call(*paths, "--source", f"folder:{folder}", "--all-photos")
    assert code == 0, err
    assert "one photo only: there is no interval" in out and "cannot tell" in out
    found = record(root / "outputs/evaluation/leaderboard")
    assert found["models"]["all.pth"]["scores"]["iou"]["low"] is None
    page = Page(root / "outputs/evaluation/leaderboard/evaluation.html")
    assert "there is no interval" in page.text
    assert not re.search(r"\bnan\b", f"{page.text} {out}".lower())


@pytest.mark.parametrize(("value", "missing"), [(0, "foreground"), (255, "background")])
def test_masks_of_one_class_only(root, photos, call, tmp_path, value, missing):
    for path in (tmp_path / "my set/masks").iterdir():
        Image.new("L", (32, 24), value).save(path)
    path = save(tmp_path / "net.pth", 1)
    code, out, err = call(path, "--source", photos, "--all-photos", "--temperature")
    assert code == 0, err
    assert f"AUC is undefined: no pixel of the truth is {missing}" in out
    assert f"temperature is undefined: no pixel of the truth is {missing}" in out
    page = Page(root / "outputs/evaluation/net/evaluation.html")
    assert f"AUC is undefined: no pixel of the truth is {missing}" in page.text
    assert not re.search(r"\bnan\b", f"{page.text} {out}".lower())
    assert record(root / "outputs/evaluation/net")["models"]["net.pth"]["auc"] is None


@pytest.mark.usefixtures("no_figures")
def test_nothing_is_downloaded_only_to_know_what_was_trained_on(
    photos, call, tmp_path, monkeypatch
):
    def fetch(*args, **_settings):
        raise AssertionError(f"downloads {args}")

    monkeypatch.setattr("unetlib.data.layouts.fetch", fetch)
    path = save(tmp_path / "net.pth", source="pennfudan")
    _, out, _ = call(path, "--source", photos, "--all-photos")
    assert "Not known whether these photos were trained on: net.pth" in out


@pytest.mark.usefixtures("no_figures")
def test_the_best_threshold_is_picked_and_said_to_flatter(root, photos, call, tmp_path):
    path = save(tmp_path / "net.pth", bias=-1.0)
    code, out, _ = call(path, "--source", photos, "--all-photos", "--threshold", "best")
    sweep = threshold_sweep(Predictor(path, "cpu"), pairs_of(photos))
    assert code == 0 and "it flatters" in out
    assert f"net.pth, threshold {best_threshold(sweep):g}" in out
    assert best_threshold(sweep) < 0.5


@pytest.mark.usefixtures("no_figures")
def test_a_photo_that_cannot_be_read_is_left_out_by_name(photos, call, tmp_path, monkeypatch):
    broken = tmp_path / "my set/images/view e.jpg"
    real = evaluation.load_pair

    def load(pair):  # whose header is fine, so that it is found out while judging
        if pair.image == broken:
            raise ImageError(f"{broken}: cut off")
        return real(pair)

    monkeypatch.setattr(evaluation, "load_pair", load)
    paths = [save(tmp_path / f"{seed}.pth", seed) for seed in (1, 2)]
    code, out, err = call(*paths, "--source", photos, "--all-photos", "-o", "out")
    assert code == 0 and err.strip() == f"left out of the evaluation: {broken}: cut off"
    found = record(tmp_path / "out")
    assert {facts["photos"] for facts in found["models"].values()} == {8}


def test_files_that_the_source_skips_are_named(photos, call, tmp_path):
    for name in "abcdef":
        write_whole(tmp_path / f"my set/images/view {name}.jpg", b"no image")
    path = save(tmp_path / "net.pth")
    code, out, _ = call(path, "--source", photos, "--all-photos", "-o", "out")
    assert code == 0 and "judged on 3 photos" in out
    assert len(re.findall(r"Left out: .*view [a-e]\.jpg: not an image", out)) == 5
    assert "and 1 more files" in out and "Left out" in Page(tmp_path / "out/evaluation.html").text


def test_two_files_with_the_same_bytes_are_one_network(photos, call, tmp_path):
    first, second = save(tmp_path / "a.pth"), tmp_path / "b.pth"
    second.write_bytes(first.read_bytes())
    code, out, _ = call(first, second, "--source", photos, "--all-photos", "-o", "out")
    assert code == 0 and f"a.pth is also {second}" in out
    assert f"a.pth is also {second}" in Page(tmp_path / "out/evaluation.html").text


def test_a_remark_on_a_mask_is_a_line_and_said_once(photos, call, tmp_path):
    truth, made = tmp_path / "my set/masks", tmp_path / "labels"
    made.mkdir()
    for path in truth.iterdir():
        mask = np.asarray(Image.open(path)) > 127
        Image.fromarray(mask.astype(np.uint8)).save(made / path.name)
    code, _, err = call("--predictions", made, "--masks", truth, "--threshold", "best")
    lines = [line for line in err.splitlines() if line]
    assert code == 0 and len(lines) == 9 and "Warning" not in err
    assert all("holds the grey values 0 and 1 only" in line for line in lines)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode here")
def test_names_of_any_bytes(photos, call, tmp_path):
    for path in tmp_path.glob("my set/*/view a.*"):
        os.rename(path, os.fsencode(path.parent) + b"/<b> & \xff" + os.fsencode(path.suffix))
    code, out, err = call(save(tmp_path / "net.pth"), "--source", photos, "--all-photos", "-o", "o")
    assert code == 0, err
    assert r"<b> & \udcff" in out + Page(tmp_path / "o/evaluation.html").text
    assert "<b> & \udcff" in [
        row["id"] for row in record(tmp_path / "o")["models"]["net.pth"]["worst"]
    ]


@pytest.mark.usefixtures("no_figures")
def test_earlier_results_stay_unless_asked(root, photos, call, tmp_path):
    path = save(tmp_path / "net.pth")
    args = [path, "--source", photos, "--all-photos", "--no-difficulty"]
    assert call(*args)[0] == 0
    first = root / "outputs/evaluation/net/evaluation.csv"
    first.write_text("mine", encoding="utf-8")
    assert call(*args)[0] == 0
    assert first.read_text(encoding="utf-8") == "mine"
    assert (root / "outputs/evaluation/net-2/evaluation.csv").is_file()
    code, _, err = call(*args, "-o", first.parent)
    assert code == 2 and "--overwrite replaces" in err
    assert first.read_text(encoding="utf-8") == "mine"
    assert call(*args, "-o", first.parent, "--overwrite")[0] == 0
    assert first.read_text(encoding="utf-8").startswith("id,iou")


def test_ctrl_c_leaves_nothing(root, photos, call, tmp_path, monkeypatch):
    def stop(*_args, **_settings):
        raise KeyboardInterrupt

    path = save(tmp_path / "net.pth")
    monkeypatch.setattr(leaderboard, "measure", stop)
    code, _, err = call(path, "--source", photos, "--all-photos")
    assert code == 130 and "Ctrl-C" in err
    assert not (root / "outputs/evaluation/net").exists()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--threshold", "1.5"], 2, "--threshold is a number between 0 and 1, or best, not '1.5'"),
        (["--threshold", "nan"], 2, "between 0 and 1"),
        (["--threshold", "half"], 2, "between 0 and 1"),
        (["--predictions", "a"], 2, "belong together"),
        (["net.pth", "--predictions", "a", "--masks", "b"], 2, "are judged alone"),
        (["net.pth", "--predictions", "", "--masks", ""], 2, "is empty"),
        (["--predictions", "my set/masks", "--masks", "my set/../my set/masks"], 2, "two folders"),
        (["--all", "net.pth"], 2, "leave the names away"),
        (["--all"], 1, "no network in"),
        ([], 1, "best_model.pth' not found"),
        (["gone"], 1, "'gone' not found.*unetlib train"),
        (["empty"], 2, "is no run and holds none"),
        (["net.pth", "-o", ""], 2, "-o is empty"),
        (["net.pth", "-o", "net.pth"], 2, "is a file"),
        (["net.pth", "--device", "gpu", "--source", "SET"], 2, "unknown device 'gpu'"),
        (["net.pth", "--source", "folder:gone"], 2, "no such folder"),
        (["net.pth", "--source", "foldr:gone"], 2, "Did you mean 'folder'"),
        (["net.pth"], 2, "(?s)(no such folder|has not the folders|no usable pair).*--source names"),
        (["alone.onnx"], 2, "does not say on which photos it was trained: --source"),
        (["bare.pth", "--source", "SET"], 2, "it looks like a bare state dict"),
        (["bare.pth"], 2, "it looks like a bare state dict"),
    ],
)
def test_what_cannot_be_done_is_one_line(root, photos, call, tmp_path, args, code, words):
    save(tmp_path / "net.pth", source="synthetic")
    write_whole(tmp_path / "alone.onnx", b"no network")
    (tmp_path / "empty").mkdir()
    torch.save({"weight": torch.zeros(2)}, tmp_path / "bare.pth")
    args = [photos if arg == "SET" else arg for arg in args]
    found, out, err = call(*args)
    assert found == code and re.search(words, err), err
    assert err.count("unetlib:") == 1 and "Traceback" not in err and not out
    made = root / "outputs/evaluation"
    assert not made.exists() or not any(made.iterdir())


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("1", 1), (".3", 0.3), (" BEST ", "best")])
def test_thresholds(text, value):
    assert read_threshold(text) == value


def test_as_a_program(root, photos, tmp_path):
    path = save(tmp_path / "net.pth")
    command = [sys.executable, "-m", "unetlib", "evaluate"]

    def run(*args):
        return subprocess.run(
            [*command, *args], capture_output=True, text=True, cwd=tmp_path, timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    done = run(str(path), "--source", photos, "--all-photos", "-o", "out", "--no-difficulty")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "IoU" in done.stdout  # no bar where there is no terminal
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(WRITTEN)
    noted = shlex.split(record(tmp_path / "out")["command"])
    assert noted[:5] == ["unetlib", "evaluate", str(path), "--source", photos]
    gone = run("gone.pth")
    assert gone.returncode == 1 and gone.stderr.count("\n") == 1
    assert run(str(path), "--threshold", "2").returncode == 2


def test_a_number_of_the_page_is_never_nan():
    from unetlib.app.judged import between, number

    assert number(math.nan) == number(None) == "–" and number(0.12345) == "0.123"
    assert between({"low": math.nan, "high": 1.0}) == ""


def test_networks_are_compared_by_name(call, photos, tmp_path, no_figures):
    out = tmp_path / "out"
    args = ("--network", "people", "--network", "people_unet", "--source", photos, "--all-photos")
    code, said, _ = call(*args, "-o", out)
    assert code == 0
    assert {name for name in ("people", "people_unet") if name in said} == {"people", "people_unet"}
    assert (out / "metrics.json").is_file()


def test_a_name_that_is_none_is_said_with_near_ones(call, photos):
    code, _, err = call("--network", "poeple", "--source", photos, "--all-photos")
    assert code == 1 and "Did you mean 'people'" in err
