"""The command `unetlib export`."""

import re
from dataclasses import replace
from pathlib import Path

import click

from unetlib.app import Command
from unetlib.config import EXPORTED

SCORED = 200  # val photos, at most


@click.command(cls=Command, short_help="Write a network as one ONNX file that runs anywhere.")
@click.argument("checkpoint", required=False)
@click.option("--network", "--checkpoint", "network", metavar="NAME|FILE", help="The same [best].")
@click.option("-o", "--output", metavar="FILE", help="The file [CHECKPOINT with .onnx].")
@click.option("--precision", type=click.Choice([*EXPORTED, "all"]), default="float32")
@click.option("--calibration", type=click.IntRange(1), default=64, help="Photos for int8 [64].")
@click.option("--source", metavar="SPEC", help="Photos [those of the training].")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("--ship", metavar="NAME", hidden=True, help="Make the files of the package instead.")
def export(checkpoint, network, output, precision, calibration, source, overwrite, ship) -> None:
    """Write CHECKPOINT (a name or a file) as ONNX, for `unetlib cut`, for rembg, for any program.

    rembg runs it as u2net_custom. int8 is a quarter of the size and up to 2.5 times as fast, and
    costs some accuracy; float16 is half the size. What each loses is measured on up to 200 val
    photos. Without -o their names end in it: best_model_int8.onnx.
    """
    if checkpoint and network:
        raise ValueError(f"two networks, {checkpoint} and {network}: one file is made of one")
    from unetlib import pretrained
    from unetlib.export import export_onnx

    path = pretrained.find_checkpoint(checkpoint or network or "best")
    if ship:
        return pack(path, ship)
    own = path.parent if path.parent != pretrained.SHIPPED else Path.cwd()
    stem = Path(output).expanduser().absolute() if output else own / f"{path.stem}.onnx"
    if stem.suffix != ".onnx":
        raise ValueError(f"-o {output}: the file of an exported network ends in .onnx")
    files = {name: stem.with_name(f"{stem.stem}_{name}.onnx") for name in EXPORTED}
    files["float32"] = stem
    if precision != "all":
        files = {precision: stem if output else files[precision]}
    if present := [str(file) for file in files.values() if file.exists() and not overwrite]:
        raise ValueError(f"there already: {', '.join(present)}. --overwrite replaces")

    from unetlib.checkpoint import load_checkpoint
    from unetlib.data.pairs import load_pair
    from unetlib.data.sources import open_source
    from unetlib.paths import resolve

    loaded, train, val = load_checkpoint(path), [], []
    spec = source or loaded.extra.get("source", "synthetic")
    try:  # drawn photos are read where they are, never drawn anew
        data = open_source("folder", resolve("data")) if spec == "synthetic" else open_source(spec)
        train = data.train[:: -(-len(data.train) // calibration)]
        val = data.val[:: -(-len(data.val) // SCORED)]
    except (ValueError, OSError) as error:
        if source or "int8" in files:
            raise ValueError(f"{error}\nname the photos with --source, e.g. folder:DIR") from error
        click.echo(f"no IoU: {error}. --source names photos")
    given = loaded
    for name, file in files.items():
        export_onnx(given, file, name, (load_pair(pair)[0] for pair in train))
        given = files.get("float32", loaded)  # the first, quicker than to trace it anew
    click.echo(f"written: {', '.join(map(str, files.values()))}")
    if val:
        compare(loaded, list(files.values()), val)


def compare(checkpoint, files: list[Path], val) -> None:
    """Prints a row per network: size, mean IoU and what it lost, the median time for a photo."""
    from unetlib.evaluate import measure
    from unetlib.predict import Predictor

    click.echo(f"{'':<32}    MB     IoU    loss  ms a photo, on the CPU")
    ious = []
    for one in (checkpoint, *files):
        found = measure(Predictor(one, "cpu"), val)
        ious.append(found.table["iou"].mean())
        size = f"{one.stat().st_size / 1e6:.1f}" if one in files else ""
        time = found.table["milliseconds"].median()
        scores = f"{ious[-1]:.4f}  {ious[0] - ious[-1]:+.4f}  {time:>6.1f}"
        click.echo(f"{getattr(one, 'name', 'PyTorch'):<32} {size:>5}  {scores}")


def pack(path: Path, name: str) -> None:
    """A training's checkpoint as files of the package, at half precision: NAME.pth, and NAME.onnx
    where `NETWORKS` has it. Of the training its scores stay, and the names of its sets."""
    from unetlib.checkpoint import load_checkpoint, save_checkpoint
    from unetlib.export import export_onnx
    from unetlib.pretrained import NETWORKS, SHIPPED

    loaded = load_checkpoint(path)
    halved = loaded.model.half()  # rounded once: both files hold the same weights
    sets = re.sub(r":[^ ?]*/", ":", str(loaded.extra.get("source", "")))
    extra = {"source": sets, "image_size": loaded.extra.get("image_size")}
    file = SHIPPED / f"{name}.pth"
    save_checkpoint(file, replace(loaded, model=halved, history=[], extra=extra))
    if NETWORKS[name].file.endswith(".onnx"):
        export_onnx(file, file.with_suffix(".onnx"), "float16")
    click.echo(f"written: {file}")
