"""Datasets by name: open_source("synthetic"), open_source("folder:photos + 2*pennfudan"), ..."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from unetlib.data import pairs as sets
from unetlib.data.download import DownloadError, cache_dir, fetch, unpack
from unetlib.data.images import encode
from unetlib.data.pairs import DataError, Found, Pair, Skipped, Source, locate
from unetlib.errors import hint, need
from unetlib.paths import find_input, resolve, write_whole

COCO_URL = "http://images.cocodataset.org/annotations/annotations_trainval2017.zip"


@dataclass(frozen=True)
class Published:
    """A set that others published."""

    page: str  # where it is had by hand
    paper: str = ""
    layout: list[tuple[str, str, str]] = field(default_factory=list)  # see find_folder
    mask_kind: str = "auto"  # see load_mask
    urls: dict[str, str] = field(default_factory=dict)  # of an archive -> a folder in it

    def find(self, root=None) -> Found:
        """The pairs below `root`; without one they are downloaded into the cache, if they can be.
        Raises DataError that says how to get them, and DownloadError."""
        home = cache_dir() / re.sub(r"\W+", "-", self.page)
        for url, folder in {} if root else self.urls.items():
            if not (home / folder).is_dir():
                unpack(fetch(url, home / Path(url).name), home)
                (home / Path(url).name).unlink()
        try:
            return sets.find_folder(root or home, self.mask_kind, layout=self.layout)
        except DataError as error:
            how = f"download it from {self.page}, unpack it, and name its folder: NAME:FOLDER"
            raise DataError(f"{error}. To have this set, {how}") from error


_SETS = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
PUBLISHED = {name: Published(**facts) for name, facts in _SETS.items()}


def aisegment(root=None) -> Found:
    """34,425 portraits, downloaded through kagglehub; near copies are in the same group."""
    page = PUBLISHED["aisegment"].page
    if not root:
        need("kagglehub", extra="kaggle")
        import kagglehub

        try:
            root = kagglehub.dataset_download(f"{page.partition('datasets/')[2]}/versions/1")
        except Exception as error:  # a dozen kinds: of archives, of answers, of connections
            how = f"Try again, or download {page} in a browser, and name it: aisegment:FOLDER"
            raise DownloadError(f"AISegment could not be downloaded: {error}. {how}") from error
    return grouped(PUBLISHED["aisegment"].find(root), "([^/]+)/")


def coco(root=None) -> Found:
    """Lin et al.: Microsoft COCO: Common Objects in Context, ECCV 2014, https://cocodataset.org

    Kept are photos with exactly one person, who covers 20 to 70 % of it and is no crowd. `root`
    holds annotations/, train2017/ and val2017/; without one, the annotations (241 MB) and the
    photos that are kept are downloaded. Masks are drawn once, into the cache.
    """
    need("pycocotools", extra="coco")
    from pycocotools.coco import COCO

    folder = locate(root) if root else cache_dir() / "coco"
    if not root and not (folder / "annotations").is_dir():
        unpack(fetch(COCO_URL, folder / Path(COCO_URL).name), folder)
    place = sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    found = Found(folder, {})
    for file in sorted(folder.glob("annotations/instances_*2017.json")):
        side = file.stem.removeprefix("instances_").removesuffix("2017")
        masks = cache_dir() / "masks" / f"coco-{place}" / side
        masks.mkdir(parents=True, exist_ok=True)
        with redirect_stdout(io.StringIO()):
            annotations = COCO(file)
        pairs = found.sides[side] = []
        urls = {}
        for number in sorted(annotations.getImgIds(catIds=[1])):
            person, *others = annotations.loadAnns(annotations.getAnnIds(number, catIds=[1]))
            photo = annotations.imgs[number]
            share = person["area"] / (photo["height"] * photo["width"])
            if others or person["iscrowd"] or not 0.2 <= share <= 0.7:
                continue
            name = Path(photo["file_name"]).name  # the name alone: none leads elsewhere
            pair = Pair(Path(name).stem, folder / f"{side}2017" / name, masks / f"{name}.png")
            if root and not pair.image.is_file():
                found.skipped.append(Skipped(pair.image, "not there", "mask without image"))
                continue
            if not pair.mask.is_file():
                write_whole(pair.mask, encode(annotations.annToMask(person) * 255))
            pairs.append(pair)
            urls[pair.image] = photo["coco_url"]
        if not root:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(partial(fetch, progress=False), urls.values(), urls))
    if not found.sides:
        raise DataError(f"no annotations/instances_train2017.json in {folder}: see {COCO_URL}")
    return found


def synthetic(root=None, val_fraction=0.2, seed=0, *, count: int = 1200, size: int = 128) -> Found:
    """Drawn into `root` (default: data/), unless it is there already."""
    from unetlib.data.synthetic import write_synthetic

    root = write_synthetic(resolve(root or "data"), count, size, seed, val_fraction)
    return sets.find_folder(root)


def folder(root=None, *, mask_kind: str = "auto", groups: str = "", backgrounds: str = "") -> Found:
    """Photos of one's own in `root` (default: data/), see find_folder. `groups` says which stay on
    one side of the split: "folder" (those in the same subfolder), or a regular expression whose
    first brackets, or the whole match, are their common name."""
    found = sets.find_folder(root or "data", mask_kind, backgrounds)
    return grouped(found, "(.*)/" if groups == "folder" else groups) if groups else found


def grouped(found: Found, pattern: str) -> Found:
    """With groups by the part of the id that a regular expression finds. Raises ValueError."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"groups={pattern!r} is no regular expression: {error}") from error
    for pairs in found.sides.values():
        for i, pair in enumerate(pairs):
            if name := expression.search(pair.id):
                pairs[i] = replace(pair, group=name[min(1, expression.groups)] or "")
    return found


def backgrounds(root=None) -> Found:
    """Photos in which nothing is foreground: every image in `root`, without masks."""
    found = Found(locate(root or "backgrounds"), {})
    files = sets.image_files(found.root, found.skipped)
    found.sides[""] = [Pair(id, path, None) for path, id in files.items()]
    return found


SOURCES: dict[str, Callable[..., Found]] = {
    "synthetic": synthetic,
    "folder": folder,
    "backgrounds": backgrounds,
    **{name: published.find for name, published in PUBLISHED.items()},
    "aisegment": aisegment,
    "coco": coco,
}


class Term(NamedTuple):
    """One dataset of a spec; `weight` None: none was given."""

    name: str
    root: str | None = None
    args: dict[str, object] = {}
    weight: float | None = None

    def __str__(self) -> str:
        weight = "" if self.weight is None else f"{self.weight:g}*"
        args = "&".join(f"{key}={value}" for key, value in self.args.items())
        return f"{weight}{self.name}{self.root and f':{self.root}' or ''}{args and f'?{args}'}"


def read_spec(spec: str) -> list[Term]:
    """`[WEIGHT*]NAME[:FOLDER][?KEY=VALUE&...]`, several joined by ` + `. Raises ValueError."""
    terms = []
    for text in re.split(r"\s\+(?=\s|$)", spec):
        form = r"(?:(\d+|\d*\.\d+)\s*\*\s*)?([\w-]+)(?::([^?]*))?(?:\?(\w+=[^&]*(?:&\w+=[^&]*)*))?"
        found = re.fullmatch(form, text.strip())
        if not found or (found[1] and not float(found[1])):
            raise ValueError(f"source '{text}' is not [WEIGHT*]NAME[:FOLDER][?KEY=VALUE&KEY=VALUE]")
        name = found[2].replace("-", "_").lower()
        if name not in SOURCES:
            known = ", ".join(SOURCES)
            raise ValueError(f"no source '{name}': use one of {known}.{hint(name, SOURCES)}")
        args = dict(part.split("=", 1) for part in (found[4] or "").split("&") if part)
        takes = SOURCES[name].__kwdefaults__ or {}  # its keyword-only arguments
        for key, value in args.items():
            if key not in takes:
                known = ", ".join(takes) or "nothing"
                raise ValueError(f"source '{text}': {name} takes {known}, not '{key}'")
            if isinstance(takes[key], int):
                args[key] = int(value)
        terms.append(Term(name, found[3], args, float(found[1]) if found[1] else None))
    return terms


def absolute_spec(spec: str) -> str:
    """A spec whose folders are found from anywhere. Raises ValueError, FileNotFoundError."""
    terms = read_spec(spec)
    return " + ".join(str(t._replace(root=t.root and str(find_input(t.root)))) for t in terms)


def find_pairs(name: str, root=None, *, val_fraction: float = 0.2, seed: int = 0, **args) -> Found:
    """The files of one dataset, with all that is wrong about them, before anything is refused.

    `args`: those of its function in SOURCES. Raises DataError, DownloadError.
    """
    if name == "synthetic":
        args |= {"val_fraction": val_fraction, "seed": seed}
    found = SOURCES[name](root, **args)
    rows, used = sets.read_manifest(found.root / "manifest.csv"), 0
    for pairs in found.sides.values():
        for i, pair in enumerate(pairs):
            row = rows.get(pair.id) or rows.get(pair.id + pair.image.suffix) or {}
            used += bool(row)
            tags = tuple(filter(None, row.get("tags", "").split(";")))
            group, source = pair.group or row.get("group", ""), row.get("source") or name
            pairs[i] = replace(pair, tags=tags, group=group, source=source)
    if rows and not used and any(found.sides.values()):
        raise DataError(f"no id in {found.root / 'manifest.csv'} is that of a photo: {min(rows)}")
    return found


def open_source(
    name: str | list[Term], root=None, *, val_fraction: float = 0.2, seed: int = 0, **args
) -> Source:
    """Opens a dataset and splits it into train and val.

    `name` is one of SOURCES, whose function says what `args` it takes, or a spec of several, as in
    "pennfudan:~/PennFudanPed + 2*folder:photos": ids then begin with the source's name, and weights
    are the shares of an epoch; without, each photo comes once. `root` is looked for below the
    working directory, then below the project; published sets without one are downloaded.

    `val_fraction` and `seed` decide the split by a hash of ids or groups, except where the set is
    divided already. A val photo with the same bytes as a train photo is skipped. Raises DataError
    that says what was expected and found, ValueError for a spec that cannot be read.
    """
    terms = read_spec(name) if isinstance(name, str) else name
    if len(terms) > 1 and root:
        raise ValueError(f"several sources have a folder each, as in {terms[0].name}:FOLDER")
    names: list[str] = []
    roots, skipped, train, val = [], [], [], []
    weighted = len(terms) > 1 and any(term.weight for term in terms)
    for term in terms:
        how = {"val_fraction": val_fraction, "seed": seed}
        found = find_pairs(term.name, root or term.root, **how, **args | term.args)
        sides = sets.divide(found, **how)
        count = sum(name.split("-")[0] == term.name for name in names)
        name = f"{term.name}-{count + 1}" if count else term.name
        weight = (term.weight or 1.0) / len(sides[0]) if weighted else 1.0
        if len(terms) > 1:
            for pairs in sides:
                for i, pair in enumerate(pairs):
                    group = pair.group and f"{name}/{pair.group}"
                    facts = {"source": name, "weight": weight, "group": group}
                    pairs[i] = replace(pair, id=f"{name}/{pair.id}", **facts)
        names.append(name)
        roots.append(found.root)
        skipped += found.skipped
        train += sides[0]
        val += sides[1]
    for pair, other in sets.same_bytes(train, val).items():  # also of another source
        val.remove(pair)
        reason = f"same photo as '{other}' in train: left out of val"
        skipped.append(Skipped(pair.image, reason, "copy across the split"))
    drives = {root.anchor for root in roots}
    root = Path(os.path.commonpath(roots)) if len(drives) == 1 else roots[0]
    return Source(" + ".join(names), root, tuple(train), tuple(val), tuple(skipped))


def open_settings(
    source: str,
    source_root: str,
    data_dir: str,
    count: int,
    image_size: int,
    seed: int,
    val_fraction: float = 0.2,
    exclude: str = "",
) -> Source:
    """What the notebooks' parameters name; a folder with "synthetic" means the source "folder".
    `exclude`: ids of pairs that are left out, with spaces between them. Raises DataError for one
    that no photo has, beside what `open_source` raises."""
    if source_root and source.strip() == "synthetic":
        source = "folder"
    terms = read_spec(source)
    for i, term in enumerate(terms):
        if source_root:
            terms[i] = term._replace(root=source_root)
        elif term.name == "synthetic":
            args = {"count": count, "size": image_size} | term.args
            terms[i] = term._replace(root=term.root or str(resolve(data_dir)), args=args)
    opened = open_source(terms, val_fraction=val_fraction, seed=seed)
    unwanted = set(exclude.split())
    if unknown := unwanted - {pair.id for pair in opened.train + opened.val}:
        raise DataError(f"exclude: no photo of {opened.name} has the id {min(unknown)!r}")
    train, val = (tuple(p for p in s if p.id not in unwanted) for s in (opened.train, opened.val))
    return replace(opened, train=train, val=val)
