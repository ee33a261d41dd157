"""Photos and their masks: folders -> pairs -> train and val, and what cannot be used and why."""

import csv
import hashlib
import math
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from unetlib.data import images
from unetlib.matting import composite
from unetlib.paths import find_input, sha256

LAYOUT = (
    "Expected are images/NAME.jpg and masks/NAME.png (or cutouts/NAME.png), train/ and val/ with "
    "both in each, NAME.jpg and NAME_mask.png side by side, or cutouts/ and backgrounds/"
)
# What other tools and publishers call the folders, and what they add to the names of files.
WORDS = {
    "images": "images image imgs img photos photo pictures jpegimages",
    "masks": "masks mask labels label annotations mattes matte alpha gt ground truth segmentations",
    "cutouts": "cutouts",
    "train": "train training",
    "val": "val valid validation test",
}
ROLES = {word: role for role, words in WORDS.items() for word in words.split()}
PHOTO = re.compile(r"(?:^|(?<=/))(?:images?|img|photo|pic|clip)[_-]")
MASK = re.compile(
    r"(?:^|(?<=/))(?:masks?|matte|matting|lab|label|seg|gt)[_-]|[._-](?:masks?|mattes?|alpha|labels?|"
    r"seg|segmentation|gt|ground_?truth|annotation|foreground|cutout|out|removebg-preview|no_bg)$"
)
COLUMNS = ("id", "source", "split", "group", "size", "sha256", "foreground_share", "tags")


class DataError(ValueError):
    """A dataset that cannot be used as it is; the message says what was expected and found."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A photo and its mask."""

    id: str  # path below its folder without the suffix, with `/`
    image: Path  # with a `background`, a cut-out (RGBA) that is laid over it
    mask: Path | None  # that of a cut-out is its own alpha; None: nothing in it is foreground
    tags: tuple[str, ...] = ()  # what makes it hard, or its class
    mask_kind: str = "auto"  # how to read the mask, see load_mask
    group: str = ""  # photos of one group (one person, one film) are never split
    source: str = ""  # name of its dataset
    weight: float = 1.0  # how often it is drawn in training, beside the others
    background: Path | None = None


Sides = tuple[list[Pair], list[Pair]]  # train and val


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why. `kind`: the same in a few words, for counting."""

    path: Path
    reason: str
    kind: str = ""


@dataclass
class Found:
    """What is in a folder. `sides`: the pairs of "train" and "val" where they are divided already,
    those of "" are to be divided. `backgrounds`: what to put behind pairs that are cut-outs."""

    root: Path
    sides: dict[str, list[Pair]]
    skipped: list[Skipped] = field(default_factory=list)
    backgrounds: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """An opened dataset. No id is in both `train` and `val`; `val` may be empty."""

    name: str
    root: Path
    train: tuple[Pair, ...]
    val: tuple[Pair, ...]
    skipped: tuple[Skipped, ...] = ()

    def describe(self) -> str:
        """Counts, a pair as it was found, and the first five skipped files by name."""
        text = f"{self.name}: {len(self.train)} train + {len(self.val)} val pairs in {self.root}"
        for pair in self.train[:1]:
            text += f", such as {pair.image} with {pair.mask or 'no mask'}"
        return text.replace(f"{self.root}{os.sep}", "") + list_skipped(self.skipped, self.root)


def list_skipped(skipped: Sequence[Skipped], root: Path) -> str:
    lines = [f"\n  {s.path}: {s.reason}".replace(f"{root}{os.sep}", "") for s in skipped[:5]]
    return f", {len(skipped)} skipped:{''.join(lines)}" if skipped else ""


def load_pair(pair: Pair, max_side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Photo uint8 (H, W, 3) and matte float32 (H, W) in [0, 1] of the same size; a cut-out is laid
    over its background. `max_side`: see load_image. Raises ImageError, naming the file."""
    if pair.background:
        rgba = images.load_cutout(pair.image, max_side)
        behind = np.asarray(images.load_image(pair.background, max(rgba.shape[:2])))
        return composite(rgba, behind), rgba[..., 3].astype(np.float32) / 255
    photo = np.asarray(images.load_image(pair.image, max_side))
    if pair.mask is None:
        return photo, np.zeros(photo.shape[:2], np.float32)
    return photo, images.load_mask(pair.mask, photo.shape[:2], pair.mask_kind)


def image_files(folder, skipped: list[Skipped]) -> dict[Path, str]:
    """The image files below a folder, sorted, with their ids; others are added to `skipped`."""
    files = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith((".", "__MACOSX")) for part in name.parts)
        if hidden or path.is_dir() or path.name.lower() in ("thumbs.db", "desktop.ini"):
            continue
        if path.suffix.lower() in images.SUFFIXES and path.is_file():
            # macOS stores accents decomposed; zip files carry that elsewhere
            files[path] = unicodedata.normalize("NFC", name.with_suffix("").as_posix())
        else:
            skipped.append(Skipped(path, "not a known image type", "unknown type"))
    return files


def match_pairs(images_dir, masks_dir, mask_kind="auto") -> tuple[list[Pair], list[Skipped]]:
    """Photos and masks of the same stem, sorted by id; what is left, by the stem without usual
    affixes (`img_7` and `007_mask`), where that is clear. In one and the same folder, NAME_mask.png
    or NAME.png are masks beside NAME.jpg, and "alpha" without JPEGs are cut-outs alone.

    Subfolders count into the id. Headers are read, pixels are not. Whatever is not used is returned
    as Skipped, also a mask whose shape is not that of its photo (kind "shape").
    """
    skipped: list[Skipped] = []
    photos = image_files(images_dir, skipped)
    jpegs = {id for path, id in photos.items() if path.suffix.lower() in (".jpg", ".jpeg")}
    if Path(images_dir) != Path(masks_dir):
        masks = image_files(masks_dir, skipped)
    elif mask_kind == "alpha" and not jpegs:
        masks = dict(photos)
    else:
        cutouts = {
            path for path, id in photos.items() if path.suffix.lower() == ".png" and id in jpegs
        }
        named = {path for path, id in photos.items() if MASK.search(id.lower())}
        masks = {path: photos.pop(path) for path in cutouts | named}
    pairs = []
    for key in (str, plain):
        alike = defaultdict(list)
        for path, id in [*photos.items(), *masks.items()]:
            alike[key(id)].append(path)
        for path, *others in alike.values():
            if path in photos and len(others) == 1 and others[0] in masks:
                pairs.append(Pair(photos.pop(path), path, others[0], mask_kind=mask_kind))
                del masks[others[0]]
    for files, kind in ((photos, "image without mask"), (masks, "mask without image")):
        times = Counter(files.values())
        for path, id in files.items():
            why = kind if times[id] == 1 else "same stem"
            skipped.append(Skipped(path, f"{why} ({id})", why))
    pairs.sort(key=lambda pair: pair.id)
    with ThreadPoolExecutor(min(8, 1 + len(pairs) // 50)) as pool:  # network drives are slow
        faults = list(pool.map(header_fault, pairs))
    skipped += filter(None, faults)
    return [pair for pair, fault in zip(pairs, faults, strict=True) if not fault], skipped


def plain(id: str) -> str:
    """An id without what marks photos or masks: prefix, ending, zeros before numbers, capitals."""
    id = id.casefold()
    id = id.removesuffix(next(filter(id.endswith, images.SUFFIXES), ""))
    return re.sub(r"(?<!\d)0+(?=\d)", "", PHOTO.sub("", MASK.sub("", id)))


def header_fault(pair: Pair) -> Skipped | None:
    """What the headers of a pair's two files say against it."""
    path = pair.image
    try:
        w, h = images.image_size(path)
        path = pair.mask
        mw, mh = images.image_size(path)
    except (images.ImageError, OSError) as error:
        kind = "unreadable" if isinstance(error, images.ImageError) else "not read"
        return Skipped(path, str(error).removeprefix(f"{path}: "), kind)
    # What a resize may round is a pixel on each side of the smaller one; a crop of 1 % is more.
    if abs(mw * h / (mh * w) - 1) <= 1 / min(w, mw) + 1 / min(h, mh):
        return None
    reason = f"mask of another shape: {pair.image} is {w} x {h}, {pair.mask} is {mw} x {mh}"
    return Skipped(pair.mask, reason, "shape")


def locate(root) -> Path:
    """The folder that a person named. Raises DataError where there is none, and for a file."""
    try:
        found = find_input(root)
    except FileNotFoundError as error:
        raise DataError(f"no such folder: {error}. {LAYOUT}") from error
    if not found.is_dir():
        raise DataError(f"{found} is a file, not a folder. {LAYOUT}")
    return found


def find_folder(root, mask_kind: str = "auto", backgrounds: str = "", layout=()) -> Found:
    """The pairs in a folder, under the names that people give to these layouts: images/ and masks/
    (or cutouts/, whose alpha is the mask), a train/ and a val/ of them; photos and their masks or
    cut-outs in one folder; cutouts/ and backgrounds/ (or `backgrounds`: another folder).

    Or `layout`: rows of a side, its photos and its masks. `mask_kind`: see load_mask. Raises
    DataError for none of these.
    """
    found = Found(locate(root), {})
    folder, inside = found.root, [found.root]
    rows = []
    while not rows and len(inside) == 1:  # one folder in another, as in unpacked archives
        folder = inside[0]
        rows = [row for row in layout if (folder / row[2]).is_dir()] or known_folders(folder)
        inside = [p for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._"]
    found.root = folder if rows else found.root
    for side, photos, masks in rows or [("", "", "")]:
        if rows and photos == masks:
            behind = locate(backgrounds or folder / "backgrounds")
            found.backgrounds = list(image_files(behind, found.skipped))
            if not found.backgrounds:
                raise DataError(f"no photo in {behind} to put behind the cut-outs")
        kind = "alpha" if "cutouts" in masks else mask_kind
        pairs, skipped = match_pairs(found.root / photos, found.root / masks, kind)
        found.sides.setdefault(side, []).extend(pairs)
        found.skipped += skipped
    if not rows and not found.sides[""]:
        seen = ", ".join(sorted(path.name for path in found.root.iterdir())[:8]) or "nothing"
        raise DataError(f"no photos with masks in {found.root}. {LAYOUT}. Found: {seen}")
    return found


def known_folders(folder: Path) -> list[tuple[str, str, str]]:
    """(side, photos, masks) by the words in the names of the folders: train/images, train_images,
    images/train. Raises DataError for half of a divided set that has no masks."""
    found: dict[frozenset, str] = {}
    paths = [p for p in sorted(folder.glob("*")) + sorted(folder.glob("*/*")) if p.is_dir()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    for name in sorted(names, key=lambda name: "test" in name.lower()):  # test/ where no val/ is
        found.setdefault(frozenset(map(ROLES.get, re.split("[/_-]", name.lower()))), name)
    rows = []
    for side in ("train", "val", ""):
        kinds = [frozenset({side, kind} - {""}) for kind in ("images", "masks", "cutouts")]
        photos, masks, cutouts = map(found.get, kinds)
        if side and photos and not (masks or cutouts):
            raise DataError(f"{folder / photos} has no masks beside it. {LAYOUT}")
        if (cutouts or photos and masks) and (side or not rows):
            rows.append((side, photos or cutouts, photos and masks or cutouts))
    return rows


def split_fraction(id: str, seed: int = 0) -> float:
    """A number in [0, 1) that depends on the id and the seed alone, the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{id}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits: exact in a float, never 1.0


def split_pairs(pairs: Sequence[Pair], val_fraction: float = 0.2, seed: int = 0) -> Sides:
    """(train, val) by a hash of ids. A group stays together, and adding a photo moves no other,
    except where one side would have nothing: it gets the nearest group. val_fraction = 0 leaves val
    empty. Raises DataError for a single group, ValueError for a val_fraction outside [0, 1)."""
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and below 1, got {val_fraction}")
    if not pairs or not val_fraction:
        return list(pairs), []
    places = [split_fraction(pair.group or pair.id, seed) for pair in pairs]
    low, high = min(places), max(places)
    if low == high:
        name = pairs[0].group or pairs[0].id
        how = "add photos, or hold none out (--val-fraction 0 in `unetlib train`, val_fraction=0)"
        raise DataError(f"all pairs are one group ('{name}'): {how}")
    limit = min(max(val_fraction, math.nextafter(low, 1)), high)
    placed = list(zip(pairs, places, strict=True))
    return [p for p, place in placed if place >= limit], [p for p, place in placed if place < limit]


def divide(found: Found, val_fraction: float = 0.2, seed: int = 0) -> Sides:
    """(train, val) as the folders are divided, or by `split_pairs`. Cut-outs get backgrounds, of
    which none is on both sides. Raises DataError where a side has nothing, where both have the same
    ids, and for a mask that has not the shape of its photo."""
    for skip in found.skipped:
        if skip.kind == "shape":
            raise DataError(f"{skip.reason}. `unetlib check` lists all such pairs")
    for pairs in found.sides.values() if found.backgrounds else ():
        n, m = len(pairs), len(found.backgrounds)
        for k in range(n, min(m, 20 * n)):  # each cut-out up to 20 times
            pairs.append(replace(pairs[k % n], id=f"{pairs[k % n].id}~{k // n}"))
        for k, pair in enumerate(pairs):
            behind = found.backgrounds[k % m]
            group = pair.group or (pairs[k % n].id if n <= m else behind.name if m > 1 else "")
            pairs[k] = replace(pair, group=group, background=behind)
    train, val = found.sides.get("train", []), found.sides.get("val", [])
    if len(found.sides) == 1:  # with one half only there is no division to keep
        train, val = split_pairs(*found.sides.values(), val_fraction, seed)
    if not train or not (val or val_fraction == 0):
        why = list_skipped(found.skipped, found.root)
        raise DataError(f"no usable pair for {'val' if train else 'train'} in {found.root}{why}")
    if twice := {p.id for p in train} & {p.id for p in val}:
        raise DataError(f"{len(twice)} ids are in both train/ and val/, such as '{min(twice)}'")
    return train, val


def same_bytes(train: Sequence[Pair], val: Sequence[Pair]) -> dict[Pair, str]:
    """Pairs of val whose photo is one of train, whose id is given. Read where sizes agree."""
    sizes = {pair: pair.image.stat().st_size for pair in (*train, *val)}
    both = {sizes[pair] for pair in train} & {sizes[pair] for pair in val}
    known = {sha256(pair.image): pair.id for pair in train if sizes[pair] in both}
    found = {pair: known.get(sha256(pair.image)) for pair in val if sizes[pair] in both}
    return {pair: other for pair, other in found.items() if other}


def read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """id -> its row of a manifest.csv, whatever separates its columns; empty without such a file.
    Raises DataError for other columns than COLUMNS, and for a file that is no table."""
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no table in UTF-8: {error}") from error
    separator = max(",;\t|", key=lines[0].count) if lines else ","
    table = csv.DictReader(lines, delimiter=separator, restval="")
    columns = table.fieldnames or []
    if "id" not in columns or not set(columns) <= {*COLUMNS}:
        names, known = ", ".join(columns) or "none", ", ".join(COLUMNS)
        raise DataError(f"{path} has the columns {names}: id is needed, known are {known}")
    return {row["id"]: row for row in table}
