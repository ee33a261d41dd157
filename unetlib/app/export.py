"""The command `unetlib export`."""

from pathlib import Path

import click

from unetlib.app import Command
from unetlib.config import EXPORTED
from unetlib.paths import typed


@click.command(cls=Command, short_help="Write a network as one ONNX file that runs anywhere.")
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
    from unetlib.app.train import open_photos
    from unetlib.export import export_onnx

    path = pretrained.find(checkpoint or network or "best", weights=True)
    folder = path.parent if path.parent != pretrained.SHIPPED else Path.cwd()
    file = typed(output) if output else folder / f"{path.stem}.onnx"
    files = {name: file for name in (EXPORTED if precision == "all" else (precision,))}
    for name in files.keys() - {"float32"} if precision == "all" or not output else ():
        files[name] = file.with_stem(f"{file.stem}_{name}")
    if there := [str(file) for file in files.values() if file.exists() and not overwrite]:
        raise ValueError(f"there already: {', '.join(there)}. --overwrite replaces")
    pairs = open_photos(path, source).train if "int8" in files else ()
    photos = [pair.image for pair in pairs[:: max(1, -(-len(pairs) // 64))]]  # 64 at most
    for name, file in files.items():
        click.echo(f"written: {export_onnx(path, file, name, photos)}")
