"""A training that is killed and started again ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unetlib import keeper
from unetlib.checkpoint import CheckpointError, load_checkpoint
from unetlib.data import make_loaders, open_source
from unetlib.models import build_model
from unetlib.training import FitResult, TrainConfig, TrainingWarning, fit, seed_everything

# Everything that has a state: dropout, augmentation, shuffling, moving average, momentum of the
# optimiser, a schedule in the middle of its way, batches that are added up.
CONFIG = {"epochs": 4, "lr": 1e-2, "schedule": "onecycle", "ema": 0.9, "accumulate": 2}
SCRIPT = """
import sys
from unetlib import keeper
from tests.test_resume import train
keeper.SAVE_SECONDS = float(sys.argv[2])
train(sys.argv[1], data=sys.argv[3])
"""
ROOT = Path(__file__).resolve().parents[1]


def train(folder, resume=True, model=None, data=None, **settings) -> FitResult:
    folder = Path(folder)
    source = open_source("folder", data or folder / "data", val_fraction=0.25)
    loaders = make_loaders(source, 32, 4, "strong", seed=3, workers=0)
    seed_everything(0)
    net = build_model("unet_small", **{"base": 4, "depth": 2, "dropout": 0.3, **(model or {})})
    config = TrainConfig(**{**CONFIG, **settings})
    resume = {"True": True, "False": False}.get(resume, resume)
    return fit(
        net, *loaders, config, out_dir=folder / "out", resume=resume, device="cpu", progress=False
    )


@pytest.fixture
def folder(tmp_path, make_pairs, monkeypatch):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    make_pairs([f"photo{i}" for i in range(24)], tmp_path / "data")
    return tmp_path


def same(first: FitResult, second: FitResult) -> None:
    assert first.history == second.history
    assert (first.best_epoch, first.stopped) == (second.best_epoch, second.stopped)
    for one, two in (
        (first.best_path, second.best_path),
        (first.last_path, second.last_path),
    ):
        a, b = load_checkpoint(one), load_checkpoint(two)
        assert a.epoch == b.epoch and a.history == b.history
        for name, value in a.model.state_dict().items():
            assert torch.equal(value, b.model.state_dict()[name]), name


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("save_seconds", [600, 0], ids=["between epochs", "after every step"])
def test_killed_at_any_moment_it_ends_bit_for_bit_the_same(folder, tmp_path_factory, save_seconds):
    def begin(into: Path):
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(into), str(save_seconds), str(folder / "data")],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    undisturbed = tmp_path_factory.mktemp("undisturbed")
    process = begin(undisturbed)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    state, kills = folder / "out" / keeper.STATE_FILE, 0
    while True:
        process = begin(folder)
        before = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None and kills < 3:  # until it has done a little more than before
            if state.exists() and state.stat().st_mtime_ns != before:
                time.sleep(0.02 * kills)  # each time at another point of the work
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        _, errors = process.communicate(timeout=300)
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, errors
            break
        kills += 1
    assert kills == 3
    assert not state.exists()  # it was as large as three checkpoints
    same(FitResult.load(undisturbed / "out"), FitResult.load(folder / "out"))


def test_interrupted_within_an_epoch_it_goes_on_from_the_last_saved_step(folder, monkeypatch):
    expected = train(folder, resume=False)
    (folder / "out").rename(folder / "expected")
    monkeypatch.setattr(keeper, "SAVE_SECONDS", 0)
    steps, save = [], keeper.Keeper.save_state

    def counting(self, state):
        save(self, state)
        steps.append((state.at.epoch, state.at.batches))
        if len(steps) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(keeper.Keeper, "save_state", counting)
    assert train(folder).stopped == "interrupted"
    assert steps == [(1, 2), (1, 4), (2, 0), (2, 2), (2, 4)]  # where no gradient waits for more
    found = train(folder)
    assert steps[5:7] == [(3, 0), (3, 2)]
    assert found.history == expected.history
    assert found.stopped == "finished"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": {"base": 8}}, r"model: .*'base': 4.* there, .*'base': 8.* here"),
        ({"lr": 1e-3}, r"lr: 0\.01 there, 0\.001 here"),
        ({"data": "other"}, r"number of photos: 21 there, 20 here"),
    ],
)
@pytest.mark.parametrize("ended", [True, False])
def test_another_training_is_not_gone_on_with(
    folder, make_pairs, monkeypatch, change, named, ended
):
    if ended:
        train(folder, epochs=1)
    else:
        monkeypatch.setattr(keeper.Keeper, "close", lambda *_: (None, None))
        train(folder, epochs=1)
        monkeypatch.undo()
        monkeypatch.setenv("UNETLIB_CACHE", str(folder / "cache"))
    if "data" in change:
        make_pairs([f"other{i}" for i in range(30)], folder / "other")
        change = {"data": folder / "other"}
    weights = (folder / "out" / "last_model.pth").read_bytes()
    with pytest.raises(CheckpointError, match=named):
        train(folder, epochs=1, **change)
    assert (folder / "out" / "last_model.pth").read_bytes() == weights
    if not ended:
        with pytest.warns(TrainingWarning, match="another one.*Starting anew"):
            result = train(folder, "auto", epochs=1, **change)
        assert result.stopped == "finished"


def test_a_finished_training_is_finished(folder):
    first = train(folder, epochs=2)
    stamp = first.best_path.stat().st_mtime_ns
    again = train(folder, epochs=2)
    assert again.history == first.history and again.best == first.best
    assert first.best_path.stat().st_mtime_ns == stamp
    anew = train(folder, "auto", epochs=2)  # "auto" takes up only what was cut off
    assert anew.history == first.history
    assert anew.best_path.stat().st_mtime_ns != stamp


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "text", "cut"])
def test_a_damaged_state_is_said_or_left(folder, monkeypatch, content):
    with monkeypatch.context() as context:
        context.setattr(keeper.Keeper, "close", lambda *_: (None, None))
        train(folder, epochs=1)
    state = folder / "out" / keeper.STATE_FILE
    state.write_bytes(state.read_bytes()[:5000] if content is None else content)
    with pytest.raises(CheckpointError, match="training_state.pth"):
        train(folder, epochs=1)
    with pytest.warns(TrainingWarning, match="Starting anew"):
        assert train(folder, "auto", epochs=1).stopped == "finished"


def test_early_stop_survives(folder, monkeypatch):
    settings = {"epochs": 12, "lr": 1e-12, "early_stop": 3, "schedule": "constant", "ema": 0.0}
    expected = train(folder, False, **settings)
    assert expected.stopped == "early stop"
    (folder / "out").rename(folder / "expected")
    save = keeper.Keeper.save_state

    def twice(self, state):
        save(self, state)
        if state.at.epoch == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(keeper.Keeper, "save_state", twice)
        assert train(folder, **settings).stopped == "interrupted"
    found = train(folder, **settings)
    assert (found.stopped, found.history) == (expected.stopped, expected.history)
