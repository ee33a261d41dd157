"""Predictor against a network whose answer is known for every photo, and the choice of a device."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unetlib.checkpoint import Checkpoint, save_checkpoint
from unetlib.data.preprocess import Preprocess
from unetlib.models import build_model, choose_device, describe_device
from unetlib.predict import MAX_SIZE, Predictor


class Redness(nn.Module):
    """Logit 12 * (red - 0.5), red in 0…1: the probability of each pixel can be computed by hand."""

    def forward(self, x):
        return 12 * (x[:, :1] - 0.5)


def redness(size=64, model=None) -> Predictor:
    preprocess = Preprocess((size, size), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Predictor(Checkpoint(model or Redness(), preprocess), device="cpu")


def expected(red):
    return 1 / (1 + np.exp(-12 * (np.asarray(red, np.float64) / 255 - 0.5)))


@pytest.fixture(scope="module")
def unet() -> Predictor:
    torch.manual_seed(0)
    model = build_model("unet_small", dropout=0.5).train()
    return Predictor(Checkpoint(model, Preprocess((64, 64)), 3, {"val_iou": 0.75}), device="cpu")


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 255))
def test_a_plain_photo_gets_the_sigmoid_of_its_logit_at_its_own_size(height, width, red):
    photo = np.zeros((height, width, 3), np.uint8)
    photo[..., 0] = red
    soft = redness().predict(photo)
    assert soft.shape == (height, width) and soft.dtype == np.float32
    np.testing.assert_allclose(soft, expected(red), atol=1e-4)


@pytest.mark.parametrize("shape", [(48, 200), (300, 70), (1, 40), (40, 1), (20, 1500)])
def test_the_mask_lies_where_the_object_is(shape):
    photo = np.zeros((*shape, 3), np.uint8)
    photo[: (shape[0] + 1) // 2, : (shape[1] + 1) // 2] = 255  # upper left
    soft = redness().predict(photo)
    assert soft.shape == shape and 0 <= soft.min() <= soft.max() <= 1
    assert ((soft > 0.5) == (photo[..., 0] > 127)).mean() > 0.95
    assert soft[0, 0] > 0.9


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), ValueError, "uint8"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, "uint8"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "uint8"),
        ("no_such_photo.jpg", FileNotFoundError, "no_such_photo.jpg"),
    ],
)
def test_what_is_no_photo_is_named(image, error, words):
    with pytest.raises(error, match=words):
        redness().predict(image)


def test_any_size_gives_a_mask_of_its_own_size(photo, unet):
    for i in range(7):
        image = photo(20 + 7 * i, 90 - 8 * i, i)
        assert unet.predict(image).shape == image.shape[:2]


def test_eval_mode_no_gradients_and_the_sigmoid_of_the_models_own_logits(photo, unet):
    rgb = photo(64, 64)
    np.testing.assert_array_equal(unet.predict(rgb), unet.predict(rgb))  # dropout is off
    x = (rgb / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    with torch.no_grad():
        logits = unet.networks[0].model(
            torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32)
        )
    want = torch.sigmoid(logits)[0, 0].numpy()
    np.testing.assert_allclose(unet.predict(rgb), want, atol=1e-5)


def test_working_size():
    seen = []

    class Spy(Redness):
        def forward(self, x):
            seen.append(tuple(x.shape[2:]))
            return super().forward(x)

    predictor = redness(64, Spy())
    photo = np.zeros((50, 50, 3), np.uint8)
    for size in (None, 96, (40, 80), np.int64(128)):
        assert predictor.predict(photo, size=size).shape == (50, 50)
    other = Predictor(predictor.networks[0].checkpoint, "cpu", size=200)
    other.predict(photo)
    assert seen == [(64, 64), (96, 96), (40, 80), (128, 128), (200, 200)]
    assert predictor.preprocess.size == (64, 64)  # a call's size is that call's alone
    for size in (0, 16, MAX_SIZE + 1, 64.5, (64, -1)):
        with pytest.raises(ValueError, match="working size"):
            predictor.predict(photo, size=size)


class Shift(nn.Module):
    """Logits that depend on the place: 0 on the left, `value` on the right half."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        logits = torch.zeros_like(x[:, :1])
        logits[..., x.shape[3] // 2 :] = self.value
        return logits


def test_several_networks_and_mirror_images_are_averaged():
    photo = np.zeros((64, 64, 3), np.uint8)
    checkpoints = [Checkpoint(Shift(value), Preprocess((64, 64))) for value in (-3, 0, 4)]
    together = Predictor(checkpoints, "cpu")
    ones = [Predictor(one, "cpu").predict(photo) for one in checkpoints]
    np.testing.assert_allclose(together.predict(photo), np.mean(ones, axis=0), atol=1e-6)
    assert together.describe().startswith("Shift + Shift + Shift at 64×64")
    one = Predictor(checkpoints[-1], "cpu", flip=True)
    want = (0.5 + 1 / (1 + np.exp(-4))) / 2  # right half as it is, left half from the mirror image
    np.testing.assert_allclose(one.predict(photo), want, atol=1e-6)
    assert "mirror" in one.describe()


def test_each_of_several_networks_has_its_own_normalisation():
    dark = Checkpoint(Redness(), Preprocess((64, 64), (0.5, 0, 0), (1.0, 1, 1)))
    plain = Checkpoint(Redness(), Preprocess((32, 32), (0.0,) * 3, (1.0,) * 3))
    photo = np.full((64, 64, 3), 200, np.uint8)
    want = (expected(200) + expected(200 - 127.5)) / 2
    np.testing.assert_allclose(Predictor([plain, dark], "cpu").predict(photo), want, atol=1e-3)


def test_from_a_file_and_in_words(tmp_path, photo, unet):
    path = save_checkpoint(tmp_path / "best_model.pth", unet.networks[0].checkpoint)
    again = Predictor(path, device="cpu")
    np.testing.assert_allclose(again.predict(photo()), unet.predict(photo()), atol=1e-6)
    words = again.describe()
    assert all(w in words for w in ("unet_small", "64×64", "cpu", "epoch 3", "0.750")), words
    assert "96×96" in again.describe(96)


def test_a_network_of_nans_is_no_black_mask():
    with pytest.raises(ValueError, match="network Shift: probabilities are expected, not nan"):
        redness(model=Shift(float("nan"))).predict(np.zeros((9, 9, 3), np.uint8))


def test_a_model_in_half_precision(photo, unet):
    half = replace(unet.networks[0].checkpoint, model=copy.deepcopy(unet.networks[0].model).half())
    soft = Predictor(half, "cpu").predict(photo())
    np.testing.assert_allclose(soft, unet.predict(photo()), atol=1e-2)
    assert 0 <= soft.min() <= soft.max() <= 1 and soft.dtype == np.float32


def test_devices():
    assert choose_device("CPU") == choose_device(torch.device("cpu")) == torch.device("cpu")
    assert "threads" in describe_device(torch.device("cpu"))
    for name in ("gpu", "cuda:x", "cuda0", ""):
        with pytest.raises(ValueError, match="use one of auto, cpu, cuda, mps"):
            choose_device(name)
    with pytest.raises(RuntimeError, match="cuda:99.*asked for"):
        choose_device("cuda:99")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="finds only"):
            Predictor("people_unet", device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_gpu_gives_the_cpus_mask(photo, unet):
    want = unet.predict(photo(100, 80))
    there = Predictor(unet.networks[0].checkpoint, device="cuda")
    try:
        np.testing.assert_allclose(there.predict(photo(100, 80)), want, atol=5e-3)
    finally:
        unet.networks[0].model.to("cpu")
