"""Predictor against a network whose answer is known for every photo, and the choice of a device."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from unetlib.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from unetlib.data.images import ImageError
from unetlib.data.preprocess import Preprocess
from unetlib.device import available_devices, choose_device, describe_device
from unetlib.models import build_model
from unetlib.predict import MAX_SIZE, Predictor, read_photo, resize_soft


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


def test_at_its_own_working_size_nothing_is_resampled():
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_allclose(redness().predict(photo), expected(photo[..., 0]), atol=1e-5)


@pytest.mark.parametrize("shape", [(48, 200), (300, 70), (1, 40), (40, 1), (20, 1500)])
def test_the_mask_lies_where_the_object_is(shape):
    photo = np.zeros((*shape, 3), np.uint8)
    photo[: (shape[0] + 1) // 2, : (shape[1] + 1) // 2] = 255  # upper left
    soft = redness().predict(photo)
    assert soft.shape == shape and 0 <= soft.min() <= soft.max() <= 1
    assert ((soft > 0.5) == (photo[..., 0] > 127)).mean() > 0.95
    assert soft[0, 0] > 0.9


def test_the_same_photo_as_path_bytes_file_picture_and_array(tmp_path, photo):
    rgb = photo(40, 60)
    path = tmp_path / "a.png"
    Image.fromarray(rgb).save(path)
    predictor = redness()
    want = predictor.predict(rgb)
    with path.open("rb") as file:
        given = [path, str(path), path.read_bytes(), file, Image.open(path)]
        for image in given:
            np.testing.assert_array_equal(predictor.predict(image), want)


def test_exif_rotation_turns_the_mask_with_the_photo():
    rgb = np.zeros((30, 60, 3), np.uint8)
    rgb[:, :30] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90° clockwise: the left half comes to the top
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", exif=exif, quality=95)
    soft = redness().predict(file.getvalue())
    assert soft.shape == (60, 30)
    assert soft[:25].min() > 0.9 and soft[35:].max() < 0.1


def test_grey_and_rgba_arrays_are_read_like_files():
    grey = np.full((8, 9), 200, np.uint8)
    np.testing.assert_array_equal(read_photo(grey), np.full((8, 9, 3), 200))
    np.testing.assert_array_equal(read_photo(grey[..., None]), np.full((8, 9, 3), 200))
    clear = np.zeros((8, 9, 4), np.uint8)
    assert (read_photo(clear) == 255).all()  # transparent: on white, as load_image documents


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), ValueError, "uint8"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, "shape"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "shape"),
        (np.zeros(4, np.uint8), ValueError, "shape"),
        (b"hello", ImageError, "not an image"),
        ("no_such_photo.jpg", ImageError, "no_such_photo.jpg"),
    ],
)
def test_what_is_no_photo_is_named(image, error, words):
    with pytest.raises(error, match=words):
        redness().predict(image)


def test_a_batch_of_mixed_sizes_equals_one_by_one(photo, unet):
    photos = [photo(20 + 7 * i, 90 - 8 * i, i) for i in range(7)]
    together = unet.predict_batch(iter(photos), batch_size=3)
    assert [m.shape for m in together] == [p.shape[:2] for p in photos]
    for one, mask in zip(photos, together, strict=True):
        np.testing.assert_allclose(unet.predict(one), mask, atol=1e-5)
    assert unet.predict_batch([]) == []


def test_eval_mode_no_gradients_and_the_sigmoid_of_the_models_own_logits(photo, unet):
    rgb = photo(64, 64)
    np.testing.assert_array_equal(unet.predict(rgb), unet.predict(rgb))  # dropout is off
    x = (rgb / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    with torch.no_grad():
        logits = unet.model(torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32))
    want = torch.sigmoid(logits)[0, 0].numpy()
    np.testing.assert_allclose(unet.predict(rgb), want, atol=1e-5)


def test_threads_do_not_disturb_each_other(photo, unet):
    photos = [photo(30 + i, 50, i) for i in range(12)]
    sizes = [64, 96, 64, 80] * 3
    want = [unet.predict(p, size=s) for p, s in zip(photos, sizes, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(unet.predict, photos, sizes))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


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


def test_several_networks_are_averaged():
    photo = np.zeros((64, 64, 3), np.uint8)
    preprocess = Preprocess((64, 64))
    checkpoints = [Checkpoint(Shift(value), preprocess) for value in (-3, 0, 2)]
    together = Predictor(checkpoints, "cpu")
    ones = [Predictor(one, "cpu").predict(photo) for one in checkpoints]
    np.testing.assert_allclose(together.predict(photo), np.mean(ones, axis=0), atol=1e-6)
    assert together.describe().startswith("Shift + Shift + Shift at 64×64")
    with pytest.raises(ValueError, match="empty"):
        Predictor([])


def test_each_of_several_networks_has_its_own_normalisation():
    dark = Checkpoint(Redness(), Preprocess((64, 64), (0.5, 0, 0), (1.0, 1, 1)))
    plain = Checkpoint(Redness(), Preprocess((32, 32), (0.0,) * 3, (1.0,) * 3))
    photo = np.full((64, 64, 3), 200, np.uint8)
    want = (expected(200) + expected(200 - 127.5)) / 2
    np.testing.assert_allclose(Predictor([plain, dark], "cpu").predict(photo), want, atol=1e-3)


def test_flipped_answers_are_averaged():
    preprocess = Preprocess((64, 64))
    one = Predictor(Checkpoint(Shift(4), preprocess), "cpu", flip=True)
    soft = one.predict(np.zeros((64, 64, 3), np.uint8))
    want = (0.5 + 1 / (1 + np.exp(-4))) / 2  # right half as it is, left half from the mirror image
    np.testing.assert_allclose(soft, want, atol=1e-6)
    assert "mirror" in one.describe()
    lopsided = np.zeros((64, 64, 3), np.uint8)
    lopsided[:, :20, 0] = 255
    plain, both = redness(), Predictor(redness().networks[0].checkpoint, "cpu", flip=True)
    np.testing.assert_allclose(both.predict(lopsided), plain.predict(lopsided), atol=1e-6)


def test_small_masks_are_what_predict_enlarges(photo, unet):
    photos = [photo(30, 50, 1), photo(90, 40, 2)]
    small = unet.predict_small(photos, 96)
    assert small.shape == (2, 96, 96) and small.dtype == np.float32
    for mask, image in zip(small, photos, strict=True):
        whole = resize_soft(mask, *image.shape[:2])
        np.testing.assert_allclose(unet.predict(image, 96), whole, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_resizing_keeps_the_range(h, w, height, width):
    soft = (np.random.default_rng(h * w).random((h, w)) > 0.5).astype(np.float32)
    out = resize_soft(soft, height, width)
    assert out.shape == (height, width) and out.dtype == np.float32
    assert out.min() >= 0 and out.max() <= 1


def test_from_a_file_and_in_words(tmp_path, photo, unet):
    path = save_checkpoint(tmp_path / "best_model.pth", unet.networks[0].checkpoint)
    again = Predictor(path, device="cpu")
    np.testing.assert_allclose(again.predict(photo()), unet.predict(photo()), atol=1e-6)
    words = again.describe()
    assert all(w in words for w in ("unet_small", "64×64", "cpu", "epoch 3", "0.750")), words
    assert "96×96" in again.describe(96)


def test_a_missing_checkpoint_says_how_to_get_one(tmp_path):
    with pytest.raises(CheckpointError, match="03_train") as caught:
        Predictor(tmp_path / "best_model.pth")
    assert "best_model.pth" in str(caught.value)


def test_a_network_of_nans_is_no_black_mask():
    class Broken(nn.Module):
        def forward(self, x):
            return x[:, :1] * float("nan")

    with pytest.raises(ValueError, match="NaN"):
        redness(model=Broken()).predict(np.zeros((9, 9, 3), np.uint8))


def test_out_of_memory_comes_with_advice():
    class Hungry(nn.Module):
        def forward(self, x):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match=r"batch of 1 at 64×64.*batch_size"):
        redness(model=Hungry()).predict(np.zeros((9, 9, 3), np.uint8))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_without_a_gpu(no_gpu):
    assert available_devices() == ("cpu",)
    assert choose_device() == choose_device("CPU") == torch.device("cpu")
    assert choose_device(torch.device("cpu")).type == "cpu"
    assert "threads" in describe_device(torch.device("cpu"))
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(RuntimeError, match=f"{name}.*only: cpu"):
            choose_device(name)
    with pytest.raises(RuntimeError, match="asked for"):
        Predictor("people_unet", device="cuda")
    for name in ("gpu", "cuda:x", "cuda0"):
        with pytest.raises(ValueError, match="use one of auto, cpu, cuda, mps"):
            choose_device(name)


def test_with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(RuntimeError, match="cuda:1"):
        choose_device("cuda:2")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_gpu_gives_the_cpus_mask(photo, unet):
    want = unet.predict(photo(100, 80))
    there = Predictor(unet.networks[0].checkpoint, device="cuda")
    try:
        np.testing.assert_allclose(there.predict(photo(100, 80)), want, atol=5e-3)
    finally:
        unet.model.to("cpu")
