"""The commands about datasets: `unetlib check` says what is wrong, `unetlib prepare` copies one."""

import csv
import io
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from unetlib.app import Command
from unetlib.paths import atomic, resolve, user_path, write_atomic


@click.command(cls=Command, short_help="Say what is wrong with a dataset.")
@click.argument("folder", default="data")
@click.option("--quarantine", metavar="DIR", help="Move bad pairs and lone files to DIR.")
def check(folder, quarantine) -> None:
    """Look at every photo and mask in FOLDER (default: data) and say what is wrong.

    FOLDER may be a source, as in "folder:photos?groups=folder": photos of a group are expected to
    be alike. Nothing is changed, unless --quarantine is given: DIR, a new folder, then has bad
    pairs, copies and lone files, and moved.csv says what came from where. Exit code 0: nothing
    would spoil training, 1: something would, 2: a wrong request.
    """
    from unetlib.app.pages import write_page
    from unetlib.data.check import ERRORS, examine

    report = examine(folder)
    root, away = report.root.resolve(), quarantine and user_path(quarantine).resolve()
    if away and (away.exists() or away.is_relative_to(root)):
        raise ValueError(f"--quarantine '{quarantine}' should be a new folder outside {root}")
    click.echo(f"{root.name}: {report.text()}")
    page = resolve(f"outputs/check/{root.name[:100]}.html")
    try:
        parts = [f"```\n{report.text(1000)}\n```", report.figure(24, 6)]
        click.echo(f"page: {write_page(page, f'Data check of {root.name}', parts)}")
    except ImportError as error:  # the base installation finds as much
        click.echo(f"no page: {error}")
    while away and move(report, away):
        report = examine(folder)  # masks without their photos are found now
        click.echo(f"moved to {away}, see moved.csv there. Now: {report.text()}")
    sys.exit(any(issue.kind in ERRORS for issue in report.issues))


def move(report, away: Path) -> int:
    """Moves what would have to go into `away`; moved.csv says of each file: from, to, reason.
    Returns how many files."""
    root, moved = report.root.resolve(), 0
    text = {"encoding": "utf-8", "errors": "surrogateescape"}
    for issue in report.issues:  # the worst first
        for path in [path for pair in issue.removable for path in (pair.image, pair.mask)]:
            # gone already, for a worse issue; or not a file of the set, as masks that we drew
            if not (path and os.path.lexists(path) and path.parent.resolve().is_relative_to(root)):
                continue
            target = away / path.relative_to(report.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(away / "moved.csv", "a", newline="", **text) as file:
                csv.writer(file, lineterminator="\n").writerow([path, target, issue.reason])
            shutil.move(path, target)
            moved += 1
    return moved


@click.command(cls=Command, short_help="Put a dataset into data/ as plain photos and masks.")
@click.argument("spec")
@click.option("--into", metavar="FOLDER", help="Where to [data/ of the project].")
@click.option("--size", type=click.IntRange(1), help="Longer side, in pixels [as they are].")
@click.option("--val-fraction", default=0.2, help="Share of val [0.2].")
@click.option("--seed", default=0, help="Of the split by hash [0].")
def prepare(spec, into, size, val_fraction, seed) -> None:
    """Copy photos and masks of any source to FOLDER/train and FOLDER/val, with a manifest.csv.

    \b
    unetlib prepare folder:photos --size 512
    unetlib prepare "coco:~/coco + folder:photos" --into data/mixed

    With --size photos become JPEGs. A call that was cut off goes on when the same command is given
    again, and new photos are added. Exit code 1: some pairs could not be read and were left out.
    """
    from tqdm import tqdm

    from unetlib.data.pairs import DataError, image_files
    from unetlib.data.sources import absolute_spec, open_source

    target = user_path(into).absolute() if into else resolve("data")
    source = open_source(spec, val_fraction=val_fraction, seed=seed)
    click.echo(source.describe())
    record = target / ".prepared.json"
    request = json.dumps([absolute_spec(spec), size, val_fraction, seed])
    parts = ("train/**/[!.]*", "val/**/[!.]*", "manifest.csv")
    there = any(path.is_file() for part in parts for path in target.glob(part))
    if there and not (record.is_file() and record.read_text() == request):
        raise DataError(f"{target} has files of other settings, or of your own: change --into")
    write_atomic(record, request.encode())
    plan = [(pair, "train") for pair in source.train] + [(pair, "val") for pair in source.val]
    ids = {id for id in image_files(target, []).values() if "/images/" in id}
    if old := ids - {f"{side}/images/{pair.id}" for pair, side in plan}:
        text = f"{target} has {len(old)} photos of an earlier split, such as {min(old)}"
        raise DataError(f"{text}: delete that folder, or change --into")
    with ThreadPoolExecutor() as pool:
        work = pool.map(lambda job: copy(job[0], target / job[1], size), plan)
        failed = [*tqdm(work, "preparing", len(plan), delay=1)]
    rows = [[p.id, p.source, side, p.group, ";".join(p.tags)] for p, side in plan]
    rows = sorted(row for row, reason in zip(rows, failed, strict=True) if not reason)
    head = ["id", "source", "split", "group", "tags"]
    csv.writer(table := io.StringIO(), lineterminator="\n").writerows([head, *rows])
    write_atomic(target / "manifest.csv", table.getvalue().encode(errors="replace"))
    unread = sum(skip.kind in ("not read", "unreadable") for skip in source.skipped)
    text = f"{len(rows)} pairs are in {target}, {len(plan) - len(rows) + unread} were left out"
    click.echo("\n  ".join([text, *filter(None, failed)]))
    sys.exit(bool(unread or any(failed)))


def copy(pair, target: Path, size: int | None) -> str:
    """Makes the two files of a pair, unless they are there -> why it cannot be read, or ""."""
    from PIL import Image

    from unetlib.cutting import encode
    from unetlib.data.images import ImageError, fit_within, resize

    drawn = size or pair.background  # else the photo is copied as it is
    photo = target / "images" / f"{pair.id}{'.jpg' if drawn else pair.image.suffix.lower()}"
    mask = target / "masks" / f"{pair.id}.png"
    if photo.is_file() and mask.is_file():
        return ""
    try:
        rgb, soft = pair.load(size)
    except (ImageError, OSError) as error:
        return f"{pair.id}: {error}"
    shape = fit_within(soft.shape, size or max(soft.shape))
    with atomic(photo) as part:
        if drawn:
            picture = Image.fromarray(resize(rgb, shape))
            picture.save(part, "JPEG", quality=95, subsampling=0)
        else:
            shutil.copyfile(pair.image, part)
    soft = resize(soft, shape) * (soft.max() > 0.01)  # 0 and 1 would be read as labels
    write_atomic(mask, encode(soft))
    return ""
