"""Photos of your own: the ways in which people keep photos and masks in folders."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unetlib.data.images import ImageError, opened
from unetlib.data.pairs import (
    DataError,
    Found,
    Pair,
    Skipped,
    files_by_stem,
    image_files,
    join,
    match_pairs,
)
from unetlib.data.split import split_fraction
from unetlib.paths import find_input

LAYOUT = (
    "Expected {root}/images and {root}/masks (split by a hash of the names), or {root}/train and "
    "{root}/val with images and masks in each; the mask of images/NAME.jpg is masks/NAME.png. "
    "Instead of masks/ there may be cutouts/ (NAME.png with transparency), alone with "
    "backgrounds/, or all in one folder: NAME.jpg and its cut-out NAME.png or NAME_foreground.png"
)
# endings of cut-outs beside their photos: ours, and those of popular removers
_ENDINGS = ("_foreground", "_cutout", ".out", "-removebg-preview", "_no_bg")


def find(root, *, mask_kind: str = "auto", groups: str = "", backgrounds: str = "") -> Found:
    """The pairs in a folder (default: data/) of any of these layouts:

    - images/ and masks/; or train/ and val/ with one of these layouts in each, which is kept;
    - images/ and cutouts/: the alpha of NAME.png is the mask of NAME.jpg;
    - cutouts/ and backgrounds/ (or `backgrounds`: another folder): cut-outs laid over backgrounds;
    - one folder with photos and, beside them, their cut-outs.

    `mask_kind`: see load_mask. `groups` says which photos belong together and stay on one side of
    the split: "folder" (those in the same subfolder), or a regular expression whose first group is
    their common name, such as "(.+)_[0-9]+". Raises DataError if it is none of these.
    """
    root = locate(root or "data", LAYOUT)
    halves = {side: root / side for side in ("train", "val")}
    if groups != "folder":
        _check_groups(groups)
    found = Found(root, {})
    if all(_layout(half) for half in halves.values()):
        for side, half in halves.items():
            _add(found, side, half, mask_kind, backgrounds)
    else:
        _add(found, "", root, mask_kind, backgrounds)
        if not found.sides[""] and not _layout(root):
            raise DataError(f"{root} has not the folders of a dataset. {listing(root, LAYOUT)}")
    for pairs in found.sides.values():
        pairs[:] = [replace(p, group=_group(p.id, groups)) for p in pairs] if groups else pairs
    return found


def find_backgrounds(root) -> Found:
    """Photos in which nothing is foreground: every image in `root`, without masks."""
    found = Found(locate(root or "backgrounds", "Expected photos in {root}"), {})
    files = image_files(found.root, found.skipped)
    found.sides[""] = [Pair(id, path, None) for id, path in files]
    if not found.sides[""]:
        raise DataError(f"no photo in {found.root}")
    return found


def locate(root, layout: str) -> Path:
    """The folder that a person named. Raises DataError that says what should be in it."""
    try:
        found = find_input(root)
    except FileNotFoundError as error:
        raise DataError(f"no such folder: {error}. {layout.format(root=root)}") from error
    if not found.is_dir():
        raise DataError(f"{found} is a file, not a folder. {layout.format(root=found)}")
    return found


def listing(root: Path, layout: str = LAYOUT) -> str:
    """What was expected in a folder, and what is there."""
    names = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
    found = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{layout.format(root=root)}. Found: {found or 'nothing, the folder is empty'}"


def common(roots: Sequence[Path]) -> Path:
    """The deepest folder that holds all of them."""
    try:
        return Path(os.path.commonpath(roots))
    except ValueError:  # on several drives
        return roots[0]


def before_backgrounds(
    found: Found, train: list[Pair], val: list[Pair], val_fraction: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Cut-outs with the backgrounds that they are seen before when nothing is drawn by chance.

    Backgrounds are divided as photos are, so that none is seen in train and val (unless there is
    but one). Where there are more of them than cut-outs, a cut-out comes several times, up to 20.
    """
    behind = dict(found.backgrounds)
    if both := sorted(behind.pop("", [])):
        places = sorted((split_fraction(path.name, seed), path) for path in both)
        n = min(max(round(val_fraction * len(both)), 1), len(both) - 1)
        behind["val"] = [path for _, path in places[:n]] or both
        behind["train"] = [path for _, path in places[n:]]
    sides = {"train": train, "val": val}
    for side, files in behind.items():
        sides[side] = _lay_over(sides[side], files, seed)
    return sides["train"], sides["val"]


def _lay_over(pairs: Sequence[Pair], backgrounds: list[Path], seed: int) -> list[Pair]:
    copies = min(20, max(1, round(len(backgrounds) / max(len(pairs), 1))))
    laid = []
    for pair in pairs:
        for copy in range(1, copies + 1):
            id = f"{pair.id}~{copy}" if copies > 1 else pair.id
            place = int(split_fraction(f"background of {id}", seed) * len(backgrounds))
            group = pair.group or pair.id
            laid.append(replace(pair, id=id, group=group, background=backgrounds[place]))
    return laid


def _layout(folder: Path) -> bool:
    has = {p.name for p in folder.iterdir() if p.is_dir()} if folder.is_dir() else set()
    return "images" in has or "cutouts" in has


def _add(found: Found, side: str, folder: Path, mask_kind: str, backgrounds: str) -> None:
    """The pairs of one folder of any layout."""
    images, masks, cutouts = (folder / name for name in ("images", "masks", "cutouts"))
    if images.is_dir() and masks.is_dir():
        pairs, skipped = match_pairs(images, masks, mask_kind=mask_kind, strict=False)
    elif images.is_dir() and cutouts.is_dir():
        pairs, skipped = match_pairs(images, cutouts, mask_kind="alpha", strict=False)
    elif images.is_dir():
        raise DataError(f"{folder} has images/ but no masks/ (or cutouts/) folder")
    elif cutouts.is_dir():
        skipped = []
        behind = locate(backgrounds or folder / "backgrounds", "Expected photos in {root}")
        found.backgrounds[side] = [path for _, path in image_files(behind, skipped)]
        if not found.backgrounds[side]:
            raise DataError(f"no photo in {behind} to put behind the cut-outs of {cutouts}")
        files = files_by_stem(cutouts, skipped)
        pairs, more = join(files, files, "alpha")
        skipped += more
    else:
        photos, masks, skipped = _beside(folder)
        pairs, more = join(photos, masks, "alpha", (f"{folder}/{{}}.jpg", f"{folder}/{{}}.png"))
        skipped += more
    found.sides[side] = pairs
    found.skipped += skipped


def _beside(folder: Path) -> tuple[dict, dict, list[Skipped]]:
    """Photos and cut-outs in the same folder: id -> file of each, and what is neither."""
    photos: dict[str, Path | None] = {}
    cutouts: dict[str, Path | None] = {}
    skipped: list[Skipped] = []
    for id, path in image_files(folder, skipped):
        if not _transparent(path):
            photos[id] = None if id in photos else path
            continue
        id = id.removesuffix(next((e for e in _ENDINGS if id.endswith(e)), ""))
        cutouts[id] = None if id in cutouts else path
    return photos, cutouts, skipped


def _transparent(path: Path) -> bool:
    try:
        with opened(path) as image:
            return image.has_transparency_data
    except ImageError:
        return False  # a photo, as which it will be named


def _check_groups(pattern: str) -> None:
    try:
        if pattern and not re.compile(pattern).groups:
            raise ValueError("it has no part in brackets, which should be the common name")
    except (re.error, ValueError) as error:
        raise ValueError(f"groups={pattern!r} is no usable regular expression: {error}") from error


def _group(id: str, groups: str) -> str:
    if groups == "folder":
        return id.rpartition("/")[0]
    found = re.search(groups, id)
    return found[1] if found else ""
