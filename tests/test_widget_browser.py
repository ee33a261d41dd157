"""The app in a real browser: Voila serves it, Chromium uses it, downloads are compared in bytes.

Skipped where Chromium, Playwright or Voila are missing (`pip install -e ".[browser]"` and, on
Debian, `apt-get install chromium`).
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytest.importorskip("voila", reason="needs voila")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")

REPOSITORY = Path(__file__).resolve().parent.parent
# A network whose answer is known: red is foreground.
NOTEBOOK = """
import sys
sys.path.insert(0, REPOSITORY)
from torch import nn
from unetlib.app.widget import build_app
from unetlib.checkpoint import Checkpoint
from unetlib.data.preprocess import Preprocess
from unetlib.predict import Predictor

class Redness(nn.Module):
    def forward(self, x):
        return 12 * (x[:, :1] - 0.5)

preprocess = Preprocess((128, 128), (0.0,) * 3, (1.0,) * 3)
build_app(Predictor(Checkpoint(Redness(), preprocess), device="cpu"))
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voila")
    source = NOTEBOOK.strip().replace("REPOSITORY", repr(str(REPOSITORY)))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "app.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "voila", "app.ipynb", "--no-browser", f"--port={port}"]
    log = folder / "voila.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            command,
            cwd=folder,
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        for _ in range(240):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()
            time.sleep(0.25)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture(scope="module")
def chromium():
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=BROWSER, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")  # one visitor for all tests: each starts a kernel
def page(chromium, address):
    page = chromium.new_page(viewport={"width": 1366, "height": 900})
    page.set_default_timeout(60_000)
    page.goto(address)
    page.wait_for_selector(".unetlib-status:has-text('pixels')")
    yield page
    page.close()


def upload(page, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.click(".widget-upload")
    chooser.value.set_files(path)


def download(page, words: str) -> tuple[str, np.ndarray]:
    with page.expect_download() as event:
        page.click(f".unetlib-downloads button:has-text('{words}')")
    return event.value.suggested_filename, np.asarray(Image.open(event.value.path()))


def make_photo(path: Path, height=300, width=400) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    photo = np.full((height, width, 3), 30, np.uint8)
    photo[..., 0] = np.where(np.hypot(y - height / 2, x - width / 2) < height / 3, 250, 5)
    Image.fromarray(photo).save(path)
    return photo


def test_upload_threshold_background_download(page, tmp_path):
    photo = make_photo(tmp_path / "my.photo.png")
    red = photo[..., 0] > 100
    upload(page, tmp_path / "my.photo.png")
    page.wait_for_selector(".unetlib-caption:has-text('my.photo.png, 400×300')")

    page.focus(".unetlib-group .noUi-handle >> nth=0")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector(".unetlib-caption:has-text('threshold 0.60')")

    page.click("button:has-text('Colour')")
    page.wait_for_selector(".unetlib-caption:has-text('on #0a4678')")
    assert page.is_visible(".widget-colorpicker")

    name, rgba = download(page, "Cut-out")
    assert name == "my.photo_foreground.png" and rgba.shape == (300, 400, 4)
    assert ((rgba[..., 3] >= 128) == red).mean() > 0.99
    solid = rgba[..., 3] == 255
    assert solid.mean() > 0.2 and (rgba[solid][:, :3] == photo[solid]).all()
    name, soft = download(page, "Soft mask")
    assert name == "my.photo_mask_soft.png" and soft.shape == (300, 400)
    name, binary = download(page, "Binary mask")
    assert name == "my.photo_mask_binary.png"
    np.testing.assert_array_equal(binary, np.where(rgba[..., 3] >= 128, 255, 0))
    assert np.abs(soft.astype(int)[binary == 255] - 255 * 0.6).min() < 30


def test_a_text_file_gets_an_answer_and_the_app_goes_on(page, tmp_path):
    (tmp_path / "notes.jpg").write_text("this is no photo")
    upload(page, tmp_path / "notes.jpg")
    page.wait_for_selector(".unetlib-error:has-text('notes.jpg: not an image')")
    page.click("button:has-text('Coffee')")
    page.wait_for_selector(".unetlib-caption:has-text('Coffee, 600×400')")
    page.wait_for_selector(".unetlib-error", state="detached")


def test_a_large_download_arrives_whole(page, tmp_path):
    """Noise does not compress: the file is far above the 2 MB that a data URL may have."""
    noise = np.random.default_rng(0).integers(0, 256, (900, 1100, 3), dtype=np.uint8)
    noise[..., 0] = 255
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    (tmp_path / "noise.png").write_bytes(file.getvalue())
    upload(page, tmp_path / "noise.png")
    page.wait_for_selector(".unetlib-caption:has-text('noise.png, 1100×900')")
    _, rgba = download(page, "Cut-out")
    np.testing.assert_array_equal(rgba[..., :3], noise)
    assert (rgba[..., 3] == 255).all()


@pytest.mark.parametrize("width", [1366, 768, 390])
def test_it_fits_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    pictures = page.locator(".unetlib-figure img")
    assert pictures.count() == 3
    if width > 700:  # side by side, once the page has settled in its new width
        page.wait_for_function(
            """() => {
                const pictures = [...document.querySelectorAll(".unetlib-figure img")];
                const tops = pictures.map((picture) => picture.getBoundingClientRect().top);
                return Math.max(...tops) - Math.min(...tops) < 2;
            }"""
        )
    page.wait_for_timeout(300)
    for selector in (
        ".unetlib-app",
        ".unetlib-group",
        ".unetlib-figure",
        ".unetlib-downloads button",
    ):
        for i in range(page.locator(selector).count()):
            box = page.locator(selector).nth(i).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width + 1, selector
