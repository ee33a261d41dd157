"""The command `unetlib check`. What is heavy is imported when it runs."""

import sys
from pathlib import Path

import click

from unetlib.paths import resolve


@click.command(short_help="Say what is wrong with a dataset.")
@click.argument("folder", default="data")
@click.option("--source", default="", metavar="NAME", help="What it is, if that is not recognised.")
@click.option("--html", metavar="FILE", help="The page to write [outputs/check/NAME.html].")
@click.option(
    "--quarantine",
    metavar="DIR",
    help="Move pairs that would spoil training, and files without partner, to DIR.",
)
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Threads [one per core].")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
def check(folder, source, html, quarantine, jobs) -> None:
    """Look at every photo and mask in FOLDER (default: data) and say what is wrong.

    FOLDER may be a source, as in "folder:photos?groups=folder": photos of a group are expected to
    be alike. Nothing is changed, unless --quarantine is given: DIR/moved.csv then says what came
    from where. Move bad pairs out of the photos that you prepare from, not out of the copies.
    Exit code 0: nothing would spoil training, 1: something would, 2: a wrong request.
    """
    from unetlib.app import doctor
    from unetlib.data.doctor import examine

    if html and Path(html).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html {html}: a page ends in .html")
    away = Path(quarantine).expanduser().absolute() if quarantine else None
    checkup = examine(folder, source, jobs=jobs)
    click.echo(checkup.text())
    page = Path(html).expanduser() if html else resolve(f"outputs/check/{checkup.name}.html")
    click.echo(f"page: {doctor.write_page(checkup, page)}")
    if away:
        moved = doctor.quarantine(checkup, away)
        click.echo(f"{len(moved)} files moved to {away}, listed in {away / 'moved.csv'}")
        if moved:
            checkup = examine(folder, source, jobs=jobs)
            click.echo(f"now: {checkup.counts()}. {checkup.verdict()}")
    sys.exit(1 if checkup.count("error") else 0)
