"""Photos and their masks: files -> pairs -> train and val, and what cannot be used and why."""

import hashlib
import math
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pooch import file_hash

from unetlib.data import images

HIDDEN = re.compile(r"(^|/)(\.|__MACOSX|(thumbs\.db|desktop\.ini|manifest\.csv)$)", re.I)


class DataError(ValueError):
    """A dataset that cannot be used as it is; the message says what was expected and found."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A photo and its mask."""

    id: str  # path below its folder without the suffix, with `/`
    image: Path
    mask: Path | None  # None: nothing in it is foreground
    tags: tuple[str, ...] = ()  # what makes it hard, or its class
    mask_kind: str = "auto"  # how to read the mask, see load_mask
    group: str = ""  # photos of one group (one person, one film) are never split
    source: str = ""  # name of its dataset
    weight: float = 1.0  # how often it is drawn in training, beside the others
    background: ClassVar[Path | None] = None  # of a cut-out, see `folders.CutOutPair`

    def load(self, max_side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Photo uint8 (H, W, 3) and matte float32 (H, W) in [0, 1] of the same size. `max_side`:
        see load_image. Raises what that raises."""
        photo = np.asarray(images.load_image(self.image, max_side))
        if self.mask is None:
            return photo, np.zeros(photo.shape[:2], np.float32)
        return photo, images.load_mask(self.mask, photo.shape[:2], self.mask_kind)


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why. `kind`: the same in a few words, for counting."""

    path: Path
    reason: str
    kind: str = ""


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


def image_files(folder: Path, skipped: list[Skipped]) -> dict[Path, str]:
    """The image files below a folder, sorted, with their ids; others are added to `skipped`."""
    files, paths, errors, seen = {}, [], [], set()
    for here, folders, names in os.walk(folder, onerror=errors.append, followlinks=True):
        if (real := os.path.realpath(here)) in seen:  # links may go in circles
            folders.clear()
        else:
            seen.add(real)
            paths += [Path(here, name) for name in names]
    skipped += [Skipped(Path(e.filename), str(e.strerror), "not read") for e in errors]
    for path in sorted(paths):
        name = path.relative_to(folder)
        if HIDDEN.search(name.as_posix()):
            continue
        if path.suffix.lower() in images.SUFFIXES and path.is_file():
            # macOS stores accents decomposed; zip files carry that elsewhere
            files[path] = unicodedata.normalize("NFC", name.with_suffix("").as_posix())
        else:
            skipped.append(Skipped(path, "not a known image type", "unknown type"))
    return files


def match_pairs(
    photos: dict[Path, str], masks: dict[Path, str], mask_kind="auto", keys=(str,)
) -> tuple[list[Pair], list[Skipped]]:
    """Pairs of photos and masks (see `image_files`) with the same key, sorted by id. The functions
    `keys` make keys of ids; each is tried on what the one before left, where a match is unique.

    Headers are read, pixels are not. Whatever is not used is returned as Skipped, also a mask whose
    shape is not that of its photo (kind "shape").
    """
    photos, masks, pairs, skipped = dict(photos), dict(masks), [], []
    for key in keys:
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
        faults = list(pool.map(check_headers, pairs))
    used = [pair for pair, fault in zip(pairs, faults, strict=True) if not fault]
    return used, [*filter(None, faults), *skipped]  # what is most surprising is said first


def check_headers(pair: Pair) -> Skipped | None:
    """Why the headers of the two files rule a pair out, or None."""
    path = pair.image
    try:
        w, h = images.image_size(path)
        path = pair.mask
        mw, mh = images.image_size(path)
    except (images.ImageError, OSError, MemoryError) as error:
        kind = "unreadable" if isinstance(error, images.ImageError) else "not read"
        return Skipped(path, str(error).removeprefix(f"{path}: "), kind)
    # What a resize may round is a pixel on each side of the smaller one; a crop of 1 % is more.
    if abs(mw * h / (mh * w) - 1) <= 1 / min(w, mw) + 1 / min(h, mh):
        return None
    reason = f"mask of another shape: {pair.image} is {w} x {h}, {pair.mask} is {mw} x {mh}"
    return Skipped(pair.mask, reason, "shape")


def split_fraction(id: str, seed: int = 0) -> float:
    """A number in [0, 1) that depends on the id and the seed alone, the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{id}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits: exact in a float, never 1.0


def split_pairs(pairs: Sequence[Pair], val_fraction=0.2, seed: int = 0) -> tuple[list, list]:
    """(train, val) by a hash of ids. A group stays together, and adding a photo moves no other,
    except where one side would have nothing: it gets the nearest group. val_fraction = 0 leaves val
    empty. Raises DataError for a single group, ValueError for a val_fraction outside [0, 1)."""
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and below 1, got {val_fraction}")
    if not pairs or not val_fraction:
        return list(pairs), []
    names = [pair.group or pair.id for pair in pairs]
    fractions = {name: split_fraction(name, seed) for name in names}
    if len(fractions) == 1:
        advice = "add photos, or hold none out (--val-fraction 0 in train and prepare)"
        raise DataError(f"all pairs are one group ('{names[0]}'): {advice}")
    low, high = min(fractions.values()), max(fractions.values())
    limit = min(max(val_fraction, math.nextafter(low, 1)), high)
    sides = [], []
    for pair, name in zip(pairs, names, strict=True):
        sides[fractions[name] < limit].append(pair)
    return sides


def join(name: str, root: Path, train: list, val: list, skipped: Sequence[Skipped]) -> Source:
    """Both sides as a Source; copies of train photos leave val. DataError: an id is in both."""
    if twice := {p.id for p in train} & {p.id for p in val}:
        raise DataError(f"{len(twice)} ids are in both train/ and val/, such as '{min(twice)}'")
    # also of another dataset; read where sizes agree
    sizes = {pair: pair.image.stat().st_size for pair in (*train, *val)}
    both = {sizes[pair] for pair in train} & {sizes[pair] for pair in val}
    train_ids = {file_hash(pair.image): pair.id for pair in train if sizes[pair] in both}
    kept, skipped = [], list(skipped)
    for pair in val:
        if other := train_ids.get(file_hash(pair.image)) if sizes[pair] in both else None:
            reason = f"same photo as '{other}' in train: left out of val"
            skipped.append(Skipped(pair.image, reason, "copy across the split"))
        else:
            kept.append(pair)
    return Source(name, root, tuple(train), tuple(kept), tuple(skipped))
