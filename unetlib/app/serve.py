"""The commands `unetlib serve` and `unetlib app`: one server, for programs and for people."""

import click

from unetlib.app import Command
from unetlib.errors import need


class ServeCommand(Command):
    """A command whose options are the settings of the server, which are read when it is asked."""

    def get_params(self, ctx: click.Context):
        if "host" not in {param.name for param in self.params}:
            need("fastapi_offline", "pydantic_settings", "pythonjsonlogger", extra="serve")
            from unetlib.app.settings import Settings

            for name, field in Settings.model_fields.items():
                flag, default = "--" + name.replace("_", "-"), field.get_default()
                names = [flag, *["--checkpoint"] * (name == "network")]
                if isinstance(default, bool):
                    names = [f"{flag}/--no-{name}"]
                shown = "yes" if default is True else default  # `page` is the only switch
                help = field.description + ("." if shown in ("", None) else f" [{shown}].")
                self.params.append(click.Option(names, default=None, help=help, metavar="VALUE"))
        return super().get_params(ctx)


def start(ready: str, config: str | None, browser: bool, given: dict) -> None:
    from unetlib.app.settings import read_settings

    settings = read_settings(config, given)
    from unetlib.app.server import run  # only now: it loads much

    run(settings, ready, browser)


CONFIG = click.option("--config", help="Settings: YAML or JSON [serve.yaml or serve.json if here].")


@click.command("serve", cls=ServeCommand, short_help="A server that cuts out photos: REST, a page.")
@CONFIG
def serve(config, **given) -> None:
    """Cut out photos that are sent to this server, and show a page for people at /.

    The options are settings as well, by the same names: in serve.yaml or serve.json (--config), and
    in the environment, as UNETLIB_SERVE_PORT. Options win over the environment, and that over the
    file. /docs lists the routes. SIGTERM ends it when what runs is done."""
    start("Serving on {}", config, False, given)


@click.command("app", cls=ServeCommand, short_help="The web page for cutting out photos.")
@CONFIG
@click.option("--browser/--no-browser", default=True, help="Open the page [yes].")
def app(config, browser, **given) -> None:
    """Serve the page until Ctrl-C. Photos stay on this machine, for half an hour.

    It is `unetlib serve` with a free port and a browser, and has its settings."""
    given["port"] = given["port"] or 0
    start("The app: {} (Ctrl-C ends it)", config, browser, given)
