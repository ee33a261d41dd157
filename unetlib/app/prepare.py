"""`unetlib prepare`: a dataset of any source as plain files in one folder."""

import sys
import time
from pathlib import Path

import click


@click.command(short_help="Put a dataset into data/ as plain photos and masks.")
@click.argument("spec")
@click.option("--root", metavar="FOLDER", help="Where the source is, if SPEC does not say so.")
@click.option("--into", metavar="FOLDER", help="Where to [data/ of the project].")
@click.option(
    "--size", type=click.IntRange(0), default=0, metavar="PIXELS",
    help="Longer side of the photos, at most [as they are].",
)  # fmt: skip
@click.option("--copy", is_flag=True, help="Copy files instead of linking them.")
@click.option(
    "--split", default="", metavar="HOW",
    help="published, hash, or a manifest.csv that says who is train and who is val.",
)  # fmt: skip
@click.option("--val-fraction", default=0.2, show_default=True, metavar="X", help="Share of val.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Of the split by hash.")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Threads [one for each core].")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
def prepare(spec, root, into, size, copy, split, val_fraction, seed, jobs) -> None:
    """Put photos and masks of any source into FOLDER/train and FOLDER/val, with a manifest.csv.

    \b
    unetlib prepare folder:photos --size 512
    unetlib prepare "coco:~/coco?low=0.3 + folder:photos" --into data/mixed

    SPEC is NAME[:FOLDER][?KEY=VALUE&...], several joined by " + "; weights play no part here.
    Without --size files are hard links to the originals, which take no space; --copy makes copies.
    A call that was cut off goes on when the same command is given again, and new photos are added.
    Afterwards the source is folder:INTO. Exit code 1: some pairs could not be read and were left
    out.
    """
    from unetlib.data.prepare import prepare as run
    from unetlib.data.sources import open_source

    target = Path(into).expanduser().absolute() if into else "data"
    source = open_source(spec, root, val_fraction=val_fraction, seed=seed, split=split)
    click.echo(source.describe())
    start = time.perf_counter()
    result = run(source, target, size, jobs, link=not copy)
    click.echo(f"{result.describe()}\nin {time.perf_counter() - start:.1f} s")
    sys.exit(1 if result.failed else 0)
