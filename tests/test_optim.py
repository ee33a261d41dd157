"""Optimisers, schedules and averages against PyTorch's own and hand-computed cases."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from unetlib import optim
from unetlib.config import OPTIMIZERS, SCHEDULES, TrainConfig
from unetlib.losses import build_loss
from unetlib.models import build_model


def rates(config: TrainConfig, steps: int, scores=()) -> list[float]:
    """The learning rate of every step of a training with so many steps an epoch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = optim.Schedule(optimizer, config, steps)
    found = []
    for epoch in range(config.epochs):
        for _ in range(steps):
            found.append(schedule.lr)
            schedule.step()
        schedule.epoch_end(scores[epoch] if scores else 0.0)
    return found


def of_pytorch(make, steps: int, lr: float = 2e-3) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return found


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"schedule": "step", "step_epochs": 2}, lambda o: lr_scheduler.StepLR(o, 14, 0.5)),
        ({"schedule": "exponential"}, lambda o: lr_scheduler.ExponentialLR(o, 0.01 ** (1 / 70))),
        ({"schedule": "cosine"}, lambda o: lr_scheduler.CosineAnnealingLR(o, 70, eta_min=2e-5)),
        ({"schedule": "constant"}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        (
            {"schedule": "onecycle"},
            lambda o: lr_scheduler.OneCycleLR(
                o, 2e-3, total_steps=70, pct_start=0.1, cycle_momentum=False
            ),
        ),
        (
            {"schedule": "onecycle", "warmup": 0.3},
            lambda o: lr_scheduler.OneCycleLR(
                o, 2e-3, total_steps=70, pct_start=0.3, cycle_momentum=False
            ),
        ),
    ],
    ids=lambda value: value.get("schedule") if isinstance(value, dict) else "",
)
def test_schedules_are_those_of_pytorch(settings, make):
    config = TrainConfig(epochs=10, **settings)
    np.testing.assert_allclose(rates(config, 7), of_pytorch(make, 70), rtol=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 4))
def test_plateau_is_that_of_pytorch(scores, patience):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor=0.5, patience=patience)
    expected = []
    for score in scores:
        expected.append(optimizer.param_groups[0]["lr"])
        theirs.step(score)
    config = TrainConfig(epochs=len(scores), lr=1.0, schedule="plateau", patience=patience)
    # PyTorch has a floor for changes of the rate, 1e-8
    np.testing.assert_allclose(rates(config, 1, scores), expected, atol=2e-8)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(epochs=st.integers(1, 6), steps=st.integers(1, 9), warmup=st.floats(0, 0.9))
def test_rates_are_positive_and_never_above_lr(schedule, epochs, steps, warmup):
    found = rates(TrainConfig(epochs=epochs, schedule=schedule, warmup=warmup), steps)
    assert all(0 < rate <= 2e-3 * (1 + 1e-12) for rate in found)


@pytest.mark.parametrize("schedule", ["step", "exponential", "cosine", "plateau", "constant"])
def test_warm_up_rises_in_equal_steps_to_lr(schedule):
    found = rates(TrainConfig(epochs=4, schedule=schedule, warmup=0.25, lr=1.0), 8)
    np.testing.assert_allclose(found[:8], np.arange(1, 9) / 8)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_goes_on_from_its_state(schedule):
    config = TrainConfig(epochs=4, schedule=schedule, warmup=0.1, patience=1, step_epochs=1)

    def begin():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
        return optim.Schedule(optimizer, config, 5)

    whole, first, second = begin(), begin(), begin()
    expected, found = [], []
    for step in range(20):
        if step == 12:
            second.load_state_dict(first.state_dict())
        for schedule_, rates_ in ((whole, expected), (second if step >= 12 else first, found)):
            rates_.append(schedule_.lr)
            schedule_.step()
            if step % 5 == 4:
                schedule_.epoch_end(0.5)
    assert found == expected


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_and_their_decay_are_those_of_pytorch(name):
    """Five steps on one weight, against the plain formulas in float64."""
    net = torch.nn.Conv2d(1, 1, 1, bias=False)
    net.weight.data.fill_(0.5)
    config = TrainConfig(optimizer=name, lr=0.1, weight_decay=0.2, momentum=0.9)
    optimizer = optim.build_optimizer(net, config)
    w, m, v = 0.5, 0.0, 0.0
    for step in range(1, 6):
        gradient = math.cos(step)
        net.weight.grad = torch.full_like(net.weight, gradient)
        optimizer.step()
        if name == "adamw":
            w -= 0.1 * 0.2 * w
        else:
            gradient += 0.2 * w  # the L2 penalty
        if name == "sgd":
            m = gradient if step == 1 else 0.9 * m + gradient
            w -= 0.1 * (gradient + 0.9 * m)  # Nesterov
        else:
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            w -= 0.1 * (m / (1 - 0.9**step)) / (math.sqrt(v / (1 - 0.999**step)) + 1e-8)
        assert net.weight.item() == pytest.approx(w, abs=1e-6)


def test_weight_decay_spares_biases_and_norms():
    net = build_model("unet_small", base=4, depth=2)
    groups = optim.build_optimizer(net, TrainConfig(weight_decay=0.1)).param_groups
    assert {p.ndim for p in groups[0]["params"]} == {4} and groups[0]["weight_decay"] == 0.1
    assert {p.ndim for p in groups[1]["params"]} == {1} and groups[1]["weight_decay"] == 0


def test_the_encoder_takes_its_share_of_every_rate():
    model = torch.nn.Module()
    model.encoder, model.head = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
    config = TrainConfig(lr=0.1, encoder_lr=0.25, schedule="cosine", epochs=2)
    optimizer = optim.build_optimizer(model, config)
    schedule = optim.Schedule(optimizer, config, 5)
    for _ in range(10):
        for group in optimizer.param_groups:
            ours = any(p is q for p in group["params"] for q in model.encoder.parameters())
            assert group["lr"] == pytest.approx(schedule.lr * (0.25 if ours else 1))
        schedule.step()
    assert len(optimizer.param_groups) == 4  # with and without decay, encoder and the rest


def test_the_moving_average_by_hand():
    net = torch.nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(1.0)
    ema = optim.Ema(net, decay=0.5)
    expected = None
    for n, value in enumerate((1.0, 3.0, 5.0, 9.0)):
        net.weight.data.fill_(value)
        ema.update(net)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if n == 0 else decay * expected + (1 - decay) * value
    assert ema.model.weight.item() == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_optimizer_and_schedule_lowers_the_loss(optimizer, schedule):
    from unetlib.training import fit, seed_everything

    rng = torch.Generator().manual_seed(0)
    mask = torch.zeros(8, 1, 16, 16)
    mask[:4, :, 4:12, :8] = 1
    mask[4:, :, 8:, 4:12] = 1
    batches = [(mask + 0.5 * torch.randn(8, 3, 16, 16, generator=rng), mask)] * 4
    seed_everything(0)
    net = build_model("unet_small", base=4, depth=2)
    lr = 0.2 if optimizer == "sgd" else 2e-2
    config = TrainConfig(
        epochs=8, lr=lr, optimizer=optimizer, schedule=schedule, precision="float32"
    )
    result = fit(net, batches, None, config, loss=build_loss("bce_dice"), progress=False)
    assert result.history[-1]["train_loss"] < 0.8 * result.history[0]["train_loss"]
