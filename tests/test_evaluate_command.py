"""`unetlib evaluate`: its numbers are those of a direct computation, its page and files hold them,
and what is missing or wrong is said in a line."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_evaluate import save
from toy_course import text_of

from unetlib.app import cli
from unetlib.app.evaluate import FILES
from unetlib.data.sources import open_settings, open_source
from unetlib.evaluate import measure
from unetlib.predict import Predictor

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


def record(folder: Path) -> dict:
    text = (folder / "metrics.json").read_text("utf-8")
    assert "NaN" not in text
    return json.loads(text)


def direct(path: Path, source: str, threshold: float) -> dict[str, float]:
    """IoU of each photo, without the command."""
    pairs = open_source(source, val_fraction=0).train
    table = measure(Predictor(path, "cpu"), pairs, threshold).table
    return dict(zip(table["id"], table["iou"], strict=True))


def test_one_network(root, photos, call, tmp_path):
    path = save(tmp_path / "my net.pth", 3)
    args = [path, "--source", photos, "--all-photos", "--threshold", "0.48"]
    code, out, err = call(*args)
    assert code == 0, err
    wanted = direct(path, photos, 0.48)
    mean = np.mean(list(wanted.values()))
    assert re.search(rf"^IoU +{mean:.3f} +\d\.\d+ +\d\.\d+$", out, re.M)
    assert "9 photos of folder" in out and "Scores of my net.pth at threshold 0.48" in out
    assert re.search(r"Best threshold 0\.\d+ .*calibration error \d\.\d+", out) and "texture" in out
    folder = root / "outputs/evaluation/my net"
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    rows = pd.read_csv(folder / "evaluation.csv").set_index("id")["iou"]
    assert rows.to_dict() == pytest.approx(wanted)
    assert record(folder)["scores"]["my net.pth"]["iou"]["mean"] == pytest.approx(mean)
    page, text = (folder / FILES[0]).read_text("utf-8"), text_of(folder / FILES[0])
    assert "data:image/png;base64," in page and f"{mean:.3f}" in text
    assert not re.search('<[^>]*(src|href)="http', page)  # all in one file
    assert all(id in text for id in wanted) and "boundary IoU" in text
    # an earlier evaluation stays unless asked
    for more in ([], ["-o", folder]):
        code, _, err = call(*args, *more)
        assert code and f"there are results in {folder}: --overwrite" in err
    assert call(*args, "--no-difficulty", "-o", folder, "--overwrite")[0] == 0
    assert "texture" not in pd.read_csv(folder / "evaluation.csv")


def test_several_networks_and_a_spoilt_one(photos, call, tmp_path):
    paths = [save(tmp_path / "all.pth", bias=4.0), save(tmp_path / "twin.pth", 1, bias=4.0)]
    paths.append(save(tmp_path / "none.pth", bias=-4.0))
    spoilt = tmp_path / "spoilt.pth"
    spoilt.write_bytes(b"no weights")
    code, out, _ = call(spoilt, *paths, "--source", photos, "--all-photos", "-o", "board")
    assert code == 1
    assert re.search(r"^- spoilt.pth failed: .*damaged", out, re.M)
    best, _, other = (np.mean(list(direct(path, photos, 0.5).values())) for path in paths)
    assert other == 0
    assert re.search(rf"^all.pth +{best:.3f} .* the best ", out, re.M)
    assert re.search(rf"^twin.pth +{best:.3f} .* cannot tell ", out, re.M)
    assert re.search(rf"^none.pth +0.000 .* {best:.3f} .* better ", out, re.M)
    found = record(tmp_path / "board")
    assert [row["name"] for row in found["networks"]] == ["all.pth", "twin.pth", "none.pth"]
    models = pd.read_csv(tmp_path / "board/evaluation.csv")["model"].tolist()
    assert models == ["all.pth"] * 9 + ["twin.pth"] * 9 + ["none.pth"] * 9
    text = text_of(tmp_path / "board/evaluation.html")
    assert "Which is the best, and" in text and "spoilt.pth failed" in text


def test_the_val_photos_of_the_training(root, photos, call):
    """Without a name it is the network of outputs/checkpoints; --all takes each content once."""
    save(root / "outputs/checkpoints/best_model.pth", 1, source=photos)
    for seed, name in enumerate(("first", "second one"), 2):
        made = save(root / f"outputs/runs/{name}/checkpoints/best_model.pth", seed, source=photos)
    val = open_source(photos).val
    code, out, _ = call("--no-difficulty")
    assert code == 0 and f"{len(val)} val photos (of 9) of folder" in out
    assert "trained on" not in out and "hard" not in out
    shutil.copy2(made, root / "outputs/checkpoints/best_model.pth")
    for name in ("training_state.pth", "notes.txt"):
        (root / "outputs/checkpoints" / name).write_bytes(b"no network")
    save(made.with_name("last_model.pth"), 9)
    code, out, err = call("--all", "--no-difficulty")
    assert code == 0, err
    found = record(root / "outputs/evaluation/leaderboard")["networks"]
    assert {row["name"] for row in found} == {"first", "second one"}
    code, out, _ = call("people", "--all", "--no-difficulty", "--source", photos, "-o", "more")
    assert code == 0 and len(record(Path("more"))["networks"]) == 3 and "may know some" in out
    assert (root / "outputs/evaluation/leaderboard/evaluation.html").is_file()
    code, out, _ = call("outputs/runs/first", "--all-photos", "--no-difficulty", "-o", "again")
    assert "Photos of the training are among these" in out


def test_the_val_photos_are_divided_as_in_the_training(root, photos, call):
    """Also those of a notebook, whose source and folder are two settings."""
    where = {"source_root": photos.removeprefix("folder:"), "data_dir": "", "count": 0}
    how = where | {"source": "synthetic", "image_size": 32, "seed": 5, "val_fraction": 0.6}
    save(root / "outputs/checkpoints/best_model.pth", 1, **how)
    code, out, err = call("--no-difficulty")
    assert code == 0, err
    table = pd.read_csv(root / "outputs/evaluation/best_model/evaluation.csv")
    assert table["id"].tolist() == [pair.id for pair in open_settings(**how).val]
    assert call("best", "--no-difficulty", "--source", photos, "-o", "same")[0] == 0
    assert pd.read_csv("same/evaluation.csv")["id"].tolist() == table["id"].tolist()
    args = ["--no-difficulty", "--source", photos, "--seed", 3, "-o", "third"]
    assert call("best", *args)[0] == 0
    assert record(Path("third"))["photos"] == len(open_source(photos, seed=3).val)
    table = pd.read_csv("third/evaluation.csv")
    assert table["id"].tolist() == [pair.id for pair in open_source(photos, seed=3).val]


def test_masks_of_another_program(root, photos, call, tmp_path):
    truth, made = tmp_path / "my set/masks", tmp_path / "their masks"
    made.mkdir()
    wanted = []
    for path in sorted(truth.iterdir()):
        mask = np.asarray(Image.open(path)) > 127
        moved = np.roll(mask, 2, axis=1)
        Image.fromarray(moved * np.uint8(255)).save(made / path.name)
        wanted.append((mask & moved).sum() / (mask | moved).sum())
    code, out, err = call("--predictions", made, "--masks", truth, "--saliency")
    assert code == 0, err
    assert re.search(rf"^IoU +{np.mean(wanted):.3f} ", out, re.M) and "S-measure" in out
    folder = root / "outputs/evaluation/their masks"
    assert "view a" in text_of(folder / "evaluation.html")
    labels = (np.asarray(Image.open(made / "view c.png")) > 0).astype(np.uint8)
    Image.fromarray(labels).save(made / "view c.png")
    args = ["--predictions", made, "--masks", truth, "--overwrite"]
    code, out, _ = call(*args, "--threshold", "best")
    assert code == 0 and "it flatters" in out and out.count("view c.png holds 0 and 1 only") == 1


@pytest.mark.parametrize("value", [0, 255])
def test_what_is_undefined(root, photos, call, tmp_path, value):
    """Masks of one class only, and a single photo: no NaN in the page or in the JSON."""
    for number, path in enumerate((tmp_path / "my set/masks").iterdir()):
        Image.new("L", (32, 24), value).save(path)
        if number:
            path.unlink()
    path = save(tmp_path / "net.pth", 1)
    code, out, err = call(path, "--source", photos, "--all-photos")
    assert code == 0, err
    text = text_of(root / "outputs/evaluation/net/evaluation.html")
    assert not re.search(r"\bnan\b", f"{text} {out}".lower())
    assert record(root / "outputs/evaluation/net")["networks"][0]["lead"] == 0


def test_files_that_are_no_images_are_left_out_by_name_and_names_have_any_bytes(
    photos, call, tmp_path
):
    for name in "abcdef":
        (tmp_path / f"my set/images/view {name}.jpg").write_bytes(b"no image")
    strange = sys.platform == "linux"  # elsewhere they are Unicode
    for path in tmp_path.glob("my set/*/view g.*") if strange else ():
        os.rename(path, os.fsencode(path.parent) + b"/<b> & $\xff" + os.fsencode(path.suffix))
    args = ["--source", photos, "--all-photos", "-o", "out"]
    code, out, _ = call(save(tmp_path / "net.pth"), *args)
    assert code == 0 and "3 photos of folder" in out and "view a.jpg" in out
    text = text_of(tmp_path / "out/evaluation.html")
    assert "view a.jpg" in text and (r"<b> & $\udcff" in text) == strange
    assert (r"<b> & $\udcff" in (tmp_path / "out/evaluation.csv").read_text("utf-8")) == strange


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--threshold", "1.5"], "--threshold is a number between 0 and 1, or best, not '1.5'"),
        (["--predictions", "a"], "belong together"),
        (["net.pth", "--predictions", "a", "--masks", "b"], "without a network"),
        (["--all"], "no network in"),
        ([], "no network of your own yet"),
        (["gone"], "no network is called 'gone'"),
        (["net.pth", "--source", "SET", "-o", "net.pth"], "net.pth"),
        (["net.pth"], "(?s)(no such folder|has not the folders|no usable pair)"),
        (["alone.onnx"], "(?s)alone.pth.*--source SPEC says"),
    ],
)
def test_what_cannot_be_done_is_one_line(photos, call, tmp_path, args, words):
    save(tmp_path / "net.pth", source="synthetic")
    (tmp_path / "alone.onnx").write_bytes(b"no network")
    code, out, err = call(*(photos if arg == "SET" else arg for arg in args))
    assert code in (1, 2) and re.search(words, err), err
    assert err.count("unetlib:") == 1 and "Traceback" not in err and not out
