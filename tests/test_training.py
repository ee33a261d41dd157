"""fit(): learns, keeps the best, records, and says what is wrong."""

import math
import signal
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from unetlib.checkpoint import load_checkpoint
from unetlib.config import TrainConfig
from unetlib.data.preprocess import Preprocess
from unetlib.errors import TrainingError
from unetlib.losses import build_loss
from unetlib.models import build_model
from unetlib.training import build_optimizer, build_schedule, fit, seed_everything

PREPROCESS = Preprocess((32, 32))
QUICK = {"precision": "float32", "lr": 2e-2}


def discs(n: int, seed: int = 0, size: int = 32) -> TensorDataset:
    """Bright discs on dark noise: learnable in seconds."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    masks = [
        (x - rng.uniform(8, 24)) ** 2 + (y - rng.uniform(8, 24)) ** 2 < rng.uniform(4, 8) ** 2
        for _ in range(n)
    ]
    mask = torch.tensor(np.stack(masks), dtype=torch.float32)[:, None]
    noise = torch.tensor(rng.normal(0, 0.5, (n, 3, size, size)), dtype=torch.float32)
    dataset = TensorDataset(mask + noise, mask)
    dataset.preprocess = PREPROCESS
    return dataset


def loaders(n_train=64, n_val=8, batch_size=8):
    # no shuffling: what the loader draws is not under test here
    return DataLoader(discs(n_train), batch_size), DataLoader(discs(n_val, seed=1), batch_size)


def model(seed=0, **args):
    seed_everything(seed)
    return build_model("unet_small", **{"base": 4, "depth": 3, **args})


def train(net, data, config: TrainConfig, **more):
    return fit(net, *data, config, device="cpu", progress=False, **more)


def test_it_learns_and_keeps_the_best(tmp_path):
    net = model()
    result = train(net, loaders(), TrainConfig(epochs=8, **QUICK), out_dir=tmp_path)
    ious = [row["val_iou"] for row in result.history]
    assert len(ious) == 8 and max(ious) > 0.85 > ious[0]
    assert result.stopped == "finished"
    assert result.best["epoch"] == 1 + int(np.argmax(ious))
    best, last = load_checkpoint(result.best_path), load_checkpoint(result.last_path)
    assert (best.epoch, last.epoch) == (result.best["epoch"], 8)
    assert best.metrics["val_iou"] == max(ious) == result.best["val_iou"]
    assert last.history == result.history
    assert best.preprocess == PREPROCESS
    assert best.extra["config"]["epochs"] == 8
    for phase in ("train", "val"):
        names = {f"{phase}_loss", f"{phase}_bce_loss", f"{phase}_dice_loss"}
        assert names <= result.history[0].keys()
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["best_model.pth", "last_model.pth"]
    for a, b in zip(net.parameters(), last.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(0 <= timing["data_wait"] < 1 for timing in result.timings)


def test_it_does_what_the_textbook_loop_does():
    """The same weights, batches and settings, in a loop written out by hand."""
    data = [batch for batch in DataLoader(discs(24), 8)]
    ours, theirs = model(), model()
    theirs.train()
    config = TrainConfig(epochs=2, clip=0.5, weight_decay=0.1, schedule="cosine", **QUICK)
    history = train(ours, (data, None), config).history
    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    groups = [{"params": decayed}, {"params": [p for p in theirs.parameters() if p.ndim == 1]}]
    groups[1]["weight_decay"] = 0.0
    optimizer = torch.optim.AdamW(groups, lr=2e-2, weight_decay=0.1)
    schedule = lr_scheduler.CosineAnnealingLR(optimizer, 6, eta_min=2e-4)
    losses = []
    for images, masks in data * 2:
        optimizer.zero_grad()
        loss = build_loss("bce_dice")(theirs(images), masks)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    found = [row["train_loss"] for row in history]
    np.testing.assert_allclose(found, np.reshape(losses, (2, 3)).mean(1), rtol=1e-3)
    couples = zip(ours.parameters(), theirs.parameters(), strict=True)
    difference = torch.cat([(a - b).abs().flatten() for a, b in couples])
    assert difference.median() < 1e-5  # Adam makes a full step even of a gradient that is rounding


def test_the_reported_scores_are_those_of_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics.classification")
    data, net = loaders(n_val=13), model()
    row = train(net, data, TrainConfig(epochs=2, **QUICK)).history[-1]
    images, masks = data[1].dataset.tensors
    logits = net(images)
    jaccard = torchmetrics.BinaryJaccardIndex()
    iou = [jaccard(p, m.int()).item() for p, m in zip(logits.sigmoid(), masks, strict=True)]
    accuracy = torchmetrics.BinaryAccuracy()(logits.sigmoid(), masks.int())
    dice = [
        torchmetrics.BinaryF1Score()(p, m.int()).item()
        for p, m in zip(logits.sigmoid(), masks, strict=True)
    ]
    assert row["val_iou"] == pytest.approx(np.mean(iou), abs=1e-6)
    assert row["val_accuracy"] == pytest.approx(accuracy.item(), abs=1e-6)
    assert row["val_dice"] == pytest.approx(np.mean(dice), abs=1e-6)
    loss = build_loss("bce_dice")(logits, masks)
    assert row["val_loss"] == pytest.approx(loss["loss"].item(), abs=1e-5)


def test_a_loss_that_is_no_number_stops_it(tmp_path):
    config = TrainConfig(epochs=1, **QUICK)
    data = loaders()
    train(model(), data, config, out_dir=tmp_path)
    before = (tmp_path / "best_model.pth").read_bytes()
    data[0].dataset.tensors[0][11, 0, 0, 0] = math.nan
    with pytest.raises(TrainingError, match=r"finite number \(epoch 1, batch 2, lr 0.02\)"):
        train(model(), data, config, out_dir=tmp_path)
    assert (tmp_path / "best_model.pth").read_bytes() == before
    config = TrainConfig(epochs=2, lr=1e30, clip=0, schedule="constant", precision="float32")
    with pytest.raises(TrainingError, match=r"no longer a finite number .*lr 1e\+30"):
        train(model(), loaders(), config)


def test_bfloat16_learns_the_same_and_leaves_the_next_training_alone():
    ious = [
        train(model(), loaders(), TrainConfig(epochs=8, lr=2e-2, precision=p)).best["val_iou"]
        for p in ("float32", "bfloat16", "float32")
    ]
    assert min(ious) > 0.85
    assert ious[0] == ious[2] == pytest.approx(ious[1], abs=0.05)


def test_other_errors(tmp_path):
    config = TrainConfig(epochs=1)
    with pytest.raises(TrainingError, match="yields no batch"):
        train(model(), (DataLoader(discs(3), batch_size=8, drop_last=True), None), config)
    with pytest.raises(TrainingError, match="memory ran out"):
        train(model(), loaders(8), config, loss=lambda *_: torch.empty(2**50))
    no_preprocess = DataLoader(TensorDataset(*discs(2).tensors))
    with pytest.raises(ValueError, match="preprocess"):
        train(model(), (no_preprocess, None), config, out_dir=tmp_path)
    if not find_spec("wandb"):
        with pytest.raises(ImportError, match=r'wandb is not installed: pip .*"unetlib\[wandb'):
            train(model(), loaders(8), config, out_dir=tmp_path / "out", tracking="wandb")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("failure", ["OSError: photo.jpg", "DataLoader worker"])
def test_a_failing_process_that_loads_photos_is_one_line_with_what_to_do(failure):
    class Broken(TensorDataset):
        def __getitem__(self, index):
            if "worker" in failure:
                signal.raise_signal(signal.SIGKILL)
            raise OSError("photo.jpg: no space left on device")

    loader = DataLoader(Broken(*discs(8).tensors), 4, num_workers=1)
    with pytest.raises(TrainingError, match=f"{failure}.* --workers 0") as caught:
        train(model(), (loader, None), TrainConfig())
    assert "\n" not in str(caught.value)


def test_accumulated_batches_are_one_large_batch():
    """Without batch norm, whose statistics are those of the small batch."""
    histories = []
    for batch_size, accumulate in ((8, 1), (2, 4)):
        seed_everything(0)
        more = {"optimizer": "sgd", "schedule": "cosine", "accumulate": accumulate}
        config = TrainConfig(epochs=3, **more, **QUICK)
        data = DataLoader(discs(20), batch_size)  # 2 steps of 8 and one of 4
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 3, padding=1))
        histories.append(train(net, (data, None), config).history)
    for large, small in zip(*histories, strict=True):
        assert small["lr"] == large["lr"]
        assert small["train_loss"] == pytest.approx(large["train_loss"], abs=1e-5)


def test_u2net_trains_with_all_its_maps():
    seed_everything(0)
    net = build_model("u2netp", encoder=[(2, 4)] * 6, decoder=[(2, 4)] * 5)
    data = (DataLoader(discs(8, size=64), 4), DataLoader(discs(4, 1, size=64), 4))
    history = train(net, data, TrainConfig(epochs=3, schedule="constant", **QUICK)).history
    assert history[-1]["train_loss"] < history[0]["train_loss"]


# --- learning rates, optimisers and averages, against PyTorch's own and by hand


def rates(make, steps: int) -> list[float]:
    """The learning rate of every step under the schedule that make(optimizer) gives."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3, momentum=0.9)
    schedule, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"schedule": "step", "step_epochs": 2}, lambda o: lr_scheduler.StepLR(o, 14, 0.5)),
        ({"schedule": "exponential"}, lambda o: lr_scheduler.ExponentialLR(o, 0.01 ** (1 / 70))),
        ({"schedule": "cosine"}, lambda o: lr_scheduler.CosineAnnealingLR(o, 70, eta_min=2e-5)),
        ({"schedule": "constant", "warmup": 0.1}, lambda o: lr_scheduler.LinearLR(o, 1 / 7, 1, 6)),
        ({"warmup": 0.3}, lambda o: lr_scheduler.OneCycleLR(o, 2e-3, 70, pct_start=0.3)),
    ],
    ids=["step", "exponential", "cosine", "constant", "onecycle"],
)
def test_schedules_are_those_of_pytorch(settings, make):
    config = TrainConfig(epochs=10, lr=2e-3, **settings)
    found = rates(lambda o: build_schedule(o, config, 7), 70)
    np.testing.assert_allclose(found, rates(make, 70), rtol=1e-9)


@pytest.mark.parametrize("schedule", ["step", "exponential", "cosine", "onecycle", "constant"])
@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 2), (2, 5), (5, 4), (6, 9)])
@pytest.mark.parametrize("warmup", [-1.0, 0.0, 0.05, 0.5, 0.9])
def test_rates_are_positive_and_never_above_lr(schedule, epochs, steps, warmup):
    config = TrainConfig(epochs=epochs, lr=2e-3, schedule=schedule, warmup=warmup)
    found = rates(lambda o: build_schedule(o, config, steps), epochs * steps)
    assert all(0 < rate <= 2e-3 * (1 + 1e-12) for rate in found)


def test_the_encoder_takes_its_share_of_every_rate_and_decay_spares_biases():
    net = torch.nn.Module()
    net.encoder, net.head = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
    config = TrainConfig(lr=0.1, encoder_lr=0.25, schedule="cosine", epochs=2, weight_decay=0.3)
    optimizer = build_optimizer(net, config)
    schedule = build_schedule(optimizer, config, 5)
    for _ in range(10):
        now = optimizer.param_groups[-1]["lr"]
        for group in optimizer.param_groups:
            ours = any(p is q for p in group["params"] for q in net.encoder.parameters())
            assert group["lr"] == pytest.approx(now * (0.25 if ours else 1))
            assert group["weight_decay"] == (0.3 if group["params"][0].ndim > 1 else 0)
        optimizer.step()
        schedule.step()
    assert len(optimizer.param_groups) == 4  # with and without decay, encoder and the rest


def test_the_moving_average_by_hand():
    """One weight w with the loss w: plain SGD takes lr off it at every step."""
    net = torch.nn.Conv2d(3, 1, 1, bias=False)
    net.weight.data.fill_(1.0)
    ones = torch.ones(1, 3, 1, 1)

    def mean(output, _):
        return {"loss": output.mean()}

    plain = {"optimizer": "sgd", "momentum": 0.0, "clip": 0.0, "weight_decay": 0.0}
    plain |= {"schedule": "constant", "precision": "float32"}
    config = TrainConfig(epochs=4, lr=0.1, ema=0.5, **plain)
    train(net, ([(ones, ones[:, :1])], []), config, loss=mean)
    expected = 0.0
    for n, value in enumerate((0.9, 0.8, 0.7, 0.6)):
        decay = min(0.5, (1 + n) / (10 + n)) if n else 0
        expected = decay * expected + (1 - decay) * value
    assert net.weight.mean().item() == pytest.approx(expected, abs=1e-6)


# --- records


def test_tensorboard_has_a_point_per_epoch_and_a_second_training_replaces_them(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = loaders(n_train=16)
    for epochs in (2, 3):
        config = TrainConfig(epochs=epochs, **QUICK)
        result = train(model(), data, config, out_dir=tmp_path / "out", tracking="tensorboard")
    folder = str(tmp_path / "tensorboard" / "unetlib")
    found = EventAccumulator(folder, size_guidance={"scalars": 0}).Reload()
    for tag, name in (("val/iou", "val_iou"), ("train/loss", "train_loss"), ("lr", "lr")):
        points = found.Scalars(tag)
        assert [p.step for p in points] == [row["epoch"] for row in result.history]
        expected = [row[name] for row in result.history]
        assert [p.value for p in points] == pytest.approx(expected, rel=1e-6)
    assert {p.name for p in tmp_path.iterdir()} == {"out", "tensorboard"}
    settings = max(p.read_text() for p in (tmp_path / "tensorboard").rglob("hparams.yml"))
    assert "epochs: 3" in settings and "unet_small" in settings
