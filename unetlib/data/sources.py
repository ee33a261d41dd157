"""Datasets by name: open_source("synthetic"), open_source("folder", root), ..."""

import csv
import difflib
import hashlib
from dataclasses import replace
from pathlib import Path

from unetlib.data.download import cache_dir, fetch, unpack_zip
from unetlib.data.pairs import DataError, Pair, Skipped, Source, match_pairs, split_pairs
from unetlib.paths import find_input, resolve

PENNFUDAN_URL = "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip"
PENNFUDAN_IMAGES = 170
_LAYOUT = (
    "Expected {root}/images and {root}/masks (split by a hash of the names), or {root}/train and "
    "{root}/val with images and masks in each; the mask of images/NAME.jpg is masks/NAME.png"
)


def open_source(
    name: str, root=None, *, val_fraction: float = 0.2, seed: int = 0, **args
) -> Source:
    """Opens a dataset and splits it into train and val; see SOURCES for the names.

    - "synthetic": drawn into `root` (default: data/) by unetlib.data.synthetic, unless it is there
      already. Takes `count`, `size`, `workers`, `progress`.
    - "folder": pairs of your own in `root` (default: data/). Takes `mask_kind`.
    - "pennfudan": the Penn-Fudan pedestrians; `root` holds PNGImages/ and PedMasks/.
      `download=True` fetches them (54 MB) first if they are not there. That is the default where
      no root is given: they are then fetched into the cache, once.

    `root` is looked for below the working directory, then below the project. `val_fraction` and
    `seed` decide the split, except where train/ and val/ are given. A val photo with the same bytes
    as a train photo is skipped, by name. Raises DataError that says what was expected and found.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"no source '{name}': use one of {', '.join(SOURCES)}.{hint}")
    return SOURCES[name](root or None, val_fraction=val_fraction, seed=seed, **args)


def _synthetic(root, *, val_fraction, seed, **args) -> Source:
    from unetlib.data.synthetic import write_synthetic  # imports the split from this package

    root = write_synthetic(resolve(root or "data"), seed=seed, val_fraction=val_fraction, **args)
    return replace(_folder(root, val_fraction=val_fraction, seed=seed), name="synthetic")


def _folder(root, *, val_fraction, seed, mask_kind: str = "auto") -> Source:
    root = _find(root or "data", _LAYOUT)
    halves = [root / "train", root / "val"]
    if all((half / "images").is_dir() for half in halves):
        train, skipped = _match(halves[0], mask_kind)
        val, more = _match(halves[1], mask_kind)
        skipped += more
        if twice := sorted({p.id for p in train} & {p.id for p in val}):
            raise DataError(
                f"{len(twice)} ids are in both train/ and val/ of {root}, the first is "
                f"'{twice[0]}'. A score on trained photos means nothing: rename or remove them"
            )
        for half, pairs, dropped in zip(halves, (train, val), (skipped, more), strict=True):
            if not pairs:
                raise DataError(f"no usable pair in {half}.{_why(dropped)}")
    elif (root / "images").is_dir() and (root / "masks").is_dir():
        pairs, skipped = _match(root, mask_kind)
        if not pairs:
            raise DataError(f"no usable pair in {root}. {_layout(root, _LAYOUT)}{_why(skipped)}")
        train, val = split_pairs(pairs, val_fraction, seed)
    else:
        raise DataError(f"{root} has not the folders of a dataset. {_layout(root, _LAYOUT)}")
    return _source("folder", root, train, val, skipped)


def _pennfudan(root, *, val_fraction, seed, download: bool | None = None) -> Source:
    """Wang, Shi, Song, Shen: Object Detection Combining Recognition and Segmentation, ACCV 2007.

    Its publisher states no checksum, and none is made up here: the download is verified by the
    length that the server announces, the CRC-32 of every file in the archive and the count of 170
    images and masks.
    """
    layout = "Expected {root}/PNGImages/X.png and {root}/PedMasks/X_mask.png"
    folder = Path(root) if root else cache_dir()
    if download or (download is None and root is None):
        folder = _download_pennfudan(resolve(folder))
    elif root is None and not (folder / "PennFudanPed").is_dir():
        raise DataError(
            f"Penn-Fudan is not in {folder}. Give the folder with PNGImages/ and PedMasks/ as "
            f"root, or download=True to fetch it (54 MB) from {PENNFUDAN_URL}"
        )
    folder = _find(folder, layout)
    if (folder / "PennFudanPed").is_dir():
        folder /= "PennFudanPed"
    if not (folder / "PNGImages").is_dir() or not (folder / "PedMasks").is_dir():
        raise DataError(f"{folder} is not the Penn-Fudan set. {_layout(folder, layout)}")
    pairs, skipped = match_pairs(folder / "PNGImages", folder / "PedMasks", "_mask", "labels")
    if not pairs:
        raise DataError(f"no usable pair in {folder}. {_layout(folder, layout)}{_why(skipped)}")
    train, val = split_pairs(pairs, val_fraction, seed)
    return _source("pennfudan", folder, train, val, skipped)


def _download_pennfudan(folder: Path) -> Path:
    if (folder / "PNGImages").is_dir() or (folder / "PennFudanPed").is_dir():
        return folder
    archive = fetch(PENNFUDAN_URL, cache_dir() / "PennFudanPed.zip")
    unpack_zip(archive, folder)
    root = folder / "PennFudanPed"
    counts = [len(list((root / d).glob("*.png"))) for d in ("PNGImages", "PedMasks")]
    if counts != [PENNFUDAN_IMAGES] * 2:
        raise DataError(
            f"{archive} holds {counts[0]} images and {counts[1]} masks instead of "
            f"{PENNFUDAN_IMAGES} each. Delete it and {root}, then try again"
        )
    return folder


SOURCES = {"synthetic": _synthetic, "folder": _folder, "pennfudan": _pennfudan}


def _match(root: Path, mask_kind: str) -> tuple[list[Pair], list[Skipped]]:
    if not (root / "masks").is_dir():
        raise DataError(f"{root} has images/ but no masks/ folder")
    return match_pairs(root / "images", root / "masks", mask_kind=mask_kind)


def _source(name: str, root: Path, train: list, val: list, skipped: list) -> Source:
    tags = _tags(root / "manifest.csv")
    train, val = ([replace(p, tags=tags.get(p.id, ())) for p in side] for side in (train, val))
    copies = _same_bytes(train, val)
    leaks = [
        Skipped(p.image, f"same photo as '{copies[p.id]}' in train: left out of val")
        for p in val
        if p.id in copies
    ]
    skipped = [*skipped, *leaks]
    val = [p for p in val if p.id not in copies]
    return Source(name, root, tuple(train), tuple(val), tuple(skipped))


def _same_bytes(train: list[Pair], val: list[Pair]) -> dict[str, str]:
    """val id -> train id of a photo with the same content; hashes only where the lengths agree."""
    lengths = {pair.image.stat().st_size for pair in val}
    known = {_digest(p): p.id for p in train if p.image.stat().st_size in lengths}
    return {p.id: known[digest] for p in val if known and (digest := _digest(p)) in known}


def _digest(pair: Pair) -> bytes:
    return hashlib.sha256(pair.image.read_bytes()).digest()


def _tags(manifest: Path) -> dict[str, tuple[str, ...]]:
    """id -> tags from a CSV with the columns id and tags (separated by `;`), where there is one."""
    if not manifest.is_file():
        return {}
    with open(manifest, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row.get("id")]
    return {r["id"]: tuple(t.strip() for t in (r.get("tags") or "").split(";") if t) for r in rows}


def _find(root, layout: str) -> Path:
    try:
        found = find_input(root)
    except FileNotFoundError as error:
        raise DataError(f"no such folder: {error}. {layout.format(root=root)}") from error
    if not found.is_dir():
        raise DataError(f"{found} is a file, not a folder. {layout.format(root=found)}")
    return found


def _layout(root: Path, layout: str) -> str:
    names = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
    found = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{layout.format(root=root)}. Found: {found or 'nothing, the folder is empty'}"


def _why(skipped: list[Skipped]) -> str:
    lines = [f"\n  skipped {s.path}: {s.reason}" for s in skipped[:5]]
    more = [f"\n  and {len(skipped) - 5} more"] if len(skipped) > 5 else []
    return "".join(lines + more)
