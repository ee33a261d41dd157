"""What the app takes from the browser and gives to it: uploads, thumbnails, downloads."""

import html
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from unetlib.app.markup import data_url
from unetlib.app.viewer import encode_jpeg
from unetlib.data.images import ImageError, fit_within, image_size, resize
from unetlib.data.photo import Photo
from unetlib.data.photo import open_photo as open_any

MAX_MEGAPIXELS = 50  # a cut-out at full size needs some 100 bytes a pixel while it is made
# A larger message would end the connection without a word. `unetlib app` lets more through than
# the 10 MB of other Jupyter servers, and says so by this variable.
UPLOAD_VARIABLE = "UNETLIB_UPLOAD_MB"
UPLOAD_MB = 9
# Presses the link once in a page. The bytes came as a picture that is not shown: that way they need
# no text encoding, and no address of 2 MB or more, which browsers refuse.
START_DOWNLOAD = """
const link = this.previousElementSibling, done = window.unetlibDone = window.unetlibDone || {};
const file = this.closest('.unetlib-app').querySelector('img.unetlib-file');
link.addEventListener('click', () => { link.href = file.src; });
this.remove();
if (!done['TOKEN']) { done['TOKEN'] = 1; link.click(); }
"""


def builtin_examples() -> dict[str, np.ndarray]:
    """Three real photos that scikit-image carries: name -> uint8 (H, W, 3)."""
    from skimage import data

    return {"Astronaut": data.astronaut(), "Cat": data.cat(), "Coffee": data.coffee()}


def upload_limit() -> int:
    """Megabytes that a file may have to get through to the app."""
    return int(os.environ.get(UPLOAD_VARIABLE, UPLOAD_MB))


def in_colab() -> bool:
    return "google.colab" in sys.modules


def colab_upload() -> list[tuple[str, bytes]]:
    """Colab's own dialog -> [(name, content)]: a FileUpload fails there without a word for files
    over 1 MB, https://github.com/jupyter-widgets/ipywidgets/issues/3452."""
    from google.colab import files

    return [(name, bytes(content)) for name, content in files.upload().items()]


def uploaded_files(value: Any) -> list[tuple[str, bytes]]:
    """The value of a FileUpload -> [(name, content)].

    ipywidgets 8 gives a tuple of dicts with "name" and "content", 7 a dict from the name to
    {"metadata": ..., "content": ...}.
    """
    if isinstance(value, dict):
        return [(name, bytes(entry["content"])) for name, entry in value.items()]
    return [(entry["name"], bytes(entry["content"])) for entry in value]


def clear_upload(upload: Any) -> None:
    """Empty a FileUpload: the same file chosen once more would not notify, being equal."""
    if isinstance(upload.value, dict):
        upload.metadata, upload.data = [], []
        upload.set_trait("value", {})
    elif upload.value:
        upload.value = ()


def take_files(change: Any) -> list[tuple[str, bytes]]:
    """The files that a FileUpload has received, which is empty then; [] for the emptying itself."""
    files = uploaded_files(change["new"])
    if files:
        clear_upload(change["owner"])
    return files


def open_photo(image: Any, name: str) -> Photo:
    """Any photo, with the app's limit for bytes, which is checked before anything is decoded."""
    if isinstance(image, bytes):
        image = io.BytesIO(image)
        image.name = name  # errors name the file by it
        width, height = image_size(image)
        if width * height > MAX_MEGAPIXELS * 1e6:
            raise ImageError(
                f"{name}: {width}×{height} pixels are {width * height / 1e6:.0f} megapixels, the "
                f"app takes up to {MAX_MEGAPIXELS}. Make it smaller first"
            )
    return open_any(image)


def free_name(name: str, taken: Any) -> str:
    """`name`, or "name (2).jpg" and so on where that is taken."""
    path, number, free = Path(name), 1, name
    while free in taken:
        number += 1
        free = f"{path.stem} ({number}){path.suffix}"
    return free


def thumbnail(photo: np.ndarray) -> str:
    """uint8 (H, W, 3) -> a small picture as a data URL."""
    small = resize(photo, fit_within(photo.shape[:2], 128))
    return data_url(encode_jpeg(small), "image/jpeg")


def run_script(script: str, attributes: str = "") -> str:
    """HTML that runs a script when it is shown; in it `this` is a picture in that place.

    A script element put in by a widget would not run, the error handler of a picture does.
    """
    return f'<img alt="" hidden src="data:," {attributes} onerror="{html.escape(script)}">'


def setup_script() -> str:
    """HTML that adds to the app what ipywidgets has no widget for, see widget.js."""
    script = Path(__file__).with_name("widget.js").read_text(encoding="utf-8")
    settings = f'data-limit="{upload_limit()}" data-uploads="{0 if in_colab() else 2}"'
    kind = "unetlib-message unetlib-error unetlib-refused"
    return f'<div class="{kind}" role="alert" hidden></div>{run_script(script, settings)}'


def download_link(name: str, size: int) -> str:
    """HTML of a link that saves the app's hidden file under `name` and presses itself when shown.

    `size`: of the file, in bytes.
    """
    name, script = html.escape(name), START_DOWNLOAD.replace("TOKEN", str(time.time_ns()))
    link = f'<a class="unetlib-link" download="{name}" href="#">{name}, {size / 1e6:.2f} MB</a>'
    return link + run_script(script)
