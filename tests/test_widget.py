"""The app without a browser: its callbacks are called, its state and its words are checked.

Runs under ipywidgets 8 and 7.7 alike.
"""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from torch import nn

from unetlib.app import browser
from unetlib.app.browser import clear_upload, download_link
from unetlib.app.widget import build_app, builtin_examples, uploaded_files
from unetlib.checkpoint import Checkpoint
from unetlib.data.images import ImageError
from unetlib.data.preprocess import Preprocess
from unetlib.matting import chequerboard
from unetlib.predict import Predictor

widgets = pytest.importorskip("ipywidgets")


class Redness(nn.Module):
    """Foreground is what is red; counts how often it was asked."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return 12 * (x[:, :1] - 0.5)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def disc(height=60, width=80, inside=250, outside=5) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), 60, np.uint8)
    image[..., 0] = np.where(np.hypot(y - height / 2, x - width / 2) < 20, inside, outside)
    return image


@pytest.fixture
def app():
    checkpoint = Checkpoint(Redness(), Preprocess((64, 64), (0.0,) * 3, (1.0,) * 3))
    examples = {"Disc": disc(), "Tall": disc(90, 50)}
    return build_app(Predictor(checkpoint, "cpu"), examples, preview=40)


def send(app, name: str, content: bytes) -> None:
    """What the browser does on an upload, for the ipywidgets that is installed."""
    if int(widgets.__version__.split(".")[0]) >= 8:
        entry = {"name": name, "type": "image/png", "size": len(content), "last_modified": 0}
        app.upload.set_state({"value": [{**entry, "content": memoryview(content)}]})
    else:
        app.upload.set_state(
            {"metadata": [{"name": name, "size": len(content)}], "data": [memoryview(content)]}
        )
        app.upload.set_state({"_counter": app.upload._counter + 1})


def calls(app) -> int:
    return app.predictor.model.calls


def shown(app, kind="cutout") -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(app.page.previews[kind].value)))


def test_uploaded_files_of_both_generations():
    eight = (
        {"name": "a b.png", "type": "image/png", "size": 3, "content": memoryview(b"abc")},
        {"name": "2.jpg", "type": "", "size": 0, "content": memoryview(b"")},
    )
    metadata = {"name": "a b.png", "type": "image/png", "size": 3, "lastModified": 1}
    seven = {"a b.png": {"metadata": metadata, "content": b"abc"}}
    assert uploaded_files(eight) == [("a b.png", b"abc"), ("2.jpg", b"")]
    assert uploaded_files(seven) == [("a b.png", b"abc")]
    assert uploaded_files(()) == uploaded_files({}) == []


def test_it_starts_with_the_first_example_cut_out(app):
    assert app.error is None and app.name == "Disc" and calls(app) == 1
    result = app.result
    assert result.rgba.shape == (60, 80, 4)
    assert result.foreground_share == pytest.approx((disc()[..., 0] > 127).mean(), abs=0.01)
    words = app.page.status.value
    assert "80×60" in words and "64×64" in words and "cpu" in words and " ms" in words
    assert f"{result.foreground_share:.1%}" in words
    assert "Disc, 80×60" in app.page.captions["original"].value


def test_the_network_runs_only_for_another_photo_or_working_size(app):
    before = shown(app).copy()
    app.threshold.value = 0.95
    app.background.value = "Colour"
    app.color.value = "#00ff00"
    assert calls(app) == 1 and app.error is None
    assert not np.array_equal(before, shown(app))
    app.working_size.value = 128
    assert calls(app) == 2 and "128×128" in app.page.status.value
    app.examples["Tall"].click()
    assert calls(app) == 3 and app.result.rgba.shape == (90, 50, 4)


def test_the_result_follows_the_threshold(app):
    soft = app.soft
    for threshold in (0.1, 0.5, 0.98):
        app.threshold.value = threshold
        np.testing.assert_array_equal(app.result.binary, 255 * (soft >= np.float32(threshold)))
        assert f"threshold {threshold:.2f}" in app.page.captions["cutout"].value
    assert app.result is app.result  # made once


def test_previews_are_small_and_show_chequerboard_or_colour(app):
    for kind in ("original", "soft", "cutout"):
        assert max(shown(app, kind).shape[:2]) == 40
    corner = shown(app)[:3, :3].astype(int)
    assert np.abs(corner - chequerboard(3, 3)).max() < 12
    app.background.value = "Colour"
    app.color.value = "#0a4678"
    assert np.abs(shown(app)[1, 1].astype(int) - [10, 70, 120]).max() < 12
    assert app.color.layout.display == "flex"
    app.background.value = "Transparent"
    assert app.color.layout.display == "none"


def test_an_upload_is_cut_out_and_can_come_twice(app):
    photo = disc(70, 120, inside=240)
    for number in (1, 2):
        send(app, "my photo.png", png(photo))
        assert app.error is None and app.name == "my photo.png"
        assert calls(app) == 2 * number
        assert not app.upload.value  # emptied, so that an equal one would notify
        np.testing.assert_array_equal(app.image, photo)
        app.examples["Disc"].click()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.txt", b"hello, this is text", "notes.txt: not an image"),
        ("empty.jpg", b"", "empty.jpg: the file is empty"),
        ("cut.png", png(disc())[:200], "cut.png: damaged"),
        ("<b>.png", b"x", "&lt;b&gt;.png"),
    ],
)
def test_a_bad_upload_is_said_and_the_photo_before_stays(app, name, content, words):
    send(app, name, content)
    assert isinstance(app.error, ImageError)
    assert "unetlib-error" in app.page.message.value and words in app.page.message.value
    assert app.name == "Disc" and app.result.rgba.shape == (60, 80, 4)
    app.threshold.value = 0.6
    assert app.error is None and app.page.message.value == ""


def test_a_huge_photo_is_refused_before_it_is_decoded(app, monkeypatch):
    monkeypatch.setattr(browser, "MAX_MEGAPIXELS", 0.001)
    send(app, "wall.png", png(disc()))
    assert "wall.png: 80×60 pixels" in app.page.message.value and "smaller" in str(app.error)


def test_set_image_raises_and_says_it(app):
    with pytest.raises(ImageError):
        app.set_image(b"no photo", "a.png")
    assert "a.png" in app.page.message.value
    assert app.set_image(disc(33, 44), "b").binary.shape == (33, 44)
    assert app.page.message.value == "" and app.name == "b"


def test_no_foreground_gets_a_word(app):
    app.set_image(disc(inside=5), "Night")
    assert app.result.foreground_share == 0 and not app.result.rgba.any()
    assert "Nothing in this photo reaches" in app.page.message.value
    assert f"{app.soft.max():.2f}" in app.page.message.value
    app.set_image(disc(outside=250), "Day")
    assert app.result.foreground_share == 1 and "raise" in app.page.message.value
    app.examples["Disc"].click()
    assert app.page.message.value == ""


def test_a_bug_in_a_callback_is_said_and_logged(app, monkeypatch, caplog):
    monkeypatch.setattr(app.predictor, "predict", lambda *_, **__: 1 / 0)
    app.working_size.value = 128
    assert isinstance(app.error, ZeroDivisionError)
    assert "ZeroDivisionError" in app.page.message.value
    assert "a callback of the app failed" in caplog.text


def test_memory_running_out_is_said(app, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(app.predictor, "predict", full)
    app.examples["Tall"].click()
    assert "memory" in app.page.message.value and app.page.status.value == ""


@pytest.mark.parametrize("kind", ["foreground", "mask_soft", "mask_binary"])
def test_downloads_are_the_result_at_full_size(app, kind):
    app.set_image(disc(70, 120), "folder\\my.photo.jpg")
    app.buttons[kind].click()
    link = app.page.link.value
    assert f'download="my.photo_{kind}.png"' in link
    data = base64.b64decode(re.search(r'href="data:image/png;base64,([^"]+)"', link)[1])
    got = np.asarray(Image.open(io.BytesIO(data)))
    soft = np.rint(app.soft * 255).astype(np.uint8)
    want = {"foreground": app.result.rgba, "mask_soft": soft, "mask_binary": app.result.binary}
    np.testing.assert_array_equal(got, want[kind])
    app.threshold.value = 0.7
    assert app.page.link.value == ""  # it was for another threshold


def test_a_files_name_cannot_break_out_of_the_link():
    link = download_link('"><script>alert(1)</script>.png', b"x")
    assert "<script>" not in link and link.count("<img") == 1


def test_working_sizes(app):
    values = [value for _, value in app.working_size.options]
    assert 64 in values and values == sorted(values) and app.working_size.value == 64
    oblong = Checkpoint(Redness(), Preprocess((48, 96), (0.0,) * 3, (1.0,) * 3))
    other = build_app(Predictor(oblong, "cpu"), {"Disc": disc()}, threshold=0.7)
    assert other.working_size.value == (48, 96) and other.threshold.value == 0.7
    assert "48×96" in other.page.status.value and other.error is None


def test_without_examples_it_waits(app):
    empty = build_app(app.predictor, {})
    empty.threshold.value = 0.3
    assert empty.error is None
    empty.buttons["foreground"].click()
    assert "there is no photo yet" in empty.page.message.value
    with pytest.raises(RuntimeError, match="no photo yet"):
        _ = empty.result
    send(empty, "a.png", png(disc()))
    assert empty.result.rgba.shape == (60, 80, 4)


def test_builtin_examples_are_there_offline():
    shapes = {name: photo.shape for name, photo in builtin_examples().items()}
    assert shapes == {"Astronaut": (512, 512, 3), "Cat": (300, 451, 3), "Coffee": (400, 600, 3)}


def test_the_page_is_light(app):
    """What it weighs with photos of a usual size, before anything is downloaded."""
    large = build_app(app.predictor)
    assert sum(len(picture.value) for picture in large.page.previews.values()) < 200_000
    assert len(large.widget.children[0].value) < 40_000
    assert large.page.link.value == ""


def test_it_shows_itself(app, monkeypatch):
    import IPython.display

    seen = []
    monkeypatch.setattr(IPython.display, "display", seen.append)
    app._ipython_display_()
    assert seen == [app.widget]


def test_clearing_an_empty_upload_is_harmless(app):
    clear_upload(app.upload)
    assert not app.upload.value and app.error is None
