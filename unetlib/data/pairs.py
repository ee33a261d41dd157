"""Which photo belongs to which mask, what cannot be used and why, and who is train and who val."""

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unetlib.data.images import ImageError, image_size, load_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_JUNK = {"thumbs.db", "desktop.ini"}


class DataError(ValueError):
    """A dataset that cannot be used as it is; the message says what was expected and found."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A photo and its mask. `id`: path below its folder without the suffix, with `/`."""

    id: str
    image: Path
    mask: Path
    tags: tuple[str, ...] = ()
    mask_kind: str = "auto"


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Source:
    """An opened dataset. No id is in both `train` and `val`; `val` may be empty."""

    name: str
    root: Path
    train: tuple[Pair, ...]
    val: tuple[Pair, ...]
    skipped: tuple[Skipped, ...] = ()

    def describe(self) -> str:
        """Counts, then the first skipped files by name."""
        lines = [f"{self.name}: {len(self.train)} train + {len(self.val)} val pairs in {self.root}"]
        if self.skipped:
            lines[0] += f", {len(self.skipped)} skipped"
        lines += [f"  skipped {_below(s.path, self.root)}: {s.reason}" for s in self.skipped[:5]]
        if len(self.skipped) > 5:
            lines.append(f"  and {len(self.skipped) - 5} more")
        return "\n".join(lines)


def match_pairs(
    images_dir: str | os.PathLike,
    masks_dir: str | os.PathLike,
    mask_suffix: str = "",
    mask_kind: str = "auto",
) -> tuple[list[Pair], list[Skipped]]:
    """Photos and masks of the same stem (`1` never matches `10`), sorted by id.

    Nested folders count into the id. Headers are read, pixels are not, except where the end of a
    file looks cut off. Whatever is not used is returned as Skipped. A mask whose shape is not that
    of its photo raises DataError with both names.
    """
    images_dir, masks_dir = Path(images_dir), Path(masks_dir)
    skipped: list[Skipped] = []
    photos = _by_stem(images_dir, skipped)
    masks = _by_stem(masks_dir, skipped, mask_suffix)
    pairs = []
    for id in sorted(photos.keys() | masks.keys()):
        image, mask = photos.get(id), masks.get(id)
        if image is None or mask is None:
            if image:
                why = "its mask is there twice" if id in masks else "image without mask"
                expected = masks_dir / f"{id}{mask_suffix}.*"
                skipped.append(Skipped(image, f"{why} (expected one {expected})"))
            elif mask:
                why = "its image is there twice" if id in photos else "mask without image"
                skipped.append(Skipped(mask, f"{why} (expected one {images_dir / id}.*)"))
            continue
        sizes = []
        for path in (image, mask):
            try:
                sizes.append(_check(path))
            except ImageError as error:
                skipped.append(Skipped(path, str(error).removeprefix(f"{path}: ")))
        if len(sizes) == 2:
            check_shape(image, sizes[0], mask, sizes[1])
            pairs.append(Pair(id, image, mask, (), mask_kind))
    return pairs, skipped


def check_shape(
    image: Path, image_wh: tuple[int, int], mask: Path, mask_wh: tuple[int, int]
) -> None:
    """Raises DataError unless the mask has the photo's shape, up to a resize.

    Allowed is what rounding can do when one was resized from the other: a pixel on each side of
    the smaller of both. That refuses a crop of 1 % and more on pictures of usual sizes.
    """
    (w, h), (mw, mh) = image_wh, mask_wh
    if abs(mw * h / (mh * w) - 1) <= 1 / min(w, mw) + 1 / min(h, mh):
        return
    hint = "Export the mask from the uncropped photo again, or remove the pair"
    if abs(mh * h / (mw * w) - 1) <= 0.01:
        hint = (
            "The mask lies on its side: was the photo's EXIF rotation applied to one of them only?"
        )
    raise DataError(
        f"mask of another shape: image {image} is {w} x {h}, mask {mask} is {mw} x {mh} (width x "
        f"height). A mask may have another size, but not another shape. {hint}"
    )


def split_fraction(id: str, seed: int = 0) -> float:
    """A number in [0, 1) that depends on the id and the seed alone, the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits: exact in a float, never 1.0


def split_pairs(
    pairs: Sequence[Pair], val_fraction: float = 0.2, seed: int = 0
) -> tuple[list[Pair], list[Pair]]:
    """(train, val). Adding an image moves no other. val_fraction = 0 leaves val empty on purpose;
    otherwise a side without any pair raises DataError with a val_fraction that would work."""
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and below 1, got {val_fraction}")
    val = [p for p in pairs if split_fraction(p.id, seed) < val_fraction]
    train = [p for p in pairs if split_fraction(p.id, seed) >= val_fraction]
    if pairs and (not train or not (val or val_fraction == 0)):
        if len(pairs) == 1:
            raise DataError(
                f"only 1 usable pair ('{pairs[0].id}'): it cannot be both train and val. Add "
                "photos, or set val_fraction=0 to train without validation"
            )
        marks = sorted(split_fraction(p.id, seed) for p in pairs)
        middle = (marks[0] + marks[1]) / 2 if not val else (marks[-2] + marks[-1]) / 2
        works = _short_between(marks[0], marks[-1], middle)
        raise DataError(
            f"val_fraction={val_fraction} with seed={seed} puts {len(train)} of {len(pairs)} pairs "
            f"into train and {len(val)} into val; both need at least one. val_fraction={works} "
            "works (the split goes by a hash of the names, so small sets split unevenly)"
        )
    return train, val


def _short_between(low: float, high: float, near: float) -> float:
    """The number with the fewest digits that lies in (low, high], close to `near`."""
    for digits in range(1, 17):
        number = round(near, digits)
        if low < number <= high:
            return number
    return high


def _by_stem(folder: Path, skipped: list[Skipped], suffix: str = "") -> dict[str, Path | None]:
    """id -> file; None for a stem that occurs more than once."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in _files(folder):
        if path.name.startswith("._"):
            skipped.append(Skipped(path, "macOS resource fork, not an image"))
        elif path.name.startswith(".") or path.name.lower() in _JUNK:
            continue
        elif path.suffix.lower() not in SUFFIXES:
            known = " ".join(s[1:] for s in SUFFIXES)
            skipped.append(Skipped(path, f"not a known image type ({known})"))
        else:
            id = path.relative_to(folder).with_name(path.name[: -len(path.suffix)]).as_posix()
            # macOS stores accents decomposed; zip files carry that elsewhere
            id = unicodedata.normalize("NFC", id)
            if id.endswith(suffix):
                found[id[: len(id) - len(suffix)]].append(path)
            else:
                skipped.append(Skipped(path, f"mask name does not end in '{suffix}'"))
    for paths in found.values():
        for path in paths if len(paths) > 1 else ():
            others = ", ".join(p.name for p in paths if p != path)
            skipped.append(Skipped(path, f"same stem as {others}: unclear which one is meant"))
    return {id: paths[0] if len(paths) == 1 else None for id, paths in found.items()}


def _files(folder: Path) -> Iterator[Path]:
    for here, dirs, names in os.walk(folder):
        dirs[:] = sorted(d for d in dirs if not d.startswith(".") and d != "__MACOSX")
        yield from (Path(here) / name for name in sorted(names))


def _check(path: Path) -> tuple[int, int]:
    """(width, height) from the header; a file whose end mark is missing is decoded to be sure."""
    size = image_size(path)
    with open(path, "rb") as file:
        head = file.read(12)
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - 64))
        tail = file.read()
    if head[:2] == b"\xff\xd8":
        whole = b"\xff\xd9" in tail
    elif head[:4] == b"\x89PNG":
        whole = b"IEND" in tail
    elif head[:4] == b"RIFF":
        whole = length >= int.from_bytes(head[4:8], "little") + 8
    else:
        whole = head[:3] != b"GIF" or b"\x3b" in tail
    if not whole:
        load_image(path)
    return size


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
