"""Datasets by name: open_source("synthetic"), open_source("folder:photos + 2*pennfudan"), ..."""

import io
import json
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import cv2
import numpy as np

from unetlib.data import folders
from unetlib.data.folders import Found, find_dir
from unetlib.data.images import MASK_KINDS
from unetlib.data.pairs import DataError, Pair, Skipped, Source, image_files, join
from unetlib.errors import need, unknown
from unetlib.paths import DownloadError, cache_dir, fetch, find_input, resolve, write_atomic

# Sets that others published. page: where one is had by hand; layout, mask_kind: see find_folder;
# groups: see find_pairs; urls: of archives, with a folder in each; kaggle: its name there
PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def published(facts: dict, root=None) -> Found:
    """The pairs of a row of PUBLISHED below `root`; without one they are downloaded into the cache,
    if they can be. Raises DataError that says how to get them, and DownloadError."""
    page, home = facts["page"], cache_dir() / re.sub(r"\W+", "-", facts["page"])
    advice = f"To have this set, download it from {page}, unpack it, name its folder: NAME:FOLDER"
    if not root and "kaggle" in facts:
        need("kagglehub", extra="kaggle")
        import kagglehub

        try:
            root = kagglehub.dataset_download(facts["kaggle"])
        except Exception as error:  # a dozen kinds: of archives, of answers, of connections
            raise DownloadError(f"{page} could not be downloaded: {error}. {advice}") from error
    for url, folder in {} if root else facts.get("urls", {}).items():
        if not (home / folder).is_dir():
            unpack(archive := fetch(url, home / Path(url).name), home / folder)
            archive.unlink()
    try:
        kind, layout = facts.get("mask_kind", "auto"), facts.get("layout", ())
        return folders.find_folder(root or home, kind, layout=layout)
    except DataError as error:
        raise DataError(f"{error}. {advice}") from error


def unpack(archive: Path, folder: Path) -> None:
    """Extracts the top-level folder `folder.name` of a zip or tar archive to `folder`, which must
    not exist yet; atomic. Raises DownloadError for a damaged archive, for path traversal, and for
    an archive without that folder."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as work:
            if tarfile.is_tarfile(archive):
                with tarfile.open(archive) as file:
                    members = [one for one in file if one.isfile() or one.isdir()]  # no links
                    refuse_traversal(one.name for one in members)
                    file.extraction_filter = getattr(tarfile, "data_filter", None)  # from 3.11.4 on
                    file.extractall(work, members)
            else:
                with zipfile.ZipFile(archive) as file:  # a link becomes a plain file
                    refuse_traversal(file.namelist())
                    file.extractall(work)
            Path(work, folder.name).rename(folder)
    except Exception as error:  # a dozen kinds: of both libraries, of zlib, of disks, of passwords
        text = f"{archive} cannot be unpacked into {folder}: {error}"
        raise DownloadError(f"{text}. If the archive is damaged, delete it") from error


def refuse_traversal(names: Iterable[str]) -> None:
    """Raises OSError for a name that leads out of a folder, on any system."""
    for name in map(PureWindowsPath, names):  # C: and \ too
        if name.anchor or ".." in name.parts:
            raise OSError(f"'{name.as_posix()}' leads out of the folder")


def coco(root=None) -> Found:
    """Lin et al.: Microsoft COCO: Common Objects in Context, ECCV 2014, https://cocodataset.org

    Kept are photos with exactly one person, who covers 20 to 70 % of it and is no crowd. `root`
    (default: coco/) holds annotations/, train2017/ and val2017/. Masks are drawn into the cache.
    """
    need("pycocotools", extra="coco")
    from pycocotools.coco import COCO

    found = Found(find_dir(root or "coco"), {})
    for file in sorted(found.root.glob("annotations/instances_*2017.json")):
        side = file.stem.removeprefix("instances_").removesuffix("2017")
        photos, masks = found.root / f"{side}2017", cache_dir() / "masks" / "coco" / side
        with redirect_stdout(io.StringIO()):
            annotations = COCO(file)
        pairs = found.sides.setdefault(side, [])
        for number in sorted(annotations.getImgIds(catIds=[1])):
            person, *others = annotations.loadAnns(annotations.getAnnIds(number, catIds=[1]))
            facts = annotations.imgs[number]
            share = person["area"] / (facts["height"] * facts["width"])
            photo = photos / Path(facts["file_name"]).name  # the name alone: none leads elsewhere
            usable = not (others or person["iscrowd"]) and 0.2 <= share <= 0.7
            if usable and photo.is_file():
                pairs.append(Pair(photo.stem, photo, masks / f"{photo.name}.png"))
                if not pairs[-1].mask.is_file():
                    mask = cv2.imencode(".png", annotations.annToMask(person) * 255)[1]
                    write_atomic(pairs[-1].mask, mask.tobytes())
    return found


def synthetic(root=None, count=0, size=0, val_fraction=0.2, seed=0) -> Found:
    """Drawn into `root` (default: data/); without count and size, drawings that are there stay."""
    from unetlib.data.synthetic import write_synthetic

    root = resolve(root or "data")
    drawn = (root / "synthetic.json").is_file() and (root / "manifest.csv").is_file()
    if count or size or not drawn:
        write_synthetic(root, int(count or 1200), int(size or 128), seed, val_fraction)
    return folders.find_folder(root)


def backgrounds(root=None) -> Found:
    """Photos in which nothing is foreground: every image in `root`, without masks."""
    found = Found(find_dir(root or "backgrounds"), {})
    files = image_files(found.root, found.skipped)
    found.sides[""] = [Pair(id, path, None) for path, id in files.items()]
    return found


SOURCES: dict[str, Callable[..., Found]] = {
    "synthetic": synthetic,
    "folder": lambda root=None, **args: folders.find_folder(root or "data", **args),
    "backgrounds": backgrounds,
    **{name: partial(published, facts) for name, facts in PUBLISHED.items()},
    "coco": coco,
}
# What a spec may say of a source, beside `groups`, and in which form.
KEYS = {
    "folder": {"mask_kind": "|".join(MASK_KINDS), "backgrounds": "TEXT"},
    "synthetic": {"count": "NUMBER", "size": "NUMBER"},
}
FORM = re.compile(r"(?:(\d*\.?\d+)\s*\*\s*)?([\w-]+)(?::([^?]*))?(?:\?(\w+=[^&]*(?:&\w+=[^&]*)*))?")


class Term(NamedTuple):
    """One dataset of a spec; `weight` 0: none was given."""

    name: str
    root: str | None = None
    args: dict[str, str] = {}
    weight: float = 0.0


def read_spec(spec: str) -> list[Term]:
    """`[WEIGHT*]NAME[:FOLDER][?KEY=VALUE&...]`, several joined by ` + `. Raises ValueError."""
    terms = []
    for text in re.split(r"\s\+(?=\s|$)", spec):
        found = FORM.fullmatch(text.strip())
        if not found or (found[1] and not float(found[1])):
            raise ValueError(f"source '{text}' is not [WEIGHT*]NAME[:FOLDER][?KEY=VALUE&KEY=VALUE]")
        if found[3] is not None and not found[3].strip():
            raise ValueError(f"source '{text}': its folder is empty (a variable that is not set?)")
        name = found[2].replace("-", "_").lower()
        if name not in SOURCES:
            raise ValueError(unknown("source", name, SOURCES))
        args = dict(part.split("=", 1) for part in (found[4] or "").split("&") if part)
        takes = {"groups": "TEXT"} | KEYS.get(name, {})
        for key, value in args.items():
            form = takes.get(key, "(?!)").replace("TEXT", ".+").replace("NUMBER", r"[1-9]\d*")
            if not re.fullmatch(form, value):
                known = ", ".join(f"{key}={form}" for key, form in takes.items())
                raise ValueError(f"source '{text}': {name} takes {known}, not '{key}={value}'")
        terms.append(Term(name, found[3], args, float(found[1] or 0)))
    return terms


def absolute_spec(spec: str) -> str:
    """A spec whose folders are found from anywhere. Raises FileNotFoundError."""
    pattern = re.compile(r"((?:^|\s\+\s)[^:?]+:)(.+?)(?=\?|\s+\+\s|\s*$)")
    return pattern.sub(lambda found: f"{found[1]}{find_input(found[2])}", spec)


def find_pairs(
    name: str, root=None, *, val_fraction: float = 0.2, seed: int = 0, groups: str = "", **args
) -> Found:
    """The pairs of one dataset and its skipped files, not yet split and not yet checked.

    `groups` says which photos stay on one side of the split: "folder" (those in the same
    subfolder), or a regular expression whose first brackets, or the whole match, are their common
    name. `args`: those of KEYS. Raises DataError, DownloadError; ValueError for `groups`.
    """
    if name == "synthetic":
        args |= {"val_fraction": val_fraction, "seed": seed}
    found = SOURCES[name](root, **args)
    folders.add_manifest(found)
    groups = groups or PUBLISHED.get(name, {}).get("groups", "")
    try:
        pattern = re.compile("(.*)/" if groups == "folder" else groups)
    except re.error as error:
        raise ValueError(f"groups={groups!r} is no regular expression: {error}") from error
    ids = [pair.id for pairs in found.sides.values() for pair in pairs]
    if groups and ids and not any(map(pattern.search, ids)):
        raise ValueError(f"groups={groups!r} is found in no id, such as '{ids[0]}'")
    for pairs in found.sides.values():
        for i, pair in enumerate(pairs):
            match = pattern.search(pair.id)
            group = match and match[min(1, pattern.groups)] or pair.group
            pairs[i] = replace(pair, group=group, source=pair.source or name)
    return found


def open_source(
    spec: str, root=None, *, val_fraction: float = 0.2, seed: int = 0, **args
) -> Source:
    """Opens a dataset and splits it into train and val.

    `spec` is one of SOURCES, or several, as in "pennfudan:~/PennFudanPed + 2*folder:photos": ids
    then begin with the source's name, and weights are the shares of an epoch; without, each photo
    comes once. `root` is looked for below the working directory, then below the project; published
    sets without one are downloaded. `args`: see `find_pairs`.

    `val_fraction` and `seed` decide the split by a hash of ids or groups, except where the set is
    divided already. A val photo with the same bytes as a train photo is skipped. Raises DataError
    that says what was expected and found, ValueError for a spec that cannot be read.
    """
    terms = read_spec(spec)
    if len(terms) > 1 and root:
        raise ValueError(f"several sources have a folder each, as in {terms[0].name}:FOLDER")
    split = {"val_fraction": val_fraction, "seed": seed}
    names, roots, skipped, train, val = [], [], [], [], []
    weighted = len(terms) > 1 and any(term.weight for term in terms)
    for term in terms:
        found = find_pairs(term.name, root or term.root, **split, **args | term.args)
        sides = folders.divide(found, **split)
        count = sum(name.split("-")[0] == term.name for name in names)
        name = f"{term.name}-{count + 1}" if count else term.name
        weight = (term.weight or 1.0) / len(sides[0]) if weighted else 1.0
        for pairs in sides if len(terms) > 1 else ():
            for i, pair in enumerate(pairs):
                facts = {"source": name, "weight": weight, "id": f"{name}/{pair.id}"}
                pairs[i] = replace(pair, group=pair.group and f"{name}/{pair.group}", **facts)
        names.append(name)
        roots.append(found.root)
        skipped += found.skipped
        train += sides[0]
        val += sides[1]
    same_drive = len({root.anchor for root in roots}) == 1
    root = Path(os.path.commonpath(roots)) if same_drive else roots[0]
    return join(" + ".join(names), root, train, val, skipped)


def balance(pairs: Sequence[Pair], sampling: str) -> tuple[Pair, ...]:
    """The pairs with weights by which each class is drawn as often as any other: "source", "tags",
    or "foreground", a fifth of the range of shares, for which all masks are read; "uniform": as
    they are. Raises what `Pair.load` raises."""
    if sampling == "uniform":
        return tuple(pairs)
    if sampling == "foreground":
        shares = np.array([pair.load(256)[1].mean() for pair in pairs])
        names = np.digitize(shares, np.linspace(shares.min(), shares.max(), 6)[1:-1])
    else:
        names = [pair.source if sampling == "source" else str(sorted(pair.tags)) for pair in pairs]
    classes = np.unique(names, return_inverse=True)[1]
    weights = np.array([pair.weight for pair in pairs])
    weights = weights / np.bincount(classes, weights)[classes]
    return tuple(replace(p, weight=w) for p, w in zip(pairs, weights.tolist(), strict=True))


def open_settings(
    source, source_root, data_dir, count, image_size, seed, val_fraction=0.2, exclude="", **_
) -> Source:
    """The dataset that the settings of `unetlib train` name, of which others are ignored; a folder
    with "synthetic" means "folder". `exclude`: ids of pairs to leave out, with spaces between them.
    Raises DataError if no photo has any of them, and what `open_source` raises."""
    if source_root and source.strip() == "synthetic":
        source = "folder"
    drawn = f"synthetic:{data_dir}?count={count}&size={image_size}"
    drawings = re.compile(r"((?:^|\s\+)\s*(?:[\d.]+\s*\*\s*)?)synthetic(?!\S)")
    spec = drawings.sub(lambda found: found[1] + drawn, source)
    opened = open_source(spec, source_root, val_fraction=val_fraction, seed=seed)
    unwanted, known = set(exclude.split()), {pair.id for pair in opened.train + opened.val}
    if unwanted and not unwanted & known:
        raise DataError(f"exclude: no photo of {opened.name} has the id {min(unwanted)!r}")
    absent = [Skipped(Path(id), "excluded, but not there") for id in sorted(unwanted - known)]
    train, val = (tuple(p for p in s if p.id not in unwanted) for s in (opened.train, opened.val))
    if not train:
        raise DataError("exclude leaves no photo to train with")
    return replace(opened, train=train, val=val, skipped=(*absent, *opened.skipped))
