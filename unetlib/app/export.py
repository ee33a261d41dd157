"""The command `unetlib export`. What is heavy is imported when it runs."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

PRECISIONS = ("float32", "float16", "int8")
SCORED = 200  # val photos, at most


@click.command(short_help="Write a network as one ONNX file that runs anywhere.")
@click.argument("checkpoint", required=False)
@click.option("--network", "--checkpoint", "network", metavar="NAME|FILE", help="The same [best].")
@click.option("-o", "--output", metavar="FILE", help="The file [CHECKPOINT with .onnx].")
@click.option("--precision", type=click.Choice([*PRECISIONS, "all"]), default="float32")
@click.option(
    "--calibration", type=click.IntRange(1), default=64, show_default=True, metavar="N",
    help="Train photos that the ranges of int8 are taken from.",
)  # fmt: skip
@click.option("--source", default="", metavar="SPEC", help="Photos [those of the training].")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
def export(checkpoint, network, output, precision, calibration, source, overwrite) -> None:
    """Write CHECKPOINT (a name or a file) as ONNX, for `unetlib cut`, for rembg, for any program.

    rembg runs it as u2net_custom. int8 is a quarter of the size and up to 2.5 times as fast, and
    costs some accuracy; float16 is half the size. What each loses is measured on up to 200 val
    photos. With --precision all, or float16 or int8 without -o, the precision is part of the name:
    best_model_int8.onnx.
    """
    if checkpoint and network:
        raise ValueError(f"two networks, {checkpoint} and {network}: one file is made of one")
    from unetlib import pretrained

    path = pretrained.find_checkpoint(checkpoint or network or "best")
    own = path.parent if path.parent != pretrained.SHIPPED else Path.cwd()
    stem = Path(output).expanduser().absolute() if output else own / f"{path.stem}.onnx"
    if stem.suffix != ".onnx":
        raise ValueError(f"-o {output}: the file of an exported network ends in .onnx")
    files = {
        name: stem if name == "float32" or (output and precision != "all")
        else stem.with_name(f"{stem.stem}_{name}.onnx")
        for name in (PRECISIONS if precision == "all" else [precision])
    }  # fmt: skip
    if present := [str(file) for file in files.values() if file.exists() and not overwrite]:
        raise ValueError(f"there already: {', '.join(present)}. --overwrite replaces")

    from unetlib.app.batch import check_writable
    from unetlib.app.photos import open_photos
    from unetlib.checkpoint import load_checkpoint
    from unetlib.data import load_pair
    from unetlib.export import export_onnx

    check_writable(stem.parent)
    loaded, train, val = load_checkpoint(path), [], []
    try:
        data = open_photos(path, loaded.extra, source)
        train, val = (pairs[:: -(-len(pairs) // n) or 1] for pairs, n in
                      ((data.train, calibration), (data.val, SCORED)))  # fmt: skip
    except (ValueError, OSError) as error:
        if source or "int8" in files:
            raise ValueError(f"{error}\nname the photos with --source, e.g. folder:DIR") from error
        click.echo(f"no IoU, only drawn noise is compared: {error}. --source names photos")
    made: list[Path] = []
    for name, file in files.items():
        given = made[0] if made and precision == "all" else loaded
        made.append(export_onnx(given, file, name, (load_pair(pair)[0] for pair in train)))
    for line in compare(loaded, made, val):
        click.echo(line)


def compare(checkpoint, files: list[Path], val: Sequence) -> Iterator[str]:
    """A table, line by line: size, mean IoU at the photo's own size, its loss, the largest
    difference of a probability from PyTorch's, and the median time of the network for a photo."""
    import numpy as np

    from unetlib.data import binarize, load_pair
    from unetlib.metrics import count
    from unetlib.predict import Predictor, resize_soft

    networks = [Predictor(one, "cpu") for one in (checkpoint, *files)]
    ious, times, furthest = [[[] for _ in networks] for _ in "ab"] + [np.zeros(len(networks))]
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    for photo, matte in map(load_pair, val) if val else ((image, None) for image in noise):
        for i, network in enumerate(networks):
            start = time.perf_counter()
            soft = network.predict_small([photo])[0]
            times[i].append(time.perf_counter() - start)
            if i == 0:
                wanted = soft
            furthest[i] = max(furthest[i], np.abs(soft - wanted).max())
            if matte is not None:
                found = resize_soft(soft, *matte.shape) >= 0.5
                ious[i].append(count(found[None], binarize(matte)[None]).iou().item())
    yield f"{'':<32}    MB     IoU    loss  difference  ms a photo, on the CPU"
    for i, file in enumerate([None, *files]):
        score = f"{np.mean(ious[i]):.4f}  {np.mean(ious[0]) - np.mean(ious[i]):+.4f}" if val else ""
        size = f"{file.stat().st_size / 1e6:.1f}" if file else ""
        yield (
            f"{file.name if file else 'PyTorch':<32} {size:>5}  {score:>15}  "
            f"{furthest[i]:>10.1e}  {1e3 * np.median(times[i]):>10.1f}"
        )
