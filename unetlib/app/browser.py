"""What the app takes from the browser and gives to it: uploads, pictures, downloads."""

import html
import io
import time
from typing import Any

import numpy as np
from PIL import Image

from unetlib.app.markup import data_url
from unetlib.data.images import ImageError, image_size
from unetlib.predict import read_photo

MAX_MEGAPIXELS = 50  # a cut-out at full size needs some 100 bytes a pixel while it is made
# Starts the download that a pressed button made, once in a page. Where scripts are not let in, the
# link beside it does the same by hand. A Blob, because browsers refuse data URLs over 2 MB.
START_DOWNLOAD = """
const a=this.previousElementSibling,done=window.unetlibDone=window.unetlibDone||{};this.remove();
const bytes=Uint8Array.from(atob(a.href.split(',')[1]),c=>c.charCodeAt(0));
a.href=window.URL.createObjectURL(new window.Blob([bytes],{type:'image/png'}));
if(!done['TOKEN']){done['TOKEN']=1;a.click();}
"""


def builtin_examples() -> dict[str, np.ndarray]:
    """Three real photos that scikit-image carries: name -> uint8 (H, W, 3)."""
    from skimage import data

    return {"Astronaut": data.astronaut(), "Cat": data.cat(), "Coffee": data.coffee()}


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
    else:
        upload.value = ()


def open_photo(image: Any, name: str) -> np.ndarray:
    """`read_photo` with the app's limit, which is checked before anything is decoded."""
    if isinstance(image, bytes):
        image = io.BytesIO(image)
        image.name = name  # errors name the file by it
        width, height = image_size(image)
        if width * height > MAX_MEGAPIXELS * 1e6:
            raise ImageError(
                f"{name}: {width}×{height} pixels are {width * height / 1e6:.0f} megapixels, the "
                f"app takes up to {MAX_MEGAPIXELS}. Make it smaller first"
            )
    return read_photo(image)


def download_link(name: str, data: bytes) -> str:
    """HTML of a link that saves a PNG under `name`, and presses itself when it is shown."""
    script = START_DOWNLOAD.replace("TOKEN", str(time.time_ns())).replace("\n", "")
    return (
        f'<a class="unetlib-link" download="{html.escape(name)}" href="{data_url(data)}">'
        f"{html.escape(name)}, {len(data) / 1e6:.2f} MB</a>"
        f'<img alt="" src="data:," onerror="{script}">'
    )


def encode_jpeg(image: np.ndarray) -> bytes:
    """uint8 (H, W) or (H, W, 3) -> a JPEG file, for previews."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=85)
    return file.getvalue()
