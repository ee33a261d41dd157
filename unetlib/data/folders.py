"""Folders as people and publishers lay them out: names that are understood, what is said about
the photos in them, and how they are divided."""

import csv
import re
import unicodedata
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unetlib.data import images
from unetlib.data.pairs import (
    DataError,
    Pair,
    Skipped,
    image_files,
    list_skipped,
    match_pairs,
    split_pairs,
)
from unetlib.matting import composite, estimate_foreground
from unetlib.paths import find_input, read_text

LAYOUT = (
    "Expected are images/NAME.jpg and masks/NAME.png (or cutouts/NAME.png), train/ and val/ with "
    "both in each, NAME.jpg and NAME_mask.png side by side, or cutouts/ and backgrounds/"
)
# What other tools and publishers call the folders, and what they add to the names of files.
WORDS = {  # each also in the plural
    "images": "image img im photo picture pic jpegimage pngimage input clip rgb fgr sat original",
    "masks": "mask label lab annotation matte matting alpha pha gt ground truth groundtruth target "
    "segmentation seg segmentationclass trimap silhouette binary bin",
    "cutouts": "cutout foreground out removebg preview no bg",
    "train": "train training",
    "val": "val valid validation test testing",
}
ROLES = {f"{word}{s}": role for role in WORDS for word in WORDS[role].split() for s in ("", "s")}
ENDINGS = " ".join(suffix[1:] for suffix in images.SUFFIXES)
PHOTO, MASK = (
    re.compile(r"(?:^|(?<=/))(?:{0})s?[ _-]|(?:[ ._-](?:{0})s?)+$".format("|".join(words.split())))
    for words in (f"{WORDS['images']} {ENDINGS}", f"{WORDS['masks']} {WORDS['cutouts']} {ENDINGS}")
)
IDS = re.compile("^((file|image)?_?name|file|image)$")  # of a column that holds ids
COLUMNS = ("id", "source", "split", "group", "size", "sha256", "foreground_share", "tags")


@dataclass(frozen=True, slots=True)
class CutOutPair(Pair):
    """A cut-out (RGBA), both photo and mask, that is laid over a background."""

    background: Path

    def load(self, max_side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        rgba = recent_cutout(self.image, max_side, self.image.stat().st_mtime_ns)
        background = np.asarray(images.load_image(self.background, max(rgba.shape[:2])))
        return composite(rgba, background), rgba[..., 3].astype(np.float32) / 255


def load_cutout(source: Any, max_side: int | None = None) -> np.ndarray:
    """A cut-out: uint8 (H, W, 4), straight alpha, upright, its longer side at most `max_side`. Its
    soft edge has the foreground's own colours, without the fringe of the old background, which a
    network would learn to look for. ImageError where it is opaque: it would be a rectangle."""
    with images.opened(source) as image:
        picture = images.upright(image).convert("RGBA")
        if picture.getextrema()[3][0] == 255:
            raise images.ImageError("it has no transparency: a cut-out needs an alpha channel")
    size = images.fit_within(picture.size, max_side or max(picture.size))
    picture.thumbnail((2 * size[0], 2 * size[1]))  # cleaned at this size it is as good as in full
    colours, alpha = picture.convert("RGB"), picture.getchannel("A")
    colours = estimate_foreground(np.asarray(colours), np.asarray(alpha), background_kept=False)
    cleaned = Image.fromarray(colours)
    cleaned.putalpha(alpha)
    return np.array(cleaned.resize(size, Image.Resampling.HAMMING))  # colours count by alpha


@lru_cache(2)  # before its next background it is the same
def recent_cutout(path: Path, max_side: int | None, changed: int) -> np.ndarray:
    return load_cutout(path, max_side)


@dataclass
class Found:
    """What is in a folder. `sides`: the pairs of "train" and "val" where they are divided already,
    those of "" are to be divided. `backgrounds`: what to put behind pairs that are cut-outs."""

    root: Path
    sides: dict[str, list[Pair]]
    skipped: list[Skipped] = field(default_factory=list)
    backgrounds: list[Path] = field(default_factory=list)


def folder_pairs(images_dir, masks_dir, mask_kind="auto") -> tuple[list[Pair], list[Skipped]]:
    """`match_pairs` of two folders, also by stems without usual affixes (`img_7` and `007_mask`).
    In one and the same folder, NAME_mask.png or NAME.png are masks beside NAME.jpg, and "alpha"
    without JPEGs are cut-outs alone. Subfolders count into the id."""
    skipped: list[Skipped] = []
    photos = image_files(images_dir, skipped)
    jpegs = {id for path, id in photos.items() if path.suffix.lower() in (".jpg", ".jpeg")}
    if images_dir != masks_dir:
        masks = image_files(masks_dir, skipped)
        photos = {path: id for path, id in photos.items() if path not in masks}
    elif mask_kind == "alpha" and not jpegs:
        masks = dict(photos)
    else:
        beside = {p for p, id in photos.items() if p.suffix.lower() == ".png" and id in jpegs}
        named = {path for path, id in photos.items() if MASK.search(id.lower())}
        masks = {path: photos.pop(path) for path in beside | named}
    pairs, unused = match_pairs(photos, masks, mask_kind, (str, normalized))
    return pairs, list(dict.fromkeys([*unused, *skipped]))


def normalized(id: str) -> str:
    """An id without what marks photos or masks: prefix, ending, zeros before numbers, capitals."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", PHOTO.sub("", MASK.sub("", id.casefold())))


def find_folder(root, mask_kind: str = "auto", backgrounds: str = "", layout=()) -> Found:
    """The pairs in a folder, under the names that people give to these layouts: images/ and masks/
    (or cutouts/, whose alpha is the mask), a train/ and a val/ of them; photos and their masks or
    cut-outs in one folder; cutouts/ and backgrounds/ (or `backgrounds`: another folder).

    Or `layout`: rows of a side, its photos and its masks. `mask_kind`: see load_mask. Raises
    DataError for none of these.
    """
    found = Found(find_dir(root), {})
    folder, inside, rows = found.root, [found.root], []
    while not rows and len(inside) == 1:  # one folder in another, as in unpacked archives
        folder = inside[0]
        rows = [row for row in layout if (folder / row[2]).is_dir()] or guess_layout(folder)
        inside = [p for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._"]
    found.root = folder if rows else found.root
    for path in inside if rows else ():
        if "test" in path.name.lower() and not any(path.name in photos for _, photos, _ in rows):
            found.skipped.append(Skipped(path, "part of neither train nor val", "not used"))
    for side, photos, masks in rows or [("", "", "")]:
        kind = "alpha" if "cutout" in masks.lower() else mask_kind
        pairs, skipped = folder_pairs(found.root / photos, found.root / masks, kind)
        if not pairs and "test" in photos.lower():
            continue  # photos alone, as in competitions
        if pairs and pairs[0].image == pairs[0].mask:
            behind = find_dir(backgrounds or folder / "backgrounds")
            found.backgrounds = list(image_files(behind, skipped))
            if not found.backgrounds:
                raise DataError(f"no photo in {behind} to put behind the cut-outs")
        found.sides.setdefault(side, []).extend(pairs)
        found.skipped += skipped
    if not any(found.sides.values()):
        seen = ", ".join(sorted(path.name for path in found.root.iterdir())[:8]) or "nothing"
        seen += list_skipped(found.skipped, found.root)
        raise DataError(f"no photos with masks in {found.root}. {LAYOUT}. Found: {seen}")
    return found


def find_dir(root) -> Path:
    """The folder that a person named. Raises DataError where there is none."""
    with suppress(FileNotFoundError):
        if (found := find_input(root)).is_dir():
            return found
    raise DataError(f"no such folder: {root}. {LAYOUT}")


def guess_layout(folder: Path) -> list[tuple[str, str, str]]:
    """(side, photos, masks) by the words in the names of the folders: train/images, train_images,
    images/train; photos may also lie in train/ itself, or in `folder`."""
    found, rows = {frozenset(): "."}, []
    paths = [p for p in sorted(folder.glob("*")) + sorted(folder.glob("*/*")) if p.is_dir()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    for name in sorted(names, key=lambda name: "test" in name.lower()):  # test/ where no val/ is
        words = re.split("[/_ -]", name.lower())  # COCO numbers them: images/train2017
        roles = (ROLES.get(word, ROLES.get(word.rstrip("0123456789"))) for word in words)
        found.setdefault(frozenset(roles), name)
    for side in map(frozenset, (["train"], ["val"], [])):
        photos, masks, cutouts = (found.get(side | {k}) for k in ("images", "masks", "cutouts"))
        here = found.get(side)
        if here and not photos and (side or masks or cutouts):
            files = (folder / here).iterdir()
            photos = here if any(p.suffix.lower() in images.SUFFIXES for p in files) else None
        if (photos or cutouts) and (side or not rows):
            photos = photos or cutouts
            rows.append(("".join(side), photos, masks or cutouts or photos))
    return rows


def divide(found: Found, val_fraction: float = 0.2, seed: int = 0) -> tuple[list, list]:
    """(train, val) as in the folders, or by `split_pairs`. Cut-outs get backgrounds; if we split
    cut-outs without groups, none is on both sides. Raises DataError for an empty side."""
    for pairs in found.sides.values() if found.backgrounds else ():
        cutouts, n, m = pairs.copy(), len(pairs), len(found.backgrounds)
        for k in range(max(n, min(m, 20 * n))):  # each cut-out up to 20 times
            pair, background = cutouts[k % n], found.backgrounds[k % m]
            group = pair.group or (pair.id if n <= m else background.name if m > 1 else "")
            id = f"{pair.id}~{k // n}" if k >= n else pair.id
            facts = asdict(pair) | {"id": id, "group": group}
            pairs[k : k + 1] = [CutOutPair(**facts, background=background)]
        pairs.sort(key=lambda pair: pair.image)  # one cut-out after the other: see `recent_cutout`
    train, val = found.sides.get("train", []), found.sides.get("val", [])
    if len(found.sides) == 1:  # with one half only there is no division to keep
        train, val = split_pairs(*found.sides.values(), val_fraction, seed)
    if not train or not (val or val_fraction == 0):
        why = list_skipped(found.skipped, found.root)
        raise DataError(f"no usable pair for {'val' if train else 'train'} in {found.root}{why}")
    return train, val


def add_manifest(found: Found) -> None:
    """Adds what manifest.csv says of the pairs: tags, group and source. Raises DataError where no
    id in it is that of a photo, and what `read_manifest` raises."""
    manifest = found.root / "manifest.csv"
    rows = read_manifest(manifest)
    alike, used = {normalized(id): id for id in rows}, set()  # spreadsheets make 1 of 001
    for pairs in found.sides.values():
        for i, pair in enumerate(pairs):
            names = pair.id, pair.id + pair.image.suffix, alike.get(normalized(pair.id))
            id = next((id for id in names if id in rows), None)
            row = rows.get(id, {})
            used.add(id)
            tags = tuple(filter(None, row.get("tags", "").split(";")))
            facts = {key: row.get(key, "") for key in ("group", "source")}
            pairs[i] = replace(pair, tags=tags, **facts)
    if (unused := rows.keys() - used) and any(found.sides.values()):
        reason = f"{len(unused)} of {len(rows)} ids are of no photo, such as '{min(unused)}'"
        if len(unused) == len(rows):
            raise DataError(f"{manifest}: {reason}")
        found.skipped.append(Skipped(manifest, reason, "not used"))


def read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """id -> its row of a manifest.csv, whatever separates its columns; empty without such a file.
    Raises DataError for other columns than COLUMNS, ValueError for a file that is no text."""
    if not path.is_file():
        return {}
    lines = read_text(path).splitlines()
    lines = [line for line in lines if line.strip() and line[:4].lower() != "sep="] or [""]
    separator = max(",;\t|", key=lines[0].count)
    try:
        head, *rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    except csv.Error as error:
        raise DataError(f"{path} is no table: {error}") from error
    columns = [IDS.sub("id", name.strip().casefold()) for name in head]
    if "id" not in columns or not set(columns) <= {*COLUMNS, ""}:  # "": of empty cells
        names, known = ", ".join(head) or "none", ", ".join(COLUMNS)
        raise DataError(f"{path} has the columns {names}: id is needed, known are {known}")
    table = [dict(zip(columns, map(str.strip, row), strict=False)) for row in rows if row]
    return {unicodedata.normalize("NFC", row.get("id", "")): row for row in table}
