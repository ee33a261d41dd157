"""Which photo belongs to which mask, what cannot be used and why."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from unetlib.data.images import ImageError, whole_size

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_JUNK = {"thumbs.db", "desktop.ini"}


class DataError(ValueError):
    """A dataset that cannot be used as it is; the message says what was expected and found."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A photo and its mask.

    Attributes:
        id: path below its folder without the suffix, with `/`.
        image: the photo; with a `background`, a cut-out (RGBA) that is laid over it.
        mask: its mask; that of a cut-out is its own alpha; None: nothing in it is foreground.
        mask_kind: how to read the mask, see load_mask.
        tags: what makes it hard, or its class.
        group: photos of the same group (one person, one film) are never split; "": on its own.
        source: name of its dataset.
        weight: how often it is drawn in training, beside the others.
    """

    id: str
    image: Path
    mask: Path | None
    tags: tuple[str, ...] = ()
    mask_kind: str = "auto"
    group: str = ""
    source: str = ""
    weight: float = 1.0
    background: Path | None = None


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why. `kind`: the same in a few words, for counting."""

    path: Path
    reason: str
    kind: str = ""


@dataclass
class Found:
    """What is in a folder, before anything is refused. `sides`: the pairs of "train" and "val"
    where the publisher divided them, those of "" are for us to divide. `backgrounds`: by side, what
    to put behind pairs that are cut-outs. `published` divides pairs as the publisher did, where
    that is not the default."""

    root: Path
    sides: dict[str, list[Pair]]
    skipped: list[Skipped] = field(default_factory=list)
    backgrounds: dict[str, list[Path]] = field(default_factory=dict)
    published: Callable[[list[Pair]], dict[str, list[Pair]]] | None = None

    def free_lone_side(self) -> None:
        """Where only train or only val is there, it is for us to divide."""
        if len(self.sides) == 1:
            self.sides = {"": [*self.sides.values()][0]}


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
    rename: Callable[[str], str] | None = None,
    strict: bool = True,
) -> tuple[list[Pair], list[Skipped]]:
    """Photos and masks of the same stem (`1` never matches `10`), sorted by id.

    Nested folders count into the id. `rename` turns the id of a mask into that of its photo.
    Headers are read, pixels are not, except where the end of a file looks cut off. Whatever is not
    used is returned as Skipped. A mask whose shape is not that of its photo raises DataError with
    both names, or, if not `strict`, is Skipped of kind "shape".
    """
    skipped: list[Skipped] = []
    photos = files_by_stem(Path(images_dir), skipped)
    masks = files_by_stem(Path(masks_dir), skipped, mask_suffix, rename)
    wanted = (f"{Path(images_dir)}/{{}}.*", f"{Path(masks_dir)}/{{}}{mask_suffix}.*")
    pairs, more = join(photos, masks, mask_kind, wanted)
    for skip in more if strict else ():
        if skip.kind == "shape":
            raise DataError(skip.reason)
    return pairs, skipped + more


def join(
    photos: dict[str, Path | None],
    masks: dict[str, Path | None],
    mask_kind: str = "auto",
    wanted: tuple[str, str] = ("{}", "{}"),
) -> tuple[list[Pair], list[Skipped]]:
    """Pairs of what `files_by_stem` found, checked; `wanted` says which files were expected."""
    skipped: list[Skipped] = []
    complete = []
    for id in sorted(photos.keys() | masks.keys()):
        image, mask = photos.get(id), masks.get(id)
        if image and mask:
            complete.append(Pair(id, image, mask, mask_kind=mask_kind))
        elif image:
            why = "its mask is there twice" if id in masks else "image without mask"
            reason = f"{why} (expected one {wanted[1].format(id)})"
            skipped.append(Skipped(image, reason, "image without mask"))
        elif mask:
            why = "its image is there twice" if id in photos else "mask without image"
            reason = f"{why} (expected one {wanted[0].format(id)})"
            skipped.append(Skipped(mask, reason, "mask without image"))
    pairs = []
    bar = tqdm(desc="checking files", total=len(complete), delay=2, leave=False, mininterval=0.5)
    with bar, ThreadPoolExecutor(8) as pool:  # network drives answer slowly
        for block in batched(complete, 256):
            for pair, faults in zip(block, pool.map(_faults, block), strict=True):
                skipped += faults
                if not faults:
                    pairs.append(pair)
            bar.update(len(block))
    return pairs, skipped


def batched(items: Sequence, n: int) -> Iterator[Sequence]:
    """itertools.batched of Python 3.12, for sequences."""
    return (items[i : i + n] for i in range(0, len(items), n))


def _faults(pair: Pair) -> list[Skipped]:
    sizes, faults = [], []
    for path in dict.fromkeys((pair.image, pair.mask)):
        try:
            sizes.append(whole_size(path))
        except ImageError as error:
            faults.append(Skipped(path, str(error).removeprefix(f"{path}: "), "unreadable"))
    if not faults:
        try:
            check_shape(pair.image, sizes[0], pair.mask, sizes[-1])
        except DataError as error:
            faults.append(Skipped(pair.mask, str(error), "shape"))
    return faults


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
        hint = "The mask lies on its side: was EXIF rotation applied to one of them only?"
    raise DataError(
        f"mask of another shape: image {image} is {w} x {h}, mask {mask} is {mw} x {mh} (width x "
        f"height). A mask may have another size, but not another shape. {hint}"
    )


def files_by_stem(
    folder: Path,
    skipped: list[Skipped],
    suffix: str = "",
    rename: Callable[[str], str] | None = None,
) -> dict[str, Path | None]:
    """id -> image file, for all below a folder; None for a stem that occurs more than once. What is
    no image, or does not end in `suffix`, is added to `skipped`."""
    found: dict[str, list[Path]] = defaultdict(list)
    for id, path in image_files(folder, skipped):
        if id.endswith(suffix):
            id = id[: len(id) - len(suffix)]
            found[rename(id) if rename else id].append(path)
        else:
            reason = f"mask name does not end in '{suffix}'"
            skipped.append(Skipped(path, reason, "unknown type"))
    for paths in found.values():
        for path in paths if len(paths) > 1 else ():
            others = ", ".join(p.name for p in paths if p != path)
            reason = f"same stem as {others}: unclear which one is meant"
            skipped.append(Skipped(path, reason, "same stem"))
    return {id: paths[0] if len(paths) == 1 else None for id, paths in found.items()}


def image_files(folder: Path, skipped: list[Skipped]) -> Iterator[tuple[str, Path]]:
    """(id, path) of the image files below a folder, sorted; others are added to `skipped`."""
    for path in _files(folder):
        if path.name.startswith("._"):
            skipped.append(Skipped(path, "macOS resource fork, not an image", "resource fork"))
        elif path.name.startswith(".") or path.name.lower() in _JUNK:
            continue
        elif path.suffix.lower() not in SUFFIXES:
            known = " ".join(s[1:] for s in SUFFIXES)
            skipped.append(Skipped(path, f"not a known image type ({known})", "unknown type"))
        elif path.exists() and not path.is_file():  # a pipe would never end
            skipped.append(Skipped(path, "not a file", "unknown type"))
        else:
            id = path.relative_to(folder).with_name(path.name[: -len(path.suffix)]).as_posix()
            # macOS stores accents decomposed; zip files carry that elsewhere
            yield unicodedata.normalize("NFC", id), path


def _files(folder: Path) -> Iterator[Path]:
    for here, dirs, names in os.walk(folder):
        dirs[:] = sorted(d for d in dirs if not d.startswith(".") and d != "__MACOSX")
        yield from (Path(here) / name for name in sorted(names))


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
