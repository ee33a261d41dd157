"""`unetlib train`: from options and YAML to checkpoints, and what it says when that cannot be."""

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from unetlib import keeper
from unetlib.app import cli
from unetlib.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unetlib.config import TrainOptions
from unetlib.data import Preprocess
from unetlib.models import MODELS, build_model

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--base", "4", "--image-size", "32", "--epochs", "1", "--batch-size", "8"]
TINY += ["--device", "cpu", "--workers", "0", "--data-root", "photos"]


@pytest.fixture
def place(root, tmp_path, make_pairs, monkeypatch) -> Path:
    """A folder with photos, where the command runs; what it writes is in root/outputs."""
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
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


def test_a_training_leaves_everything_and_its_yaml_trains_the_same_again(place):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    options = ["--count", "40", *TINY[:-2], "--epochs", "2", "--data-dir", "drawn"]
    done = subprocess.run(
        [sys.executable, "-m", "unetlib", "train", *options],
        env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "epoch 2/2" in done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("synthetic: 31 train + 9 val pairs in ")
    assert said[1] == "unet_small: 68,057 parameters"
    assert said[-1].startswith("val IoU 0.") and "best_model.pth (finished)" in said[-1]
    found = outputs(place)
    assert {"checkpoints/best_model.pth", "checkpoints/last_model.pth", "train.yaml"} <= found
    for sample in range(4):
        assert {f"timelapse/sample_{sample:02d}/epoch_{n:03d}.png" for n in (0, 1, 2)} <= found
    assert len([name for name in found if name.startswith("tensorboard/events")]) == 1
    last = load_checkpoint(place / "root" / "outputs" / "checkpoints" / "last_model.pth")
    assert last.epoch == 2 and last.extra["source"] == "synthetic"

    written = yaml.safe_load((place / "root" / "outputs" / "train.yaml").read_text())
    assert TrainOptions(**written).epochs == 2 and len(written) > 35
    assert call("--config", "root/outputs/train.yaml", "--outputs-dir", "again") == 0
    assert same(weights(place), weights(place, "again"))
    assert same(weights(place, which="last"), weights(place, "again", "last"))
    assert call("--config", "root/outputs/train.yaml", "--outputs-dir", "b", "--lr", "1e-4") == 0
    assert not same(weights(place, which="last"), weights(place, "b", "last"))
    assert yaml.safe_load((place / "root" / "b" / "train.yaml").read_text())["lr"] == 1e-4


def test_the_earlier_systems_arguments_and_fine_tuning_of_ones_own_best(place, capsys):
    options = "--data-root photos --img-size 32 --batch-size 8 --epochs 1 --lr 1e-3 --timelapse"
    options += " --model unet --base 4 --loss dice --schedule cosine --device cpu"
    assert call(*options.split()) == 0
    assert "folder: 27 train + 3 val pairs" in capsys.readouterr().out
    written = yaml.safe_load((place / "root" / "outputs" / "train.yaml").read_text())
    assert written["source"] == "folder" and written["image_size"] == 32
    assert written["source_root"] == str(place / "photos")  # from any folder
    first, best = weights(place), "root/outputs/checkpoints/best_model.pth"
    options = options.replace("--lr 1e-3", "--lr 1e-30") + f" --pretrained-checkpoint {best}"
    assert call(*options.split()) == 0
    parameters = dict(build_model("unet", base=4).named_parameters())
    assert all(torch.equal(first[name], weights(place)[name]) for name in parameters)


def test_a_second_training_keeps_the_earlier_under_its_date(place):
    assert call(*TINY, "--no-timelapse", "--tracking", "none") == 0
    assert outputs(place) == {
        "checkpoints/best_model.pth", "checkpoints/last_model.pth", "train.yaml",
    }  # fmt: skip
    first = {name: weights(place, which=name) for name in ("best", "last")}
    assert call(*TINY, "--seed", "1", "--no-timelapse", "--tracking", "none") == 0
    kept = outputs(place) - {"train.yaml"}
    assert len(kept) == 4
    for name in ("best", "last"):
        assert not same(first[name], weights(place, which=name))
        (dated,) = (place / "root/outputs/checkpoints").glob(f"{name}_model-*.pth")
        assert same(first[name], load_checkpoint(dated).model.state_dict())


def test_resume_of_a_finished_training_does_nothing(place, capsys):
    assert call(*TINY) == 0
    folder = place / "root" / "outputs"
    names = outputs(place) - {"checkpoints/last_model.pth"}
    before = {name: (folder / name).stat().st_mtime_ns for name in names}
    said = capsys.readouterr().out.splitlines()[-1]
    assert call(*TINY, "--resume") == 0
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert {name: (folder / name).stat().st_mtime_ns for name in names} == before
    assert outputs(place) == names | {"checkpoints/last_model.pth"}


def interrupt(monkeypatch, epoch: int) -> None:
    save = keeper.Keeper.save_state

    def pressed(self, state):
        save(self, state)
        if state.at.epoch > epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(keeper.Keeper, "save_state", pressed)


def test_the_same_command_goes_on_with_what_was_cut_off(place, monkeypatch, capsys):
    options = [*TINY, "--epochs", "3"]
    assert call(*options, "--outputs-dir", "undisturbed") == 0
    with monkeypatch.context() as context:
        interrupt(context, 2)
        assert call(*options) == 130
        assert capsys.readouterr().out.rstrip().endswith("(interrupted)")
    assert "checkpoints/training_state.pth" in outputs(place)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*Starting anew")
        assert call(*options) == 0
    assert same(weights(place, which="last"), weights(place, "undisturbed", "last"))
    timelapse = "timelapse/sample_00/scores.csv"
    for name in (timelapse, timelapse.replace("scores.csv", "epoch_000.png")):
        there = place / "root" / "undisturbed" / name
        assert (place / "root" / "outputs" / name).read_bytes() == there.read_bytes()
    assert not [name for name in outputs(place) if "model-" in name]  # nothing to keep


@pytest.mark.parametrize("options", [["--no-resume"], ["--seed", "1"]], ids=["asked", "another"])
def test_a_cut_off_training_that_is_not_gone_on_with_is_kept_too(place, monkeypatch, options):
    with monkeypatch.context() as context:
        interrupt(context, 1)
        assert call(*TINY, "--epochs", "2") == 130
    best = weights(place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "another one: starting anew"
        assert call(*TINY, *options) == 0
    (dated,) = (place / "root/outputs/checkpoints").glob("best_model-*.pth")
    assert same(best, load_checkpoint(dated).model.state_dict())


BAD = {
    "model": (["--model", "unet_smal"], 2, ["'unet_smal'", *MODELS, "Did you mean 'unet_small'?"]),
    "loss": (["--loss", "bce+dcie"], 2, ["'dcie'", "lovasz", "Did you mean 'dice'?"]),
    "schedule": (["--schedule", "cosin"], 2, ["'cosin'", "plateau", "Did you mean 'cosine'?"]),
    "optimizer": (["--optimizer", "adan"], 2, ["'adan'", "sgd", "Did you mean 'adam'?"]),
    "source": (["--source", "foldr"], 2, ["'foldr'", "pennfudan", "Did you mean 'folder'?"]),
    "option": (["--epoch", "3"], 2, ["--epoch", "--epochs"]),
    "yaml key": (["--config", "key.yaml"], 2, ["key.yaml", "'epoch'", "Did you mean 'epochs'?"]),
    "yaml list": (["--config", "list.yaml"], 2, ["list.yaml", "epochs: 20", "['a']"]),
    "yaml empty": (["--config", "empty.yaml"], 2, ["empty.yaml", "None"]),
    "yaml broken": (["--config", "broken.yaml"], 2, ["broken.yaml", "no YAML", "line 1"]),
    "yaml binary": (["--config", "cache.pth"], 2, ["cache.pth", "no YAML"]),
    "yaml missing": (["--config", "gone.yaml"], 1, ["'gone.yaml' not found"]),
    "argument": (["--model", "u2net"], 2, ["u2net takes no argument 'base'", "encoder, decoder"]),
    "pretrained": (["--pretrained"], 2, ["unet_small takes no argument 'pretrained'", "base"]),
    "multiple": (["--model", "unet_pooled", "--image-size", "50", "--base", "0"], 2,
                 ["image_size 50", "multiples of 32", "32×32 and 64×64"]),
    "small": (["--model", "unet", "--image-size", "8"], 2, ["image_size 8", "at least 16×16"]),
    "depth": (["--depth", "12"], 2, ["halves its input 12 times"]),
    "lone value": (["--image-size", "16", "--batch-size", "1"], 2, ["batch_size 1", "more than 1"]),
    "lr 0": (["--lr", "0"], 2, ["lr is greater than 0, not 0.0"]),
    "lr -1": (["--lr", "-1"], 2, ["lr is greater than 0, not -1.0"]),
    "lr nan": (["--lr", "nan"], 2, ["lr is a finite number, not nan"]),
    "lr text": (["--lr", "fast"], 2, ["--lr", "'fast' is not a valid float"]),
    "epochs 0": (["--epochs", "0"], 2, ["epochs is at least 1, not 0"]),
    "init": (["--init-from", "other.pth"], 2, ["other.pth", "bottom.0.weight is (64,", "more"]),
    "init missing": (["--init-from", "gone.pth"], 1, ["'gone.pth' not found"]),
    "init yaml": (["--init-from", "key.yaml"], 2, ["key.yaml is damaged or not a checkpoint"]),
    "resume model": (["--resume", "--base", "8"], 2, ["another one", "'base': 4", "'base': 8"]),
    "resume data": (["--resume", "--data-root", "more"], 2, ["another one", "27 there, 5 here"]),
    "resume lr": (["--resume", "--lr", "1"], 2, ["another one", "lr: 0.004 there, 1.0 here"]),
    "resume loss": (["--resume", "--loss", "dice"], 2, ["another one", "loss: "]),
    "file": (["--outputs-dir", "file"], 1, ["outputs_dir", "cannot be written to"]),
    "data": (["--data-root", "gone"], 1, ["'gone' not found"]),
    "no data": (["--data-root", "root"], 2, ["root has not the folders of a dataset", "images"]),
    "cuda": (["--device", "cuda"], 1, ["'cuda' was asked for", "has only: cpu"]),
    "device": (["--device", "gpu"], 2, ["unknown device 'gpu'", "cuda"]),
    "float16": (["--precision", "float16"], 2, ["float16 training needs an NVIDIA GPU"]),
    "tracker": (["--tracking", "wandb"], 1, ["needs the package wandb", "unetlib[wandb]"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> dict[str, bytes]:
    """What an earlier training left in outputs, by name; the first test makes it."""
    return {}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line_and_leaves_the_earlier_training_alone(
    place, make_pairs, monkeypatch, capsys, trained, name
):
    options, code, words = BAD[name]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    if not trained:
        assert call(*TINY) == 0
        trained |= {name: (place / "root/outputs" / name).read_bytes() for name in outputs(place)}
    for path, content in trained.items():
        file = place / "root" / "outputs" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    make_pairs([f"more{i}" for i in range(10)], place / "more")
    texts = {"key": "epoch: 3", "list": "- a", "empty": "", "broken": "epochs: [1\nlr: {"}
    for stem, text in texts.items():
        (place / f"{stem}.yaml").write_text(text)
    (place / "cache.pth").write_bytes(b"\xff\xfe\x00")
    other = Checkpoint(build_model("unet_small", base=8), Preprocess(32))
    save_checkpoint(place / "other.pth", other)
    (place / "root" / "file").touch()
    capsys.readouterr()

    assert call(*TINY, *options) == code
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.strip() and "drawing" not in line]
    assert len(lines) == 1 or lines[-1].startswith("Error: "), said  # click shows the usage too
    left = {name: (place / "root/outputs" / name).read_bytes() for name in outputs(place)}
    assert left == trained


def no_room(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("options", "save", "code", "words"),
    [
        (["--lr", "1e30", "--clip", "0"], torch.save, 1, ["loss is no longer a finite number"]),
        ([], no_room, 2, ["best_model.pth", "No space left", "free some disk space"]),
    ],
    ids=["NaN", "disk full"],
)
def test_a_failure_within_the_training_leaves_the_earlier_best_too(
    place, monkeypatch, capsys, options, save, code, words
):
    assert call(*TINY) == 0
    before = weights(place)
    monkeypatch.setattr(torch, "save", save)
    assert call(*TINY, *options) == code
    said = capsys.readouterr().err
    assert all(word in said.splitlines()[-1] for word in words) and "Traceback" not in said
    assert same(before, weights(place))


def test_debug_shows_the_traceback(place):
    with pytest.raises(ValueError, match="no model is called"):
        cli.main(["train", *TINY, "--model", "nobody", "--debug"])


def test_help_fits_a_terminal_and_names_every_setting(capsys):
    from click.testing import CliRunner

    said = CliRunner().invoke(cli.app, ["train", "--help"], terminal_width=80).output
    assert max(map(len, said.splitlines())) <= 80
    for name in TrainOptions.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in said
    for alias in ("--data-root", "--img-size", "--pretrained-checkpoint"):
        assert alias in said
