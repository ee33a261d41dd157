"""From files and pixels to findings: what the doctor says of pairs, and of a dataset as a whole."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unetlib.data import manifest, misfit, twins
from unetlib.data.faults import KINDS, Fault
from unetlib.data.misfit import Fit
from unetlib.data.pairs import Found, Pair
from unetlib.data.split import split_fraction

BEHIND = "background"  # the side of photos that cut-outs are laid over


@dataclass(frozen=True)
class Finding:
    """Something wrong. `files`: what it is about. `moves`: what would have to go. `pairs`: as far
    as they can be shown. `score`: how bad, among its kind."""

    kind: str
    reason: str
    files: tuple[Path, ...] = ()
    pairs: tuple[Pair, ...] = ()
    moves: tuple[Path, ...] = ()
    score: float = 0.0

    @property
    def severity(self) -> str:
        return KINDS[self.kind][0]


@dataclass
class Look:
    """What is kept of a pair that was looked at: sizes are (width, height), `share` is that of the
    foreground, `thumb` see twins, `photo` and `mask` digests, `fit` see misfit."""

    pair: Pair
    side: str
    photo_wh: tuple[int, int] = (0, 0)
    mask_wh: tuple[int, int] = (0, 0)
    share: float = 0.0
    thumb: np.ndarray | None = None
    photo: bytes = b""
    mask: bytes = b""
    fit: Fit | None = None
    faults: list[Fault] = field(default_factory=list)

    def add(self, path: Path, faults: list[Fault]) -> None:
        self.faults += [(kind, f"{path}: {reason}", score) for kind, reason, score in faults]


def judge(looks: list[Look], found: Found) -> Iterator[Finding]:
    """All findings. Pairs that could not be read are in `looks` without a thumb, and backgrounds of
    cut-outs without a mask."""
    yield from _left_out(found)
    for look in looks:
        for kind, reason, score in look.faults:
            moves = _files([look.pair]) if KINDS[kind][0] == "error" else ()
            yield _about(kind, reason, [look.pair], moves, score)
    seen = [look for look in looks if look.thumb is not None and look.side != BEHIND]
    yield from _copies(seen)
    yield from _names(found)
    yield from _manifest(seen, found)
    yield from _shares(seen)
    yield from _fits(seen)


def _left_out(found: Found) -> Iterator[Finding]:
    """What find_pairs did not take, and sides that are empty."""
    for skip in found.skipped:
        kind = "another shape" if skip.kind == "shape" else skip.kind
        if kind == "another shape" and "lies on its side" in skip.reason:
            kind = "lies on its side"
        elif "is there twice" in skip.reason:
            kind = "same stem"
        reason = skip.reason if str(skip.path) in skip.reason else f"{skip.path}: {skip.reason}"
        if kind in KINDS:
            yield Finding(kind, reason, (skip.path,), moves=(skip.path,))
        else:
            yield Finding("skipped", reason, (skip.path,))
    count = {side: len(pairs) for side, pairs in found.sides.items() if pairs}
    if count and len({p.group or p.id for pairs in found.sides.values() for p in pairs}) == 1:
        yield Finding("no pairs", f"only one pair or group in {found.root}: it cannot be divided")
    for side in ("train", "val") if "train" in count or "val" in count else ("",):
        if not count.get(side) and not count.get(""):
            yield Finding("no pairs", f"no usable pair in {found.root / side}")
    if 0 < count.get("train", 0) < 10:
        yield Finding("few train photos", f"{count['train']} photos in train")
    if 0 < count.get("val", 0) < 5:
        yield Finding("few val photos", f"{count['val']} photos in val")


def _copies(looks: list[Look]) -> Iterator[Finding]:
    """The same photo, nearly the same photo, the same mask."""
    photos, masks, scene = defaultdict(list), defaultdict(list), {}
    for look in looks:
        photos[look.photo].append(look)
        if 0.002 < look.share < 0.998:
            masks[look.mask].append(look)
    for same in photos.values():
        yield from _repeated("same photo", same)
    first = [same[0] for same in photos.values()]
    links = twins.near_copies(np.stack([look.thumb for look in first])) if first else []
    mirrored = {link[:2] for link in links if link[3]}
    for members in twins.groups(links):
        near = [first[i] for i in members]
        scene.update(dict.fromkeys((look.photo for look in near), near[0].photo))
        yield from _repeated("near copy", near, " (mirrored)" * (tuple(members) in mirrored))
    for same in masks.values():
        if len({scene.get(look.photo, look.photo) for look in same}) > 1 and not _one_group(same):
            yield _about("same mask", _list(k.pair.mask for k in same), [k.pair for k in same])


def _repeated(kind: str, looks: list[Look], how: str = "") -> Iterator[Finding]:
    """Photos that are there several times: across the split those of val would have to go."""
    near = kind == "near copy"
    sides = {id(k): k.side or (_side_by_name(k.pair) if near else "") for k in looks}
    looks = sorted(looks, key=lambda look: sides[id(look)])  # train before val
    spare = [] if near else looks[1:]
    if {"train", "val"} <= set(sides.values()):
        kind += " in train and val"
        spare = spare or [look for look in looks if sides[id(look)] == "val"]
        how += ", when split by their names" * (looks[0].side == "")
    elif len(looks) == 1 or (near and _one_group(looks)):
        return  # of one group, near copies are what is expected
    reason = _list(look.pair.image for look in looks) + how
    moves = _files(look.pair for look in spare)
    yield _about(kind, reason, [look.pair for look in looks], moves, len(looks))


def _side_by_name(pair: Pair) -> str:
    """Where open_source puts a pair of a set that is not divided, unless it is told otherwise."""
    return "val" if split_fraction(pair.group or pair.id) < 0.2 else "train"


def _fits(looks: list[Look]) -> Iterator[Finding]:
    """Masks that do not lie on the edges of their photos."""
    looks = [look for look in looks if look.fit]
    median, worse = misfit.judge([k.fit for k in looks], [str(k.pair.mask) for k in looks])
    if median < 0.65:
        what = f"half of {len(looks)} masks have their borders where the photo has no edges"
        yield Finding("masks beside their photos", what, pairs=tuple(k.pair for k in looks[:4]))
        return
    for number, why in worse.items():
        pair = looks[number].pair
        what = why if "mask of" in why else f"it would fit better {why}"
        yield _about("mask beside its photo", f"{pair.mask}: {what}", [pair])


def _names(found: Found) -> Iterator[Finding]:
    """Ids and groups that are on both sides, and names that are the same on some systems."""
    train, val = ({p.id: p for p in found.sides.get(side, ())} for side in ("train", "val"))
    for id in sorted(train.keys() & val.keys()):
        yield _about("same id in train and val", id, [train[id], val[id]], _files([val[id]]))
    trained = {pair.group: pair for pair in train.values()}
    shared = defaultdict(list)
    for pair in val.values():
        if pair.group and pair.group in trained:
            shared[pair.group].append(pair)
    for group, pairs in shared.items():
        reason = f"group '{group}': {_list(p.image for p in [trained[group], *pairs])}"
        kind = "same group in train and val"
        yield _about(kind, reason, [trained[group], *pairs], _files(pairs), len(pairs))
    folded = defaultdict(list)
    for side, pairs in found.sides.items():
        for pair in pairs:
            folded[side, pair.id.casefold()].append(pair)
    for pairs in folded.values():
        if len(pairs) > 1:
            yield _about("names differ in case", _list(p.image for p in pairs), pairs)


def _manifest(looks: list[Look], found: Found) -> Iterator[Finding]:
    """Rows of manifest.csv that are not true of the files. A column that is wrong about most of
    them speaks of other files: those that the set was made from."""
    rows = manifest.read(found.root / "manifest.csv")
    changed: dict[str, tuple[Look, str]] = {}
    for column in ("size", "sha256"):
        known = [(look, rows.get(look.pair.id, {}).get(column)) for look in looks]
        now = {"size": lambda k: "{}x{}".format(*k.photo_wh), "sha256": lambda k: k.photo.hex()}
        other = [look for look, listed in known if listed and listed != now[column](look)]
        if 2 * len(other) < sum(bool(listed) for _, listed in known):
            changed.update((look.pair.id, (look, column)) for look in other)
    for look, column in changed.values():
        reason = f"{look.pair.image}: its {column} is not that in manifest.csv"
        yield _about("changed since the manifest", reason, [look.pair])
    listed = any(row.get("sha256") for row in rows.values())
    for look in looks if listed else ():
        row = rows.get(look.pair.id)
        if row is None:
            yield _about("not in the manifest", str(look.pair.image), [look.pair])
        elif look.side and row.get("split", look.side) != look.side:
            reason = f"{look.pair.image}: there it is {row['split']}"
            yield _about("another side in the manifest", reason, [look.pair])
    there = {pair.id for pairs in found.sides.values() for pair in pairs}
    there |= {skip.path.stem for skip in found.skipped}  # named already
    missing = [id for id in rows if id not in there and id.rpartition("/")[2] not in there]
    if missing:
        yield Finding("missing, but in the manifest", f"{len(missing)} rows: {_list(missing)}")


def _shares(looks: list[Look]) -> Iterator[Finding]:
    """Masks with far more or less foreground than the others, or than any of use."""
    whole = [look for look in looks if look.pair.mask and not _wrong(look)]
    if not whole:
        return
    shares = np.clip([look.share for look in whole], 1e-4, 1 - 1e-4)
    logits = np.log(shares / (1 - shares))
    away = np.abs(logits - np.median(logits))
    far = max(4.0, 8 * float(np.median(away)))
    for look, share, distance in zip(whole, shares, away, strict=True):
        if not 0.001 < look.share < 0.999:
            few = look.share < 0.5
            what = f"{look.share if few else 1 - look.share:.3%} of it"
            reason = f"{look.pair.mask}: only {what} is {'fore' if few else 'back'}ground"
            yield _about("hardly a mask", reason, [look.pair], (), float(distance))
        elif distance > far or not 0.003 < share < 0.97:
            reason = f"{look.pair.mask}: {share:.1%} of it is foreground"
            yield _about("unlike the others", reason, [look.pair], (), float(distance))


def _wrong(look: Look) -> bool:
    return any(KINDS[kind][0] == "error" for kind, *_ in look.faults)


def _about(kind: str, reason: str, pairs: list[Pair], moves: tuple = (), score=0.0) -> Finding:
    return Finding(kind, reason, _files(pairs), tuple(pairs), moves, score)


def _files(pairs: Iterable[Pair]) -> tuple[Path, ...]:
    files = [path for pair in pairs for path in (pair.image, pair.mask) if path]
    return tuple(dict.fromkeys(files))


def _one_group(looks: list[Look]) -> bool:
    groups = {look.pair.group for look in looks}
    return len(groups) == 1 and groups != {""}


def _list(names: Iterable) -> str:
    names = list(map(str, names))
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
