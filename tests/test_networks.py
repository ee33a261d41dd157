"""Networks by name: what comes along, what is downloaded, what is said when it cannot be had."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unetlib.app.cli import main
from unetlib.checkpoint import load_checkpoint
from unetlib.data.preprocess import Preprocess, to_array
from unetlib.errors import CheckpointError
from unetlib.paths import DownloadError
from unetlib.pretrained import NETWORKS, SHIPPED, find, name_of


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "networks"


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
    names = {path.name for path in files}
    assert {"people.pth", "people.onnx", "people_unet.pth", "people.yaml", "people.md"} <= names
    for name in ("people", "people_unet"):  # no place of any machine
        extra = load_checkpoint(SHIPPED / f"{name}.pth").extra
        assert "/" not in extra.get("source", "").replace(" / ", "")


def test_cut_takes_people_without_being_asked_and_without_pytorch(astronaut, tmp_path):
    code = (
        "import sys; sys.modules |= dict.fromkeys('torch yaml pandas scipy skimage matplotlib'\n"
        "    ' imageio onnx pymatting'.split())\n"
        "from unetlib.app.cli import main\n"
        f"main(['cut', {str(astronaut)!r}, '-o', {str(tmp_path / 'out')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("network: people: ")
    mask = np.asarray(Image.open(tmp_path / "out" / "astronaut_mask_binary.png")) > 127
    assert mask[60:200, 190:260].mean() > 0.95  # her face
    assert mask[:100, :120].mean() < 0.02  # the flag
    assert mask[:100, 320:400].mean() < 0.05  # the shuttle


# By name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("poeple", "no network is called 'poeple'.*Did you mean 'people'"),
        ("isnet", "no network is called 'isnet'.*isnet-general-use"),
        ("People", "Did you mean 'people'"),
        ("~/u2nett.onnx", "Did you mean 'u2net.*there is no /.*u2nett.onnx"),
        ("mine.onnx", "There are people, .*best, and files .*'mine.onnx' not found"),
        (".", "is a folder"),
    ],
)
def test_a_name_that_is_none_is_met_with_near_ones(name, says):
    with pytest.raises((FileNotFoundError, CheckpointError), match=says) as error:
        find(name)
    assert "\n" not in str(error.value)


def test_best_is_the_newest_of_the_two_files_of_a_training(root):
    with pytest.raises(FileNotFoundError, match="no network of your own yet.*unetlib run"):
        find("best")
    folder = root / "outputs" / "checkpoints"
    folder.mkdir(parents=True)
    for name, seconds in (("best_model.pth", 1000), ("best_model.onnx", 2000)):
        (folder / name).touch()
        os.utime(folder / name, (seconds, seconds))
    assert find("best").name == "best_model.onnx"
    assert find("best", weights=True).name == "best_model.pth"
    os.utime(folder / "best_model.pth")
    assert find("best").name == "best_model.pth"


def test_public_networks_and_exported_files_are_no_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match="'u2netp' is a public network and has no checkpoint"):
        find("u2netp", weights=True)
    shutil.copy(SHIPPED / "people.onnx", tmp_path / "mine.onnx")
    with pytest.raises(CheckpointError, match="give the checkpoint"):
        find(tmp_path / "mine.onnx", weights=True)
    assert name_of(find("people")) == "people" and name_of(tmp_path / "mine.onnx") == ""


def test_networks_lists_all(capsys, root):
    with pytest.raises(SystemExit) as ended:
        main(["networks"])
    lines = capsys.readouterr().out.splitlines()
    assert not ended.value.code
    assert [line.split()[0] for line in lines[1:]] == [*NETWORKS, "best"]
    assert "yes" in lines[1] and "MIT" in lines[1]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("page.pth", b"<html></html>", "page.pth is a web page"),
        ("folder.onnx", None, "folder.onnx' is a folder"),
    ],
)
def test_what_is_no_network_is_one_line(tmp_path, astronaut, unetlib, name, content, says):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    done = unetlib("cut", astronaut, "--network", path, "-o", tmp_path / "o")
    assert done.returncode in (1, 2) and says in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("unetlib: ")


# Downloads


def test_what_is_in_the_cache_as_a_whole_is_not_downloaded_again(server, cache, monkeypatch):
    monkeypatch.setenv("UNETLIB_NETWORKS_URL", server.address)
    server.plan = ["404"]
    cache.mkdir(parents=True)
    (cache / "u2netp.onnx").write_bytes(b"half of it")
    with pytest.raises(DownloadError, match=r"could not download .*/u2netp.onnx: 404"):
        find("u2netp")
    os.truncate(cache / "u2netp.onnx", NETWORKS["u2netp"].bytes)
    assert find("u2netp") == cache / "u2netp.onnx" and set(server.paths) == {"/u2netp.onnx"}


def test_a_mirror_is_asked_and_a_wrong_checksum_leaves_nothing(server, cache, monkeypatch, capsys):
    server.files = {"/u2net.onnx": b"not a network"}
    monkeypatch.setenv("UNETLIB_NETWORKS_URL", server.address)
    with pytest.raises(DownloadError, match="u2net.onnx.* does not match"):
        find("u2net")
    assert not list(cache.glob("*")) and set(server.paths) == {"/u2net.onnx"}
    said = capsys.readouterr().err
    assert "u2net" in said and "Apache-2.0" in said and server.address in said


# The preprocessing of the authors, each by a few lines of its own


def normalised(picture, size, mean, std, top=255.0) -> np.ndarray:
    small = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.LANCZOS))
    return ((small / top - np.array(mean)) / np.array(std)).transpose(2, 0, 1)[None]


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "side", "moments", "by_max", "answer"),
    [
        ("u2netp", 320, IMAGENET, True, "range"),
        ("u2net", 320, IMAGENET, True, "range"),
        ("u2net_human_seg", 320, IMAGENET, True, "range"),
        ("silueta", 320, IMAGENET, True, "range"),
        ("isnet-general-use", 1024, (HALF, (1, 1, 1)), False, "range"),
        ("birefnet-general-lite", 1024, IMAGENET, False, "logits"),
    ],
)
def test_public_networks_see_photos_as_their_authors_show_them(name, side, moments, by_max, answer):
    network = NETWORKS[name]
    coarse = np.random.default_rng(1).integers(0, 200, (7, 10, 3), np.uint8)  # nowhere brighter
    picture = np.asarray(Image.fromarray(coarse).resize((100, 70), Image.Resampling.BICUBIC))
    small = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))
    x = normalised(picture, (side, side), *moments, top=small.max() if by_max else 255)
    np.testing.assert_allclose(to_array(picture, Preprocess(**network.preprocess)), x[0], atol=2e-4)
    assert network.answer == answer and network.size == side and len(network.sha256) == 64


@pytest.mark.parametrize(
    ("given", "fed"),
    [((300, 400), (512, 672)), ((1000, 800), (640, 512)), ((520, 400), (512, 384))],
)
def test_modnet_keeps_the_shape_of_photos(given, fed):
    """The shorter side becomes 512 unless the photo is about that size, both multiples of 32."""
    picture = np.random.default_rng(2).integers(100, 130, (*given, 3), np.uint8)
    how = Preprocess(**NETWORKS["modnet"].preprocess)
    assert how.size_for(*given) == fed
    x = to_array(picture, replace(how, size=fed))
    np.testing.assert_allclose(x, normalised(picture, fed, HALF, HALF)[0], atol=2e-2)
