"""What the app of notebook 05 looks like: its widgets and their places, without behaviour."""

import html
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from unetlib.app.browser import encode_jpeg
from unetlib.app.markup import data_url

DOWNLOADS = {"foreground": "Cut-out", "mask_soft": "Soft mask", "mask_binary": "Binary mask"}
FIGURES = ("original", "soft", "cutout")
HEAD = """<h2>Cut out the foreground</h2>
<p>Upload a photo or take an example, then move the sliders.</p>"""


def build_page(examples: dict[str, np.ndarray], sizes: list, size, threshold: float):
    """Make the widgets.

    `examples`: name -> uint8 (H, W, 3). `sizes`: (label, value) pairs of the working size, `size`
    the value at the start. Returns a namespace: `widget` (the whole) and the parts that act or
    change: upload, examples, threshold, working_size, background, color, buttons, previews,
    captions, message, link, status.
    """
    import ipywidgets as w

    def box(children, *classes):
        made = w.VBox(children)
        for name in classes:
            made.add_class(f"unetlib-{name}")
        return made

    def text(words, kind="label"):
        return w.HTML(f'<div class="unetlib-{kind}">{words}</div>')

    wide = {"layout": {"width": "100%"}}  # a Layout object would be shared between the widgets
    page = SimpleNamespace()
    page.upload = w.FileUpload(
        accept="image/*", description="Upload a photo", button_style="primary", **wide
    )
    page.threshold = w.FloatSlider(threshold, min=0.01, max=0.99, step=0.01, **wide)
    page.working_size = w.SelectionSlider(
        options=sizes, value=size, continuous_update=False, **wide
    )
    page.background = w.ToggleButtons(options=["Transparent", "Colour"])
    page.background.style.button_width = "auto"
    page.color = w.ColorPicker(value="#0a4678", **wide)
    page.examples = {name: w.Button(description=name, tooltip=name) for name in examples}
    page.buttons = {
        kind: w.Button(description=title, icon="download", tooltip=f"Save as PNG: {title}")
        for kind, title in DOWNLOADS.items()
    }
    page.previews = {kind: w.Image(format="jpeg") for kind in FIGURES}
    page.captions = {kind: w.HTML() for kind in FIGURES}
    page.message, page.link, page.status = w.HTML(), w.HTML(), w.HTML()
    for number, button in enumerate(page.examples.values()):
        button.add_class("unetlib-example")
        button.add_class(f"unetlib-example-{number}")

    css = Path(__file__).with_name("widget.css").read_text(encoding="utf-8")
    groups = (
        [text("1 · Photo", "title"), page.upload, box([*page.examples.values()], "examples")],
        [
            text("2 · Mask", "title"),
            text("Threshold: how sure the network must be"),
            page.threshold,
            text("Working size: how much detail it sees"),
            page.working_size,
        ],
        [
            text("3 · Background", "title"),
            page.background,
            page.color,
            text("It is for the eye: the saved cut-out is transparent."),
        ],
    )
    figures = [box([page.previews[kind], page.captions[kind]], "figure") for kind in FIGURES]
    page.widget = box(
        [
            w.HTML(f"<style>{css}{_thumbnails(examples.values())}</style>{HEAD}"),
            box([box(group, "group") for group in groups], "row", "controls"),
            page.message,
            box(figures, "row", "stage"),
            text("Download as PNG, in the size of the photo", "label unetlib-gap"),
            box([*page.buttons.values()], "row", "downloads"),
            page.link,
            page.status,
        ],
        "app",
    )
    return page


def caption(title: str, words: str) -> str:
    """HTML under a picture."""
    return f'<div class="unetlib-caption"><b>{title}</b><br>{html.escape(words)}</div>'


def message(kind: str, words: str) -> str:
    """HTML of a line that stands out; `kind` is "error" or "notice"."""
    return f'<div class="unetlib-message unetlib-{kind}" role="alert">{html.escape(words)}</div>'


def status(words: str) -> str:
    """HTML of the line at the bottom."""
    return f'<div class="unetlib-status">{html.escape(words)}</div>'


def _thumbnails(photos) -> str:
    """CSS that puts the examples' pictures on their buttons."""
    rules = []
    for number, photo in enumerate(photos):
        small = Image.fromarray(photo)
        small.thumbnail((96, 96))
        url = data_url(encode_jpeg(np.asarray(small)), "image/jpeg")
        rules.append(f".unetlib-app .unetlib-example-{number}{{background-image:url({url})}}")
    return "\n".join(rules)
