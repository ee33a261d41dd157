"""`unetlib app` without a browser: the page it makes of the notebook, its limits, its refusals.

tests/test_widget_browser.py uses what it serves.
"""

import importlib.util
import os
import socket
import sys
import types
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from unetlib.app import serve
from unetlib.app.browser import UPLOAD_VARIABLE
from unetlib.app.cli import main
from unetlib.app.course import find_notebooks
from unetlib.checkpoint import Checkpoint, save_checkpoint
from unetlib.data.preprocess import Preprocess
from unetlib.models import build_model


def tagged(source: str, *tags: str):
    return new_code_cell(source, metadata={"tags": list(tags)})


@pytest.fixture
def notebook(tmp_path):
    cells = [
        new_markdown_cell("# A lesson"),
        tagged("import json", "app"),
        tagged('checkpoint = ""\noutputs_dir = "outputs"', "parameters", "app"),
        tagged("raise SystemExit('a lesson')"),
        tagged("made = [checkpoint, outputs_dir]", "app", "nbval-ignore-output"),
    ]
    path = tmp_path / "05_inference_widget.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_the_page_has_the_tagged_cells_with_parameters_set(notebook, tmp_path):
    parameters = {"checkpoint": 'C:\\new "folder"\\it\'s.pth', "outputs_dir": "/tmp/ä ö"}
    path = serve.write_page(notebook, parameters, tmp_path)
    page = nbformat.read(path, as_version=4)
    nbformat.validate(page)
    assert page.metadata.title == "Cut out the foreground"
    assert page.metadata.kernelspec.name == "python3"
    names: dict = {}
    for cell in page.cells:
        exec(cell.source, names)
    assert names["made"] == list(parameters.values())


def test_a_notebook_without_such_cells_is_refused(notebook, tmp_path):
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        cell.metadata["tags"] = []
    nbformat.write(content, notebook)
    with pytest.raises(ValueError, match='tagged "app"'):
        serve.write_page(notebook, {}, tmp_path)


def test_the_notebook_of_the_course_is_ready_for_it(tmp_path):
    notebook = next(path for path in find_notebooks() if path.stem == serve.NOTEBOOK)
    page = nbformat.read(serve.write_page(notebook, {"checkpoint": "x.onnx"}, tmp_path), 4)
    sources = [cell.source for cell in page.cells]
    assert "checkpoint = 'x.onnx'" in sources and sources[-1].strip() == "app"
    assert 4 <= len(sources) <= 9 and any("build_app(" in source for source in sources)
    assert all(cell.cell_type == "code" for cell in page.cells)


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(OSError, match=f"port {taken} of 127.0.0.1 cannot be used.*--port 0"):
            serve.free_port("127.0.0.1", taken)
    assert serve.free_port("127.0.0.1", 0) > 0
    with pytest.raises(OSError, match="no.such.host.invalid"):
        serve.free_port("no.such.host.invalid", 8866)


def run(*args: str, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["app", *args])
    return ended.value.code, "".join(capsys.readouterr())


@pytest.fixture
def with_voila(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "voila" or find(name))


def test_without_voila_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, words = run(capsys=capsys)
    assert code == 1 and 'pip install "unetlib[app]"' in words


def test_without_a_network_it_says_how_to_get_one(tmp_path, monkeypatch, capsys, with_voila):
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path))
    code, words = run("--network", "best", capsys=capsys)
    assert code == 1 and "network" in words and "unetlib train" in words
    code, words = run("--checkpoint", "mine.pth", capsys=capsys)
    assert code == 1 and "mine.pth" in words
    (tmp_path / "mine.pth").write_bytes(b"")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        code, words = run("--checkpoint", str(tmp_path / "mine.pth"), "--port", port, capsys=capsys)
    assert code == 1 and f"port {port}" in words
    code, words = run("--checkpoint", str(tmp_path / "mine.pth"), "--port", "0", capsys=capsys)
    assert code == 2 and "mine.pth is damaged" in words  # said here, not to the visitors


def test_wrong_requests():
    from unetlib.app.cli import app

    runner = CliRunner()
    assert runner.invoke(app, ["app", "--port", "70000"]).exit_code == 2
    words = " ".join(runner.invoke(app, ["app", "--help"]).output.split())
    for option in ("--checkpoint", "--port", "--host", "--no-browser", "no password"):
        assert option in words


def test_limits(tmp_path, monkeypatch, capsys, with_voila):
    """What Voila is told, and where its page is."""
    seen = {}

    class Voila:
        def __init__(self, config):
            self.config = config

        def initialize(self, arguments):
            assert arguments == []  # nothing of our own command line

        def start(self):
            page = Path(self.config.Voila.notebook_path)
            seen.update(config=self.config, root=os.environ["UNETLIB_ROOT"], page=page.read_text())
            seen["template"] = page.parent / "voila" / "templates" / "unetlib" / "index.html.j2"
            assert seen["template"].is_file() and str(page.parent) in os.environ["JUPYTER_PATH"]

    voila = types.ModuleType("voila")
    voila.app = types.ModuleType("voila.app")
    voila.app.Voila = Voila
    monkeypatch.setitem(sys.modules, "voila", voila)
    monkeypatch.setitem(sys.modules, "voila.app", voila.app)
    for name in ("JUPYTER_PATH", UPLOAD_VARIABLE):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path))
    network = Checkpoint(build_model("unet_small", base=8), Preprocess((64, 64)))
    save_checkpoint(tmp_path / "mine.pth", network)
    monkeypatch.chdir(tmp_path)
    code, words = run("--checkpoint", "mine.pth", "--port", "0", "--no-browser", capsys=capsys)
    assert not code, words
    config = seen["config"]
    assert config.Voila.ip == "127.0.0.1" and config.Voila.open_browser is False
    assert config.Voila.port_retries == 0  # the address that was said is the one
    limit = config.Voila.tornado_settings["websocket_max_message_size"]
    assert 20e6 < int(os.environ[UPLOAD_VARIABLE]) * 1e6 < limit - 1e6
    assert config.MappingKernelManager.cull_idle_timeout == 900
    assert config.VoilaConfiguration.file_allowlist == []
    assert config.VoilaConfiguration.show_tracebacks is False
    assert str(tmp_path / "mine.pth") in seen["page"] and seen["root"] == str(tmp_path)
    assert not seen["template"].exists()  # the folder is gone with the server
