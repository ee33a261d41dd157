"""The pages that the commands write: text, tables and figures, made HTML by nbconvert.

A page is one file that needs no connection, and nothing in it is run: HTML is made harmless.
"""

import base64
import html
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unetlib.paths import write_whole

TEMPLATES = str(Path(__file__).with_name("templates"))
TAGS = "a b br code em h1 h2 h3 hr img li ol p pre strong table tbody td th thead tr ul"


def code(text: Any) -> str:
    """A name of a file or a person's own words for the middle of Markdown text, as they stand."""
    markdown = r"[:*_\[\]`|$~\\\n]"  # each as a number, else it would mean something
    plain = re.sub(markdown, lambda found: f"&#{ord(found[0])};", html.escape(str(text)))
    return f"<code>{plain}</code>"


def write_page(path: str | Path, title: str, parts: Iterable[Any]) -> Path:
    """Writes a page of text (Markdown), tables (pandas), figures (matplotlib) and pictures.

    Pictures are uint8 arrays (H, W) or (H, W, 3), or PIL images. Returns the path.
    """
    import nbformat

    cells = []
    for part in (f"# {html.escape(title)}", *parts):
        cell = {"cell_type": "markdown", "metadata": {}, "source": part}
        if not isinstance(part, str):
            output = {"output_type": "display_data", "data": _as_output(part), "metadata": {}}
            cell |= {"cell_type": "code", "source": "", "outputs": [output]}
            cell["execution_count"] = None
        cells.append(cell)
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    return write_notebook_page(path, nbformat.from_dict(notebook), title)


def write_notebook_page(path: str | Path, notebook: Any, title: str) -> Path:
    """Writes an executed notebook as a page: its text and outputs, without the code."""
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors.sanitize import SanitizeHTML

    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[TEMPLATES])
    exporter.exclude_input = exporter.optimistic_validation = True  # validated once only
    sanitize = SanitizeHTML(tags=TAGS.split(), attributes={"a": ["href"], "td": ["align"]})
    exporter.register_preprocessor(sanitize, enabled=True)
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(Path(path), page.encode("utf-8", "backslashreplace"))
    return Path(path)


def _as_output(part: Any) -> dict[str, str]:
    """What Jupyter would show of a table, a figure or a picture."""
    if hasattr(part, "to_html"):
        table = part.to_html(float_format="{:.3f}".format, na_rep="")
        return {"text/html": re.sub(r"<td>(?![-\d.]*</td>)", '<td align="left">', table)}
    file, kind = io.BytesIO(), "png"
    if hasattr(part, "savefig"):
        part.savefig(file, format=kind, dpi=130)
    else:
        from PIL import Image

        image = part if isinstance(part, Image.Image) else Image.fromarray(part)
        kind = "jpeg" if image.mode == "RGB" else "png"
        image.save(file, kind, quality=88)
    return {f"image/{kind}": base64.b64encode(file.getvalue()).decode("ascii")}
