"""What is wrong with a dataset, before an hour of training shows it."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from pooch import file_hash
from tqdm import tqdm

from unetlib.data.folders import Found
from unetlib.data.images import ImageError, load_image, load_mask, open_photo, opened
from unetlib.data.pairs import Pair, Source, split_fraction
from unetlib.data.sources import SOURCES, Term, find_pairs, read_spec

NEAR_COPY = 0.88  # least correlation; of 1,100 photos of people none two have over 0.84
# What can be wrong, the worst first, and what to do. The first 14 are errors: they spoil training.
ADVICE = {
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
    "image without mask": "It is left out of training.",
    "mask without image": "It is left out of training.",
    "same stem": "All of them are left out: keep one.",
    "same photo": "It counts several times: keep one.",
    "near copy": "Give photos of one scene a group, or keep one.",
    "same mask": "One mask for different photos: is it that of another?",
    "not used": "No image, or nothing that belongs to the set.",
}
ERRORS = [*ADVICE][:14]


class Issue(NamedTuple):
    """Something wrong with `pairs`. `removable`: whose files would have to go."""

    kind: str
    reason: str
    pairs: tuple[Pair, ...] = ()
    removable: tuple[Pair, ...] = ()


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
        for kind, same in groupby(self.issues, lambda issue: issue.kind):
            reasons = [f"  {issue.reason}" for issue in same]
            level = "error" if kind in ERRORS else "warning"
            lines += [f"{level}: {kind} ({len(reasons)}). {ADVICE[kind]}", *reasons[:first]]
            lines += [f"  and {len(reasons) - first} more"] * (len(reasons) > first)
        return "\n".join(lines).replace(f"{self.root}{os.sep}", "")

    def figure(self, count: int = 8, columns: int = 4) -> Any:
        """A sheet of photos and masks with issues, or of ordinary ones without."""
        from unetlib.plots import contact_sheet

        shown = [(issue.kind, pair) for issue in self.issues for pair in issue.pairs[:2]]
        shown = shown or [("", pair) for pairs in self.pairs.values() for pair in pairs]
        pictures = []
        for kind, pair in shown[:count]:
            with suppress(ImageError, OSError, MemoryError):
                photo, matte = pair.load(320)
                pictures += [(f"{kind}\n{pair.id[-26:]}", photo), matte]
        return contact_sheet(pictures, columns)


def examine(dataset: str | os.PathLike | Source) -> Report:
    """Looks at every photo and mask of a dataset once. Nothing is changed.

    `dataset`: a folder, a source as in "folder:photos?groups=folder", or a Source that is open.
    Raises DataError for a folder that is no dataset, ValueError for a source that is not known.
    """
    if isinstance(dataset, Source):
        sides = {"train": [*dataset.train], "val": [*dataset.val]}
        found = Found(dataset.root, sides, [*dataset.skipped])
    else:
        named = str(dataset).partition(":")[0] in SOURCES and not Path(dataset).is_dir()
        term, *more = read_spec(str(dataset)) if named else [Term("folder", dataset)]
        if more:
            raise ValueError(f"one source at a time can be checked, not '{dataset}'")
        found = find_pairs(term.name, term.root, **term.args)
    work = {}  # a cut-out once, whatever is behind it -> the pair
    for side, pairs in found.sides.items():
        for pair in pairs:  # the side that a split would give, where there is none yet
            is_val = split_fraction(pair.group or pair.id) < 0.2
            work[pair.image, side or ("val" if is_val else "train")] = pair
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        prints = pool.map(fingerprint, work.values(), [side for _, side in work])
        prints = [*tqdm(prints, "checking photos", len(work), delay=2)]
    issues = [*file_issues(found), *(one.issue for one in prints if one.issue), *copies(prints)]
    issues.sort(key=lambda issue: [*ADVICE].index(issue.kind))
    return Report(found.root, found.sides, issues)


@dataclass
class Fingerprint:
    """What is kept of a pair that was looked at: enough to compare it with the others."""

    pair: Pair
    side: str
    issue: Issue | None = None
    mask: str = ""  # sum of its levels, whatever the file's format
    gradients: np.ndarray = field(default_factory=lambda: np.zeros((2, 144), np.float32))


def fingerprint(pair: Pair, side: str) -> Fingerprint:
    """Decodes a pair, the photo as small as JPEG allows, which notices a file that is cut off."""
    seen, path, problem = Fingerprint(pair, side), pair.image, None
    try:
        photo = load_image(path, 128)
        seen.gradients = gradients(photo)
        if np.std(photo.resize((64, 64), Image.Resampling.BOX), (0, 1)).max() < 1.5:
            problem = "blank photo", "of one colour"
        elif pair.mask:
            path = pair.mask
            with opened(path) as image:
                matte, picture = load_mask(image, kind=pair.mask_kind), open_photo(image)
            rows = slice(None, None, max(1, len(matte) // 512))  # so many will do
            by_colour = pair.mask_kind in ("auto", "matte") and picture.alpha is None
            seen.mask = hashlib.sha256(matte[rows].tobytes()).hexdigest()
            problem = mask_problem(matte[rows], picture.rgb[rows] if by_colour else None)
    except (ImageError, OSError, MemoryError, RuntimeError, cv2.error) as error:
        kind = "unreadable" if isinstance(error, ImageError) else "not read"
        problem = kind, str(error).removeprefix(f"{path}: ").strip() or "out of memory"
    if problem:
        removable = () if problem[0] == "not read" else (pair,)  # the file may be sound
        seen.issue = Issue(problem[0], f"{path}: {problem[1]}", (pair,), removable)
    return seen


def gradients(photo: Image.Image) -> np.ndarray:
    """A tiny thumbnail's differences from pixel to pixel, and those of its mirror image: float32
    (2, 144), each of length 1, so that their product is a correlation. Near copies keep them."""
    grey = np.float32(photo.convert("L").resize((9, 9), Image.Resampling.BOX))
    views = np.array([grey, grey[:, ::-1]])
    steps = np.concatenate([np.diff(views, axis=axis).reshape(2, -1) for axis in (1, 2)], 1)
    return steps / np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1)


def mask_problem(matte: np.ndarray, rgb: np.ndarray | None) -> tuple[str, str] | None:
    """Kind and reason of the first thing that is wrong with a mask, float32 (H, W), by thresholds
    between good masks and planted faults. `rgb`: its colours, where they are what is read."""
    levels = np.rint(matte * 255).astype(np.uint8)
    if problem := colour_problem(np.dstack([levels] * 3) if rgb is None else rgb):
        return problem
    grey = (levels > 0) & (levels < 250)  # a soft edge has these, but seldom the same twice
    flat = grey[:, 1:] & (levels[:, 1:] == levels[:, :-1])
    numbers = rgb is not None and len(np.unique(levels)) <= 32 and flat.mean() > 0.01
    if numbers or 0 < matte.max() < 0.5:
        values = np.flatnonzero(np.bincount(levels.ravel()) > 0.001 * levels.size)[:8]
        return "labels", f"its values ({', '.join(map(str, values))}) are numbers or flat greys"
    share = matte.mean()
    if not 0.001 <= share <= 0.999:
        return "empty mask" if share < 0.5 else "full mask", f"{share:.2%} of it is foreground"
    small = cv2.resize(matte, (64, 64), interpolation=cv2.INTER_AREA)
    middle, sides = small[16:48, 16:48].mean(), (small[:6], small[:, :6], small[:, -6:])
    border = np.mean([side.mean() for side in sides])  # not the lower one: people stand on it
    if border > 0.85 or (border > 0.7 and border - middle > 0.04):
        return "inverted mask", f"{border:.0%} of its border is foreground, {middle:.0%} inside"
    return None


def colour_problem(rgb: np.ndarray) -> tuple[str, str] | None:
    """Many tones are a photo, flat colours are painted by hand or by a labelling tool."""
    pixels = rgb.shape[0] * rgb.shape[1]
    tones, vivid = Image.fromarray(rgb).convert("L"), rgb[np.ptp(rgb, axis=-1) > 40]
    entropy, between = tones.entropy(), sum(tones.histogram()[4:252]) / pixels
    if (entropy > 5 and between > 0.5) or (entropy > 4.3 and len(vivid) > 0.05 * pixels):
        return "photo as mask", "it holds as many tones as a photo does"
    high = vivid > vivid.max(axis=1, keepdims=True) // 2  # red, green, blue: eight hues
    hues = np.count_nonzero(np.bincount(high @ np.array([4, 2, 1])) > 0.001 * pixels)
    return ("coloured mask", f"it is painted in {hues} colours") if hues > 1 else None


def file_issues(found: Found) -> Iterator[Issue]:
    """Issues of skipped files, of empty sides, and of groups and ids that are on both sides."""
    unlisted = any(skip.kind == "not read" and skip.path.is_dir() for skip in found.skipped)
    for skip in found.skipped:
        kind = skip.kind if skip.kind in ADVICE else "not used"
        # What goes with a lone file may lie in a folder that could not be listed. Also kept are
        # files that may be sound, folders, and a manifest that says more than is needed.
        kept = unlisted or skip.kind in ("not read", "not used")
        removable = () if kept else (Pair("", skip.path, None),)
        yield Issue(kind, f"{skip.path}: {skip.reason}", (), removable)
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


def copies(prints: Sequence[Fingerprint]) -> Iterator[Issue]:
    """The same photo, or nearly the same, several times; the same mask for different photos."""
    views, first = np.array([one.gradients for one in prints]), []
    scenes, masks = defaultdict(list), defaultdict(dict)
    for i, one in enumerate(prints):
        likeness = (views[:i, 0] @ views[i].T).max(axis=1)  # as it is, or mirrored
        earlier = np.flatnonzero(likeness >= NEAR_COPY)
        first.append(first[earlier[0]] if len(earlier) else i)  # its scene: the first that shows it
        scenes[first[i]].append(one)
        if one.mask and not one.issue:  # empty masks are all the same
            masks[one.mask].setdefault(first[i], one.pair)
    for scene in (scene for scene in scenes.values() if len(scene) > 1):
        pairs = tuple(one.pair for one in scene)
        in_val = tuple(one.pair for one in scene if one.side == "val")
        across = 0 < len(in_val) < len(pairs)
        kept = {file_hash(pair.image): pair for pair in reversed(pairs)}  # first of the same bytes
        removable = in_val if across else tuple(pair for pair in pairs if pair not in kept.values())
        groups = {pair.group or pair.id for pair in pairs}
        if removable or len(groups) > 1:  # within a group, photos are expected to be alike
            kind = "near copy" if len(kept) > 1 else "same photo"
            reason = ", ".join(str(pair.image) for pair in pairs)
            yield Issue(kind + " in train and val" * across, reason, pairs, removable)
    for same in masks.values():
        if len(same) > 1:
            reason = ", ".join(str(pair.mask) for pair in same.values())
            yield Issue("same mask", reason, tuple(same.values()))
