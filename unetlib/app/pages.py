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

from unetlib.errors import need
from unetlib.paths import write_atomic

TEMPLATES = str(Path(__file__).with_name("templates"))
TAGS = "a b br code em h1 h2 h3 hr img li ol p pre strong table tbody td th thead tr ul"


def code(text: Any) -> str:
    """A name of a file or a person's own words for the middle of Markdown text, as they stand."""
    markdown = r"[:*_\[\]`|$~\\\n]"  # each as a number, else it would mean something
    plain = re.sub(markdown, lambda found: f"&#{ord(found[0])};", html.escape(str(text)))
    return f"<code>{plain}</code>"


def write_page(path: str | Path, title: str, parts: Iterable[Any]) -> Path:
    """Writes a page of text (Markdown), tables (pandas), pictures (PIL) and executed
    notebooks, of which text and outputs are shown, without the code. Returns the path. Raises
    ImportError without the extra "course"."""
    need("nbconvert", extra="course")
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors.sanitize import SanitizeHTML
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    cells = [new_markdown_cell(f"# {html.escape(title)}")]
    for part in parts:
        if isinstance(part, str):
            cells.append(new_markdown_cell(part))
        elif hasattr(part, "cells"):
            cells += part.cells
        else:
            cells.append(new_code_cell(outputs=[new_output("display_data", _as_output(part))]))
    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[TEMPLATES])
    exporter.exclude_input = exporter.optimistic_validation = True  # cells may have the same id
    sanitize = SanitizeHTML(tags=TAGS.split(), attributes={"a": ["href"], "td": ["align"]})
    exporter.register_preprocessor(sanitize, enabled=True)
    notebook = new_notebook(cells=cells, metadata={"title": title})
    page, _ = exporter.from_notebook_node(notebook)
    write_atomic(Path(path), page.encode("utf-8", "backslashreplace"))
    return Path(path)


def _as_output(part: Any) -> dict[str, str]:
    """What Jupyter would show of a table or a picture."""
    if hasattr(part, "to_html"):
        table = part.to_html(float_format="{:.3f}".format, na_rep="")
        return {"text/html": re.sub(r"<td>(?![-\d.]*</td>)", '<td align="left">', table)}
    file = io.BytesIO()
    part.save(file, "JPEG", quality=88)
    return {"image/jpeg": base64.b64encode(file.getvalue()).decode("ascii")}
