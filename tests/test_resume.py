"""A training that is killed and started again ends as if nothing had happened."""

import signal
from pathlib import Path

import pytest
import torch

from unetlib.checkpoint import load_checkpoint
from unetlib.config import TrainConfig
from unetlib.data.dataset import make_loaders
from unetlib.data.sources import open_source
from unetlib.errors import CheckpointError
from unetlib.models import build_model
from unetlib.training import FitResult, fit, seed_everything

# Everything that has a state: dropout, augmentation, shuffling, moving average, momentum of the
# optimiser, a schedule in the middle of its way, batches that are added up.
CONFIG = {"epochs": 4, "lr": 1e-2, "schedule": "onecycle", "ema": 0.9, "accumulate": 2}
STATE = "training_state.pth"


def train(out, data, save_seconds=600, resume=True, base=4, loss=None, **settings):
    source = open_source("folder", data, val_fraction=0.25)
    loaders = make_loaders(source, 32, 4, "strong", seed=3, workers=0)
    torch.set_num_threads(2)  # in which sums could come out otherwise
    seed_everything(0)
    net = build_model("unet_small", base=base, depth=2, dropout=0.3)
    how = {"out_dir": out, "resume": resume, "save_seconds": save_seconds, "loss": loss}
    how["init_from"] = settings.pop("init_from", None)
    config = TrainConfig(**{**CONFIG, **settings})
    return fit(net, *loaders, config, device="cpu", progress=False, **how)


@pytest.fixture
def data(tmp_path, make_pairs) -> Path:
    return make_pairs([f"photo{i}" for i in range(24)], tmp_path / "data")


class Until(torch.nn.Module):
    """The loss, which presses Ctrl-C when it is asked for the n-th time."""

    def __init__(self, n: int):
        super().__init__()
        self.n, self.calls = n, 0

    def forward(self, logits, target):
        self.calls += 1
        if self.calls == self.n:
            signal.raise_signal(signal.SIGINT)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), target)
        return {"loss": loss}


def same(first: FitResult, second: FitResult) -> None:
    assert first.history == second.history
    assert (first.best, first.stopped) == (second.best, second.stopped)
    for one, two in ((first.best_path, second.best_path), (first.last_path, second.last_path)):
        a, b = load_checkpoint(one), load_checkpoint(two)
        assert a.epoch == b.epoch and a.history == b.history
        for name, value in a.model.state_dict().items():
            assert torch.equal(value, b.model.state_dict()[name]), name


@pytest.mark.parametrize("call", [6, 13])
def test_interrupted_within_an_epoch_it_goes_on_from_the_last_saved_step(tmp_path, data, call):
    """4 batches and 2 for validation make an epoch; two batches make a step."""
    expected = train(tmp_path / "whole", data, loss=Until(0))
    stopped = train(tmp_path / "cut", data, save_seconds=0, loss=Until(call))
    assert stopped.stopped == "interrupted" and (tmp_path / "cut" / STATE).exists()
    assert len(stopped.history) == (call - 1) // 6
    if stopped.history:
        assert load_checkpoint(stopped.best_path).epoch in (1, 2)
        assert load_checkpoint(stopped.last_path).history == stopped.history
    loss = Until(0)
    same(expected, train(tmp_path / "cut", data, loss=loss))
    assert loss.calls < 24  # it did not begin anew
    assert not (tmp_path / "cut" / STATE).exists()  # it was as large as three checkpoints


def test_another_training_is_not_gone_on_with_and_not_lost(tmp_path, data, make_pairs):
    out = tmp_path / "out"
    other = make_pairs([f"other{i}" for i in range(30)], tmp_path / "other")
    train(out, data, epochs=2, loss=Until(8))
    state = (out / STATE).read_bytes()
    for change, named in (
        ({"base": 8}, "model"),
        ({"lr": 1e-3}, "lr"),
        ({"init_from": out / "last_model.pth"}, "init_from"),
        ({"data": other}, "photos"),
    ):
        change = {"data": data, "epochs": 2, "loss": Until(0)} | change
        with pytest.raises(CheckpointError, match=f"another {named} .*--no-resume"):
            train(out, **change)
        assert (out / STATE).read_bytes() == state
    assert train(out, **change, resume=False).stopped == "finished" and not (out / STATE).exists()
    (out / STATE).write_bytes(state[:5000])
    with pytest.raises(CheckpointError, match=f"{STATE} is damaged"):
        train(out, data, epochs=2, loss=Until(0))


def test_what_is_finished_is_begun_anew(tmp_path, data):
    first = train(tmp_path / "out", data, epochs=2, loss=Until(0))
    stamp = first.best_path.stat().st_mtime_ns
    same(first, train(tmp_path / "out", data, epochs=2, loss=Until(0)))
    assert first.best_path.stat().st_mtime_ns != stamp


def test_early_stop_and_plateau_survive(tmp_path, data):
    settings = {"epochs": 12, "lr": 1e-12, "early_stop": 3, "schedule": "plateau", "patience": 1}
    settings |= {"ema": 0.0}
    expected = train(tmp_path / "whole", data, loss=Until(0), **settings)
    assert expected.stopped == "early stop"
    assert train(tmp_path / "cut", data, loss=Until(15), **settings).stopped == "interrupted"
    same(expected, train(tmp_path / "cut", data, loss=Until(0), **settings))
