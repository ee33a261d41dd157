"""An opened dataset as plain files that any training reads: root/{train,val}/{images,masks} and
root/manifest.csv, here the source "folder".
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from unetlib.data import journal, manifest
from unetlib.data.images import ImageError, fit_within, image_size, load_image, opened, resize
from unetlib.data.journal import Row
from unetlib.data.masks import load_mask, load_pair
from unetlib.data.pairs import DataError, Pair, Skipped, Source, batched
from unetlib.paths import resolve, sha256, whole, write_whole

VERSION = 1  # of what is written for the same request


@dataclass
class Prepared:
    """What `prepare` did: pairs that were `kept` from before or `made` now, how (`counts`), and
    those that were left out."""

    root: Path
    kept: int = 0
    made: int = 0
    counts: Counter = field(default_factory=Counter)
    failed: list[Skipped] = field(default_factory=list)

    def describe(self) -> str:
        """Counts, then every failure by name."""
        how = ", ".join(f"{n:,} {what}" for what, n in sorted(self.counts.items(), reverse=True))
        text = f"{self.made:,} pairs prepared in {self.root}"
        text += f" ({how})" if how else ""
        text += f", {self.kept:,} kept from before" if self.kept else ""
        text += f"\n{len(self.failed):,} left out:" if self.failed else ""
        return text + "".join(f"\n  {skip.path}: {skip.reason}" for skip in self.failed)


def prepare(
    source: Source,
    root="data",
    size: int = 0,
    workers: int | None = None,
    link: bool = True,
    progress: bool = True,
) -> Prepared:
    """Writes a dataset to root/{train,val}/{images/ID.*, masks/ID.png} and root/manifest.csv.

    With `size` 0 photos stay as they are: hard links, or copies where there can be none or `link`
    is False. Otherwise their longer side is at most `size` pixels, upright, as JPEGs of quality 95
    without colour subsampling, and masks get exactly their size. Cut-outs with a background are
    laid over it. Masks become 8-bit grey PNGs, linked where they are already. A hard link is the
    original under a second name: editing one in place changes both.

    A call that was killed is finished by the next one. What is done is kept as long as the files
    that it was made from stay the same, and new pairs are added. `workers`: threads; None: as many
    as there are cores. What cannot be read is left out and listed in `Prepared.failed`.

    Raises:
        DataError: not one usable pair; or root holds files that this function did not write, or
            wrote for another source, size or split. None of them is changed.
        OSError: a file could not be written, as on a full disk. What is done stays.
    """
    if size < 0:
        raise ValueError(f"size is at least 0, not {size}")
    root = resolve(root)
    request = {"version": VERSION, "source": source.name, "size": size,
               "from": os.path.realpath(source.root)}  # fmt: skip
    pairs = {p.id: (side, p) for side in ("train", "val") for p in getattr(source, side)}
    for read_from in {_folder_of(pair) for _, pair in pairs.values()}:
        if Path(os.path.realpath(root)).is_relative_to(os.path.realpath(read_from)):
            raise DataError(f"{root} is within the source, {read_from}: choose another (--into)")
    rows = journal.read(root, request)
    targets = manifest.target_ids(pairs, {row.id: row.target for row in rows.values()})
    plan = {}
    for id, (side, pair) in pairs.items():
        suffix = ".jpg" if size or pair.background else pair.image.suffix.lower()
        plan[id] = Row(id, side, targets[id], suffix)
    present = journal.survey(root, rows, plan)

    def done(row: Row) -> bool:
        return bool(row.stamp) and present.issuperset(row.files)

    todo = []
    for id, (_, pair) in pairs.items():
        row = rows.get(id, plan[id])
        if row[:4] != plan[id][:4] or not done(row) or row.stamp != journal.stamp(pair):
            todo.append((pair, plan[id]))
    result = Prepared(root, kept=len(plan) - len(todo))
    try:
        if todo:
            _make_all(result, request, todo, rows, present, link, workers, progress)
        listed = [
            (row.target, pair.source or source.name, row.split, pair.group, row.size, row.sha256,
             row.share, ";".join(pair.tags))
            for id, (_, pair) in pairs.items() if done(row := rows.get(id, plan[id]))
        ]  # fmt: skip
        if not listed:
            raise DataError(f"no usable pair in {source.root}: {result.describe()}")
        content = manifest.text(listed).encode(errors="replace")
        if not (path := root / "manifest.csv").is_file() or path.read_bytes() != content:
            write_whole(path, content)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror or error}: {result.kept + result.made} of {len(plan)} pairs are done "
            "and stay. Make room (or repair the cause) and run the same again: it goes on",
            str(error.filename or root),
        ) from error
    return result


def _folder_of(pair: Pair) -> Path:
    """The folder that a photo was found in, or below."""
    folder = pair.image.parent
    for part in reversed(pair.id.split("/")[:-1]):
        if folder.name != part:
            break
        folder = folder.parent
    return folder


def _make_all(result, request, todo, rows, present, link, workers, progress) -> None:
    """Makes pairs in threads (Pillow and OpenCV release the GIL) and keeps the journal."""
    root, size, workers = result.root, request["size"], workers or os.cpu_count() or 1
    for folder in ("train/images", "train/masks", "val/images", "val/masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    bar = tqdm(desc="preparing", unit="pair", total=len(todo) + result.kept, initial=result.kept,
               mininterval=0.5, disable=not progress)  # fmt: skip
    threads, pool = cv2.getNumThreads(), ThreadPoolExecutor(workers)
    cv2.setNumThreads(1)
    try:
        with bar, journal.noting(root, request, rows) as note:
            for block in batched(todo, 16 * workers):  # the memory of a queue of all would grow
                for _, row in block:
                    if rows.get(row.id, ())[:4] != row[:4]:
                        note(row)  # from now on these files are our own
                for row, how in pool.map(lambda job: _make(*job, root, size, link), block):
                    bar.update()
                    if isinstance(row, Skipped):
                        result.failed.append(row)
                    else:
                        note(row)
                        present.update(row.files)
                        result.made += 1
                        result.counts.update(how)
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)


def _make(pair: Pair, row: Row, root: Path, size: int, link: bool) -> tuple:
    """(the finished row or what is wrong, what was done to photo and mask)."""
    try:
        row = row._replace(stamp=journal.stamp(pair), sha256=sha256(pair.image))
        rgb, mask, (w, h) = _seen(pair, size)
        plain = pair.mask and not size and _is_plain(pair.mask, mask)
    except (ImageError, OSError) as error:
        reason = str(error).removeprefix(f"{pair.image}: ")
        return Skipped(pair.image, reason, "unreadable"), ()
    image, grey = (root / name for name in row.files)
    if rgb is None:
        how = _put(pair.image, image, link)
    else:
        how = "composited" if pair.background else "resized"
        with _fresh(image) as part:
            Image.fromarray(rgb).save(part, "JPEG", quality=95, subsampling=0)
    if plain:
        what = _put(pair.mask, grey, link)
    else:
        what = "converted"
        with _fresh(grey) as part:
            Image.fromarray(mask).save(part, "PNG", compress_level=1)
    row = row._replace(size=f"{w}x{h}", share=f"{mask.mean() / 255:.4f}")
    return row, (f"photos {how}", f"masks {what}")


def _seen(pair: Pair, size: int) -> tuple[np.ndarray | None, np.ndarray, tuple[int, int]]:
    """Photo (None: its file can stay as it is), mask as uint8 and the photo's (width, height)."""
    if pair.background:
        rgb, soft = load_pair(pair, size or None)
        mask, wh = np.rint(soft * 255).astype(np.uint8), rgb.shape[1::-1]
    else:
        wh = image_size(pair.image)
        wh = fit_within(wh, size or max(wh))
        photo = load_image(pair.image, size or 1)  # at 1/8, where only to see that it is whole
        rgb = resize(np.asarray(photo), wh[::-1]) if size else None
        mask = np.zeros(wh[::-1], np.uint8)
        if pair.mask:
            mask = load_mask(pair.mask, mask.shape if size else None, pair.mask_kind, np.uint8)
    if mask.max() == 1:
        mask = np.zeros_like(mask)  # a file of 0 and 1 only would be read as labels
    return rgb, mask, wh


def _is_plain(path: Path, mask: np.ndarray) -> bool:
    """Whether a file is an 8-bit grey PNG with these very values."""
    with opened(path) as image:
        plain = image.format == "PNG" and image.mode == "L" and not image.has_transparency_data
        return plain and np.array_equal(np.asarray(image), mask)


def _put(source: Path, target: Path, link: bool) -> str:
    with _fresh(target) as part:
        if link:
            with suppress(OSError):  # another drive, or a file system without links: copied then
                os.link(os.path.realpath(source), part)
                return "linked"
        shutil.copyfile(source, part)
        return "copied"


@contextmanager
def _fresh(path: Path) -> Iterator[Path]:
    """`whole` in any folder, and never through what a killed process of the same number left, which
    may be a link to an original."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.unlink(missing_ok=True)
        yield part
