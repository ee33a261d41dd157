"""The app of notebook 05: photos in, a cut-out that follows the sliders, files out.

Runs under ipywidgets 8 (JupyterLab, Voila) and 7.7 (Colab). Two things are kept apart so that it
stays quick: the network runs only for another photo, working size or checkpoint, and while a slider
moves only small pictures are made; the cut-out at full size is made when it is asked for.
"""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unetlib.app import browser
from unetlib.app.browser import builtin_examples, in_colab, take_files, uploaded_files
from unetlib.app.page import Page
from unetlib.app.session import Session, find_choices
from unetlib.app.viewer import encode_jpeg
from unetlib.cutting import Background, Recipe
from unetlib.data.photo import Photo
from unetlib.matting import CutOut
from unetlib.predict import Predictor

__all__ = ["CutOutApp", "build_app", "builtin_examples", "uploaded_files"]

EDGE = ("threshold", "refine", "largest", "fill_holes", "grow", "feather")  # controls, and Recipe's


def build_app(
    predictor: Predictor, examples: dict[str, Any] | None = None, **settings
) -> "CutOutApp":
    """The app around a Predictor; as the last line of a cell it shows itself.

    `examples` maps names to anything `read_photo` takes; None takes `builtin_examples()`. The
    first is shown at once. `settings`: threshold=0.5, refine="guided", working_size=None (as
    trained), preview=560 (longer side of the pictures shown, in pixels), outputs=None (a folder
    like outputs/: its checkpoints and videos can be chosen), checkpoint="" (of `predictor`).
    """
    return CutOutApp(predictor, builtin_examples() if examples is None else examples, **settings)


class CutOutApp(Session):
    """The widget and its state.

    Everything works without a browser too: `set_image(photo)`, `threshold.value = 0.7`,
    `background.value = "Blur"`, `buttons["foreground"].click()`; then `result` is the CutOut at
    full size, `recipe` how it was made, and `error` the exception of the last action, or None.
    """

    def __init__(
        self, predictor, examples, threshold=0.5, refine="guided", working_size=None, preview=560,
        outputs=None, checkpoint="",
    ):  # fmt: skip
        super().__init__(predictor, preview, examples)
        self.error: Exception | None = None
        self._behind: np.ndarray | None = None  # the visitor's own background
        self._received = 0  # files

        choices = find_choices(predictor, working_size, outputs, checkpoint)
        page = self.page = Page(threshold, refine, **choices)
        for name in ("widget", "buttons", "upload", "background", "color", "working_size", *EDGE):
            setattr(self, name, getattr(page, name))
        self.examples = {name: self._button(name, p.rgb) for name, p in self.sources.items()}
        page.shelf.children = tuple(self.examples.values())
        page.show_thumbnails(0)
        self._connect()
        page.fold()
        for name in list(examples)[:1]:
            self.show(self.open(name), name)

    def set_image(self, image: Any, name: str = "photo") -> CutOut:
        """Show another photo (anything `read_photo` takes) and return its cut-out.

        An unreadable photo raises, is said in the app, and leaves the one before in place.
        """
        self.error = None
        try:
            self.show(browser.open_photo(image, name), name)
        except Exception as error:
            self._say_error(error)
            raise
        return self.result

    @property
    def recipe(self) -> Recipe:
        """How the controls say that a photo becomes a picture."""
        page, kind = self.page, self.background.value
        ground = {"Colour": page.color.value, "Blur": f"blur:{page.blur.value}", "Grey": "grey"}
        if self._behind is not None:
            ground["Picture"] = Background("image", image=self._behind)
        edge = {name: getattr(page, name).value for name in EDGE}
        return Recipe(background=ground.get(kind), size=page.working_size.value, **edge)

    @property
    def result(self) -> CutOut:
        """The cut-out at the photo's own size, for the settings as they stand."""
        return self.cut(self.recipe).cutout

    def download(self, kind: str = "foreground") -> tuple[str, bytes]:
        """(file name, file) of one of `page.DOWNLOADS`, the same bytes as of `unetlib cut`."""
        if kind == "zip":
            return self.make_zip(self.recipe, self.page.say)
        return self.make_file(kind, self.recipe)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)

    def _connect(self) -> None:
        """Which control calls what."""
        page = self.page

        def on_change(action, *widgets):
            for widget in widgets:
                widget.observe(self._guarded(action), names="value")

        for widget, take in (page.upload, self._take_photo), (page.picture, self._take_background):
            receive = partial(self._receive, take)
            if in_colab():
                widget.on_click(self._guarded(lambda _, to=receive: to(browser.colab_upload())))
            else:
                on_change(lambda change, to=receive: to(take_files(change)), widget)
        on_change(lambda _: self._predict(), page.working_size)
        on_change(lambda _: self._render(), *(getattr(page, name) for name in EDGE))
        on_change(lambda _: self._render(), page.background, page.color, page.blur)
        on_change(lambda _: page.fold(), page.more)
        on_change(lambda change: self._on_checkpoint(change["new"]), page.checkpoint)
        on_change(lambda change: self._on_point(change["new"]), page.point)
        on_change(lambda change: page.play(change["new"]), page.videos)
        page.clear.on_click(self._guarded(lambda _: (self.uploads.clear(), page.remove_photos())))
        for kind, button in self.buttons.items():
            button.on_click(self._guarded(lambda _, kind=kind: self._offer(kind)))

    def _guarded(self, action):
        """A callback whose failure is said in the app instead of lost in a log."""

        def callback(argument):
            if self.error:
                self.error, self.page.message.value = None, ""
            try:
                action(argument)
            except Exception as error:
                self._say_error(error)

        return callback

    def _say_error(self, error: Exception) -> None:
        self.error = error
        words = str(error) or type(error).__name__
        if isinstance(error, MemoryError):
            words = "There is not enough memory for this photo: make it smaller first."
        elif not isinstance(error, ValueError | OSError | RuntimeError | ImportError):
            words = f"Unexpected {type(error).__name__}: {words}"
            logging.getLogger(__name__).error("a callback of the app failed", exc_info=error)
        self.page.warn("error", f"That did not work. {words}")
        if self.viewer is None:
            self.page.say("")

    def _receive(self, take, files: list[tuple[str, bytes]]) -> None:
        """Hand files on, one by one; what cannot be used is said when all have been taken."""
        failed: list[Exception] = []
        for name, content in files:
            try:
                take(name, content)
            except Exception as error:  # said below
                failed.append(error)
        self._received += len(files)
        self.page.show_thumbnails(self._received)
        if failed:
            raise failed[0] if len(failed) == 1 else ValueError(" ".join(map(str, failed)))

    def _take_photo(self, name: str, content: bytes) -> None:
        photo, name, new = self.add(name, content)
        if new:
            self.page.photos.children += (self._button(name, photo.rgb),)
        self.show(photo, name)

    def _take_background(self, name: str, content: bytes) -> None:
        self._behind = browser.open_photo(content, name).rgb
        self._render()

    def _button(self, name: str, rgb: np.ndarray):
        button = self.page.photo_button(name, rgb)
        button.on_click(self._guarded(lambda _: self.show(self.open(name), name)))
        return button

    def show(self, photo: Photo, name: str) -> None:
        super().show(photo, name)
        self.page.choose(name)
        self._predict()

    def _on_checkpoint(self, chosen: Predictor | Path) -> None:
        if isinstance(chosen, Path):
            self.page.say(f"Loading {chosen.name} …")
            chosen = Predictor(chosen, self.predictor.device)
        self.predictor = chosen
        self._predict()

    def _on_point(self, text: str) -> None:
        if self.viewer and text:
            self.viewer.point = tuple(float(n) for n in text.split())
            self.page.previews["original"].value = self.viewer.marked()
            self._render()

    def _predict(self) -> None:
        """Run the network: only for another photo, working size or network."""
        if self.photo is None:
            return
        page, (height, width) = self.page, self.photo.rgb.shape[:2]
        page.say("The network is looking at the photo …")
        self.predict(self.working_size.value)
        page.compare.layout.max_width = f"calc(var(--unetlib-high) * {width / height:.4f})"
        page.caption("original", "Photo", f"{self.name}, {width}×{height}")
        page.previews["before"].value = encode_jpeg(self.viewer.rgb)
        page.previews["original"].value = self.viewer.marked()
        self._render()

    def _render(self) -> None:
        """Redo what depends on the controls: the small pictures and the words."""
        page = self.page
        page.fold()
        page.link.value = page.message.value = ""
        if self.viewer is None:
            return
        recipe, kind = self.recipe, self.background.value
        if recipe.refine == "closed-form":
            page.say("Looking closely at the edge, a few seconds …")
        pictures, share = self.viewer.pictures(recipe)
        for figure, picture in pictures.items():
            page.previews[figure].value = picture
        where = "on your picture" if self._behind is not None else "no picture chosen"
        where = {"Transparent": "transparent", "Picture": where}.get(kind, f"on {kind.lower()}")
        where = f"on {self.color.value}" if kind == "Colour" else where
        page.caption("cutout", "Cut-out", f"{where}, threshold {recipe.threshold:.2f}")
        network = f"{self.predictor.describe(recipe.size)} · {self.milliseconds:.0f} ms"
        page.say_result(self.image.shape, share, network)
        page.say_share(share, recipe.threshold, self.viewer.answer.max())

    def _offer(self, kind: str) -> None:
        """Make the file and hand it to the browser."""
        page, words = self.page, self.page.status.value
        page.say("Making the file …")
        try:
            name, content = self.download(kind)
        finally:
            page.status.value = words
        page.file.format, page.file.value = Path(name).suffix[1:], content
        page.link.value = browser.download_link(name, len(content))
