"""The web page without a browser: what it shows and makes, its limits, the command's refusals."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from networks import write_color_network
from PIL import Image
from test_images import SWAPPED

from unetlib.app import web
from unetlib.predict import Predictor

pytest.importorskip("gradio")
# size, threshold, refine, ground, color, behind
SETTINGS = [0, 0.5, "guided", "transparent", "#0a4678", None]


@pytest.fixture
def network(root, tmp_path) -> Predictor:
    return Predictor(write_color_network(tmp_path / "red.onnx"))


@pytest.fixture
def photo(tmp_path) -> str:
    rgb = np.full((90, 120, 3), (10, 30, 90), np.uint8)
    rgb[20:70, 30:80] = (250, 20, 20)
    Image.fromarray(rgb).save(tmp_path / "me.png")
    return str(tmp_path / "me.png")


def test_the_page_as_notebooks_open_it(root):
    page = web.build_page()
    assert "Your photos" in {getattr(block, "label", "") for block in page.blocks.values()}


def test_the_preview(network, photo, tmp_path):
    (before, after), soft, edge, text = web.preview(photo, network, *SETTINGS)
    np.testing.assert_array_equal(before, np.asarray(Image.open(photo)))
    assert after.shape == before.shape and soft.shape == (90, 120) and edge.ndim == 3
    assert soft[45, 55] > 250 and soft[5, 5] < 5 and "120×90 pixels, 23% foreground" in text
    for ground, far in (("colour", (10, 70, 120)), ("grey", (31, 31, 31)), ("blur", (10, 30, 90))):
        settings = [*SETTINGS[:3], ground, *SETTINGS[4:]]
        (_, after), *_ = web.preview(photo, network, *settings)
        np.testing.assert_allclose(after[2, 2], far, atol=3)
    behind = tmp_path / "behind.png"
    Image.new("RGB", (9, 9), (200, 200, 200)).save(behind)
    settings = [*SETTINGS[:3], "picture", "", str(behind)]
    assert web.preview(photo, network, *settings)[0][1][2, 2].tolist() == [200, 200, 200]
    Image.open(photo).save(again := str(tmp_path / "again.png"), icc_profile=SWAPPED)
    assert web.preview(again, network, *SETTINGS)[0][0][45, 55, 2] > 240
    Image.new("RGB", (50, 40), "blue").save(Path(photo).with_name("blue.png"))
    said = web.preview(str(Path(photo).with_name("blue.png")), network, 64, *SETTINGS[1:])[-1]
    assert "Nothing reaches the threshold" in said and "at 64×64" in said


def test_another_threshold_does_not_predict_again(network, photo, monkeypatch):
    first = web.preview(photo, network, *SETTINGS)
    monkeypatch.setattr(network, "predict", None)  # whatever asked it once more would fail
    assert web.preview(photo, network, 0, 0.9, *SETTINGS[2:])[-1] != "" and first


def test_files_and_a_zip_of_photos_of_one_name(network, photo, tmp_path):
    files = web.make_files(str(tmp_path / "made"), [photo], network, *SETTINGS)
    names = [f"me_{kind}.png" for kind in ("mask_binary", "mask_soft", "foreground")]
    assert [Path(file).name for file in files] == names
    (tmp_path / "other").mkdir()
    others = [str(tmp_path / "other" / name) for name in ("me.png", "me_2.png")]
    for other in others:
        Image.new("RGB", (9, 9), "red").save(other)
    [file] = web.make_files(str(tmp_path / "zip"), [photo, *others], network, *SETTINGS)
    with zipfile.ZipFile(file) as archive:
        assert len(archive.namelist()) == 9 and "me_2_foreground.png" in archive.namelist()
