"""The app as people use it: the command `unetlib app`, Chromium, and the bytes that are saved.

Skipped where Chromium, Playwright or Voila are missing (`pip install -e ".[browser]"` and, on
Debian, `apt-get install chromium`). Screenshots go to the folder named by UNETLIB_SCREENSHOTS.
"""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytest.importorskip("voila", reason="needs voila")
onnx = pytest.importorskip("onnx", reason="needs onnx")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")

UNETLIB = [sys.executable, "-m", "unetlib"]
CHECKOUT = Path(__file__).resolve().parents[1]


def write_network(path: Path, channel: int) -> None:
    """A network whose answer is known: foreground is what is red (0), green (1) or blue (2)."""
    from onnx import TensorProto, helper

    shift, scale = (0.485, 0.456, 0.406)[channel] - 0.5, (0.229, 0.224, 0.225)[channel]
    numbers = {"start": [channel], "end": [channel + 1], "axis": [1]}
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [1], value) for name, value in numbers.items()
    ]
    for name, value in (("scale", 12 * scale), ("shift", 12 * shift)):
        constants.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["one"]),
        helper.make_node("Mul", ["one", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["soft"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, "h", "w"])
        for name, channels in (("x", 3), ("soft", 1))
    ]
    graph = helper.make_graph(nodes, "colour", ends[:1], ends[1:], constants)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """What `unetlib app` finds: two networks and a video, in a folder with a space in its name."""
    import imageio.v2 as imageio

    root = tmp_path_factory.mktemp("a project")
    (root / "outputs" / "checkpoints").mkdir(parents=True)
    (root / "outputs" / "videos").mkdir()
    write_network(root / "outputs" / "checkpoints" / "best_model.onnx", 0)
    write_network(root / "outputs" / "checkpoints" / "green.onnx", 1)
    frames = [np.full((64, 64, 3), 8 * number, np.uint8) for number in range(20)]
    imageio.mimsave(root / "outputs" / "videos" / "timelapse.mp4", frames, fps=10)
    return root


def environment(root: Path) -> dict[str, str]:
    paths = [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]
    own = {"UNETLIB_ROOT": str(root), "UNETLIB_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture(scope="module")
def server(root):
    """The real command, on a free port; (its process, the address it says)."""
    log = (root / "app.log").open("w+")
    process = subprocess.Popen(
        [*UNETLIB, "app", "--network", "best", "--port", "0", "--no-browser"],
        cwd=root, stdout=log, stderr=log, env=environment(root),
    )  # fmt: skip
    said = None
    for _ in range(400):
        said = re.search(r"The app: (http://127\.0\.0\.1:\d+/)", (root / "app.log").read_text())
        if said:
            break
        assert process.poll() is None, (root / "app.log").read_text()
        time.sleep(0.1)
    yield process, said[1]
    if process.poll() is None:
        process.terminate()
        process.wait(30)
    log.close()


@pytest.fixture(scope="module")
def chromium():
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=BROWSER, args=arguments)
        yield browser
        browser.close()


def visit(chromium, address: str):
    page = chromium.new_page(viewport={"width": 1366, "height": 900})
    page.set_default_timeout(60_000)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".unetlib-status:has-text('pixels')")
    page.wait_for_timeout(300)  # widget.js looks for the buttons ten times a second
    return page


@pytest.fixture(scope="module")  # one visitor for most tests: each starts a kernel
def page(chromium, server):
    page = visit(chromium, server[1])
    yield page
    page.close()


@pytest.fixture(autouse=True)
def no_script_failed(request):
    yield
    if "page" in request.fixturenames:
        assert request.getfixturevalue("page").errors == []


def upload(page, *paths: Path, button=".unetlib-photos") -> None:
    with page.expect_file_chooser() as chooser:
        page.click(button)
    chooser.value.set_files(paths)


def caption(page, words: str) -> None:
    page.wait_for_selector(f".unetlib-caption:has-text('{words}')")


def download(page, words: str) -> tuple[str, bytes]:
    with page.expect_download() as event:
        page.click(f".unetlib-downloads button:text-is('{words}')")
    return event.value.suggested_filename, Path(event.value.path()).read_bytes()


def shown(page, figure: str = ".unetlib-compare img >> nth=1") -> np.ndarray:
    """The pixels of a picture in the page."""
    source = page.locator(figure).get_attribute("src")
    script = "async (url) => [...new Uint8Array(await (await fetch(url)).arrayBuffer())]"
    return np.asarray(Image.open(io.BytesIO(bytes(page.evaluate(script, source)))))


def make_photo(path: Path, height=300, width=400, channel=0) -> np.ndarray:
    """A disc of red, or of another colour, on dark ground."""
    y, x = np.mgrid[:height, :width]
    photo = np.full((height, width, 3), 30, np.uint8)
    disc = np.hypot(y - height / 2, x - width / 2) < min(height, width) / 3
    photo[..., channel] = np.where(disc, 250, 5)
    Image.fromarray(photo).save(path)
    return photo


def test_what_is_saved_is_what_the_command_makes(page, root, tmp_path):
    photo = make_photo(tmp_path / "my.photo.png")
    upload(page, tmp_path / "my.photo.png")
    caption(page, "my.photo.png, 400×300")
    page.focus(".unetlib-card-mask .noUi-handle >> nth=0")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    caption(page, "threshold 0.60")
    page.click("button:has-text('Colour')")
    caption(page, "on #0a4678")
    assert page.is_visible(".widget-colorpicker")

    command = [
        *UNETLIB,
        "cut",
        "--network",
        "best",
        "my.photo.png",
        "-o",
        "cut",
        "--threshold",
        "0.6",
        "--comparison",
    ]
    subprocess.run(
        [*command, "--background", "#0a4678"], cwd=tmp_path, env=environment(root), check=True
    )
    names = {"Cut-out": "foreground", "Soft mask": "mask_soft", "Binary mask": "mask_binary"}
    for words, kind in {**names, "Comparison": "comparison"}.items():
        name, content = download(page, words)
        assert name == f"my.photo_{kind}.png"
        assert content == (tmp_path / "cut" / name).read_bytes(), words

    name, content = download(page, "Transparent")
    rgba = np.asarray(Image.open(io.BytesIO(content)))
    assert name == "my.photo_transparent.png" and rgba.shape == (300, 400, 4)
    red = photo[..., 0] > 100
    assert ((rgba[..., 3] >= 128) == red).mean() > 0.99
    solid = rgba[..., 3] == 255
    assert solid.mean() > 0.2 and (rgba[solid][:, :3] == photo[solid]).all()
    page.click("button:has-text('Transparent') >> nth=0")
    caption(page, "transparent, threshold 0.60")


def test_several_photos_and_their_zip(page, root, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        make_photo(path, 200 + 20 * number, 260)
    upload(page, *paths)
    caption(page, "2.png, 260×240")
    page.click(".unetlib-photo:has-text('1.png')")
    caption(page, "1.png, 260×220")
    assert page.locator(".unetlib-photo.unetlib-chosen").inner_text() == "1.png"
    name, content = download(page, "All photos (zip)")
    command = [
        *UNETLIB,
        "cut",
        "--network",
        "best",
        *map(str, paths),
        "-o",
        "cut",
        "--threshold",
        "0.6",
    ]
    subprocess.run(command, cwd=tmp_path, env=environment(root), check=True)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        ours = {name: archive.read(name) for name in archive.namelist() if name[0] in "012"}
    files = {path.name: path.read_bytes() for path in (tmp_path / "cut").iterdir()}
    assert name == "cutouts.zip" and len(ours) == 9 and ours == files


def test_a_file_is_dropped_onto_the_app(page, tmp_path):
    make_photo(tmp_path / "dropped.png", 120, 150)
    content = list((tmp_path / "dropped.png").read_bytes())
    page.evaluate(
        """(content) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(content)], "dropped.png"));
            const picture = document.querySelector(".unetlib-compare");
            const settings = { dataTransfer: files, bubbles: true, cancelable: true };
            picture.dispatchEvent(new DragEvent("dragover", settings));
            if (!document.querySelector(".unetlib-dropping")) throw new Error("no sign of it");
            picture.dispatchEvent(new DragEvent("drop", settings));
        }""",
        content,
    )
    caption(page, "dropped.png, 150×120")
    assert not page.locator(".unetlib-dropping").count()


def test_bad_and_too_large_files_get_an_answer_and_the_app_goes_on(page, tmp_path):
    (tmp_path / "notes.jpg").write_text("this is no photo")
    make_photo(tmp_path / "good.png", 100, 130)
    upload(page, tmp_path / "notes.jpg", tmp_path / "good.png")
    page.wait_for_selector(".unetlib-error:has-text('notes.jpg: not an image')")
    caption(page, "good.png, 130×100")
    noise = np.random.default_rng(0).integers(0, 256, (3700, 3700, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "huge.png", compress_level=0)
    assert (tmp_path / "huge.png").stat().st_size > 40e6
    upload(page, tmp_path / "huge.png")
    page.wait_for_selector(".unetlib-error:has-text('huge.png has 41 MB')")
    page.click("button:has-text('Coffee')")
    caption(page, "Coffee, 600×400")
    upload(page, tmp_path / "good.png")
    caption(page, "good.png, 130×100")
    page.wait_for_selector(".unetlib-error", state="hidden")


def test_a_photo_of_20_megabytes_goes_there_and_back(page, tmp_path):
    """Noise does not compress: the file is far above the 2 MB that a data URL may have."""
    noise = np.random.default_rng(0).integers(0, 256, (2600, 2600, 3), dtype=np.uint8)
    noise[..., 0] = 255
    Image.fromarray(noise).save(tmp_path / "noise.png", compress_level=0)
    assert (tmp_path / "noise.png").stat().st_size > 20e6
    upload(page, tmp_path / "noise.png")
    caption(page, "noise.png, 2600×2600")
    rgba = np.asarray(Image.open(io.BytesIO(download(page, "Cut-out")[1])))
    np.testing.assert_array_equal(rgba[..., :3], noise)
    assert (rgba[..., 3] == 255).all()


def test_the_picture_keeps_up_with_the_slider(page):
    page.click("button:has-text('Astronaut')")
    caption(page, "Astronaut, 512×512")
    track = page.locator(".unetlib-card-mask .noUi-target >> nth=0").bounding_box()
    handle = page.locator(".unetlib-card-mask .noUi-handle >> nth=0").bounding_box()
    y = handle["y"] + handle["height"] / 2
    page.mouse.move(handle["x"] + handle["width"] / 2, y)
    page.mouse.down()
    for percent in [*range(60, 95, 3), *range(95, 10, -3), *range(10, 80, 3), 30]:
        page.mouse.move(track["x"] + track["width"] * percent / 100, y)
    released = time.perf_counter()
    page.mouse.up()
    value = page.inner_text(".unetlib-card-mask .widget-readout >> nth=0")
    caption(page, f"threshold {float(value):.2f}")
    assert time.perf_counter() - released < 2  # 0.1 s on a quiet machine
    assert 0.25 < float(value) < 0.35
    page.wait_for_timeout(300)
    picture = shown(page)
    for key, change in (("ArrowRight", 0.01), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        caption(page, f"threshold {float(value) + change:.2f}")
    np.testing.assert_array_equal(shown(page), picture)  # it was that of the last value


def test_before_and_after_and_a_closer_look(page):
    page.focus(".unetlib-compare input")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    script = "document.querySelector('.unetlib-compare').style.getPropertyValue('--cut')"
    assert page.evaluate(script) == "48%"
    before = shown(page, ".unetlib-row img >> nth=2")
    page.click(".unetlib-look img >> nth=0", position={"x": 130, "y": 150})
    page.wait_for_function(
        "(old) => document.querySelectorAll('.unetlib-row img')[2].src !== old",
        arg=page.locator(".unetlib-row img >> nth=2").get_attribute("src"),
    )
    assert not np.array_equal(shown(page, ".unetlib-row img >> nth=2"), before)


def test_another_background_network_and_a_video(page, tmp_path):
    Image.fromarray(np.full((30, 40, 3), (10, 200, 90), np.uint8)).save(tmp_path / "beach.png")
    page.click("button:has-text('Picture')")
    upload(page, tmp_path / "beach.png", button=".unetlib-picture")
    caption(page, "on your picture")
    page.click("button:has-text('Blur')")
    caption(page, "on blur")
    page.click("button:has-text('More settings')")
    page.select_option(".unetlib-details select", label="green.onnx")
    make_photo(tmp_path / "green.png", channel=1)
    upload(page, tmp_path / "green.png")
    caption(page, "green.png, 400×300")
    binary = np.asarray(Image.open(io.BytesIO(download(page, "Binary mask")[1])))
    assert binary[150, 200] == 255 and binary[10, 10] == 0
    page.select_option(".unetlib-card-timelapse select", label="timelapse.mp4")
    page.wait_for_function("document.querySelector('video')?.duration > 1")
    page.click("button:has-text('More settings')")
    page.click("button:has-text('Transparent') >> nth=0")


def test_two_visitors_at_once(chromium, server, page, tmp_path):
    make_photo(tmp_path / "first.png", 111, 140)
    make_photo(tmp_path / "second.png", 122, 150)
    other = visit(chromium, server[1])
    assert other.locator(".unetlib-photo:has-text('green.png')").count() == 0
    upload(page, tmp_path / "first.png")
    upload(other, tmp_path / "second.png")
    caption(page, "first.png, 140×111")
    caption(other, "second.png, 150×122")
    assert download(page, "Soft mask")[0] == "first_mask_soft.png"
    assert download(other, "Soft mask")[0] == "second_mask_soft.png"
    other.goto("about:blank")
    other.close()


def test_a_session_ends_with_its_page_and_says_so_where_the_page_stays(chromium, server, page):
    psutil = pytest.importorskip("psutil")

    def wait_for_kernels(wanted: int) -> None:
        for _ in range(150):
            if len(psutil.Process(server[0].pid).children()) == wanted:
                return
            time.sleep(0.1)
        raise AssertionError(psutil.Process(server[0].pid).children())

    wait_for_kernels(1)  # that of `page`
    other = visit(chromium, server[1])
    wait_for_kernels(2)
    other.evaluate(
        """async () => {
            const page = JSON.parse(document.getElementById("jupyter-config-data").textContent);
            const address = `${page.baseUrl}voila/api/shutdown/${page.kernelId}`;
            await fetch(address, { method: "POST" });
            window.dispatchEvent(new Event("focus"));
        }"""
    )
    other.wait_for_selector("#ended:has-text('Reload the page')")
    other.goto(server[1])
    other.wait_for_selector(".unetlib-status:has-text('pixels')")
    wait_for_kernels(2)
    other.goto("about:blank")
    wait_for_kernels(1)
    other.close()


@pytest.mark.parametrize(("name", "width"), [("laptop", 1366), ("tablet", 768), ("phone", 390)])
def test_it_fits_the_screen(page, name, width, tmp_path):
    page.set_viewport_size({"width": width, "height": 900 if width > 800 else 844})
    if name == "laptop":
        page.click("button:has-text('Astronaut')")
        caption(page, "Astronaut")
    page.mouse.wheel(0, -10_000)
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    tops = [page.locator(".unetlib-row img").nth(n).bounding_box()["y"] for n in range(3)]
    assert max(tops) - min(tops) < 2 or width < 600
    for selector in (".unetlib-card", ".unetlib-figure", ".unetlib-app button:visible"):
        for part in page.locator(selector).all():
            box = part.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width + 1, selector
            cropped = part.evaluate("(e) => e.scrollWidth > e.clientWidth + 2")
            assert not cropped or "unetlib-photo" in part.get_attribute("class"), part.inner_text()
            if "button" in selector:
                assert box["height"] >= 40, part.inner_text()  # for a finger
    folder = Path(os.environ.get("UNETLIB_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"app_{name}.png", full_page=True)


def test_nothing_but_the_app_is_served(server):
    allowed = urllib.request.urlopen(server[1] + "voila/static/voila.js", timeout=20)
    assert allowed.status == 200
    for path in (
        "voila/files/app.ipynb",
        "voila/files/",
        "app.ipynb",
        "voila/tree",
        "api/contents",
        "voila/files/voila/templates/unetlib/conf.json",
        "api/kernels",
        "api/kernels/x",
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(server[1] + path, timeout=20)
        assert refused.value.code in (403, 404, 405), path


def test_ctrl_c_ends_the_server_and_every_kernel(server, page, root):
    process, _ = server
    psutil = pytest.importorskip("psutil")
    kernels = psutil.Process(process.pid).children(recursive=True)
    assert kernels
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    _, left = psutil.wait_procs(kernels, timeout=10)
    assert not left
    assert (root / "app.log").read_text().rstrip().endswith("The app has ended.")
