"""How published sets lie in folders, and how such a folder is found, fetched and read."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from unetlib.data.download import cache_dir, fetch, unpack_zip
from unetlib.data.folders import listing, locate
from unetlib.data.pairs import DataError, Found, Skipped, image_files, match_pairs
from unetlib.paths import resolve


@dataclass(frozen=True)
class Row:
    """A folder of photos and that of their masks. Each may have several names, `a|b/c`, the usual
    one first. `side`: "train", "val" or "", where the publisher did not divide; `count`: how many
    pairs were published."""

    side: str
    images: str
    masks: str
    count: int

    def within(self, folder: Path) -> tuple[Path | None, Path | None]:
        return below(folder, self.images), below(folder, self.masks)


@dataclass(frozen=True)
class Layout:
    """A published set.

    Attributes:
        title: what people call it.
        page: where it is had by hand.
        rows: its folders.
        home: where its archives are unpacked, below cache_dir().
        urls: address of an archive -> a folder that comes out of it.
        size: of the download, for people.
        telling: a folder that no other set has; "": only the name of the whole tells.
        mask_suffix, mask_kind: see match_pairs, load_mask.
    """

    title: str
    page: str
    rows: tuple[Row, ...]
    home: str = ""
    urls: dict[str, str] = field(default_factory=dict)
    size: str = ""
    telling: str = ""
    mask_suffix: str = ""
    mask_kind: str = "auto"

    def open(self, root=None, *, download: bool | None = None) -> Found:
        """The pairs below `root`. `download=True` fetches what is missing there; that is the
        default where no root is given and the set has a public address: into the cache then.
        Where only train or only val is there, it is for us to divide. Raises DataError that says
        how to get it, and DownloadError."""
        folder = self.place(root, download)
        found = Found(folder, {})
        sides = [row.side for row in self.rows]
        for row in self.rows:
            images, masks = row.within(folder)
            if images and masks:
                suffix, kind = self.mask_suffix, self.mask_kind
                pairs, skipped = match_pairs(images, masks, suffix, kind, strict=False)
                if sides.count(row.side) > 1:  # names may repeat there
                    prefix = images.parent.name
                    pairs = [replace(p, id=f"{prefix}/{p.id}") for p in pairs]
                found.sides[row.side] = found.sides.get(row.side, []) + pairs
                found.skipped += skipped
            elif images or masks:
                kind = "image without mask" if images else "mask without image"
                reason = f"all of it: there is no {folder / (row.masks if images else row.images)}"
                found.skipped.append(Skipped(images or masks, reason, kind))
        found.free_lone_side()
        return found

    def place(self, root, download: bool | None) -> Path:
        """The folder with the set, downloaded if that is wanted."""
        folder = Path(root) if root else cache_dir() / self.home
        if self.urls and (download or (download is None and not root)):
            folder = resolve(folder)
            self.fetch(folder)
        return open_folder(folder, self.title, self.expected(), self.find)

    def find(self, root: Path) -> Path | None:
        parts = "|".join(f"{row.images}|{row.masks}" for row in self.rows)
        return find_folder(root, self.fits, self.tells, parts)

    def fits(self, folder: Path) -> bool:
        return any(all(row.within(folder)) for row in self.rows)

    def tells(self, folder: Path) -> bool:
        """Whether it is this set and no other of the same form: by a folder that it alone has, or
        by its name, whose beginning counts without spaces and signs."""
        name, title = (re.sub(r"[\W_]", "", text).lower() for text in (folder.name, self.title))
        telling = self.telling and below(folder, self.telling)
        return bool(telling or name.startswith(title)) and self.fits(folder)

    def fetch(self, folder: Path) -> None:
        """Downloads and unpacks the archives whose folders are not there."""
        at = self.find(folder) or folder
        if all(all(row.within(at)) for row in self.rows):
            return
        missing = [url for url, creates in self.urls.items() if not (at / creates).is_dir()]
        archives = [fetch(url, cache_dir() / self.home / Path(url).name) for url in missing]
        for archive in archives:
            unpack_zip(archive, at)
        at = self.find(folder) or at
        for row in self.rows:
            counts = [len([*image_files(f, [])]) if f else 0 for f in row.within(at)]
            if counts != [row.count] * 2:
                new = [*archives, *(at / self.urls[url] for url in missing)]
                raise DataError(
                    f"{at} holds {counts[0]} images and {counts[1]} masks instead of {row.count} "
                    f"each. Delete what was downloaded, then try again: {', '.join(map(str, new))}"
                )

    def expected(self) -> str:
        """What its folder should look like, and how to get it."""
        rows = [
            f"{row.images.split('|')[0]}/NAME.jpg with "
            f"{row.masks.split('|')[0]}/NAME{self.mask_suffix}.png"
            for row in self.rows
        ]
        how = f"Download it from {self.page}, unpack it and give its folder as root"
        if self.urls:
            how = f"Give its folder as root, or download=True to fetch {self.size} from {self.page}"
        return f"Expected in {self.title}: {', '.join(rows)}. {how}"


def find_folder(
    root: Path, fits: Callable[[Path], bool], tells: Callable[[Path], bool], parts: str
) -> Path | None:
    """The folder of a set: `root` if it fits; the folder above, if `root` is one of the `parts`,
    `a|b/c`, and that fits; or one that tells, one or two levels below. Raises DataError for
    several."""
    if fits(root):
        return root
    if root.name.lower() in re.split("[|/]", parts.lower()) and fits(root.parent):
        return root.parent
    found = next(filter(None, ([f for f in level if tells(f)] for level in levels(root))), [])
    if len(found) > 1:
        several = ", ".join(map(str, found[:5]))
        raise DataError(f"{len(found)} folders could be meant. Give one of them as root: {several}")
    return found[0] if found else None


def open_folder(root, title: str, expected: str, find: Callable[[Path], Path | None]) -> Path:
    """What `find` finds in a folder that a person named. Raises DataError that says what is
    `expected` in it."""
    folder = locate(root, expected)
    if not (found := find(folder)):
        raise DataError(f"{folder} is not the set {title}. {listing(folder, expected)}")
    return found


def levels(root: Path) -> Iterator[list[Path]]:
    """The folder, those in it and those in these."""
    level = [root]
    yield level
    for _ in range(2):
        level = [inside for folder in level for inside in folders_in(folder)]
        yield level


def below(folder: Path, names: str) -> Path | None:
    """The first of the folders `a|b/c` that is there, in whatever case it is written."""
    for name in names.split("|"):
        here = [folder]
        for part in name.lower().split("/"):
            here = [f for above in here for f in folders_in(above) if f.name.lower() == part]
        if here:
            return here[0]
    return None


def folders_in(folder: Path) -> list[Path]:
    """Sorted, without hidden ones; none of what is not there or not for us to see."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir()]
    except OSError:
        return []
    return [folder / name for name in sorted(names) if not name.startswith((".", "__MACOSX"))]
