"""Photos that come more often than others: how often, in which order, and after an interruption."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unetlib import keeper
from unetlib.app import cli
from unetlib.checkpoint import CheckpointError, load_checkpoint
from unetlib.config import SAMPLINGS
from unetlib.data import Source, make_loaders, match_pairs, open_source
from unetlib.data.pairs import Pair
from unetlib.data.sampler import (
    ALIKE,
    SeededSampler,
    difficulty,
    harder,
    resample,
    sampling_weights,
)
from unetlib.models import build_model
from unetlib.training import TrainConfig, TrainingWarning, fit, seed_everything

ROOT = Path(__file__).resolve().parents[1]
SIZE = (16, 24)
ODD = (2, 5, 11, 17)
some_weights = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pairs(make_pairs) -> list[Pair]:
    root = make_pairs([f"p{i:02}" for i in range(20)])
    return match_pairs(root / "images", root / "masks")[0]


@pytest.fixture
def uneven(pairs) -> list[Pair]:
    """Four of the twenty masks are a little noise that nobody can learn, the others all white."""
    for i, pair in enumerate(pairs):
        noise = np.random.default_rng(i).random((24, 32)) < (0.05 if i in ODD else 1)
        Image.fromarray(noise * np.uint8(255)).save(pair.mask)
    return pairs


def rounded(counts, weights) -> bool:
    """Whether each number is the expected one, rounded up or down."""
    expected = np.array(weights) / np.sum(weights) * len(weights)
    low, high = np.floor(expected - 1e-9), np.ceil(expected + 1e-9)
    return bool(((low <= counts) & (counts <= high)).all())


def order_of(sampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert {key[0] for key in keys} <= {epoch}
    return [key[1] for key in keys]


@given(some_weights, st.floats(0, 1, exclude_max=True))
def test_each_comes_its_expected_number_of_times_rounded(weights, start):
    found = resample(np.array(weights), start)
    assert len(found) == len(weights) and (np.diff(found) >= 0).all()
    assert rounded(np.bincount(found, minlength=len(weights)), weights)
    first = len(weights) // 3  # photos beside each other, together
    expected = sum(weights[:first]) / sum(weights) * len(weights)
    assert abs((found < first).sum() - expected) < 1 + 1e-9


@given(some_weights, st.integers(1, 7), st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**40))
def test_ranks_share_what_one_process_would_see(weights, batch_size, world, epoch, seed):
    n = len(weights)
    whole = SeededSampler(n, seed, weights=weights)._order(epoch)
    assert rounded(np.bincount(whole, minlength=n), weights)
    steps, keys = n // (batch_size * world), []
    for rank in range(world):
        sampler = SeededSampler(n, seed, True, rank, world, batch_size, weights)
        own = order_of(sampler, epoch)
        assert len(own) == len(sampler)
        for step in range(steps):
            first = (step * world + rank) * batch_size
            batch = whole[first : first + batch_size].tolist()
            assert own[step * batch_size : (step + 1) * batch_size] == batch
            assert sampler.batch_indices(epoch, step, batch_size) == batch
            sampler.set_epoch(epoch)
            sampler.start = step
            assert [key[1] for key in sampler] == own[step * batch_size :]
        sampler.set_epoch(epoch)
        keys += list(sampler)
    assert len(set(keys)) == len(keys)  # no photo twice with the same random numbers


@given(st.integers(1, 50), st.integers(0, 5), st.floats(1e-6, 1e6))
def test_equal_weights_are_no_weights(n, epoch, weight):
    order = np.arange(n)
    np.random.default_rng((3, epoch)).shuffle(order)
    for weights in (None, [weight] * n):
        sampler = SeededSampler(n, 3, weights=weights)
        sampler.set_epoch(epoch)
        assert list(sampler) == [(epoch, i) for i in order]


def test_epochs_differ_and_their_mean_is_the_weights():
    weights = np.random.default_rng(0).uniform(0.1, 3, 40)
    sampler = SeededSampler(40, 5, weights=weights)
    orders = [order_of(sampler, epoch) for epoch in range(400)]
    assert (
        orders[0] != orders[1] and order_of(SeededSampler(40, 5, weights=weights), 0) == (orders[0])
    )
    mean = np.bincount(np.concatenate(orders), minlength=40) / 400
    assert np.abs(mean - weights / weights.mean()).max() < 0.1


@pytest.mark.parametrize(
    "weights", [[1.0] * 4, [1, 2, 0], [1, 2, -1], [1, 2, np.nan], [1, 2, np.inf]], ids=str
)
def test_weights_that_cannot_be(weights):
    with pytest.raises(ValueError, match="3 finite numbers above 0"):
        SeededSampler(3, weights=weights)


def test_specs_with_weights_decide_the_shares_of_an_epoch(make_pairs, tmp_path):
    make_pairs([f"a{i}" for i in range(10)], tmp_path / "a")
    make_pairs([f"b{i}" for i in range(40)], tmp_path / "b", height=25)
    spec = f"3*folder:{tmp_path / 'a'} + folder:{tmp_path / 'b'}"
    source = open_source(spec, val_fraction=0.1)
    train, _ = make_loaders(source, SIZE, 1, workers=0)
    n, few = len(source.train), [p.source == "folder" for p in source.train]
    for epoch in range(3):
        found = np.bincount(order_of(train.sampler, epoch), minlength=n)
        assert found.sum() == n and abs(found[few].sum() - 0.75 * n) < 1
        assert np.ptp(found[few]) <= 1 and np.ptp(found[~np.array(few)]) <= 1
    equal, _ = make_loaders(source, SIZE, 1, workers=0, sampling="source")
    found = np.bincount(order_of(equal.sampler, 0), minlength=n)
    assert abs(found[few].sum() - n / 2) < 1


def test_classes_come_equally_often():
    tags = [("hair",), (), ("hair", "glass"), ("glass", "hair"), (), ()]
    pairs = [
        Pair(str(i), Path(f"{i}.jpg"), None, tags=t, source="ab"[i > 1], weight=1 + (i == 1))
        for i, t in enumerate(tags)
    ]

    def weights(sampling, shares=None):
        return sampling_weights(pairs, sampling, lambda: np.array(shares))

    for plain in ("uniform", "hard"):
        np.testing.assert_array_equal(weights(plain), [1, 2, 1, 1, 1, 1])
    np.testing.assert_allclose(weights("source"), [1 / 3, 2 / 3, 1 / 4, 1 / 4, 1 / 4, 1 / 4])
    np.testing.assert_allclose(weights("tags"), [1, 2 / 4, 1 / 2, 1 / 2, 1 / 4, 1 / 4])
    # fifths of 0.1 ... 0.6 end at 0.2, 0.3, 0.4, 0.5; nothing is in the third
    shares = [0.1, 0.19, 0.25, 0.45, 0.55, 0.6]
    np.testing.assert_allclose(weights("foreground", shares), [1 / 3, 2 / 3, 1, 1, 1 / 2, 1 / 2])
    np.testing.assert_allclose(weights("foreground", [0.3] * 6), np.array([1, 2, 1, 1, 1, 1]) / 7)
    with pytest.raises(ValueError, match=r"no sampling 'tag'.*tags, foreground.*mean 'tags'"):
        weights("tag")


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_small_figures_come_as_often_as_large_ones(pairs, cache):
    for i, pair in enumerate(pairs):  # 18 small ones, 2 large ones
        mask = np.zeros((24, 32), np.uint8)
        mask[:, : 28 if i in (4, 7) else 4] = 255
        Image.fromarray(mask).save(pair.mask)
    source = Source("folder", Path(), tuple(pairs), ())
    train, _ = make_loaders(source, SIZE, 1, "none", workers=0, cache=cache, sampling="foreground")
    shares = [float(mask.mean()) for _, mask in train]
    assert Counter(np.round(shares, 1)) == {0.1: 10, 0.9: 10}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_that_comes_again_looks_different(pairs, workers):
    often = [replace(p, weight=30.0 if i == 3 else 1.0) for i, p in enumerate(pairs)]
    source = Source("folder", Path(), tuple(often), ())
    train, _ = make_loaders(source, SIZE, 1, "strong", seed=2, workers=workers)
    train.sampler.set_epoch(5)
    found = [
        image
        for (image, _), step in zip(train, range(20), strict=True)
        if train.sampler.batch_indices(5, step, 1) == [3]
    ]
    assert len(found) in (12, 13)
    for i, one in enumerate(found):
        assert torch.equal(one[0], train.dataset[(5, 3, i) if i else (5, 3)][0])
        assert not any(torch.equal(one, other) for other in found[:i])


def test_difficulty_by_hand():
    target = torch.zeros(4, 1, 10, 10)
    target[:2, :, :5] = 1
    logits = torch.full((4, 1, 10, 10), -50.0)
    logits[0] = (target[0] - 0.5) * 100  # right
    logits[1] = -logits[0]  # all wrong
    logits[3, :, 0, 0] = 50.0  # a single pixel where there is nothing
    logits.requires_grad_()
    for output in (logits, {"d0": logits, "d1": -logits}):
        found = difficulty(output, target)
        assert found.dtype == torch.float32 and not found.requires_grad
        # a hundredth of 100 pixels above and below: 1 - 51/51, 1 - 1/101, 1 - 1/1, 1 - 1/2
        torch.testing.assert_close(found, torch.tensor([0, 1 - 1 / 101, 0, 0.5]))
    soft = torch.full((1, 1, 8, 8), 0.5)
    assert 0.5 < difficulty(torch.zeros(1, 1, 8, 8), soft).item() < 0.7


def test_what_is_learned_by_hand():
    sampler = SeededSampler(4, hard=True)
    order = sampler._order(1)
    found = sampler.learn(1, np.array([0.2, 0.4, 0.6]))  # the last photo was not seen
    assert np.isnan(found[order[3]])
    np.testing.assert_allclose(found[order[:3]], [0.2, 0.4, 0.6])
    weights = harder(found)
    np.testing.assert_allclose(weights[order], ALIKE + (1 - ALIKE) * np.array([0.5, 1, 1.5, 1]))
    again, before = sampler._order(2), found.copy()
    found = sampler.learn(2, np.array([1.0, 0.0, 0.0, 0.0]))
    for i in range(4):
        times, old = (again == i).sum(), before[i]
        if times:
            new = (again[0] == i) / times
            np.testing.assert_allclose(found[i], new if np.isnan(old) else (old + new) / 2)
        else:
            np.testing.assert_equal(found[i], old)
    np.testing.assert_allclose(harder(np.zeros(3)), [ALIKE] * 3)


@given(st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1, max_size=40))
def test_no_photo_is_forgotten(values):
    known = [value for value in values if value == value]
    if not known or max(known) < 1e-6:
        return
    weights = harder(np.array(values))
    assert weights.mean() == pytest.approx(1) and weights.min() >= ALIKE - 1e-9
    unseen = np.isnan(values)
    np.testing.assert_allclose(weights[unseen], 1)


def test_what_is_wrong_comes_more_often(uneven):
    _, train = trained(uneven, None, epochs=12)
    odd = np.isin([order_of(train.sampler, epoch) for epoch in (13, 14, 15)], ODD)
    assert odd.mean() > 0.3  # a fifth of the photos
    known = train.sampler.difficulty
    assert known[list(ODD)].min() > np.delete(known, ODD).max()


def trained(pairs, folder, resume=False, sampling="hard", model="unet_small", **settings):
    source = Source("folder", Path(), tuple(pairs), tuple(pairs[:4]))
    train, val = make_loaders(source, 32, 4, "light", seed=3, workers=0, sampling=sampling)
    seed_everything(0)
    net = build_model(model, **({"base": 4, "depth": 2} if model == "unet_small" else {}))
    config = TrainConfig(**{"epochs": 4, "lr": 2e-2, "schedule": "constant", **settings})
    result = fit(
        net, train, val, config, out_dir=folder, resume=resume, device="cpu", progress=False
    )
    return result, train


@pytest.mark.parametrize("stop_after", [2, 8, 12, 14])
def test_hard_sampling_goes_on_as_if_nothing_had_happened(
    uneven, tmp_path, monkeypatch, stop_after
):
    """5 steps an epoch, of which 2 and 4 are saved, and the end: 2 is (1, 4), 14 is (5, 4)."""
    expected, one = trained(uneven, tmp_path / "whole", epochs=5, accumulate=2)
    assert max(Counter(order_of(one.sampler, 5)).values()) > 1  # it makes a difference
    monkeypatch.setattr(keeper, "SAVE_SECONDS", 0)
    saves, save = [], keeper.Keeper.save_state

    def stopping(self, state):
        save(self, state)
        saves.append((state.at.epoch, state.at.batches))
        if len(saves) == stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(keeper.Keeper, "save_state", stopping)
    stopped, _ = trained(uneven, tmp_path / "cut", epochs=5, accumulate=2)
    assert stopped.stopped == "interrupted"
    found, two = trained(uneven, tmp_path / "cut", True, epochs=5, accumulate=2)
    assert found.history == expected.history and found.stopped == "finished"
    assert np.array_equal(one.sampler.difficulty, two.sampler.difficulty)
    last = [load_checkpoint(r.last_path).model.state_dict() for r in (expected, found)]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_hard_sampling_changes_the_training_and_is_the_same_every_time(uneven):
    (first, one), (again, two) = trained(uneven, None), trained(uneven, None)
    plain, _ = trained(uneven, None, sampling="uniform")
    assert first.history == again.history
    assert np.array_equal(one.sampler.difficulty, two.sampler.difficulty)
    assert first.history[0]["train_loss"] == plain.history[0]["train_loss"]  # nothing known yet
    assert first.history[1]["train_loss"] != plain.history[1]["train_loss"]
    assert max(Counter(order_of(one.sampler, 3)).values()) > 1


def test_a_loader_that_is_used_again_begins_anew(pairs):
    source = Source("folder", Path(), tuple(pairs), ())
    train, _ = make_loaders(source, 32, 4, "light", workers=0, sampling="hard")
    histories = []
    for _ in range(2):
        seed_everything(0)
        net = build_model("unet_small", base=4, depth=2)
        config = TrainConfig(epochs=3, lr=1e-2, schedule="constant")
        histories.append(fit(net, train, None, config, device="cpu", progress=False).history)
    assert histories[0] == histories[1]


def test_workers_and_deep_supervision(pairs):
    """u2netp gives a dict of seven maps in training; the first is what it will say."""
    source = Source("folder", Path(), tuple(pairs[:8]), ())
    train, _ = make_loaders(source, 32, 4, "light", workers=1, sampling="hard")
    config = TrainConfig(epochs=2, lr=1e-3)
    result = fit(build_model("u2netp"), train, None, config, device="cpu", progress=False)
    assert len(result.history) == 2
    known = train.sampler.difficulty
    assert known.shape == (8,) and (known > 0).all() and (known <= 1).all()


def test_nothing_is_computed_where_nobody_asks(pairs, monkeypatch):
    monkeypatch.setattr("unetlib.engine.difficulty", lambda *_: pytest.fail("not asked for"))
    assert trained(pairs, None, sampling="tags", epochs=1)[0].stopped == "finished"


def test_sampling_belongs_to_what_a_training_is(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(keeper.Keeper, "close", lambda *_: (None, None))
    heavy = [replace(p, weight=2.0 if i < 5 else 1.0) for i, p in enumerate(pairs)]
    trained(pairs, tmp_path, sampling="hard", epochs=2)
    for other, sampling in ((pairs, "uniform"), (heavy, "hard"), (heavy, "uniform")):
        with pytest.raises(CheckpointError, match="sampling: hard"):
            trained(other, tmp_path, True, sampling=sampling, epochs=2)
    with pytest.warns(TrainingWarning, match="Starting anew"):
        trained(pairs, tmp_path, "auto", sampling="uniform", epochs=2)
    # where all photos come equally often it is the training that it was before there was a choice
    same = [replace(p, weight=4.0) for p in pairs]
    found = trained(same, tmp_path, True, sampling="source", epochs=2)[0]
    assert len(found.history) == 2


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_command_takes_every_sampling(make_pairs, tmp_path, monkeypatch, sampling):
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    make_pairs([f"p{i}" for i in range(20)], tmp_path / "photos")
    options = [
        "--base",
        "4",
        "--depth",
        "2",
        "--image-size",
        "32",
        "--epochs",
        "2",
        "--no-timelapse",
    ]
    options += ["--batch-size", "4", "--tracking", "none", "--device", "cpu", "--workers", "0"]
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", "--data-root", "photos", "--sampling", sampling, *options])
    assert not exit_.value.code
    last = load_checkpoint(tmp_path / "outputs" / "checkpoints" / "last_model.pth")
    assert last.epoch == 2 and ("sampling" in last.extra["identity"]) == (sampling == "hard")


TWO = """
import sys, numpy as np
from unetlib.data import open_source, make_loaders
from unetlib.distributed import Processes
from unetlib.models import build_model
from unetlib.training import TrainConfig, fit, seed_everything
folder, batch = sys.argv[1], int(sys.argv[2])
processes = Processes("cpu")
source = open_source("folder", folder, val_fraction=0)
train, _ = make_loaders(source, 32, batch, "light", workers=0, sampling="hard")
seed_everything(0)
config = TrainConfig(epochs=3, lr=1e-3, optimizer="sgd", schedule="constant", precision="float32")
fit(build_model("unet_small", base=4, depth=2), train, None, config, device="cpu", progress=False)
np.save(f"{folder}/{processes.world}-{processes.rank}.npy", train.sampler.difficulty)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="gloo on Windows")
def test_two_processes_know_what_one_knows(make_pairs, tmp_path):
    pytest.importorskip("accelerate")
    folder = make_pairs([f"p{i}" for i in range(21)], tmp_path / "photos")
    (tmp_path / "two.py").write_text(TWO)
    environment = {k: v for k, v in os.environ.items() if k != "WORLD_SIZE"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for command, batch in (([], "8"), (launcher, "4")):
        done = subprocess.run(
            [sys.executable, *command, str(tmp_path / "two.py"), str(folder), batch],
            env=environment, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    one, rank0, rank1 = (np.load(folder / f"{n}.npy") for n in ("1-0", "2-0", "2-1"))
    assert np.array_equal(rank0, rank1, equal_nan=True)
    np.testing.assert_allclose(rank0, one, atol=1e-4)


def test_a_step_without_hard_sampling_needs_no_sampler(pairs):
    """Any iterable of batches will do as a loader."""
    batches = [(torch.randn(2, 3, 32, 32), torch.ones(2, 1, 32, 32))] * 2
    result = fit(
        build_model("unet_small", base=4, depth=2), batches, None, TrainConfig(epochs=1),
        device="cpu", progress=False,
    )  # fmt: skip
    assert result.stopped == "finished"
