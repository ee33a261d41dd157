"""What is wrong with a dataset, before an hour of training shows it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from unetlib.data.images import ImageError, load_image, load_mask, open_photo, opened
from unetlib.data.pairs import Found, Pair, Source, load_pair, split_fraction
from unetlib.data.sources import SOURCES, find_pairs, read_spec
from unetlib.paths import sha256

ALIKE = 0.88  # least correlation of near copies; of 1,100 photos of people none two have over 0.84
# What can be wrong, the worst first, and what to do. An error spoils training.
ERRORS = {
    "no pairs": "There is nothing to train with, or to validate with.",
    "unreadable": "Damaged, cut off or no image: get the file again.",
    "not read": "The system could not read it now; the file may be sound.",
    "shape": "Export the mask from the uncropped photo again.",
    "photo as mask": "The file beside the photo is no mask.",
    "coloured mask": "Paint what is to be cut out white, the rest black.",
    "labels": "Read them with mask_kind=labels (or trimap).",
    "inverted mask": "White should be what is to be cut out.",
    "empty mask": "A photo with nothing to cut out teaches to find nothing.",
    "full mask": "Everything is foreground.",
    "blank photo": "There is nothing to see in it.",
    "same photo in train and val": "Scores on trained photos mean nothing.",
    "near copy in train and val": "Give them a group, or keep one side's.",
    "same group in train and val": "Keep a group, or an id, on one side.",
}
ADVICE = ERRORS | {
    "image without mask": "It is left out of training.",
    "mask without image": "It is left out of training.",
    "same stem": "All of them are left out: keep one.",
    "same photo": "It counts several times: keep one.",
    "near copy": "Give photos of one scene a group, or keep one.",
    "same mask": "One mask for different photos: is it that of another?",
    "not used": "No image, or nothing that belongs to the set.",
}


@dataclass(frozen=True)
class Issue:
    """Something wrong with `pairs`. `spare`: those whose files would have to go."""

    kind: str
    reason: str
    pairs: tuple[Pair, ...] = ()
    spare: tuple[Pair, ...] = ()


@dataclass
class Report:
    """The `issues`, the worst first, that `examine` found among `pairs` (by side) below `root`."""

    root: Path
    pairs: dict[str, list[Pair]]
    issues: list[Issue]

    def text(self, first: int = 5) -> str:
        """Counts, then each kind of issue with the `first` few files."""
        sides = " + ".join(f"{len(pairs)} {side}".strip() for side, pairs in self.pairs.items())
        errors = sum(issue.kind in ERRORS for issue in self.issues) or "none"
        lines = [f"{sides} pairs, {len(self.issues)} issues, {errors} of them would spoil training"]
        for kind, number in Counter(issue.kind for issue in self.issues).items():
            level = "error" if kind in ERRORS else "warning"
            lines.append(f"{level}: {kind} ({number}). {ADVICE[kind]}")
            lines += [f"  {i.reason}" for i in self.issues if i.kind == kind][:first]
            lines += [f"  and {number - first} more"] * (number > first)
        return "\n".join(lines).replace(f"{self.root}{os.sep}", "")

    def figure(self, count: int = 8, columns: int = 4) -> Any:
        """A sheet of photos and masks with issues, or of ordinary ones without."""
        from unetlib.plots import contact_sheet

        shown = [(issue.kind, pair) for issue in self.issues for pair in issue.pairs[:2]]
        shown = shown or [("", pair) for pairs in self.pairs.values() for pair in pairs]
        pictures = []
        for kind, pair in shown[:count]:
            with suppress(ImageError, OSError, MemoryError):
                photo, matte = load_pair(pair, 320)
                pictures += [(f"{kind}\n{pair.id[-26:]}", photo), matte]
        return contact_sheet(pictures, columns)


def examine(dataset: Any) -> Report:
    """Looks at every photo and mask of a dataset once. Nothing is changed.

    `dataset`: a folder, a source as in "folder:photos?groups=folder", or a Source that is open.
    Raises DataError for a folder that is no dataset, ValueError for a source that is not known.
    """
    if isinstance(dataset, Source):
        sides = {"train": [*dataset.train], "val": [*dataset.val]}
        found = Found(dataset.root, sides, [*dataset.skipped])
    else:
        named = str(dataset).partition(":")[0] in SOURCES
        term, *more = read_spec(str(dataset) if named else "folder")
        if more:
            raise ValueError(f"one source at a time can be checked, not '{dataset}'")
        found = find_pairs(term.name, term.root if named else dataset, **dict(term.args))
    work = {}  # a cut-out once, whatever is behind it; the side is that which a split would give
    for side, pairs in found.sides.items():
        for pair in pairs:
            late = split_fraction(pair.group or pair.id) < 0.2
            work[pair.image, side or ("val" if late else "train")] = pair
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looks = pool.map(look, work.values(), [side for _, side in work])
        looks = [*tqdm(looks, "checking photos", len(work), delay=2)]
    issues = [*file_issues(found), *(one.issue for one in looks if one.issue), *copies(looks)]
    order = [*ADVICE]
    return Report(found.root, found.sides, sorted(issues, key=lambda i: order.index(i.kind)))


class Look(NamedTuple):
    side: str
    pair: Pair
    photo: str  # sum of its bytes
    mask: str  # sum of its pixels
    views: np.ndarray  # (2, 144), slopes of a tiny thumbnail and of its mirror image
    issue: Issue | None


def look(pair: Pair, side: str) -> Look:
    """Decodes a pair, the photo as small as JPEG allows, which notices a file that is cut off."""
    path, photo, mask, views, issue = pair.image, "", "", np.zeros((2, 144), np.float32), None
    try:
        photo, small = sha256(path), load_image(path, 128)
        if np.std(small.resize((64, 64), Image.Resampling.BOX), (0, 1)).max() < 1.5:
            issue = "blank photo", "of one colour"
        grey = np.float32(small.convert("L").resize((9, 9), Image.Resampling.BOX))
        for i, view in enumerate((grey, grey[:, ::-1])):
            slopes = np.concatenate([np.diff(view, axis=axis).ravel() for axis in (0, 1)])
            views[i] = slopes / max(np.linalg.norm(slopes), 1)
        if pair.mask and not issue:
            path = pair.mask
            with opened(path) as image:
                matte, colours = load_mask(image, kind=pair.mask_kind), open_photo(image)
            step = max(1, len(matte) // 512)  # so many rows will do
            as_seen = pair.mask_kind in ("auto", "matte") and colours.alpha is None
            mask = hashlib.sha256(matte[::step].tobytes()).hexdigest()
            issue = mask_issue(matte[::step], colours.rgb[::step] if as_seen else None)
    except ImageError as error:
        issue = "unreadable", str(error).removeprefix(f"{path}: ")
    except (OSError, MemoryError, cv2.error) as error:
        issue = "not read", str(error) or "out of memory"
    if issue:
        spare = (pair,) * (issue[0] != "not read")  # it may be sound
        issue = Issue(issue[0], f"{path}: {issue[1]}", (pair,), spare)
    return Look(side, pair, photo, mask, views, issue)


def mask_issue(matte: np.ndarray, rgb: np.ndarray | None) -> tuple[str, str] | None:
    """The first thing that is wrong with a mask, float32 (H, W), by its levels and, where they are
    what is read, its colours. The thresholds lie between those of good masks and planted faults."""
    grey = np.rint(matte * 255).astype(np.uint8)
    levels = np.bincount(grey.ravel(), minlength=256) / grey.size
    tones = Image.fromarray(grey if rgb is None else rgb).convert("L")
    bright = np.zeros((0, 3), np.uint8) if rgb is None else rgb[np.ptp(rgb, axis=-1) > 40]
    hues = (bright > bright.max(axis=1, keepdims=True) // 2) @ np.array([4, 2, 1])
    hues = np.count_nonzero(np.bincount(hues) > 0.001 * grey.size)
    entropy, between = tones.entropy(), sum(tones.histogram()[4:252]) / grey.size
    if (entropy > 4.3 and len(bright) > 0.05 * grey.size) or (entropy > 5 and between > 0.5):
        return "photo as mask", "it holds as many tones as a photo does"
    if hues > 1:
        return "coloured mask", f"it is painted in {hues} colours"
    flat = ((grey > 0) & (grey < 250))[:, 1:] & (grey[:, 1:] == grey[:, :-1])
    numbers = rgb is not None and np.count_nonzero(levels) <= 32 and flat.mean() > 0.01
    if numbers or 0 < matte.max() < 0.5:
        values = ", ".join(map(str, np.flatnonzero(levels > 0.001)[:8]))
        return "labels", f"its values ({values}) are numbers or flat greys"
    if not 0.001 <= (share := matte.mean()) <= 0.999:
        return "empty mask" if share < 0.5 else "full mask", f"{share:.2%} of it is foreground"
    small = cv2.resize(matte, (64, 64), interpolation=cv2.INTER_AREA)
    middle = small[16:48, 16:48].mean()  # against left, top and right: people stand on the bottom
    edge = np.mean([small[:6].mean(), small[:, :6].mean(), small[:, -6:].mean()])
    if edge > 0.85 or (edge > 0.7 and edge - middle > 0.04):
        return "inverted mask", f"{edge:.0%} of its border is foreground, {middle:.0%} inside"
    return None


def file_issues(found: Found) -> Iterator[Issue]:
    """What was not taken as a pair, sides that are empty, and groups and ids on both sides."""
    for skip in found.skipped:
        kind = skip.kind if skip.kind in ADVICE else "not used"
        spare = (Pair("", skip.path, None),) * (kind != "not read")
        yield Issue(kind, f"{skip.path}: {skip.reason}", (), spare)
    groups = {pair.group or pair.id for pairs in found.sides.values() for pair in pairs}
    if len(groups) < 2 or not all(found.sides.values()):
        where = " and ".join(found.sides) or found.root
        yield Issue("no pairs", f"{len(groups)} groups of photos in {where}")
    for name in ("group", "id"):
        train = {getattr(pair, name): pair for pair in found.sides.get("train", ())}
        for pair in found.sides.get("val", ()):
            if (value := getattr(pair, name)) and (other := train.get(value)):
                reason = f"{name} '{value}': {other.image}, {pair.image}"
                yield Issue("same group in train and val", reason, (other, pair), (pair,))


def copies(looks: Sequence[Look]) -> Iterator[Issue]:
    """The same photo, nearly the same photo, the same mask. What is there already would have to go,
    and of near copies across the split those in val."""
    views = np.array([one.views for one in looks])
    scenes, masks, first = defaultdict(list), defaultdict(dict), [*range(len(looks))]
    for i, one in enumerate(looks):
        alike = (views[:i, 0] @ views[i].T >= ALIKE).any(axis=1)
        first[i] = first[alike.argmax()] if alike.any() else i
        scenes[first[i]].append(one)
        if one.mask and not one.issue:  # empty masks are all the same
            masks[one.mask].setdefault(first[i], one.pair)
    for scene in scenes.values():
        scene.sort(key=lambda one: one.side)  # train before val
        across, sums, spare = scene[0].side != scene[-1].side, set(), []
        for one in scene:
            if one.photo in sums or (across and one.side == "val"):
                spare.append(one.pair)
            sums.add(one.photo)
        groups = {one.pair.group or one.pair.id for one in scene}
        if spare or len(groups) > 1:
            kind = "near copy" if len(sums) > 1 else "same photo"
            reason = ", ".join(str(one.pair.image) for one in scene)
            pairs = tuple(one.pair for one in scene)
            yield Issue(kind + " in train and val" * across, reason, pairs, tuple(spare))
    for same in masks.values():
        if len(same) > 1:
            reason = ", ".join(str(pair.mask) for pair in same.values())
            yield Issue("same mask", reason, tuple(same.values()))
