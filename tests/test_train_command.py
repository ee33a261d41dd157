"""`unetlib train`: from options and YAML to checkpoints, and what it says when that cannot be."""

import ast
import json
import signal
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from unetlib.app import cli
from unetlib.app.train import TrainOptions, read_options
from unetlib.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unetlib.config import TrainConfig
from unetlib.data.preprocess import Preprocess
from unetlib.models import MODELS, build_model

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--base", "4", "--depth", "2", "--image-size", "32", "--epochs", "1", "--batch-size", "8"]
TINY += ["--device", "cpu", "--workers", "0", "--data-root", "photos"]
BARE = ["--no-timelapse", "--tracking", "none"]


@pytest.fixture
def place(root, tmp_path, make_pairs) -> Path:
    """A folder with photos, where the command runs; what it writes is in root/outputs."""
    make_pairs([f"photo{i}" for i in range(30)], tmp_path / "photos")
    return tmp_path


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", *args])
    return exit_.value.code or 0


def outputs(place: Path, name: str = "outputs") -> set[str]:
    folder = place / "root" / name
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def weights(place: Path, name: str = "outputs", which: str = "best") -> dict[str, torch.Tensor]:
    path = place / "root" / name / "checkpoints" / f"{which}_model.pth"
    return load_checkpoint(path).model.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_a_training_leaves_everything_and_its_yaml_trains_the_same_again(place, begin):
    options = ["--count", "24", *TINY[:-2], "--epochs", "2", "--data-dir", "drawn"]
    process = begin("train", *options)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "epoch 2/2" in errors
    said = said.splitlines()
    assert said[0].startswith("synthetic: ") and "val pairs in " in said[0]
    assert said[1].startswith("unet_small: ") and said[1].endswith(" parameters")
    assert said[-1].startswith("val IoU 0.") and "best_model.pth (finished)" in said[-1]
    found = outputs(place)
    assert {"checkpoints/best_model.pth", "checkpoints/last_model.pth", "train.yaml"} <= found
    assert {f"timelapse/sample_00/epoch_{n:03d}.png" for n in (0, 1, 2)} <= found
    assert any(name.startswith("tensorboard/") for name in found)
    last = load_checkpoint(place / "root" / "outputs" / "checkpoints" / "last_model.pth")
    assert last.epoch == 2 and last.extra["source"] == "synthetic"

    written = yaml.safe_load((place / "root" / "outputs" / "train.yaml").read_text())
    assert TrainOptions(**written).epochs == 2 and "source_root" not in written
    assert call("--config", "root/outputs/train.yaml", "--outputs-dir", "again", *BARE) == 0
    assert same(weights(place, which="last"), weights(place, "again", "last"))
    assert call("--config", "root/outputs/train.yaml", "--outputs-dir", "b", "--lr", "1e-4") == 0
    assert not same(weights(place, which="last"), weights(place, "b", "last"))
    assert yaml.safe_load((place / "root" / "b" / "train.yaml").read_text())["lr"] == 1e-4


def test_the_earlier_systems_arguments_and_fine_tuning_of_ones_own_best(place, capsys):
    options = "--data-root photos --img-size 32 --batch-size 8 --epochs 1 --lr 1e-3 --timelapse"
    options += " --model unet --base 4 --depth 2 --loss dice --schedule cosine --device cpu"
    assert call(*options.split()) == 0
    assert "folder: 27 train + 3 val pairs" in capsys.readouterr().out
    written = yaml.safe_load((place / "root" / "outputs" / "train.yaml").read_text())
    assert written["source"] == "folder" and written["image_size"] == 32
    assert written["source_root"] == str(place / "photos")  # from any folder
    first, best = weights(place), "root/outputs/checkpoints/best_model.pth"
    options = options.replace("--lr 1e-3", "--lr 1e-30") + f" --pretrained-checkpoint {best}"
    assert call(*options.split()) == 0
    parameters = dict(build_model("unet", base=4, depth=2).named_parameters())
    assert all(torch.equal(first[name], weights(place)[name]) for name in parameters)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_the_same_command_goes_on_with_what_was_cut_off(place, begin):
    options = [*TINY, "--epochs", "3"]
    assert call(*options, "--outputs-dir", "undisturbed") == 0
    for signal_, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        process = begin("train", *options)
        state = place / "root/outputs/checkpoints/training_state.pth"
        stamp = state.stat().st_mtime_ns if state.exists() else 0
        while not state.exists() or state.stat().st_mtime_ns == stamp:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal_)
        process.communicate(timeout=100)
        assert process.returncode == code
    assert call(*options) == 0
    assert same(weights(place, which="last"), weights(place, "undisturbed", "last"))
    timelapse = "timelapse/sample_00/scores.csv"
    for name in (timelapse, timelapse.replace("scores.csv", "epoch_000.png")):
        there = place / "root" / "undisturbed" / name
        assert (place / "root" / "outputs" / name).read_bytes() == there.read_bytes()
    assert not [name for name in outputs(place) if "model-" in name]  # nothing to keep


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_second_training_in_the_folder_is_refused_and_a_killed_one_in_nobodys_way(place, begin):
    first = begin("train", *TINY, *BARE, "--epochs", "10000")
    while not (place / "root/outputs/checkpoints/training_state.pth").exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = begin("train", *TINY, *BARE, "--lr", "0.1", "--no-resume")
    said = second.communicate(timeout=100)[1].splitlines()[-1]
    assert second.returncode == 1 and f"process {first.pid}, since 20" in said, said
    assert "outputs/checkpoints" in said and "another folder" in said
    first.kill()
    first.communicate()
    assert call(*TINY, *BARE, "--no-resume") == 0
    assert not (place / "root/outputs/checkpoints/.training.lock").exists()


BAD = {
    "model": (["--model", "unet_smal"], 2, ["'unet_smal'", *MODELS, "Did you mean 'unet_small'?"]),
    "source": (["--source", "foldr"], 2, ["'foldr'", "pennfudan", "Did you mean 'folder'?"]),
    "option": (["--epoch", "3"], 2, ["--epoch", "--epochs"]),
    "yaml key": (["--config", "key.yaml"], 2, ["key.yaml", "'epoch'", "Did you mean 'epochs'?"]),
    "yaml broken": (["--config", "broken.yaml"], 2, ["broken.yaml", "line 1"]),
    "no outputs": (["--outputs-dir", " "], 2, ["--outputs-dir", "is empty (a variable that is"]),
    "no yaml value": (["--config", "none.yaml"], 2, ["none.yaml: data_root is empty"]),
    "init": (["--init-from", "other.pth"], 2, ["other.pth", "another architecture"]),
    "yaml value": (["--config", "value.yaml"], 2, ["value.yaml: epochs: 0 is not in the range"]),
    "yaml list": (["--config", "list.yaml"], 2, ["list.yaml: ", "lines like `NAME: VALUE`"]),
    "loss nan": (["--lr", "1e30", "--clip", "0", "--schedule", "constant"], 1, ["a finite number"]),
    "file": (["--outputs-dir", "file"], 1, ["Not a directory", "file/checkpoints"]),
    "data": (["--data-root", "gone"], 2, ["no such folder: gone"]),
    "cuda": (["--device", "cuda:99"], 1, ["'cuda:99' was asked for"]),
    "float16": (["--precision", "float16"], 2, ["float16 training needs an NVIDIA GPU"]),
}


@pytest.fixture(scope="module")
def trained() -> dict[str, bytes]:
    """What an earlier training left in outputs, by name; the first test makes it."""
    return {}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line_and_leaves_the_earlier_training_alone(
    place, capsys, trained, name
):
    options, code, words = BAD[name]
    if not trained:
        assert call(*TINY, *BARE) == 0
        trained |= {name: (place / "root/outputs" / name).read_bytes() for name in outputs(place)}
    for path, content in trained.items():
        file = place / "root" / "outputs" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    texts = {"key": "epoch: 3", "broken": "epochs: [1\nlr: {", "none": "data_root:"}
    texts |= {"value": "epochs: 0", "list": "- epochs"}
    for stem, text in texts.items():
        (place / f"{stem}.yaml").write_text(text)
    other = Checkpoint(build_model("unet_small", base=8), Preprocess(32))
    save_checkpoint(place / "other.pth", other)
    (place / "root" / "file").touch()
    capsys.readouterr()

    assert call(*TINY, *BARE, *options) == code
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.strip()]
    assert lines[-1].startswith(("unetlib: ", "Error: ")), said  # after the progress, or usage
    left = {name: (place / "root/outputs" / name).read_bytes() for name in outputs(place)}
    assert left.items() >= trained.items()


def test_help_fits_a_terminal_and_names_every_setting():
    said = CliRunner().invoke(cli.app, ["train", "--help"], terminal_width=80).output
    assert max(map(len, said.splitlines())) <= 80
    for f in fields(TrainOptions):
        assert f"--{f.name.replace('_', '-')}" in said
    for alias in ("--data-root", "--img-size", "--pretrained-checkpoint"):
        assert alias in said


# --- the settings themselves


def test_names_and_values_that_are_understood(tmp_path):
    file = tmp_path / "settings.yaml"
    text = "img_size: 64\npretrained_checkpoint: a\ndata-root: x\nlr: 1e-3\nresume: no\nseed: '7'"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):  # PowerShell writes the last
        file.write_text(text, encoding=encoding)
        o = TrainOptions(**read_options(file))
        assert (o.image_size, o.init_from, o.source_root) == (64, "a", "x")
        assert (o.lr, o.resume, o.seed) == (1e-3, False, 7)
    with pytest.raises(ValueError, match="epochs: '1e2' is not a valid integer"):
        TrainOptions(epochs="1e2")
    for field, value in (("epochs", True), ("lr", float("inf"))):
        with pytest.raises(ValueError, match=rf"^{field}: "):
            TrainConfig(**{field: value})


def test_one_set_of_defaults_and_names_that_agree_with_those_who_use_them():
    options = TrainOptions()
    assert asdict(TrainConfig()).items() <= asdict(options).items()
    notebook = json.loads((ROOT / "notebooks" / "03_train.ipynb").read_text(encoding="utf-8"))
    (cell,) = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    statements = ast.parse("".join(cell["source"])).body
    found = {s.targets[0].id: ast.literal_eval(s.value) for s in statements}
    assert found and found.items() <= asdict(options).items()
