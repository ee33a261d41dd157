"""The web page as people use it: the command `unetlib app`, Chromium, and the bytes that are saved.

Skipped where Chromium, Playwright or Gradio are missing (`pip install -e ".[browser]"` and, on
Debian, `apt-get install chromium`). Screenshots go to the folder named by UNETLIB_SCREENSHOTS.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytest.importorskip("gradio", reason="needs gradio")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the environment of a project: a network that finds red, one that finds green,
    and a video."""
    import imageio.v2 as imageio
    from networks import write_color_network

    root = tmp_path_factory.mktemp("a project")
    (root / "outputs" / "checkpoints").mkdir(parents=True)
    (root / "outputs" / "videos").mkdir()
    write_color_network(root / "outputs" / "checkpoints" / "best_model.onnx", 0)
    write_color_network(root / "outputs" / "checkpoints" / "green.onnx", 1)
    frames = [np.full((64, 64, 3), 8 * number, np.uint8) for number in range(20)]
    imageio.mimsave(root / "outputs" / "videos" / "timelapse.mp4", frames, fps=10)
    checkout = str(Path(__file__).resolve().parents[1])
    own = {"UNETLIB_ROOT": str(root), "OMP_NUM_THREADS": "1", "PYTHONPATH": checkout}
    return root, {**os.environ, **own, "GRADIO_TEMP_DIR": str(root / "temporary")}


@pytest.fixture(scope="module")
def page(place):
    """The page of the real command, open in Chromium; `asked` are the addresses it asked for."""
    root, environment = place
    server = subprocess.Popen(
        [sys.executable, "-m", "unetlib", "app", "--network", "best", "--no-browser"],
        cwd=root,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=open(root / "errors.txt", "w"),  # noqa: SIM115 - for as long as it runs
        text=True,
    )
    said = ""
    while not (found := re.search(r"The app: (http://127\.0\.0\.1:\d+/)", said)):
        line = server.stdout.readline()
        assert line, said
        said += line
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=BROWSER, args=arguments)
        page = browser.new_page(viewport={"width": 1366, "height": 900})
        page.set_default_timeout(60_000)
        page.errors, page.asked, page.address = [], [], found[1]
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(page.address)
        said_size(page, "512×512")
        yield page
        browser.close()
    server.terminate()
    server.wait(20)


def said_size(page, words: str) -> None:
    page.wait_for_selector(f"text={words} pixels")
    page.wait_for_timeout(300)


def make_photo(path: Path, height=300, width=400, channel=0) -> np.ndarray:
    """A disc of red, or of another colour, on dark ground."""
    y, x = np.mgrid[:height, :width]
    photo = np.full((height, width, 3), 30, np.uint8)
    disc = np.hypot(y - height / 2, x - width / 2) < min(height, width) / 3
    photo[..., channel] = np.where(disc, 250, 5)
    Image.fromarray(photo).save(path)
    return photo


def upload(page, *paths: Path) -> None:
    if page.locator("[aria-label='Clear']").count():
        page.click("[aria-label='Clear'] >> nth=0")
        said_size(page, "512×512")
    page.locator("input[type=file]").first.set_input_files(list(paths))


def saved(page, button: str, *names: str) -> dict[str, bytes]:
    """The files that a button makes, as they are downloaded."""
    page.click(f"button:has-text('{button}')")
    made = {}
    for name in names:
        with page.expect_download() as event:
            page.click(f"a[download='{name}']")
        made[event.value.suggested_filename] = Path(event.value.path()).read_bytes()
    return made


def cut(place, *args) -> Path:
    root, environment = place
    command = [sys.executable, "-m", "unetlib", "cut", "--network", "best", *map(str, args)]
    subprocess.run([*command, "-o", "cut"], cwd=root, env=environment, check=True)
    return root / "cut"


def test_what_is_saved_is_what_the_command_makes(page, place, tmp_path):
    make_photo(tmp_path / "mine.png")
    upload(page, tmp_path / "mine.png")
    said_size(page, "400×300")
    threshold = page.get_by_label("number input for Threshold")
    threshold.fill("0.6")
    threshold.press("Enter")
    page.get_by_label("colour").check()
    page.wait_for_selector("text=Colour")
    page.wait_for_timeout(1000)
    names = [f"mine_{kind}.png" for kind in ("mask_binary", "mask_soft", "foreground")]
    made = saved(page, "Make the three files", *names)
    folder = cut(place, tmp_path / "mine.png", "--threshold", "0.6", "--background", "#0a4678")
    assert made == {name: (folder / name).read_bytes() for name in names}
    page.get_by_label("transparent").check()


def test_several_photos_and_their_zip(page, place, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        make_photo(path, 200 + 20 * number, 260)
    upload(page, *paths)
    said_size(page, "260×200")
    page.get_by_label("Photo", exact=True).click()
    page.get_by_role("option", name="1.png").click()
    said_size(page, "260×220")
    content = saved(page, "All photos as a zip", "cutouts.zip")["cutouts.zip"]
    folder = cut(place, *paths, "--threshold", "0.6")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        ours = {name: archive.read(name) for name in archive.namelist()}
    files = {path.name: path.read_bytes() for path in folder.glob("[012]_*")}
    assert len(ours) == 9 and ours == files


def test_bad_files_get_an_answer_and_the_page_goes_on(page, tmp_path):
    (tmp_path / "notes.jpg").write_text("this is no photo")
    make_photo(tmp_path / "good.png", 100, 130)
    upload(page, tmp_path / "notes.jpg", tmp_path / "good.png")
    page.wait_for_selector("text=notes.jpg: not an image")
    page.get_by_label("Photo", exact=True).click()
    page.get_by_role("option", name="good.png").click()
    said_size(page, "130×100")


def test_another_network_background_and_a_video(page, tmp_path):
    make_photo(tmp_path / "green.png", 90, 120, channel=1)
    upload(page, tmp_path / "green.png")
    page.wait_for_selector("text=Nothing reaches the threshold")
    page.get_by_text("More settings").click()
    page.get_by_label("Network", exact=True).click()
    page.get_by_role("option", name="green.onnx").click()
    page.wait_for_selector("text=Nothing reaches the threshold", state="detached")
    made = saved(page, "Make the three files", "green_mask_binary.png")
    binary = np.asarray(Image.open(io.BytesIO(made["green_mask_binary.png"])))
    assert binary[45, 60] == 255 and binary[5, 5] == 0
    page.get_by_text("Timelapse of a training").click()
    page.wait_for_function("document.querySelector('video')?.duration > 1")
    page.get_by_text("Timelapse of a training").click()
    page.get_by_text("More settings").click()


@pytest.mark.parametrize(("name", "width"), [("laptop", 1366), ("phone", 390)])
def test_it_fits_the_screen(page, name, width, tmp_path):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(page.address)
    said_size(page, "512×512")
    page.wait_for_timeout(1000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    folder = Path(os.environ.get("UNETLIB_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"app_{name}.png", full_page=True)


def test_nothing_comes_from_elsewhere_and_nothing_failed(page, place):
    assert "Traceback" not in (place[0] / "errors.txt").read_text()
    assert not [u for u in page.asked if not u.startswith((page.address, "data:", "blob:"))]
    assert page.errors == []
