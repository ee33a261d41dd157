"""How published sets lie in folders, and how such a folder is found, fetched and read."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

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


@dataclass(frozen=True)
class Layout:
    """A published set.

    Attributes:
        title: what people call it.
        about: its paper.
        page: where it is had by hand.
        rows: its folders.
        home: its folder below cache_dir(), if its archives bring none.
        urls: address of an archive -> a folder that comes out of it.
        size: of the download, for people.
        telling: a folder that no other set has; "": only the name of the whole tells.
        other: another form of it, as `expected` says it.
        mask_suffix, mask_kind: see match_pairs, load_mask.
    """

    title: str
    about: str
    page: str
    rows: tuple[Row, ...]
    home: str = ""
    urls: dict[str, str] = field(default_factory=dict)
    size: str = ""
    telling: str = ""
    other: str = ""
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
            images, masks = below(folder, row.images), below(folder, row.masks)
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
        if len(found.sides) == 1:
            found.sides = {"": [*found.sides.values()][0]}
        return found

    def place(self, root, download: bool | None) -> Path:
        """The folder with the set, downloaded if that is wanted."""
        folder = Path(root) if root else cache_dir() / self.home
        if self.urls and (download or (download is None and not root)):
            folder = resolve(folder)
            self.fetch(folder)
        if not root and not (folder.is_dir() and self.find(folder)):
            raise DataError(f"{self.title} is not in {folder}. {self._how()}. {self.expected()}")
        folder = locate(folder, self.expected())
        if not (found := self.find(folder)):
            found = listing(folder, self.expected())
            raise DataError(f"{folder} is not the set {self.title}. {found}. {self._how()}")
        return found

    def find(self, root: Path) -> Path | None:
        """The folder that holds a row of it; see find_folder."""
        paths = "|".join(f"{r.images}|{r.masks}" for r in self.rows).split("|")
        return find_folder(root, self.fits, self.tells, [path.split("/")[0] for path in paths])

    def fits(self, folder: Path) -> bool:
        return any(below(folder, r.images) and below(folder, r.masks) for r in self.rows)

    def tells(self, folder: Path) -> bool:
        """Whether it is this set and no other of the same form."""
        telling = self.telling and below(folder, self.telling)
        return bool((telling or same_name(folder, self.title)) and self.fits(folder))

    def fetch(self, folder: Path) -> None:
        """Downloads and unpacks the archives whose folders are not there."""
        at = (folder.is_dir() and self.find(folder)) or folder
        if all(below(at, r.images) and below(at, r.masks) for r in self.rows):
            return
        new = []
        for url, creates in self.urls.items():
            if not (at / creates).is_dir():
                archive = cache_dir() / self.home / Path(urlsplit(url).path).name
                unpack_zip(fetch(url, archive), at)
                new += [archive, (self.find(folder) or at) / creates]
        at = self.find(folder) or at
        for row in self.rows:
            counts = [_count(at, row.images), _count(at, row.masks)]
            if counts != [row.count] * 2:
                raise DataError(
                    f"{at} holds {counts[0]} images and {counts[1]} masks instead of {row.count} "
                    f"each. Delete what was downloaded, then try again: {', '.join(map(str, new))}"
                )

    def expected(self) -> str:
        """What its folder should look like."""
        rows = [
            f"{r.images.split('|')[0]}/NAME.jpg with "
            f"{r.masks.split('|')[0]}/NAME{self.mask_suffix}.png"
            for r in self.rows
        ]
        return "Expected in it: " + ", ".join(rows) + self.other

    def _how(self) -> str:
        how = f"Download it from {self.page}, unpack it and give its folder as root"
        if self.urls:
            how = f"Give its folder as root, or download=True to fetch {self.size} from {self.page}"
        return how


def find_folder(
    root: Path,
    fits: Callable[[Path], bool],
    tells: Callable[[Path], bool],
    inner: Iterable[str] = (),
) -> Path | None:
    """The folder of a set: `root` if it fits; one of those one or two levels below it that tell;
    or the folder above, if `root` is called like a part of the set (`inner`) and that fits. Raises
    DataError for several."""
    if fits(root):
        return root
    if root.name.lower() in (name.lower() for name in inner) and fits(root.parent):
        return root.parent
    found = next(filter(None, ([f for f in level if tells(f)] for level in levels(root))), [])
    if len(found) > 1:
        several = ", ".join(str(folder) for folder in found[:5])
        raise DataError(f"{len(found)} folders could be meant. Give one of them as root: {several}")
    return found[0] if found else None


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
        here: Path | None = folder
        for part in name.split("/"):
            inside = folders_in(here) if here else []
            here = next((f for f in inside if f.name.lower() == part.lower()), None)
        if here:
            return here
    return None


def same_name(folder: Path, title: str) -> bool:
    """Whether the name of a folder begins like that of a set, but for what is no letter."""
    name, wanted = (re.sub("[^a-z0-9]", "", text.lower()) for text in (folder.name, title))
    return name.startswith(wanted)


def folders_in(folder: Path) -> list[Path]:
    """Sorted, without hidden ones; none of what is not there or not for us to see."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir()]
    except OSError:
        return []
    return [folder / name for name in sorted(names) if not name.startswith((".", "__MACOSX"))]


def _count(folder: Path, names: str) -> int:
    found = below(folder, names)
    return sum(1 for _ in image_files(found, [])) if found else 0
