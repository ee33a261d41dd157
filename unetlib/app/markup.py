"""What every page that the project writes is made with: templates, and pictures inside the page."""

import base64
import io
from pathlib import Path


def template(name: str, **filters):
    """A template of templates/, which escapes what it is given."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)


def data_url(data: bytes, kind: str = "image/png") -> str:
    """The bytes as an address that can stand in a page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def figure_url(figure) -> str:
    """A matplotlib figure as PNG, sharp on fine screens too."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=160)
    return data_url(file.getvalue())


def picture_url(picture) -> str:
    """A picture, uint8 (H, W) or (H, W, 3), as WebP."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=85)
    return data_url(file.getvalue(), "image/webp")
