"""The commands about datasets: `unetlib check` says what is wrong, `unetlib prepare` copies one."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from unetlib.app import Command
from unetlib.paths import resolve, sha256, whole, write_whole


@click.command(cls=Command, short_help="Say what is wrong with a dataset.")
@click.argument("folder", default="data")
@click.option("--quarantine", metavar="DIR", help="Move bad pairs and lone files to DIR.")
def check(folder, quarantine) -> None:
    """Look at every photo and mask in FOLDER (default: data) and say what is wrong.

    FOLDER may be a source, as in "folder:photos?groups=folder": photos of a group are expected to
    be alike. Nothing is changed, unless --quarantine is given: DIR, a new folder, then has what
    would spoil training, and moved.csv says what came from where. Exit code 0: nothing would spoil
    training, 1: something would, 2: a wrong request.
    """
    from unetlib.app.pages import write_page
    from unetlib.data.check import ERRORS, examine

    report = examine(folder)
    root, away = report.root.resolve(), quarantine and Path(quarantine).expanduser().resolve()
    if quarantine is not None and (not away or away.exists() or away.is_relative_to(root)):
        raise ValueError(f"--quarantine '{quarantine}' should be a new folder outside {root}")
    click.echo(f"{root.name}: {report.text()}")
    page = resolve(f"outputs/check/{root.name}.html")
    parts = [f"```\n{report.text(1000)}\n```", report.figure(24, 6)]
    click.echo(f"page: {write_page(page, f'Data check of {root.name}', parts)}")
    while away and any(issue.spare for issue in report.issues):
        move(report, away)
        report = examine(folder)  # masks without their photos are found now
        click.echo(f"moved to {away}, see moved.csv there. Now: {report.text()}")
    sys.exit(any(issue.kind in ERRORS for issue in report.issues))


def move(report, away: Path) -> None:
    """Moves what would have to go into `away`; moved.csv says of each file: from, to, reason."""
    files = {}
    for issue in report.issues[::-1]:
        for pair in issue.spare:
            files |= dict.fromkeys(filter(None, (pair.image, pair.mask)), issue)
    away.mkdir(parents=True, exist_ok=True)
    with open(away / "moved.csv", "a", newline="", encoding="utf-8") as file:
        for path, issue in files.items():
            target = away / path.absolute().relative_to(report.root.absolute())
            csv.writer(file, lineterminator="\n").writerow([path, target, issue.reason])
            file.flush()
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)


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

    from unetlib.data.pairs import COLUMNS, DataError
    from unetlib.data.sources import open_source

    target = Path(into).expanduser().absolute() if into else resolve("data")
    source = open_source(spec, val_fraction=val_fraction, seed=seed)
    click.echo(source.describe())
    plan = []
    for side, pairs in (("train", source.train), ("val", source.val)):
        for pair in pairs:
            suffix = ".jpg" if size or pair.background else pair.image.suffix.lower()
            photo, mask = (f"{target}/{side}/{name}/{pair.id}" for name in ("images", "masks"))
            plan.append((pair, side, Path(photo + suffix), Path(mask + ".png"), size))
    files, record = {path for job in plan for path in job[2:4]}, target / ".prepared.json"
    there = {p for side in ("train", "val") for p in (target / side).rglob("[!.]*") if p.is_file()}
    request = json.dumps([source.name, str(source.root), size])
    if there and not (there <= files and record.is_file() and record.read_text() == request):
        other = min(there - files, default=record)
        raise DataError(f"{other} was not made for this source and size: change --into")
    if any(target.resolve().is_relative_to(pair.image.resolve().parent) for pair, *_ in plan):
        raise DataError(f"{target} lies within the photos of the source: change --into")
    target.mkdir(parents=True, exist_ok=True)
    write_whole(record, request.encode())
    with ThreadPoolExecutor() as pool:
        rows = [*tqdm(pool.map(lambda job: copy(*job), plan), "preparing", len(plan), delay=1)]
    failed = [row for row in rows if isinstance(row, str)]
    made = sorted((r for r in rows if not isinstance(r, str)), key=lambda r: (r[2], r[0]))
    csv.writer(table := io.StringIO(), lineterminator="\n").writerows([COLUMNS, *made])
    write_whole(target / "manifest.csv", table.getvalue().encode(errors="replace"))
    click.echo(f"{len(made)} pairs are in {target}, {len(failed)} were left out")
    click.echo("".join(f"  {reason}\n" for reason in failed), nl=False)
    sys.exit(1 if failed else 0)


def copy(pair, side: str, photo: Path, mask: Path, size: int | None) -> tuple | str:
    """Makes the two files, unless they are there -> the row of the manifest, or why it failed."""
    from PIL import Image

    from unetlib.data.images import ImageError, encode, fit_within, image_size, load_mask, resize
    from unetlib.data.pairs import load_pair

    try:
        read = None if photo.is_file() and mask.is_file() else load_pair(pair, size)
        digest = sha256(pair.image)
    except (ImageError, OSError) as error:
        return f"{pair.id}: {error}"
    if read:
        shape = fit_within(read[1].shape, size or max(read[1].shape))
        rgb, soft = (resize(array, shape) for array in read)
        photo.parent.mkdir(parents=True, exist_ok=True)
        mask.parent.mkdir(parents=True, exist_ok=True)
        with whole(photo) as part:
            if size or pair.background:
                Image.fromarray(rgb).save(part, "JPEG", quality=95, subsampling=0)
            else:
                shutil.copyfile(pair.image, part)
        write_whole(mask, encode(soft * (soft.max() > 0.01)))  # 0 and 1 would be read as labels
    shape, share = "{}x{}".format(*image_size(photo)), f"{load_mask(mask).mean():.4f}"
    return pair.id, pair.source, side, pair.group, shape, digest, share, ";".join(pair.tags)
