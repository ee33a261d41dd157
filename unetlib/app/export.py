"""The command `unetlib export`."""

import re
from dataclasses import replace
from pathlib import Path

import click

from unetlib.app import Command
from unetlib.config import EXPORTED

CALIBRATION = 64  # photos for int8, at most


@click.command(cls=Command, short_help="Write a network as one ONNX file that runs anywhere.")
@click.argument("checkpoint", required=False)
@click.option("--network", "--checkpoint", "network", metavar="NAME|FILE", help="The same [best].")
@click.option("-o", "--output", metavar="FILE", help="The file [CHECKPOINT with .onnx].")
@click.option("--precision", type=click.Choice(EXPORTED), default="float32", show_default=True)
@click.option("--source", metavar="SPEC", help="Photos for int8 [those of the training].")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@click.option("--ship", metavar="NAME", hidden=True, help="Make the files of the package instead.")
def export(checkpoint, network, output, precision, source, overwrite, ship) -> None:
    """Write CHECKPOINT (a name or a file) as ONNX, for `unetlib cut`, for rembg, for any program.

    rembg runs it as u2net_custom. int8 is a quarter of the size and up to 2.5 times as fast, and
    costs some accuracy; float16 is half the size. Without -o their names end in it:
    best_model_int8.onnx. `unetlib evaluate best_model.pth best_model_int8.onnx` compares them.
    """
    from unetlib import pretrained
    from unetlib.checkpoint import load_checkpoint, save_checkpoint
    from unetlib.data.sources import open_source
    from unetlib.export import export_onnx
    from unetlib.paths import resolve

    path = pretrained.find(checkpoint or network or "best", weights=True)
    loaded, photos = load_checkpoint(path), []
    if ship:  # at half precision; of the training its scores stay, and the names of its sets
        halved = loaded.model.half()  # rounded once: both files hold the same weights
        sets = re.sub(r":[^ ?]*/", ":", str(loaded.extra.get("source", "")))
        extra = {"source": sets, "image_size": loaded.extra.get("image_size")}
        loaded = replace(loaded, model=halved, history=[], extra=extra)
        path = save_checkpoint(pretrained.SHIPPED / f"{ship}.pth", loaded)
        if pretrained.NETWORKS[ship].path == path:
            return
        output, precision, overwrite = path.with_suffix(".onnx"), "float16", True
    end = "" if precision == "float32" else f"_{precision}"
    folder = path.parent if path.parent != pretrained.SHIPPED else Path.cwd()
    file = Path(output).expanduser() if output else folder / f"{path.stem}{end}.onnx"
    if file.suffix != ".onnx":
        raise ValueError(f"-o {output}: the file of an exported network ends in .onnx")
    if file.exists() and not overwrite:
        raise ValueError(f"there already: {file}. --overwrite replaces it")
    if precision == "int8":
        spec = source or loaded.extra.get("source", "synthetic")
        spec = f"folder:{resolve('data')}" if spec == "synthetic" else spec  # not drawn anew
        try:
            pairs = open_source(spec).train
        except (ValueError, OSError) as error:
            raise ValueError(f"{error}\nname the photos with --source, e.g. folder:DIR") from error
        photos = [pair.image for pair in pairs[:: -(-len(pairs) // CALIBRATION)]]
    click.echo(f"written: {export_onnx(loaded, file, precision, photos)}")
