"""The command line: all commands, and what an error looks like there.

The modules of the commands import little, and the rest when they run: --help is instant.
"""

import sys

import click

from unetlib import __version__
from unetlib.app.cut import cut
from unetlib.app.datasets import check, prepare
from unetlib.app.evaluate import evaluate
from unetlib.app.export import export
from unetlib.app.grade import grade
from unetlib.app.run import run
from unetlib.app.train import train
from unetlib.app.web import app as web_app


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="unetlib")
def app() -> None:
    """The U-Net background removal course, without opening a notebook."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed
        stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show


for command in (check, cut, evaluate, export, grade, prepare, run, train, web_app):
    app.add_command(command)


@app.command(short_help="List the networks that have a name.")
def networks() -> None:
    """Networks for --network NAME: size, input, whether it is here, IoU and licence.

    The IoU is the mean on photos of people that were held out from training, at their own size;
    `-` was not measured. Public networks are downloaded when they are first asked for.
    """
    from unetlib import pretrained

    click.echo(
        f"{'name':<22} {'MB':>6} {'input':>6}  {'here':<5} {'IoU':>5}  licence; what it finds"
    )
    for name, network in pretrained.NETWORKS.items():
        here = network.path.is_file()
        size = network.path.stat().st_size if here else network.bytes
        iou = "-" if network.iou is None else f"{network.iou:.3f}"
        click.echo(
            f"{name:<22} {size / 1e6:>6.1f} {network.size:>6}  {'yes' if here else 'no':<5} "
            f"{iou:>5}  {network.licence}; {network.about}"
        )
    try:
        best = pretrained.find("best")
        click.echo(f"{'best':<22} {best.stat().st_size / 1e6:>6.1f}  your last training: {best}")
    except FileNotFoundError:
        click.echo(f"{'best':<22} {'':>6}  your last training: none yet")


def main(args: list[str] | None = None) -> None:
    """Run the command and exit: 0 fine, 1 it failed, 2 a wrong request, 130 Ctrl-C.

    An error is one line on standard error; the traceback comes with --debug.
    """
    args = sys.argv[1:] if args is None else args
    try:
        sys.exit(app.main(args, prog_name="unetlib", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("unetlib: stopped with Ctrl-C", err=True)
        sys.exit(130)
    except (ValueError, OSError, RuntimeError, ImportError, MemoryError) as error:
        if "--debug" in args:
            raise
        text = str(error) or "out of memory"
        if isinstance(error, ModuleNotFoundError):
            text = f'{error.name} is not installed: pip install "unetlib[course]"'
        click.echo(f"unetlib: {text}", err=True)
        sys.exit(2 if isinstance(error, ValueError) else 1)
