"""Curves, pictures and settings of a training, read back as TensorBoard and wandb read them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unetlib import keeper
from unetlib.data import make_loaders, open_source
from unetlib.models import build_model
from unetlib.tracking import Tracker
from unetlib.training import TrainConfig, fit, seed_everything

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"lr": 0.01, "model": "unet_small", "epochs": 3, "compile": False, "loss": "bce + dice"}


def train(folder, kind="tensorboard", epochs=3, resume=False):
    """A training of `folder`/data that is tracked in `folder`/log."""
    source = open_source("folder", Path(folder) / "data", val_fraction=0.25)
    loaders = make_loaders(source, 32, 4, seed=3, workers=0)
    seed_everything(0)
    model = build_model("unet_small", base=4, depth=2)
    tracker = Tracker(kind, Path(folder) / "log", SETTINGS, loaders[1].dataset, [0, 1])
    result = fit(
        model, *loaders, TrainConfig(epochs=epochs, lr=1e-2), out_dir=Path(folder) / "out",
        resume=resume, on_epoch=[tracker], device="cpu", progress=False,
    )  # fmt: skip
    tracker.close(result.best if result.stopped != "interrupted" else {})
    return result


@pytest.fixture
def folder(tmp_path, make_pairs, monkeypatch):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    make_pairs([f"photo{i}" for i in range(24)], tmp_path / "data")
    return tmp_path


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "log"), size_guidance={"images": 0, "scalars": 0})
    return found.Reload()


def curve(found, tag) -> dict[int, float]:
    points = found.Scalars(tag)
    assert len({p.step for p in points}) == len(points), f"{tag}: two points in one epoch"
    return {p.step: p.value for p in points}


def test_tensorboard_has_a_point_per_epoch_and_nothing_is_written_elsewhere(folder):
    result = train(folder)
    found = events(folder)
    for row, timing in zip(result.history, result.timings, strict=True):
        for name, value in (row | timing).items():
            if name != "epoch":
                phase, _, rest = name.partition("_")
                tag = f"{phase}/{rest}" if phase in ("train", "val") else f"training/{name}"
                assert curve(found, tag)[row["epoch"]] == pytest.approx(value, rel=1e-6)
    expected = {"train/loss", "train/bce_loss", "val/loss", "val/iou", "val/dice", "training/lr"}
    assert expected <= set(found.Tags()["scalars"])
    assert list(curve(found, "val/iou")) == [1, 2, 3]
    best = max(row["val_iou"] for row in result.history)
    assert curve(found, "best/val_iou") == {result.best_epoch: pytest.approx(best)}
    names = {p.name for p in folder.iterdir()} - {"cache"}
    assert names == {"data", "log", "out"}
    assert all(p.name.startswith("events.out.tfevents.") for p in (folder / "log").rglob("*"))


def test_tensorboard_has_pictures_of_every_epoch(folder):
    import cv2
    import numpy as np

    train(folder)
    found = events(folder)
    assert found.Tags()["images"] == ["sample_00", "sample_01"]
    pictures = found.Images("sample_01")
    assert [p.step for p in pictures] == [1, 2, 3]
    strip = cv2.imdecode(np.frombuffer(pictures[0].encoded_image_string, np.uint8), 1)
    assert strip.shape == (32, 96, 3)  # photo, truth, prediction
    photo, truth = strip[:, :32].astype(int), strip[:, 32:64].astype(int)
    assert np.abs(photo[0, 0] - truth[0, 0]).max() < np.abs(photo[16, 16] - truth[16, 16]).max()


def test_tensorboard_has_the_settings(folder):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    train(folder, epochs=1)
    content = events(folder).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    kinds = {float: "number_value", int: "number_value", bool: "bool_value", str: "string_value"}
    for name, value in SETTINGS.items():
        assert getattr(found[name], kinds[type(value)]) == value
    content = events(folder).summary_metadata["_hparams_/experiment"].plugin_data.content
    metrics = HParamsPluginData.FromString(content).experiment.metric_infos
    assert {m.name.tag for m in metrics} == {"best/val_iou", "best/val_dice"}


def test_a_second_training_replaces_the_curves_of_the_first(folder):
    train(folder, epochs=3)
    (folder / "log" / "notes.txt").write_text("mine")
    second = train(folder, epochs=2)
    assert list(curve(events(folder), "val/iou")) == [1, 2]
    assert curve(events(folder), "val/iou")[2] == pytest.approx(second.history[1]["val_iou"])
    assert len(events(folder).Images("sample_00")) == 2
    assert (folder / "log" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError], ids=["Ctrl-C", "killed"])
def test_a_training_that_goes_on_has_no_point_twice(folder, monkeypatch, error):
    expected = train(folder, epochs=4)
    save = keeper.Keeper.save_state

    def cut_off(self, state):
        if state.at.epoch == 4:  # what epoch 3 did is recorded, but not kept
            raise error
        save(self, state)

    with monkeypatch.context() as context:
        context.setattr(keeper.Keeper, "save_state", cut_off)
        if error is KeyboardInterrupt:
            assert train(folder, epochs=4).stopped == "interrupted"
        else:
            with pytest.raises(error):
                train(folder, epochs=4)
    assert list(curve(events(folder), "val/iou")) == [1, 2, 3]
    time.sleep(1.1)  # records are read in the order of their names, which are seconds
    result = train(folder, epochs=4, resume=True)
    assert result.history == expected.history
    found = events(folder)
    ious = {row["epoch"]: pytest.approx(row["val_iou"]) for row in expected.history}
    assert curve(found, "val/iou") == ious
    assert [p.step for p in found.Images("sample_00")] == [1, 2, 3, 4]
    assert list(curve(found, "best/val_iou")) == [result.best_epoch]


def test_a_finished_training_that_is_resumed_leaves_the_record_alone(folder):
    train(folder)
    before = {p: p.read_bytes() for p in (folder / "log").iterdir()}
    train(folder, resume=True)
    assert {p: p.read_bytes() for p in (folder / "log").iterdir()} == before


def test_without_samples_there_are_curves_only(tmp_path):
    tracker = Tracker("tensorboard", tmp_path / "log", SETTINGS, None, [])
    tracker(1, torch.nn.Identity(), {"epoch": 1, "train_loss": 0.5})
    tracker.close({"epoch": 1, "train_loss": 0.5})
    assert events(tmp_path).Tags()["scalars"] == ["train/loss"]


def test_the_model_stays_as_it_was(folder):
    source = open_source("folder", folder / "data")
    _, val = make_loaders(source, 32, 4, workers=0)
    model = build_model("unet_small", base=4, depth=2).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Tracker("tensorboard", folder / "log", {}, val.dataset, [0])(1, model, {"val_iou": 0.5})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(ImportError, match=rf'pip install "unetlib\[{kind}\]".*tracking=.none'):
        Tracker(kind, tmp_path / "log", {}, [], [])
    assert not (tmp_path / "log").exists()


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tensorboard, wandb or none, not 'mlflow'"):
        Tracker("mlflow", tmp_path / "log", {}, [], [])


def wandb_run(folder, mode):
    pytest.importorskip("wandb")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    environment |= {"WANDB_MODE": mode, "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    code = f"from tests.test_tracking import train; train({str(folder)!r}, 'wandb')"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_wandb_offline_writes_its_run_into_the_folder(folder):
    done = wandb_run(folder, "offline")
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = (folder / "log").rglob("offline-run-*/run-*.wandb")
    content = run.read_bytes()  # records of wandb's own, with the names and numbers as plain text
    assert content.count(b"val_iou") >= 3 and b"best_val_iou" in content
    assert all(name.encode() in content for name in SETTINGS)
    pictures = [p.name for p in (folder / "log").rglob("sample_*.png")]
    assert len(pictures) == 6 and len(set(pictures)) == 6  # two samples, three epochs
    assert {p.name for p in folder.iterdir()} <= {
        "data",
        "log",
        "out",
        "cache",
        ".cache",
        ".config",
    }


def test_wandb_without_an_account_says_so_before_the_first_epoch(folder):
    done = wandb_run(folder, "online")
    assert done.returncode == 1
    assert "set WANDB_MODE=offline" in done.stderr.splitlines()[-1]
    assert not (folder / "out").exists()
