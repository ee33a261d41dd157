"""The commands `unetlib serve` and `unetlib app`: one server, for programs and for people."""

import os
from types import SimpleNamespace

import click
from click import IntRange, Option

from unetlib.app import Command, read_settings, setting_name
from unetlib.config import POSITIVE
from unetlib.errors import need
from unetlib.paths import find_input

FILES, PREFIX = ("serve.yaml", "serve.json"), "UNETLIB_SERVE_"
CORES = min(4, os.cpu_count() or 1)
# The options, which are keys of the file and names in the environment as well.
SETTINGS = [
    Option(["--network", "--checkpoint"], default="people", help="A name or a file."),
    Option(["--device"], default="auto", help="auto, cpu, cuda, cuda:1 or mps."),
    Option(["--host"], default="127.0.0.1", help="0.0.0.0 lets others in."),
    Option(["--port"], type=IntRange(0, 65535), default=8000, help="0: a free one."),
    Option(["--workers"], type=IntRange(1), default=CORES, help="Photos in work at a time."),
    Option(["--queue"], type=IntRange(0), default=32, help="Requests that wait; more get a 503."),
    Option(["--seconds"], type=POSITIVE, default=60, help="Of a request; a longer one gets a 504."),
    Option(["--upload-mb"], type=POSITIVE, default=30, help="Of a photo with its background."),
    Option(["--megapixels"], type=POSITIVE, default=50, help="Of a photo; more get a 413."),
    Option(["--buffer-mb"], type=POSITIVE, default=500, help="Of all uploads; more get a 503."),
    Option(["--files"], type=IntRange(1), default=10, help="Photos of a batch."),
    Option(["--api-key"], show_default=False, help="Without one, everybody may ask."),
    Option(["--cors"], help="Origins whose pages may ask, with commas; * for all."),
    Option(["--page/--no-page"], default=True, help="Show the page at /."),
]


def find_settings(ctx: click.Context, _, config: str | None) -> None:
    """Sets the defaults of SETTINGS from a file and from the environment, which wins. Raises
    ValueError for a bad file and for an unknown name."""
    need("fastapi_offline", "pythonjsonlogger", "yaml", extra="serve")
    known = [setting.name for setting in SETTINGS]
    file = next(filter(os.path.isfile, FILES), None) if config is None else find_input(config)
    found = read_settings(file, known) if file else {}
    for name, value in os.environ.items():
        try:
            if name.startswith(PREFIX):
                found[setting_name(name.removeprefix(PREFIX), value, known)] = value
        except ValueError as error:
            raise ValueError(f"environment variable {name}: {error}") from error
    ctx.default_map = (ctx.default_map or {}) | found


def command(name: str, short_help: str, **defaults):
    """Makes a function a command that gets SETTINGS, with these defaults."""
    options = {"callback": find_settings, "is_eager": True, "expose_value": False}
    config = Option(["--config"], help="A file of settings [serve.yaml or serve.json].", **options)
    context = {"show_default": True, "default_map": defaults}
    options = {"params": [config, *SETTINGS], "context_settings": context}
    return click.command(name, Command, short_help=short_help, **options)


@command("serve", "A server that cuts out photos: REST, a page.")
def serve(**settings) -> None:
    """Cut out photos that are sent to this server, and show a page for people at /.

    The options are settings as well, by the same names: in serve.yaml or serve.json (--config), and
    in the environment, as UNETLIB_SERVE_PORT. Options win over the environment, and that over the
    file. /docs lists the routes. SIGTERM ends it when what runs is done."""
    from unetlib.app.server import run

    run(SimpleNamespace(**settings), "Serving on {}")


@command("app", "The web page for cutting out photos.", port=0)
@click.option("--browser/--no-browser", default=True, help="Open the page.")
def app(browser: bool, **settings) -> None:
    """Serve the page until Ctrl-C. Photos stay on this machine, for half an hour.

    It is `unetlib serve` with a free port and a browser, and has its settings."""
    from unetlib.app.server import run

    run(SimpleNamespace(**settings), "The app: {} (Ctrl-C ends it)", browser)
