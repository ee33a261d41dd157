"""`unetlib app`: the app of notebook 05 as a web page, served by Voila.

Every visitor gets a Python of their own, so that nobody sees the photos of others.
"""

import importlib.util
import logging
import os
import shutil
import socket
import tempfile
from pathlib import Path

import click

NOTEBOOK, TAG, TITLE = "05_inference_widget", "app", "Cut out the foreground"
PHOTO_MB = 30  # a photo may have; the websocket takes a little more, in one message
IDLE_MINUTES = 15


@click.command("app", short_help="The app as a web page.")
@click.option(
    "--network", "--checkpoint", "network", metavar="NAME|FILE",
    default="people", show_default=True,
    help="people, best, ..., or a file, .pth or .onnx.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8866, show_default=True, help="0: a free one."
)
@click.option(
    "--host", default="127.0.0.1", show_default=True,
    help="0.0.0.0 lets other machines in. There is no password.",
)  # fmt: skip
@click.option("--browser/--no-browser", default=True, help="Open the page [yes].")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors, and what Voila says.")
def app(network, port, host, browser, debug) -> None:
    """Serve the app of notebook 05 as a web page, until Ctrl-C.

    Each visitor has a Python of their own, which ends with the page or after 15 minutes without
    use. Photos stay on this machine and are not stored.
    """
    if importlib.util.find_spec("voila") is None:
        raise ImportError('the web page needs Voila: pip install "unetlib[app]"')
    from unetlib import pretrained
    from unetlib.app.course import find_notebooks
    from unetlib.paths import project_root
    from unetlib.predict import Predictor

    file = pretrained.find(network)
    port = free_port(host, port)
    # a file that cannot be used is said here, not to the visitors
    click.echo(f"network: {network}: {Predictor(file, 'cpu').describe()}")
    notebook = next((path for path in find_notebooks() if path.stem == NOTEBOOK), None)
    if notebook is None:
        raise ValueError(f"there is no {NOTEBOOK}.ipynb beside the other notebooks")
    root = project_root()
    parameters = {"network": str(file.resolve()), "outputs_dir": str(root / "outputs")}
    with tempfile.TemporaryDirectory(prefix="unetlib-app-") as folder:
        page = write_page(notebook, parameters, Path(folder))
        os.environ["UNETLIB_ROOT"] = str(root)  # the notebook runs in another folder
        serve(page, host, port, browser, debug)


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises OSError where it cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as probe:
            return probe.getsockname()[1]
    except OSError as error:
        raise OSError(
            f"port {port} of {host} cannot be used ({error.strerror or error}): "
            "another program may have it, take another with --port, e.g. --port 0"
        ) from error


def write_page(notebook: Path, parameters: dict[str, str], folder: Path) -> Path:
    """The cells of a notebook tagged "app", with parameters set, as a notebook in `folder`.

    Parameters are put behind the cell tagged "parameters", as papermill does. Raises ValueError for
    a notebook without such cells.
    """
    import nbformat

    content = nbformat.read(notebook, as_version=4)
    cells = [cell for cell in content.cells if TAG in cell.metadata.get("tags", [])]
    places = [n for n, cell in enumerate(cells, 1) if "parameters" in cell.metadata.get("tags", [])]
    if not places:
        raise ValueError(f'{notebook}: no parameters cell is tagged "{TAG}"')
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    cells.insert(places[0], nbformat.v4.new_code_cell(source))
    page = nbformat.v4.new_notebook(cells=cells, metadata={"title": TITLE})
    page.metadata["kernelspec"] = {
        "name": "python3", "display_name": "Python 3", "language": "python",
    }  # fmt: skip
    nbformat.write(page, folder / "app.ipynb")
    return folder / "app.ipynb"


def serve(page: Path, host: str, port: int, browser: bool = False, debug: bool = False) -> None:
    """Run Voila on a notebook until Ctrl-C or SIGTERM; its kernels end with it."""
    from tornado.ioloop import IOLoop
    from traitlets.config import Config
    from voila.app import Voila

    from unetlib.app.browser import UPLOAD_VARIABLE
    from unetlib.app.execution import this_python

    os.environ[UPLOAD_VARIABLE] = str(PHOTO_MB)  # the kernels tell the page
    template = page.parent / "voila" / "templates" / "unetlib"
    template.mkdir(parents=True)
    (template / "conf.json").write_text('{"base_template": "lab"}', encoding="utf-8")
    shutil.copy(Path(__file__).with_name("templates") / "app.html", template / "index.html.j2")
    os.environ["JUPYTER_PATH"] = os.pathsep.join(
        filter(None, [str(page.parent), os.environ.get("JUPYTER_PATH")])
    )
    settings = {
        "Voila": {
            "notebook_path": str(page),
            "ip": host,
            "port": port,
            "port_retries": 0,
            "open_browser": browser,
            "log_level": logging.DEBUG if debug else logging.ERROR,
            "tornado_settings": {
                "websocket_max_message_size": (PHOTO_MB + 2) * 1_000_000,
                # A page that is closed asks for the end of its Python, without the token that this
                # check wants. No other page knows the random name of it.
                "disable_check_xsrf": True,
                "ws_ping_timeout": 30_000,  # milliseconds; the default is one that tornado refuses
            },
            "config_file_paths": [],
        },
        "VoilaConfiguration": {
            "template": "unetlib",
            "allow_template_override": "NO",
            "allow_theme_override": "NO",
            "file_allowlist": [],  # nothing of the folder is served
            "show_tracebacks": debug,
        },
        "MappingKernelManager": {
            "cull_idle_timeout": 60 * IDLE_MINUTES,
            "cull_interval": 60,
            "cull_connected": True,  # a page that was left open
        },
    }
    with this_python():
        server = Voila(config=Config(settings))
        server.initialize([])
        shown = f"[{host}]" if ":" in host else host
        words = f"The app: http://{shown}:{port}/ (Ctrl-C ends it)"
        IOLoop.current().add_callback(click.echo, words)
        server.start()
    click.echo("The app has ended.")
