"""What the app of notebook 05 looks like: its widgets, their places, which of them are shown."""

import html
from pathlib import Path

import ipywidgets as w

from unetlib.app.browser import in_colab, setup_script, thumbnail, upload_limit
from unetlib.matting import REFINEMENTS

DOWNLOADS = {  # what can be saved: (words on the button, what it is)
    "foreground": ("Cut-out", "the picture on the background chosen above"),
    "transparent": ("Transparent", "the cut-out without any background"),
    "mask_soft": ("Soft mask", "grey values: how sure the network is"),
    "mask_binary": ("Binary mask", "white is foreground, black is not"),
    "comparison": ("Comparison", "photo, soft mask and cut-out side by side"),
    "zip": ("All photos (zip)", "cut-out and masks of every photo that you chose"),
}
BACKGROUNDS = ("Transparent", "Colour", "Picture", "Blur", "Grey")
REFINED = {
    "guided": "Follow the photo (quick)",
    "closed-form": "Hair and fur (slow)",
    "none": "As the network drew it",
}
HEAD = """<h2>Cut out the foreground</h2>
<p>Choose photos, look at the edge, save the picture without its background.</p>"""
COMPARE = """<input type="range" min="0" max="100" step="0.5" value="50"
aria-label="Photo on the left, cut-out on the right" title="Drag: photo | cut-out"
oninput="this.closest('.unetlib-compare').style.setProperty('--cut', this.value + '%')">
<span></span>
<b class="unetlib-tag">Photo</b><b class="unetlib-tag">Cut-out</b>"""


class Page:
    """The widgets. `widget` is the whole; the others act, or change.

    `sizes`: (label, value) pairs of the working size, `size` the value at the start. `networks`,
    `videos`: (label, value) pairs to choose from.
    """

    def __init__(self, threshold, refine, sizes: list, size, networks: list, videos: list):
        def wide(kind, *args, **settings):
            return kind(*args, layout={"width": "100%"}, **settings)

        def slider(value, low, high, step, format=".1f"):
            return wide(w.FloatSlider, value, min=low, max=high, step=step, readout_format=format)

        self._token, self._thumbnails = f"{id(self):x}", []
        self.upload, self.picture = self._upload("photos", True), self._upload("a picture", False)
        self.clear = w.Button(description="Remove my photos", tooltip="From this app only")
        self.photos, self.shelf = box("strip"), box("strip")
        self.thumbnails = w.HTML()
        self.threshold = slider(threshold, 0.01, 0.99, 0.01, ".2f")
        refined = [(REFINED[kind], kind) for kind in REFINEMENTS]
        self.refine = wide(w.Dropdown, options=refined, value=refine)
        self.more = w.ToggleButton(description="More settings")
        self.feather, self.grow = slider(0, 0, 20, 0.5), slider(0, -10, 10, 0.5)
        self.largest = w.Checkbox(description="Largest piece only", indent=False)
        self.fill_holes = w.Checkbox(description="Fill holes", indent=False)
        self.working_size = wide(
            w.SelectionSlider, options=sizes, value=size, continuous_update=False
        )
        self.checkpoint = wide(w.Dropdown, options=networks)
        self.background = w.ToggleButtons(options=BACKGROUNDS)
        self.background.style.button_width = "auto"
        self.color = wide(w.ColorPicker, value="#0a4678")
        self.blur = slider(0.03, 0.005, 0.1, 0.005, ".1%")
        self.buttons = {
            kind: w.Button(description=title, tooltip=f"Save {words}")
            for kind, (title, words) in DOWNLOADS.items()
        }
        self.buttons["foreground"].button_style = "primary"
        kinds = ("before", "cutout", "original", "soft", "edge")
        self.previews = {kind: w.Image(format="jpeg") for kind in kinds}
        self.captions = {kind: w.HTML() for kind in kinds[1:]}
        self.message, self.link, self.status = w.HTML(), w.HTML(), w.HTML()
        self.file = w.Image(format="png")  # what is downloaded, see browser.START_DOWNLOAD
        self.file.add_class("unetlib-file")
        self.point = w.Text(continuous_update=False)  # where a picture was clicked, see widget.js
        self.videos = wide(w.Dropdown, options=[("Choose one …", ""), *videos])
        self.screen = box("screen")
        self.widget = self._place(bool(videos))

    def _upload(self, words: str, multiple: bool):
        """A button for files; in Colab a plain one, behind which is Colab's own dialog."""
        style = {"description": f"Choose {words}", "button_style": "primary" if multiple else ""}
        if in_colab():
            return w.Button(**style)
        button = w.FileUpload(accept="image/*", multiple=multiple, icon="", **style)
        button.add_class(f"unetlib-{words.split()[-1]}")
        return button

    def _place(self, film: bool):
        self.details = box(
            "details",
            labelled("Soft edge", "width in pixels of the photo", self.feather),
            labelled("Grow or shrink", "in pixels of the photo", self.grow),
            box("checks", self.largest, self.fill_holes),
            labelled("Working size", "how fine the network looks", self.working_size),
            labelled("Network", "the checkpoint to use", self.checkpoint),
        )
        self.color_field = labelled("Colour", "behind the cut-out", self.color)
        self.picture_field = labelled("Picture", "fitted to cover the photo", self.picture)
        self.picture_field.add_class("unetlib-backdrop")
        self.blur_field = labelled("Blur", "as a share of the photo's side", self.blur)
        self.compare = box("compare", self.previews["before"], self.previews["cutout"])
        self.compare.children += (w.HTML(COMPARE),)
        stage = box("figure", self.compare, self.captions["cutout"])
        stage.add_class("unetlib-stage")
        hint = "" if in_colab() else f"or drop them here, up to {upload_limit()} MB each"
        controls = box(
            "controls",
            card(
                "1 · Photos", self.upload, text(hint, "hint"), self.photos, self.clear,
                text("Examples"), self.shelf,
            ),
            card(
                "2 · Mask", labelled("Threshold", "how sure the network must be", self.threshold),
                labelled("Edge", "how it is refined", self.refine), self.more, self.details,
            ),
            card(
                "3 · Background", self.background, self.color_field, self.picture_field,
                self.blur_field,
            ),
            card(
                "4 · Save", text("In the full size of the photo, as PNG"),
                box("downloads", *self.buttons.values()), self.link,
            ),
        )  # fmt: skip
        figures = [
            box("figure", self.previews[k], self.captions[k]) for k in ("original", "soft", "edge")
        ]
        for figure in figures[:2]:
            figure.add_class("unetlib-look")  # a click there moves the enlarged piece
        about = text("How a network learned to see one photo, epoch by epoch.")
        films = [card("Timelapse", about, self.videos, self.screen)] if film else []
        view = box("view", stage, box("row", *figures), self.status, *films)
        css = Path(__file__).with_name("widget.css").read_text(encoding="utf-8")
        head, setup = w.HTML(f"<style>{css}</style>{HEAD}"), w.HTML(setup_script())
        hidden = box("hidden", self.file, self.point)
        self.caption("soft", "Soft mask", "white is sure")
        self.caption("edge", "Edge, enlarged", "click where to look")
        main = box("main", controls, view)
        return box("app", head, self.thumbnails, setup, self.message, main, hidden)

    def photo_button(self, name: str, rgb):
        """A thumbnail to press; its picture stands in a style sheet."""
        kind = f"unetlib-photo-{self._token}-{len(self._thumbnails)}"
        self._thumbnails.append(
            f".unetlib-app .jupyter-button.{kind}{{background-image:url({thumbnail(rgb)})}}"
        )
        button = w.Button(description=name, tooltip=name)
        button.add_class("unetlib-photo")
        button.add_class(kind)
        return button

    def show_thumbnails(self, received: int) -> None:
        """`received`: how many files have come, for which widget.js waits."""
        count = f'<i class="unetlib-received" data-count="{received}" hidden></i>'
        self.thumbnails.value = f"{count}<style>{''.join(self._thumbnails)}</style>"

    def choose(self, name: str) -> None:
        """Mark the photo that is shown."""
        for button in (*self.shelf.children, *self.photos.children):
            mark = button.add_class if button.description == name else button.remove_class
            mark("unetlib-chosen")

    def fold(self) -> None:
        """Show what the present choices need, hide the rest."""
        kind, photos = self.background.value, len(self.photos.children)
        shown = {
            self.details: self.more.value,
            self.color_field: kind == "Colour",
            self.picture_field: kind == "Picture",
            self.blur_field: kind == "Blur",
            self.photos: photos,
            self.clear: photos,
            self.buttons["transparent"]: kind != "Transparent",
            self.buttons["zip"]: photos > 1,
        }
        for widget, wanted in shown.items():
            widget.layout.display = None if wanted else "none"
        for moved in (self.threshold, self.feather, self.grow):  # slow: once it is let go
            moved.continuous_update = self.refine.value != "closed-form"

    def remove_photos(self) -> None:
        self.photos.children = ()
        self.fold()

    def play(self, video: Path | str) -> None:
        kind = video.suffix[1:] if video else ""
        self.screen.children = (
            (w.Video(value=video.read_bytes(), format=kind, autoplay=False),) if video else ()
        )

    def caption(self, kind: str, title: str, words: str) -> None:
        words = f"<b>{title}</b> {html.escape(words)}"
        self.captions[kind].value = f'<div class="unetlib-caption">{words}</div>'

    def say(self, words: str) -> None:
        """The line at the bottom."""
        words = html.escape(words)
        self.status.value = f'<div class="unetlib-status">{words}</div>' if words else ""

    def say_result(self, shape: tuple[int, ...], share: float, network: str) -> None:
        size = f"{shape[1]}×{shape[0]} pixels"
        self.say(f"{size}, foreground about {share:.0%} · {network}")

    def say_share(self, share: float, threshold: float, highest: float) -> None:
        """A word when the mask is empty or full."""
        if share == 0:
            self.warn(
                "notice",
                f"Nothing in this photo reaches the threshold {threshold:.2f}: the highest value "
                f"is {highest:.2f}. The cut-out is empty. Lower it or try another working size.",
            )
        elif share == 1:
            self.warn("notice", f"All of it is above the threshold of {threshold:.2f}: raise it.")

    def warn(self, kind: str, words: str) -> None:
        """A line that stands out; `kind` is "error" or "notice"."""
        self.message.value = (
            f'<div class="unetlib-message unetlib-{kind}" role="alert">{html.escape(words)}</div>'
        )


def box(name: str, *children):
    made = w.VBox(children)
    made.add_class(f"unetlib-{name}")
    return made


def text(words: str, kind: str = "label"):
    return w.HTML(f'<div class="unetlib-{kind}">{words}</div>')


def labelled(title: str, words: str, control):
    return box("field", text(f"<b>{title}</b> {words}"), control)


def card(title: str, *children):
    made = box("card", text(title, "title"), *children)
    made.add_class(f"unetlib-card-{title.split()[-1].lower()}")
    return made
