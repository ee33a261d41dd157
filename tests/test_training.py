"""fit(): learns, keeps the best, and says what is wrong."""

import math
import shutil
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from unetlib import optim
from unetlib.checkpoint import CheckpointError, load_checkpoint
from unetlib.data import Preprocess
from unetlib.losses import build_loss
from unetlib.models import build_model
from unetlib.training import TrainConfig, TrainingError, TrainingWarning, fit, seed_everything

PREPROCESS = Preprocess((32, 32))


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


QUICK = {"precision": "float32", "lr": 2e-2}


def test_it_learns_and_keeps_the_best(tmp_path):
    train, val = loaders()
    net = model()
    result = fit(net, train, val, TrainConfig(epochs=8, **QUICK), out_dir=tmp_path, progress=False)
    ious = [row["val_iou"] for row in result.history]
    assert len(ious) == 8 and max(ious) > 0.85 > ious[0]
    assert result.stopped == "finished"
    assert result.best_epoch == 1 + int(np.argmax(ious))
    best, last = load_checkpoint(result.best_path), load_checkpoint(result.last_path)
    assert (best.epoch, last.epoch) == (result.best_epoch, 8)
    assert best.metrics["val_iou"] == max(ious) == result.best["val_iou"]
    assert last.history == result.history
    assert best.preprocess == PREPROCESS
    assert best.extra["config"]["epochs"] == 8
    for phase in ("train", "val"):
        assert {f"{phase}_loss", f"{phase}_bce_loss", f"{phase}_dice_loss"} <= set(
            result.history[0]
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best_model.pth", "last_model.pth"]
    for a, b in zip(net.parameters(), last.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_reported_scores_are_those_of_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics.classification")
    train, val = loaders()
    net = model()
    row = fit(net, train, val, TrainConfig(epochs=2, **QUICK), progress=False).history[-1]
    images, masks = val.dataset.tensors
    logits = net(images)
    pooled = torchmetrics.BinaryJaccardIndex()(logits.sigmoid(), masks.int())
    accuracy = torchmetrics.BinaryAccuracy()(logits.sigmoid(), masks.int())
    dice = [
        torchmetrics.BinaryF1Score()(p, m.int()).item()
        for p, m in zip(logits.sigmoid(), masks, strict=True)
    ]
    assert row["val_pooled_iou"] == pytest.approx(pooled.item(), abs=1e-6)
    assert row["val_accuracy"] == pytest.approx(accuracy.item(), abs=1e-6)
    assert row["val_dice"] == pytest.approx(np.mean(dice), abs=1e-6)
    assert row["val_foreground_true"] == pytest.approx(masks.mean().item())
    loss = build_loss("bce_dice")(logits, masks)
    assert row["val_loss"] == pytest.approx(loss["loss"].item(), abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "schedule": "onecycle"}], ids=repr)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(options):
    config = TrainConfig(epochs=2, **QUICK, **options)
    runs = []
    for _ in range(2):
        net = model(dropout=0.3)
        fit(net, *loaders(), config, progress=False)
        runs.append(net.state_dict())
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


def test_fine_tuning_starts_from_the_checkpoint(tmp_path):
    train, val = loaders()
    first = fit(model(), train, val, TrainConfig(epochs=6, **QUICK), out_dir=tmp_path)
    again = fit(
        model(seed=1), train, val, TrainConfig(epochs=1, lr=1e-5, precision="float32"),
        init_from=first.best_path, progress=False,
    )  # fmt: skip
    assert again.history[0]["val_iou"] > first.best["val_iou"] - 0.05
    with pytest.raises(CheckpointError, match="another architecture"):
        fit(model(base=8), train, val, init_from=first.best_path, progress=False)


def test_early_stop():
    train, val = loaders()
    config = TrainConfig(epochs=20, lr=1e-12, early_stop=2, precision="float32", optimizer="adam")
    result = fit(model(), train, val, config, progress=False)
    assert result.stopped == "early stop"
    assert len(result.history) == result.best_epoch + 2 < 20


def test_ctrl_c_keeps_what_there_is(tmp_path):
    class Impatient(torch.nn.Module):
        calls = 0

        def forward(self, logits, target):
            self.calls += 1
            if self.calls == 20:  # 8 batches and 1 for validation make an epoch of 9: in the third
                raise KeyboardInterrupt
            return build_loss("bce_dice")(logits, target)

    result = fit(
        model(), *loaders(), TrainConfig(epochs=5, **QUICK), loss=Impatient(), out_dir=tmp_path,
        progress=False,
    )  # fmt: skip
    assert result.stopped == "interrupted"
    assert len(result.history) == 2
    assert load_checkpoint(result.best_path).epoch in (1, 2)
    assert load_checkpoint(result.last_path).history == result.history


def test_a_loss_that_is_no_number_stops_with_advice(tmp_path):
    train, val = loaders()
    fit(model(), train, val, TrainConfig(epochs=1, **QUICK), out_dir=tmp_path, progress=False)
    before = (tmp_path / "best_model.pth").read_bytes()
    train.dataset.tensors[0][3, 0, 0, 0] = math.nan
    with pytest.raises(TrainingError, match=r"epoch 1, batch 1\): the pixels of image 4"):
        fit(model(), train, val, TrainConfig(epochs=1, **QUICK), out_dir=tmp_path, progress=False)
    assert (tmp_path / "best_model.pth").read_bytes() == before
    healthy, _ = loaders()
    with pytest.raises(TrainingError, match=r"learning rate 1e\+30.*photos and masks are.*1e\+29"):
        fit(model(), healthy, None, TrainConfig(epochs=2, lr=1e30, clip=0, precision="float32"))


def test_all_background_is_said_aloud():
    train, val = loaders()
    net = model()
    net.head.bias.data.fill_(-20.0)
    config = TrainConfig(epochs=4, lr=1e-6, precision="float32")
    share = val.dataset.tensors[1].mean().item()
    with pytest.warns(TrainingWarning, match=f"background, while {share:.1%} of them"):
        fit(net, train, val, config, progress=False)
    with warnings.catch_warnings():  # nothing to say where there is no foreground to find
        warnings.simplefilter("error", TrainingWarning)
        for loader in (train, val):
            loader.dataset.tensors[1].zero_()
        history = fit(net, train, val, config, progress=False).history
    assert history[-1]["val_iou"] == 1.0


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_all_black_and_all_white_masks_train(fill):
    train, val = loaders()
    for loader in (train, val):
        loader.dataset.tensors[1].fill_(fill)
    history = fit(model(), train, val, TrainConfig(epochs=6, **QUICK), progress=False).history
    assert history[-1]["val_iou"] > 0.99
    assert history[-1]["val_loss"] < history[0]["val_loss"]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), MemoryError()]
)
def test_out_of_memory_names_batch_and_size(error):
    class Full(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 1, 1)

        def forward(self, x):
            raise error

    with pytest.raises(TrainingError, match=r"batch_size 8 .*32×32.*batch_size 4 .*image_size 16"):
        fit(Full(), *loaders(), TrainConfig(epochs=1, **QUICK), progress=False)


def test_batch_larger_than_the_set_and_no_val_set(tmp_path):
    train = DataLoader(discs(3), batch_size=16)
    result = fit(model(), train, None, TrainConfig(epochs=2, **QUICK), out_dir=tmp_path)
    assert "val_iou" not in result.history[0]
    assert load_checkpoint(result.best_path).epoch == result.best_epoch


def test_bfloat16_learns_the_same(tmp_path):
    config = {"epochs": 8, "lr": 2e-2}
    ious = [
        fit(model(), *loaders(), TrainConfig(**config, precision=p), progress=False).best["val_iou"]
        for p in ("float32", "bfloat16")
    ]
    assert min(ious) > 0.85
    assert ious[0] == pytest.approx(ious[1], abs=0.05)


def test_callbacks_see_each_epoch_in_eval_mode():
    seen = []
    fit(
        model(), *loaders(), TrainConfig(epochs=2, **QUICK), progress=False,
        on_epoch=[lambda epoch, net, row: seen.append((epoch, net.training, row["val_iou"]))],
    )  # fmt: skip
    assert [(epoch, training) for epoch, training, _ in seen] == [(1, False), (2, False)]


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("lr", -1.0), ("lr", float("nan")), ("lr", 0), ("weight_decay", -1),
     ("ema", 1.0),
     ("optimizer", "sdg"), ("schedule", "poly"), ("precision", "int8")],
)  # fmt: skip
def test_values_that_make_no_sense_are_named(field, value):
    with pytest.raises(ValueError, match=rf"^{field} is"):
        TrainConfig(**{field: value})


def test_other_errors():
    with pytest.raises(TrainingError, match="yields no batch"):
        fit(model(), DataLoader(discs(3), batch_size=8, drop_last=True))
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        optim.choose_precision("float16", torch.device("cpu"))
    no_preprocess = DataLoader(TensorDataset(*discs(2).tensors))
    with pytest.raises(ValueError, match="preprocess"):
        fit(model(), no_preprocess, out_dir="somewhere")


def test_a_fit_that_cannot_save_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="could not write"):
        fit(model(), *loaders(), TrainConfig(epochs=1, **QUICK), out_dir=tmp_path / "file" / "x")


def test_recomputing_activations_changes_nothing_but_the_memory():
    runs = []
    for recompute in (False, True):
        net = model(dropout=0.3)
        fit(net, *loaders(), TrainConfig(epochs=1, recompute=recompute, **QUICK), progress=False)
        runs.append(net.state_dict())
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    with pytest.raises(ValueError, match="compile and recompute"):
        TrainConfig(compile=True, recompute=True)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_training_learns_the_same():
    losses = []
    for compile in (False, True):
        train, _ = loaders(n_train=16)
        config = TrainConfig(epochs=2, compile=compile, precision="float32", lr=1e-3)
        losses.append(fit(model(depth=1), train, None, config, progress=False).history)
    for plain, compiled in zip(*losses, strict=True):
        assert compiled["train_loss"] == pytest.approx(plain["train_loss"], abs=1e-3)


def test_accumulated_batches_are_one_large_batch():
    """Without batch norm, whose statistics are those of the small batch."""

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 1, 3, padding=1)

        def forward(self, x):
            return self.layer(x)

    histories = []
    for batch_size, accumulate in ((8, 1), (2, 4)):
        seed_everything(0)
        config = TrainConfig(
            epochs=3, accumulate=accumulate, optimizer="sgd", schedule="cosine", **QUICK
        )
        train = DataLoader(discs(20), batch_size, drop_last=False)  # 2 steps of 8 and one of 4
        histories.append(fit(Plain(), train, None, config, progress=False).history)
    for large, small in zip(*histories, strict=True):
        assert small["lr"] == large["lr"]
        assert small["train_loss"] == pytest.approx(large["train_loss"], abs=1e-5)


def test_u2net_trains_with_all_its_maps():
    seed_everything(0)
    net = build_model("u2netp", encoder=[(2, 4)] * 6, decoder=[(2, 4)] * 5)
    train, val = loaders(n_train=16)
    row = fit(net, train, val, TrainConfig(epochs=1, **QUICK), progress=False).history[0]
    total = sum(row[f"train_d{i}_loss"] for i in range(7))
    assert row["train_loss"] == pytest.approx(total, rel=1e-5)
    assert row["train_d0_loss"] == pytest.approx(row["train_bce_loss"] + row["train_dice_loss"])
    assert "val_iou" in row and "val_d1_loss" not in row  # one map in eval mode


def test_a_broken_photo_is_named():
    """Datasets of floats can hold NaN; those that know their files get them named."""
    from unetlib.data.sampler import SeededSampler

    class Files(torch.utils.data.Dataset):
        inner, preprocess = discs(20), PREPROCESS

        def __len__(self):
            return len(self.inner)

        def __getitem__(self, key):
            epoch, index = key
            image, mask = (tensor.clone() for tensor in self.inner[index])
            if index == 5:
                mask[0, 3, 3] = math.inf
            return image, mask

        def name(self, index):
            return f"photos/{index}.jpg"

    sampler = SeededSampler(20, seed=1, batch_size=4)
    train = DataLoader(Files(), 4, sampler=sampler)
    sampler.set_epoch(1)
    batch = [index for _, index in sampler].index(5) // 4 + 1
    with pytest.raises(
        TrainingError, match=rf"no number \(epoch 1, batch {batch}\): the mask of photos/5\.jpg\."
    ):
        fit(model(), train, None, TrainConfig(epochs=1, **QUICK), progress=False)
