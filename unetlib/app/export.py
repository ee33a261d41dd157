"""The command `unetlib export`."""

from dataclasses import replace
from pathlib import Path

import click

from unetlib.app import Command
from unetlib.config import EXPORTED
from unetlib.paths import resolve, typed


@click.command(cls=Command, short_help="Write a network as one ONNX file that runs anywhere.")
@click.argument("checkpoint", required=False)
@click.option("--network", "--checkpoint", "network", metavar="NAME|FILE", help="The same [best].")
@click.option("-o", "--output", metavar="FILE", help="The file [CHECKPOINT with .onnx].")
@click.option("--precision", type=click.Choice([*EXPORTED, "all"]), default="float32")
@click.option("--source", metavar="SPEC", help="Photos for int8 [those of the training].")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@click.option("--ship", metavar="NAME", hidden=True, help="Make the files of the package instead.")
def export(checkpoint, network, output, precision, source, overwrite, ship) -> None:
    """Write CHECKPOINT (a name or a file) as ONNX, for `unetlib cut`, for rembg, for any program.

    rembg runs it as u2net_custom. int8 is a quarter of the size and up to 2.5 times as fast, and
    costs some accuracy; float16 is half the size. Without -o their names end in it:
    best_model_int8.onnx. `unetlib evaluate best_model.pth best_model_int8.onnx` compares them.
    """
    if checkpoint and network:
        raise ValueError(f"two networks, {checkpoint} and {network}: one file is made of one")
    from unetlib import pretrained
    from unetlib.checkpoint import load_checkpoint, save_checkpoint
    from unetlib.data.sources import open_source
    from unetlib.export import export_onnx

    path = pretrained.find(checkpoint or network or "best", weights=True)
    loaded, photos = load_checkpoint(path), []
    if ship:  # at half precision; of the training its scores stay
        halved = loaded.model.half()  # rounded once: both files hold the same weights
        loaded = replace(loaded, model=halved, history=[], extra={})
        path = save_checkpoint(pretrained.SHIPPED / f"{ship}.pth", loaded)
        if pretrained.NETWORKS[ship].path == path:
            return click.echo(f"written: {path}")
        output, precision, overwrite = path.with_suffix(".onnx"), "float16", True
    folder = path.parent if path.parent != pretrained.SHIPPED else Path.cwd()
    file = typed(output) if output else folder / f"{path.stem}.onnx"
    files = {name: file for name in (EXPORTED if precision == "all" else (precision,))}
    for name in files.keys() - {"float32"} if precision == "all" or not output else ():
        files[name] = file.with_stem(f"{file.stem}_{name}")
    if there := [str(file) for file in files.values() if file.exists() and not overwrite]:
        raise ValueError(f"there already: {', '.join(there)}. --overwrite replaces")
    if "int8" in files:
        spec = source or loaded.extra.get("source", "synthetic")
        if spec == "synthetic":  # read where they are, not drawn anew
            spec = f"folder:{resolve(loaded.extra.get('data_dir', 'data'))}"
        try:
            pairs = open_source(spec).train
        except (ValueError, OSError) as error:
            raise ValueError(f"{error}. --source names photos for int8") from error
        photos = [pair.image for pair in pairs[:: -(-len(pairs) // 64)]]  # 64 at most
    for name, file in files.items():
        click.echo(f"written: {export_onnx(loaded, file, name, photos)}")
