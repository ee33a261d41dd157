"""Datasets by name: open_source("synthetic"), open_source("folder:photos + 2*pennfudan"), ..."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from unetlib.config import hint
from unetlib.data import folders, manifest
from unetlib.data.pairs import DataError, Found, Pair, Skipped, Source
from unetlib.data.published import PUBLISHED, detect
from unetlib.data.split import same_bytes, split_pairs
from unetlib.paths import find_input, resolve


def _synthetic(root, *, seed: int = 0, val_fraction: float = 0.2, **args) -> Found:
    from unetlib.data.synthetic import write_synthetic

    return folders.find(write_synthetic(resolve(root or "data"), seed=seed,
                                        val_fraction=val_fraction, **args))  # fmt: skip


SOURCES = {
    "synthetic": _synthetic,
    "folder": folders.find,
    "backgrounds": folders.find_backgrounds,
    **PUBLISHED,
}
_TERM = re.compile(r"(?:([\d.eE+-]+)\s*\*\s*)?([\w-]+)(?::([^?]*))?(?:\?(.*))?")
_DIVIDES = {"synthetic"}  # writes train/ and val/ itself


@dataclass(frozen=True)
class Term:
    """One dataset of a spec; `weight` None: none was given."""

    name: str
    root: str | None = None
    args: tuple[tuple[str, Any], ...] = ()
    weight: float | None = None

    def __str__(self) -> str:
        args = "&".join(f"{key}={value}" for key, value in self.args)
        weight = "" if self.weight is None else f"{self.weight:g}*"
        root = f":{self.root}" if self.root else ""
        return f"{weight}{self.name}{root}{f'?{args}' if args else ''}"


def absolute_spec(spec: str) -> str:
    """A spec whose folders are found from anywhere. Raises ValueError."""
    terms = read_spec(spec)
    for i, term in enumerate(terms):
        with suppress(FileNotFoundError):  # to be downloaded into, or reported when it is opened
            terms[i] = replace(term, root=term.root and str(find_input(term.root)))
    return " + ".join(map(str, terms))


def read_spec(spec: str) -> list[Term]:
    """`[WEIGHT*]NAME[:FOLDER][?KEY=VALUE&…]`, several joined by ` + `. Raises ValueError."""
    import yaml

    terms = []
    for text in re.split(r"\s\+(?=\s|$)", spec):
        found = _TERM.fullmatch(text.strip())
        if not found:
            raise ValueError(
                f"source '{text}' is not of the form [WEIGHT*]NAME[:FOLDER][?KEY=VALUE]"
            )
        weight, name, root, query = found.groups()
        name = name.replace("-", "_").lower()
        if name not in SOURCES:
            known = ", ".join(SOURCES)
            raise ValueError(f"no source '{name}': use one of {known}.{hint(name, SOURCES)}")
        args = {}
        for part in query.split("&") if query else ():
            key, equals, value = part.partition("=")
            if not equals or not key.isidentifier():
                raise ValueError(f"source '{text}': expected KEY=VALUE behind the ?, not '{part}'")
            args[key] = yaml.safe_load(value)
        try:
            share = None if weight is None else float(weight)
        except ValueError:
            share = -1.0
        if share is not None and not 0 < share < float("inf"):
            raise ValueError(
                f"source '{text}': its weight should be a number above 0, not {weight}"
            )
        terms.append(Term(name, root or None, tuple(args.items()), share))
    return terms


def open_source(
    name: str,
    root=None,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    split: str = "",
    weights: Sequence[float] | None = None,
    drawing: dict | None = None,
    **args,
) -> Source:
    """Opens a dataset and splits it into train and val; see SOURCES for the names.

    - "synthetic": drawn into `root` (default: data/) by unetlib.data.synthetic, unless it is there
      already. Takes `count`, `size`, `workers`, `progress`; `drawing` holds them for specs.
    - "folder": photos of your own in `root` (default: data/), see `folders.find`.
    - "backgrounds": photos in which nothing is foreground, and that have no masks.
    - all others: published sets, see `published` for their layouts, arguments and downloads.

    `name` may be a spec of several: "pennfudan:~/PennFudanPed + 2*folder:photos". Each takes part
    as if alone, ids begin with its name, and where weights are given they are the shares of an
    epoch; without, each photo comes once.

    `root` is looked for below the working directory, then below the project. `val_fraction` and
    `seed` decide the split by a hash of ids (of groups, where there are some), except where the set
    is divided already. `split`: "published" or "hash" choose between these two, the path of a
    manifest.csv makes that file decide: photos that it does not list are skipped. A val photo with
    the same bytes as a train photo is skipped, by name. Raises DataError that says what was
    expected and found, and ValueError for a spec that cannot be read.
    """
    terms = read_spec(name)
    if weights is not None:
        if len(weights) != len(terms) or not all(0 < w < float("inf") for w in weights):
            raise ValueError(f"{len(terms)} weights above 0 are needed, not {weights}")
        terms = [replace(t, weight=float(w)) for t, w in zip(terms, weights, strict=True)]
    if len(terms) > 1 and root:
        raise ValueError(f"several sources have a folder each, as in {terms[0].name}:FOLDER")
    opened = []
    for term in terms:
        own = dict(drawing or {}) if term.name == "synthetic" else {}
        own |= args | dict(term.args)
        drawn_into = own.pop("root", None)
        own_root = root or term.root or drawn_into
        choice = own.pop("split", split)
        found = find_pairs(term.name, own_root, val_fraction=val_fraction, seed=seed, **own)
        opened.append(_divided(term.name, found, val_fraction, seed, choice))
    return opened[0] if len(opened) == 1 else _mixed(terms, opened)


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
    `exclude`: ids of pairs that are left out, with spaces between them.

    Raises DataError for an id to exclude that no photo has, beside what `open_source` raises.
    """
    if source_root and source.strip() == "synthetic":
        source = "folder"
    drawing = {"root": resolve(data_dir), "count": count, "size": image_size}
    root = find_input(source_root) if source_root else None
    opened = open_source(source, root, seed=seed, drawing=drawing, val_fraction=val_fraction)
    unwanted = set(exclude.split())
    if unknown := unwanted - {p.id for p in (*opened.train, *opened.val)}:
        raise DataError(
            f"exclude: no photo of {opened.name} has the id {sorted(unknown)[0]!r}"
            + (f", nor {len(unknown) - 1} more of the list" if len(unknown) > 1 else "")
        )
    sides = {
        side: tuple(p for p in getattr(opened, side) if p.id not in unwanted)
        for side in ("train", "val")
    }
    return replace(opened, **sides)


def find_pairs(name: str, root=None, *, val_fraction: float = 0.2, seed: int = 0, **args) -> Found:
    """The files of one dataset, with all that is wrong about them, before anything is refused."""
    if name in _DIVIDES:
        args |= {"val_fraction": val_fraction, "seed": seed}
    try:
        found = SOURCES[name](root or None, **args)
    except DataError as error:
        with suppress(FileNotFoundError):
            if name == "folder" and (seen := detect(find_input(root or "data"))):
                raise DataError(f"{error}. It looks like {seen}: use source '{seen}'") from error
        raise
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ValueError(f"source '{name}': {str(error).partition('() ')[2]}") from None
    facts = manifest.read(found.root / "manifest.csv")
    for pairs in found.sides.values():
        for i, pair in enumerate(pairs):
            row = facts.get(pair.id, {})
            pairs[i] = replace(
                pair,
                tags=pair.tags or tuple(t for t in row.get("tags", "").split(";") if t),
                group=pair.group or row.get("group", ""),
                source=pair.source or row.get("source", "") or name,
            )
    return found


def _divided(name: str, found: Found, val_fraction: float, seed: int, split: str) -> Source:
    root, sides, skipped = found.root, found.sides, list(found.skipped)
    for skip in skipped:
        if skip.kind == "shape":
            raise DataError(f"{skip.reason}. `unetlib check` lists all such pairs")
    if split not in ("", "hash", "published"):
        sides, more = manifest.divide(split, [p for side in sides.values() for p in side])
        skipped += more
    elif split == "hash":
        sides = {"": [p for side in sides.values() for p in side]}
    elif split == "published" and found.published:
        sides = found.published(sides[""])
    elif split == "published" and sides.get(""):
        raise DataError(f"{name} has no published split that could be used in {root}")
    pairs, train, val = (list(sides.get(side, ())) for side in ("", "train", "val"))
    if not pairs and not train and not val:
        raise DataError(f"no usable pair in {root}. {folders.listing(root)}{_why(skipped)}")
    if pairs:
        train, val = split_pairs(pairs, val_fraction, seed)
    train, val = folders.before_backgrounds(found, train, val, val_fraction, seed)
    if twice := sorted({p.id for p in train} & {p.id for p in val}):
        raise DataError(
            f"{len(twice)} ids are in both train/ and val/ of {root}, the first is '{twice[0]}'. "
            "A score on trained photos means nothing: rename or remove them"
        )
    if not train or not (val or val_fraction == 0):
        half = root / ("val" if train else "train")
        below = [s for s in skipped if s.path.is_relative_to(half)]
        raise DataError(f"no usable pair in {half}.{_why(below or skipped)}")
    val = _without_copies(train, val, skipped)
    return Source(name, root, tuple(train), tuple(val), tuple(skipped))


def _mixed(terms: list[Term], opened: list[Source]) -> Source:
    """One Source of several. A weight w gives its set w / sum of an epoch, whatever its size."""
    train: list[Pair] = []
    val: list[Pair] = []
    weighted = any(term.weight is not None for term in terms)
    names: list[str] = []
    for term, source in zip(terms, opened, strict=True):
        count = sum(n.rstrip("0123456789-") == term.name for n in names)
        names.append(f"{term.name}-{count + 1}" if count else term.name)
        weight = (term.weight or 1.0) / len(source.train) if weighted else 1.0
        for into, pairs, w in ((train, source.train, weight), (val, source.val, 1.0)):
            into += [
                replace(
                    p, id=f"{names[-1]}/{p.id}", source=names[-1], weight=w,
                    group=p.group and f"{names[-1]}/{p.group}",
                )
                for p in pairs
            ]  # fmt: skip
    skipped = [s for source in opened for s in source.skipped]
    val = _without_copies(train, val, skipped)  # the same photo may be in two collections
    root = folders.common([source.root for source in opened])
    return Source(" + ".join(names), root, tuple(train), tuple(val), tuple(skipped))


def _without_copies(train: list[Pair], val: list[Pair], skipped: list[Skipped]) -> list[Pair]:
    """Those of val whose photo is not in train too; the others are added to `skipped`."""
    copies = same_bytes(train, val)
    for p in val:
        if p.id in copies:
            reason = f"same photo as '{copies[p.id]}' in train: left out of val"
            skipped.append(Skipped(p.image, reason, "copy across the split"))
    return [p for p in val if p.id not in copies]


def _why(skipped: Sequence[Skipped]) -> str:
    lines = [f"\n  skipped {s.path}: {s.reason}" for s in skipped[:5]]
    more = [f"\n  and {len(skipped) - 5} more"] if len(skipped) > 5 else []
    return "".join(lines + more)
