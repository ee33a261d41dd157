"""The app without a browser: its callbacks are called, its state and its words are checked.

Runs under ipywidgets 8 and 7.7 alike.
"""

import io
import re
import sys
import types
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from torch import nn

from unetlib.app import browser, session
from unetlib.app.browser import clear_upload, download_link, setup_script
from unetlib.app.widget import build_app, builtin_examples, uploaded_files
from unetlib.checkpoint import Checkpoint
from unetlib.cutting import OUTPUTS, Recipe, cut_photo
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


def send(app, name: str, content: bytes, upload=None) -> None:
    send_all(app, [(name, content)], upload)


def send_all(app, files: list[tuple[str, bytes]], upload=None) -> None:
    """What the browser does on an upload, for the ipywidgets that is installed."""
    upload = upload or app.upload
    entries = [
        {"name": name, "type": "image/png", "size": len(content), "last_modified": 0}
        for name, content in files
    ]
    contents = [memoryview(content) for _, content in files]
    if int(widgets.__version__.split(".")[0]) >= 8:
        value = [{**e, "content": c} for e, c in zip(entries, contents, strict=True)]
        upload.set_state({"value": value})
    else:
        upload.set_state({"metadata": entries, "data": contents})
        upload.set_state({"_counter": upload._counter + len(files)})


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
    share = int(re.search(r"foreground about (\d+)%", words)[1])
    assert share == pytest.approx(100 * result.foreground_share, abs=2)  # of a small picture
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
    app.refine.value = "none"
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
    assert app.page.color_field.layout.display is None
    app.background.value = "Transparent"
    assert app.page.color_field.layout.display == "none"


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
    monkeypatch.setattr(app.predictor, "predict_small", lambda *_, **__: 1 / 0)
    app.working_size.value = 128
    assert isinstance(app.error, ZeroDivisionError)
    assert "ZeroDivisionError" in app.page.message.value
    assert "a callback of the app failed" in caplog.text


def test_memory_running_out_is_said(app, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(app.predictor, "predict_small", full)
    app.examples["Tall"].click()
    assert "memory" in app.page.message.value and app.page.status.value == ""
    send(app, "me.png", png(disc()))
    assert "memory" in app.page.message.value
    assert 'data-count="1"' in app.page.thumbnails.value  # widget.js sends the next file then


@pytest.mark.parametrize("kind", ["foreground", "mask_soft", "mask_binary"])
def test_downloads_are_the_result_at_full_size(app, kind):
    app.set_image(disc(70, 120), "folder\\my.photo.jpg")
    app.buttons[kind].click()
    link = app.page.link.value
    assert f'download="my.photo_{kind}.png"' in link
    got = np.asarray(Image.open(io.BytesIO(app.page.file.value)))
    soft = np.rint(app.result.soft * 255).astype(np.uint8)
    want = {"foreground": app.result.rgba, "mask_soft": soft, "mask_binary": app.result.binary}
    np.testing.assert_array_equal(got, want[kind])
    app.threshold.value = 0.7
    assert app.page.link.value == ""  # it was for another threshold


SETTINGS = [
    {},
    {"threshold": 0.3, "refine": "none", "feather": 2.0, "grow": -1.5},
    {"largest": True, "fill_holes": True, "background": ("Colour", "#0a4678")},
    {"background": ("Blur", "blur:0.05"), "size": 96},
    {"background": ("Grey", "grey")},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_downloads_are_the_bytes_of_unetlib_cut(app, tmp_path, settings):
    """The same photo from a file through `cut_photo`, which is what the command calls."""
    Image.fromarray(disc(70, 120)).save(tmp_path / "me.jpg", dpi=(300, 300), quality=90)
    send(app, "me.jpg", (tmp_path / "me.jpg").read_bytes())
    kind, background = settings.get("background", ("Transparent", None))
    for name, value in settings.items():
        control = {"size": "working_size"}.get(name, name)
        if name != "background":
            getattr(app, control).value = value
    app.background.value = kind
    app.color.value, app.page.blur.value = "#0a4678", 0.05
    recipe = Recipe(**{**settings, "background": background})
    cut = cut_photo(tmp_path / "me.jpg", app.predictor, recipe)
    for kind in OUTPUTS:
        assert app.download(kind) == (f"me_{kind}.png", cut.encode(kind))
    clear = cut_photo(tmp_path / "me.jpg", app.predictor, replace(recipe, background=None))
    assert app.download("transparent") == ("me_transparent.png", clear.encode())
    assert app.error is None


def test_a_picture_of_ones_own_lies_behind(app):
    send(app, "beach.png", png(np.full((20, 20, 3), (10, 200, 90), np.uint8)), app.page.picture)
    assert app.name == "Disc" and not app.uploads  # it is no photo to cut out
    app.background.value = "Picture"
    picture = np.asarray(Image.open(io.BytesIO(app.download()[1])))
    assert (picture[0, 0] == (10, 200, 90)).all()
    assert "on your picture" in app.page.captions["cutout"].value
    send(app, "notes.txt", b"text", app.page.picture)
    assert "notes.txt: not an image" in app.page.message.value


def test_several_photos_a_strip_to_choose_from_and_a_zip(app):
    photos = {"a.png": disc(), "b.jpg": disc(40, 50), "b.png": disc(50, 40)}
    for name, photo in photos.items():
        send(app, name, png(photo))
    strip = app.page.photos.children
    assert [button.description for button in strip] == list(photos)
    assert app.name == "b.png" and "unetlib-chosen" in strip[2]._dom_classes
    strip[0].click()
    assert app.name == "a.png" and "unetlib-chosen" in strip[0]._dom_classes
    assert "unetlib-chosen" not in strip[2]._dom_classes
    app.threshold.value = 0.6
    app.buttons["zip"].click()
    assert app.error is None and 'download="cutouts.zip"' in app.page.link.value
    with zipfile.ZipFile(io.BytesIO(app.page.file.value)) as archive:
        kinds = ("mask_binary", "mask_soft", "foreground")
        assert archive.namelist() == [f"{s}_{k}.png" for s in ("a", "b", "b (2)") for k in kinds]
        for name, stem in zip(photos, ("a", "b", "b (2)"), strict=True):
            cut = cut_photo(app.uploads[name], app.predictor, app.recipe)
            for kind in kinds:
                assert archive.read(f"{stem}_{kind}.png") == cut.encode(kind)
    app.page.clear.click()
    assert not app.uploads and not app.page.photos.children and app.name == "a.png"


def test_equal_names_and_equal_files(app):
    for photo in (disc(), disc(40, 50), disc()):
        send(app, "IMG.jpg", png(photo))
    assert list(app.uploads) == ["IMG.jpg", "IMG (2).jpg"] and app.name == "IMG.jpg"


def test_one_bad_file_among_good_ones(app):
    """They come in one message where they are small."""
    files = [("1.png", png(disc())), ("2.txt", b"text"), ("3.png", png(disc(50, 50)))]
    send_all(app, files)
    assert list(app.uploads) == ["1.png", "3.png"] and app.name == "3.png"
    assert "2.txt: not an image" in app.page.message.value
    assert 'data-count="3"' in app.page.thumbnails.value


def test_the_number_of_photos_is_limited(app, monkeypatch):
    monkeypatch.setattr(session, "MAX_PHOTOS", 2)
    for number in range(3):
        send(app, f"{number}.png", png(disc(40, 40 + number)))
    assert len(app.uploads) == 2 and "unetlib cut" in app.page.message.value
    assert app.name == "1.png" and 'data-count="3"' in app.page.thumbnails.value


def test_settings_that_are_folded_away(app):
    page = app.page
    assert page.details.layout.display == "none"
    page.more.value = True
    assert page.details.layout.display is None
    assert app.buttons["transparent"].layout.display == "none"
    app.background.value = "Blur"
    assert app.buttons["transparent"].layout.display is page.blur_field.layout.display is None


def test_slow_refinement_waits_until_a_slider_is_let_go(app, monkeypatch):
    monkeypatch.setattr(app.viewer, "pictures", lambda recipe: ({}, 0.5))
    app.refine.value = "closed-form"
    assert not app.threshold.continuous_update
    app.refine.value = "guided"
    assert app.threshold.continuous_update and app.error is None


def test_another_network_and_the_timelapse(app, tmp_path):
    empty = build_app(app.predictor, {}, outputs=tmp_path)
    assert len(empty.page.checkpoint.options) == 1 and "Timelapse" not in words_of(empty.widget)
    for folder in ("checkpoints", "videos"):
        (tmp_path / folder).mkdir()
    (tmp_path / "checkpoints" / "broken.pth").write_bytes(b"no network")
    (tmp_path / "checkpoints" / "training_state.pth").write_bytes(b"")
    (tmp_path / "videos" / "run.mp4").write_bytes(b"film")
    other = build_app(app.predictor, {"Disc": disc()}, outputs=tmp_path, checkpoint="mine.pth")
    assert [name for name, _ in other.page.checkpoint.options] == ["mine.pth", "broken.pth"]
    before = other.soft
    other.page.checkpoint.value = tmp_path / "checkpoints" / "broken.pth"
    assert "broken.pth" in other.page.message.value
    np.testing.assert_array_equal(other.soft, before)
    assert "Timelapse" in words_of(other.widget) and not other.page.screen.children
    other.page.videos.value = tmp_path / "videos" / "run.mp4"
    assert other.page.screen.children[0].value == b"film"


def test_a_click_moves_the_enlarged_piece(app):
    app.set_image(np.tile(disc(), (6, 6, 1)), "large")
    before = app.page.previews["edge"].value, app.page.previews["original"].value
    app.page.point.value = "0.9000 0.1000"
    assert app.viewer.point == (0.9, 0.1) and calls(app) == 2
    assert (app.page.previews["edge"].value, app.page.previews["original"].value) != before
    app.working_size.value = 96
    assert app.viewer.point == (0.9, 0.1)  # the same photo
    app.page.point.value = "somewhere"
    assert isinstance(app.error, ValueError)


def test_the_enlarged_piece_is_a_piece_of_what_is_saved(app):
    app.set_image(np.tile(disc(90, 120), (5, 5, 1)), "large")
    app.background.value, app.color.value = "Colour", "#0a4678"
    for point in (0.31, 0.5), (0.0, 0.0), (1.0, 0.55):
        app.page.point.value = f"{point[0]} {point[1]}"
        whole = app.cut(app.recipe).picture[app.viewer.frame()].astype(int)
        piece = shown(app, "edge").astype(int)
        assert piece.shape == whole.shape == (108, 144, 3)
        assert np.abs(piece - whole).mean() < 4  # JPEG


@pytest.mark.parametrize("shape", [(1, 1), (10, 2000), (3000, 7), (33, 2)])
def test_photos_of_odd_shapes(app, shape):
    app.largest.value = app.fill_holes.value = True
    app.set_image(np.full((*shape, 3), 250, np.uint8), "odd")
    assert app.error is None and app.result.rgba.shape == (*shape, 4)
    rows, cols = app.viewer.frame()
    assert 0 <= rows.start < rows.stop <= shape[0] and 0 <= cols.start < cols.stop <= shape[1]


def test_colab_has_an_upload_of_its_own(app, monkeypatch):
    """Files over 1 MB fail silently in a FileUpload there."""
    colab, files = types.ModuleType("google.colab"), types.ModuleType("google.colab.files")
    files.upload = lambda: {"me.png": png(disc(44, 55))}
    colab.files = files
    for module in (colab, files):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    there = build_app(app.predictor, {})
    assert isinstance(there.upload, widgets.Button)
    there.upload.click()
    assert there.error is None and there.name == "me.png" and there.image.shape == (44, 55, 3)
    files.upload = lambda: {"notes.txt": b"text"}
    there.upload.click()
    assert "notes.txt: not an image" in there.page.message.value
    files.upload = lambda: {}  # cancelled
    there.upload.click()
    assert there.error is None and there.name == "me.png"


def test_the_page_knows_how_large_a_file_may_be(app, monkeypatch):
    assert 'data-limit="9"' in setup_script() and "up to 9 MB" in words_of(app.widget)
    monkeypatch.setenv(browser.UPLOAD_VARIABLE, "30")
    assert 'data-limit="30"' in setup_script()


def words_of(widget) -> str:
    """The text of all HTML in a widget."""
    if isinstance(widget, widgets.HTML):
        return widget.value
    return "".join(words_of(child) for child in getattr(widget, "children", ()))


def test_a_files_name_cannot_break_out_of_the_link():
    link = download_link('"><script>alert(1)</script>.png', 1)
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
