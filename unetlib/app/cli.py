"""The command line. What is heavy is imported when a command runs, so that --help is instant."""

import sys
from pathlib import Path

import click

from unetlib import __version__
from unetlib.app.check import check
from unetlib.app.cut import cut
from unetlib.app.evaluate import evaluate
from unetlib.app.export import export
from unetlib.app.grade import grade
from unetlib.app.networks import networks
from unetlib.app.options import read_settings, training_options
from unetlib.app.pipeline import PRESETS, run_course
from unetlib.app.prepare import prepare
from unetlib.app.serve import app as web_app
from unetlib.config import TrainOptions, read_options


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="unetlib")
def app() -> None:
    """The U-Net background removal course, without opening a notebook."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed
        stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show


def _presets_help() -> str:
    width = max(map(len, PRESETS))
    return "\n".join(f"  {name:<{width}}  {preset.about}" for name, preset in PRESETS.items())


@app.command(
    epilog="\b\nPresets:\n" + _presets_help(),
    short_help="Execute the six notebooks and write a report.",
)
@click.argument("preset", required=False, metavar="[PRESET]")
@click.option("--preset", "preset_option", metavar="PRESET", help="The same, as an option.")
@click.option("--name", help="Name of the run's folder in outputs/runs [preset and time].")
@click.option(
    "-p",
    "--parameter",
    "parameters",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="Set a notebook parameter, e.g. -p epochs 20. Repeatable.",
)
@click.option(
    "--only", multiple=True, metavar="NOTEBOOK", help="Only this one, e.g. 04. Repeatable."
)
@click.option("--from", "start", metavar="NOTEBOOK", help="From this one on, e.g. 04.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Longest a cell may take.")
@click.option("--list", "listing", is_flag=True, help="Show notebooks and parameters, run nothing.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
def run(preset, preset_option, name, parameters, only, start, timeout, listing) -> None:
    """Execute the six notebooks into outputs/runs/NAME; write report.html and grade.html there.

    PRESET is quick (default), smoke or full. --only and --from go on with the newest run of the
    preset, or with the one called --name, and use the files it has.
    """
    if preset and preset_option and preset != preset_option:
        raise click.UsageError(f"two presets: {preset} and {preset_option}")
    if listing:
        show_course()
        return
    result = run_course(
        preset or preset_option, name, dict(parameters), only, start, timeout, echo=click.echo
    )
    if result.exit_code:
        click.echo(result.failure, err=True)
    sys.exit(result.exit_code)


@app.command(short_help="Train one network on synthetic photos or your own.")
@click.option("--config", metavar="FILE", help="YAML file with any of these settings.")
@training_options
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
def train(config, **given) -> None:
    """Train one network, as notebook 03 does, into OUTPUTS_DIR/checkpoints.

    \b
    unetlib train                   A first try, on synthetic photos.
    unetlib train --data-root photos --image-size 256 --epochs 40
                                    Your own: photos/images, photos/masks.

    Every option is also a key of the YAML file and a parameter of the notebook; options win over
    the file. A training that was cut off goes on when the same command is given again. The
    settings of each training are kept in OUTPUTS_DIR/train.yaml.
    """
    settings = read_settings(config) if config else {}
    given = {name: value for name, value in given.items() if value is not None}
    options = TrainOptions(**read_options(given, base=settings))

    from unetlib.app.train import train as run_training  # brings torch: after the checks

    result = run_training(options, click.echo)
    sys.exit(130 if result.stopped == "interrupted" else 0)


app.add_command(check)
app.add_command(web_app)
app.add_command(cut)
app.add_command(evaluate)
app.add_command(export)
app.add_command(grade)
app.add_command(networks)
app.add_command(prepare)


def show_course(notebooks_dir: Path | None = None) -> None:
    """Print the presets, and each notebook with the parameters that -p sets."""
    from unetlib.app.course import declared_parameters, find_notebooks

    click.echo("presets\n" + _presets_help())
    for notebook in find_notebooks(notebooks_dir):
        click.echo(notebook.stem)
        for name, default in declared_parameters(notebook).items():
            click.echo(f"  {name:<14} {default!r}")


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
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if "--debug" in args:
            raise
        text = str(error)
        if isinstance(error, ModuleNotFoundError):
            text = f'{error.name} is not installed: pip install "unetlib[course]"'
        click.echo(f"unetlib: {text}", err=True)
        sys.exit(2 if isinstance(error, ValueError) else 1)


if __name__ == "__main__":
    main()
