"""The command line: all commands, two short ones themselves, and what an error looks like there.

The modules of the commands import little, and the rest when they run: --help is instant.
"""

import os
import signal
import sys
from pathlib import Path

import click

from unetlib import __version__
from unetlib.app import Command
from unetlib.app.cut import cut
from unetlib.app.datasets import check, prepare
from unetlib.app.evaluate import evaluate
from unetlib.app.grade import grade
from unetlib.app.run import run
from unetlib.app.serve import app as web_app
from unetlib.app.serve import serve
from unetlib.app.train import open_photos, train
from unetlib.config import EXPORTED
from unetlib.paths import user_path


@click.group(
    commands=[check, cut, evaluate, grade, prepare, run, serve, train, web_app],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="unetlib")
def app() -> None:
    """The U-Net background removal course, without opening a notebook."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show


@app.command(cls=Command, short_help="List the networks that have a name.")
def networks() -> None:
    """Networks for --network NAME: size, input, whether it is here, IoU and licence.

    The IoU is the mean on photos of people that were held out from training, at their own size;
    `-` was not measured. Public networks are downloaded when they are first asked for.
    """
    from unetlib import pretrained

    row = "{:<22} {:>6} {:>6}  {:<5} {:>5}  {}".format
    click.echo(row("name", "MB", "input", "here", "IoU", "licence; what it finds"))
    for name, one in pretrained.NETWORKS.items():
        here = one.path.is_file()
        megabytes = (one.path.stat().st_size if here else one.bytes) / 1e6
        iou, about = f"{one.iou:.3f}" if one.iou else "-", f"{one.licence}; {one.about}"
        click.echo(row(name, f"{megabytes:.1f}", one.size, "yes" if here else "no", iou, about))
    click.echo(row("best", "", "", "", "", "your own, of your last training"))


@app.command(cls=Command, short_help="Write a network as one ONNX file that runs anywhere.")
@click.argument("checkpoint", required=False)
@click.option("--network", "--checkpoint", "network", metavar="NAME|FILE", help="The same [best].")
@click.option("-o", "--output", metavar="FILE", help="The file [CHECKPOINT with .onnx].")
@click.option("--precision", type=click.Choice([*EXPORTED, "all"]), default="float32")
@click.option("--source", metavar="SPEC", help="Photos for int8 [those of the training].")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def export(checkpoint, network, output, precision, source, overwrite) -> None:
    """Write CHECKPOINT (a name or a file) as ONNX, for `unetlib cut`, for rembg, for any program.

    rembg runs it as u2net_custom. int8 is a quarter of the size and up to 2.5 times as fast, and
    costs some accuracy; float16 is half the size. Without -o their names end in it:
    best_model_int8.onnx. `unetlib evaluate best_model.pth best_model_int8.onnx` compares them.
    """
    if checkpoint and network:
        raise ValueError(f"two networks, {checkpoint} and {network}: one file is made of one")
    from unetlib import pretrained
    from unetlib.export import export_onnx

    path = pretrained.find(checkpoint or network or "best", weights=True)
    folder = path.parent if path.parent != pretrained.SHIPPED else Path.cwd()
    file = user_path(output) if output else folder / f"{path.stem}.onnx"
    files = {name: file for name in (EXPORTED if precision == "all" else (precision,))}
    for name in files.keys() - {"float32"} if precision == "all" or not output else ():
        files[name] = file.with_stem(f"{file.stem}_{name}")
    if any(file.exists() and file.samefile(path) for file in files.values()):
        raise ValueError(f"{path} is what the export is made of: choose another name with -o")
    if there := [str(file) for file in files.values() if file.exists() and not overwrite]:
        raise ValueError(f"there already: {', '.join(there)}. --overwrite replaces")
    pairs = open_photos(path, source).train if "int8" in files else ()
    photos = [pair.image for pair in pairs[:: max(1, -(-len(pairs) // 64))]]  # 64 at most
    for name, file in files.items():
        click.echo(f"written: {export_onnx(path, file, name, photos)}")


def main(args: list[str] | None = None) -> None:
    """Run the command and exit: 0 fine, 1 it failed, 2 a wrong request, 130 Ctrl-C.

    An error is one line on standard error; the traceback comes with --debug.
    """
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:  # closed, as in a service
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for the whole process
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # half-written files are removed
        code = app.main(args, prog_name="unetlib", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("unetlib: stopped with Ctrl-C", err=True)
        sys.exit(130)
    except Exception as error:
        if "--debug" in (sys.argv if args is None else args):
            raise
        text = str(error) or "out of memory"
        if isinstance(error, ModuleNotFoundError):
            text = f'{error.name} is not installed: pip install "unetlib[course]"'
        elif not isinstance(error, (ValueError, OSError, RuntimeError, ImportError, MemoryError)):
            text = f"{type(error).__name__}: {error} (--debug shows the traceback)"
        click.echo(f"unetlib: {text}", err=True)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # it was said; what is left must not fail once more at the very end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
