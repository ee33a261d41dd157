"""What the doctor found, to be seen: a figure, a page; and bad pairs moved out of the way."""

import csv
import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import zip_longest
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from unetlib.app.markup import figure_url, picture_url, template
from unetlib.data.doctor import Checkup
from unetlib.data.faults import KINDS
from unetlib.data.findings import Finding
from unetlib.data.images import ImageError, fit_within, resize
from unetlib.data.masks import load_pair
from unetlib.data.pairs import DataError, Pair
from unetlib.data.sources import SOURCES, find_pairs
from unetlib.paths import write_whole
from unetlib.plots import BLUE, ORANGE, STYLE, Picture, new_figure, overlay

ON_PAGE, TILE = 48, 320  # pairs on the contact sheet, and their longer side in pixels
_PLAIN = {kind for kind, (severity, _) in KINDS.items() if severity == "note"} - {
    "unlike the others",
    "long photo",
}  # there is nothing to see in these
# a pair with its mask laid over, uint8 (H, W, 3), what is wrong with it, and its name
Tile = tuple[np.ndarray, Finding | None, str]


@matplotlib.rc_context(STYLE)
def picture(checkup: Checkup, columns: int = 4) -> Figure:
    """Foreground shares, sizes, and the most suspicious pairs (up to two rows), or a few ordinary
    ones where there are none; masks are laid over in orange."""
    tiles, title = list(suspects(checkup, 2 * columns)), "most suspicious"
    if not tiles:
        step = max(1, len(checkup.looks) // columns)
        ordinary = [(None, look.pair) for look in checkup.looks[::step][:columns]]
        tiles, title = list(_tiles(checkup, ordinary)), "a few of them, nothing suspicious"
    rows = -(-len(tiles) // columns)
    heights = [2.6] + [0.3 + 1.95 * rows] * (rows > 0)
    figure = Picture(figsize=(8.6, sum(heights)), dpi=80, layout="constrained")
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    left, right = parts[0].subplots(1, 2)
    draw_shares(checkup, left)
    draw_sizes(checkup, right)
    if rows:
        parts[1].suptitle(title, fontsize=10)
        axes = parts[1].subplots(rows, columns, squeeze=False).flat
        for axis, tile in zip_longest(axes, tiles):
            axis.axis("off")
            if tile:
                seen, finding, name = tile
                axis.imshow(seen)
                kind = f"{finding.kind}\n" if finding else ""
                short = name if len(name) < 27 else "…" + name[-25:]
                axis.set_title(kind + short, fontsize=8)
    return figure


def draw_shares(checkup: Checkup, axis) -> None:
    """A histogram of how much of the photos is foreground."""
    shares = [100 * look.share for look in checkup.looks if look.pair.mask]
    axis.hist(shares, np.linspace(0, 100, 41), color=BLUE)
    axis.set(title="foreground in a photo", xlabel="% of its pixels", ylabel="photos")


def draw_sizes(checkup: Checkup, axis) -> None:
    """A scatter of the sizes of photos, and of masks where they have another one."""
    photos = {look.photo_wh for look in checkup.looks}
    masks = {k.mask_wh for k in checkup.looks if k.pair.mask and k.mask_wh != k.photo_wh}
    for name, colour, mark, points in (
        ("photos", BLUE, "o", photos),
        ("masks of another size", ORANGE, "x", masks),
    ):
        if points:
            axis.scatter(*zip(*points, strict=True), 18, colour, marker=mark, alpha=0.7, label=name)
    axis.margins(0.08)
    axis.set(title="sizes", xlabel="width", ylabel="height")
    axis.set(xlim=(0, None), ylim=(0, None))
    if masks:
        axis.legend(fontsize=8)
    elif len(photos) == 1:
        axis.set_title("all photos are {} x {}".format(*photos.pop()))


def suspects(checkup: Checkup, count: int) -> Iterator[Tile]:
    """Pairs with what is wrong with them: the worst kinds first, and some of every kind before many
    of one."""
    kinds = [f for kind, f in checkup.kinds().items() if kind not in _PLAIN]
    turns = (f for turn in zip_longest(*(k[:count] for k in kinds)) for f in turn if f)
    chosen = {
        (finding.kind, pair.image): (finding, pair)
        for finding in turns
        for pair in finding.pairs[:1] + finding.pairs[-1:]  # of copies, two to compare
    }
    order = list(KINDS)
    first = sorted(list(chosen.values())[:count], key=lambda c: order.index(c[0].kind))
    yield from _tiles(checkup, first)


@matplotlib.rc_context(STYLE)
def write_page(checkup: Checkup, path: Path) -> Path:
    """One self-contained page with all of it. Returns its path."""
    figures = []
    for draw in (draw_shares, draw_sizes):
        figure, axes = new_figure(size=(5.2, 3.4))
        draw(checkup, axes[0, 0])
        figures.append(figure_url(figure))
    page = template("check.html").render(
        checkup=checkup,
        kinds=KINDS,
        figures=figures,
        tiles=[(picture_url(tile), *what) for tile, *what in suspects(checkup, ON_PAGE)],
        written=datetime.now(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.encode("utf-8", "surrogateescape"))
    return path


def quarantine(checkup: Checkup, folder: Path) -> list[Path]:
    """Moves what would have to go out of the dataset into `folder`, with the path that it had below
    its root, then what has lost its partner by that. `folder`/moved.csv says of each move, before
    it is made: from, to, reason. Nothing is overwritten; moving back undoes it. Returns the files
    as they were called before. Raises DataError for a folder within the dataset, ValueError for
    several sources at once."""
    if checkup.source not in SOURCES:
        raise ValueError(f"examine one source at a time to move files, not '{checkup.source}'")
    root, folder = Path(os.path.abspath(checkup.root)), folder.resolve()
    if folder.is_relative_to(root.resolve()):
        raise DataError(f"{folder} is within {root}, where it would be read again: take another")
    moves = {path: f"{f.kind}: {f.reason}" for f in checkup.findings[::-1] for path in f.moves}
    moved = []
    while moves:
        for path, reason in sorted(moves.items()):
            whole = Path(os.path.abspath(path))  # a link is moved itself
            if whole.is_relative_to(root) and os.path.lexists(whole):
                _move(whole, folder / whole.relative_to(root), folder / "moved.csv", reason)
                moved.append(path)
        left = find_pairs(checkup.source, checkup.root, **checkup.args).skipped if moved else []
        moves = {
            skip.path: f"its partner was moved: {skip.kind}"
            for skip in left
            if skip.kind in ("image without mask", "mask without image") and skip.path not in moves
        }
    return moved


def _move(path: Path, to: Path, log: Path, reason: str) -> None:
    stem, number = to.stem, 2
    while os.path.lexists(to):
        to, number = to.with_name(f"{stem} ({number}){to.suffix}"), number + 1
    to.parent.mkdir(parents=True, exist_ok=True)
    new = not log.exists()
    with open(log, "a", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerows([("from", "to", "reason")] * new + [(path, to, reason)])
        file.flush()
        os.fsync(file.fileno())
    try:
        os.rename(path, to)
    except OSError:  # another file system
        part = to.with_name(f".{to.name}.part")
        try:
            shutil.copy2(path, part, follow_symlinks=False)
            os.rename(part, to)
        finally:
            part.unlink(missing_ok=True)
        path.unlink()


def _tiles(checkup: Checkup, pairs: Iterable[tuple[Finding | None, Pair]]) -> Iterator[Tile]:
    for finding, pair in pairs:
        try:
            photo, matte = load_pair(pair, TILE)
        except (ImageError, OSError):
            continue  # there is nothing to see; the list names it
        size = fit_within(matte.shape, TILE)
        name = str(pair.image).removeprefix(f"{checkup.root}{os.sep}")
        yield overlay(resize(photo, size), resize(matte, size), ORANGE), finding, name
