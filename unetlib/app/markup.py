"""What every page that the project writes is made with: templates, and pictures inside the page."""

import base64
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
