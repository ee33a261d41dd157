"""The app of notebook 05: a photo in, three previews and three files out.

Runs under ipywidgets 8 (JupyterLab, Voila) and 7.7 (Colab). Two things are kept apart so that it
stays quick: the network runs only when the photo or the working size changes, and while a slider
moves only a small preview is cut out; the cut-out at full size is made when it is asked for.
"""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unetlib.app.browser import (
    builtin_examples,
    clear_upload,
    download_link,
    encode_jpeg,
    open_photo,
    uploaded_files,
)
from unetlib.app.page import build_page, caption, message, status
from unetlib.data.photo import encode
from unetlib.matting import (
    CutOut,
    chequerboard,
    composite,
    cut_out,
    parse_color,
)
from unetlib.predict import Predictor, read_photo, resize_soft

__all__ = ["CutOutApp", "build_app", "builtin_examples", "uploaded_files"]

WORKING_SIZES = (96, 128, 192, 256, 320, 384, 512)


def build_app(
    predictor: Predictor, examples: dict[str, Any] | None = None, **settings
) -> "CutOutApp":
    """The app around a Predictor; as the last line of a cell it shows itself.

    `examples` maps names to anything `read_photo` takes; None takes `builtin_examples()`. The
    first is shown at once. `settings`: threshold=0.5, working_size=None (as trained), preview=420
    (longer side of the pictures shown, in pixels).
    """
    return CutOutApp(predictor, builtin_examples() if examples is None else examples, **settings)


class CutOutApp:
    """The widget and its state.

    Everything works without a browser too: `set_image(photo)`, `threshold.value = 0.7`,
    `working_size.value = 256`, `buttons["foreground"].click()`; then `result` is the CutOut at
    full size and `error` the exception of the last action, or None.
    """

    def __init__(self, predictor, examples, threshold=0.5, working_size=None, preview=420):
        self.predictor = predictor
        self.preview = preview
        self.image: np.ndarray | None = None  # uint8 (H, W, 3)
        self.soft: np.ndarray | None = None  # float32 (H, W) in [0, 1]
        self.name = ""
        self.error: Exception | None = None
        self.milliseconds = 0.0
        self._cutout: tuple[float, CutOut] | None = None  # with the threshold it was made for
        self._photos = {name: read_photo(photo) for name, photo in examples.items()}

        height, width = predictor.preprocess.size
        size = working_size or (height if height == width else (height, width))
        labels = {s: f"{s} px" for s in sorted({*WORKING_SIZES, size} - {(height, width)})}
        sizes = [(text, value) for value, text in labels.items()]
        if size not in labels:  # trained on oblong photos
            sizes.insert(0, (f"{height}×{width} px", size))
        page = self.page = build_page(self._photos, sizes, size, threshold)
        self.widget, self.buttons, self.examples = page.widget, page.buttons, page.examples
        self.threshold, self.working_size = page.threshold, page.working_size
        self.upload, self.background, self.color = page.upload, page.background, page.color
        self._connect()
        if self._photos:
            self._choose_example(next(iter(self._photos)))

    def set_image(self, image: Any, name: str = "photo") -> CutOut:
        """Show another photo (anything `read_photo` takes) and return its cut-out.

        An unreadable photo raises, is said in the app, and leaves the one before in place.
        """
        try:
            self._show_photo(image, name)
        except Exception as error:
            self._say_error(error)
            raise
        return self.result

    @property
    def result(self) -> CutOut:
        """The cut-out at the photo's own size, for the threshold as it stands."""
        if self.image is None or self.soft is None:
            raise RuntimeError("there is no photo yet: upload one or choose an example")
        threshold = self.threshold.value
        if self._cutout is None or self._cutout[0] != threshold:
            self._cutout = (threshold, cut_out(self.image, self.soft, threshold))
        return self._cutout[1]

    def download(self, kind: str = "foreground") -> tuple[str, bytes]:
        """(file name, PNG file) of "foreground" (RGBA), "mask_soft" or "mask_binary"."""
        stem = Path(self.name.replace("\\", "/")).stem or "photo"
        arrays = {"foreground": self.result.rgba, "mask_binary": self.result.binary}
        return f"{stem}_{kind}.png", encode(arrays.get(kind, self.result.soft))

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)

    def _connect(self) -> None:
        """Which widget calls what."""

        def on_change(widget, action):
            widget.observe(self._guarded(action), names="value")

        on_change(self.upload, self._on_upload)
        on_change(self.working_size, lambda _: self._predict())
        for control in (self.threshold, self.background, self.color):
            on_change(control, lambda _: self._render())
        for name, button in self.examples.items():
            button.on_click(self._guarded(lambda _, name=name: self._choose_example(name)))
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
        self._say_status()
        words = str(error) or type(error).__name__
        if isinstance(error, MemoryError):
            words = "There is not enough memory for this photo: make it smaller first."
        elif not isinstance(error, ValueError | OSError | RuntimeError):
            words = f"Unexpected {type(error).__name__}: {words}"
            logging.getLogger(__name__).error("a callback of the app failed", exc_info=error)
        self.page.message.value = message("error", f"That did not work. {words}")

    def _on_upload(self, change: Any) -> None:
        files = uploaded_files(change["new"])
        if files:  # clearing it calls this once more
            clear_upload(self.upload)
            name, content = files[-1]
            self._show_photo(content, name)

    def _choose_example(self, name: str) -> None:
        self._show_photo(self._photos[name], name)

    def _show_photo(self, image: Any, name: str) -> None:
        photo = open_photo(image, name)
        self.image, self.name, self.soft = photo, name, None
        for example, button in self.examples.items():
            (button.add_class if example == name else button.remove_class)("unetlib-chosen")
        self._predict()

    def _predict(self) -> None:
        """Run the network: only for another photo or another working size."""
        if self.image is None:
            return
        self.page.status.value = status("The network is looking at the photo …")
        start = time.perf_counter()
        self.soft = self.predictor.predict(self.image, size=self.working_size.value)
        self.milliseconds = 1000 * (time.perf_counter() - start)
        self._cutout = None
        height, width = self.image.shape[:2]
        scale = min(1.0, self.preview / max(height, width))
        small = max(1, round(height * scale)), max(1, round(width * scale))
        picture = Image.fromarray(self.image).resize(small[::-1], Image.Resampling.BOX)
        self._small = np.asarray(picture), resize_soft(self.soft, *small)
        gray = np.rint(self._small[1] * 255).astype(np.uint8)
        self.page.previews["original"].value = encode_jpeg(self._small[0])
        self.page.previews["soft"].value = encode_jpeg(gray)
        self._render()

    def _render(self) -> None:
        """Redo what depends on threshold and background: the small preview and the words."""
        page, threshold = self.page, self.threshold.value
        coloured = self.background.index == 1
        self.color.layout.display = "flex" if coloured else "none"
        page.link.value = page.message.value = ""
        if self.image is None or self.soft is None:
            return
        rgba = cut_out(*self._small, threshold).rgba
        ground = parse_color(self.color.value) if coloured else chequerboard(*rgba.shape[:2])
        page.previews["cutout"].value = encode_jpeg(composite(rgba, ground))
        height, width = self.image.shape[:2]
        on = f"on {self.color.value}" if coloured else "transparent"
        page.captions["original"].value = caption("Original", f"{self.name}, {width}×{height}")
        page.captions["soft"].value = caption("Soft mask", "white: sure, grey: not sure")
        page.captions["cutout"].value = caption("Cut-out", f"{on}, threshold {threshold:.2f}")
        self._say_status()

    def _say_status(self) -> None:
        """The line at the bottom, and a word when the mask is empty or full."""
        if self.image is None or self.soft is None:
            self.page.status.value = ""
            return
        threshold, (height, width) = self.threshold.value, self.image.shape[:2]
        share = float(np.mean(self.soft >= np.float32(threshold)))
        network = self.predictor.describe(self.working_size.value)
        self.page.status.value = status(
            f"{width}×{height} pixels, foreground {share:.1%} · {network} · "
            f"{self.milliseconds:.0f} ms"
        )
        words = None
        if share == 0:
            words = (
                f"Nothing in this photo reaches the threshold {threshold:.2f}: the highest value "
                f"is {self.soft.max():.2f}. The cut-out is empty. Lower the threshold or try "
                "another working size."
            )
        elif share == 1:
            words = f"All of this photo is above the threshold of {threshold:.2f}: raise it."
        if words:
            self.page.message.value = message("notice", words)

    def _offer(self, kind: str) -> None:
        """Make the file and hand it to the browser."""
        self.page.link.value = download_link(*self.download(kind))
