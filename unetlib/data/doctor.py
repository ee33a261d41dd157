"""What is wrong with a dataset, before an hour of training shows it."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unetlib.data import folders, misfit, twins
from unetlib.data.faults import KINDS, SEVERITIES, mask_faults, photo_faults, size_faults
from unetlib.data.findings import BEHIND, Finding, Look, judge
from unetlib.data.images import ImageError, image_size, load_image, opened, resize
from unetlib.data.masks import load_mask
from unetlib.data.pairs import Found, Pair, Source, batched
from unetlib.data.published import detect
from unetlib.data.sources import SOURCES, find_pairs, read_spec
from unetlib.paths import project_root


@dataclass
class Checkup:
    """What the doctor saw (`looks`, one for each readable pair) and found, the worst first."""

    name: str
    root: Path
    source: str  # under which it was opened, with `args`
    args: dict
    looks: list[Look]
    findings: list[Finding]
    pairs: dict[str, int]  # how many are on each side

    def count(self, severity: str) -> int:
        return sum(f.severity == severity for f in self.findings)

    def kinds(self) -> dict[str, list[Finding]]:
        """kind -> its findings, the worst kinds first."""
        kinds: dict[str, list[Finding]] = {}
        for finding in self.findings:
            kinds.setdefault(finding.kind, []).append(finding)
        return kinds

    def verdict(self) -> str:
        if errors := self.count("error"):
            return f"{errors} {'thing' if errors == 1 else 'things'} would spoil training."
        return "Nothing was found that would spoil training."

    def counts(self) -> str:
        sides = " + ".join(f"{n} {side}".strip() for side, n in self.pairs.items())
        found = [f"{n} {s}{'s' * (n != 1)}" for s in SEVERITIES if (n := self.count(s))]
        return f"{sides} pairs, {', '.join(found) or 'nothing found'}"

    def text(self, first: int = 5) -> str:
        """Counts, what was found by kind with the first few names, and a verdict."""
        where = self.root
        if where.is_relative_to(project_root()):
            where = where.relative_to(project_root())
        lines = [f"{self.name}: {self.counts()} in {where}"]
        for kind, findings in self.kinds().items():
            severity, advice = KINDS[kind]
            lines.append(f"{severity}: {kind} ({len(findings)}). {advice}")
            lines += [f"  {f.reason}" for f in findings[:first]]
            if len(findings) > first:
                lines.append(f"  and {len(findings) - first} more")
        return "\n".join([*lines, self.verdict()])


def examine(root=None, name: str = "", *, jobs: int | None = None, **args) -> Checkup:
    """Looks at every photo and mask of a dataset once, in `jobs` threads (None: one per core).

    `root`, `name` and `args` are those of open_source, for one source; without a name the layout of
    `root` decides. Or `root` is a Source that was opened already. Nothing is changed. Raises
    DataError for a folder that is no dataset, ValueError for a name that is not known.
    """
    if isinstance(root, Source):
        sides = {"train": root.train, "val": root.val}  # a cut-out once, whatever is behind it
        once = {side: list({p.image: p for p in pairs}.values()) for side, pairs in sides.items()}
        found, name = Found(root.root, once, list(root.skipped)), root.name
    else:
        found, name, args = _find(root, name, args)
    pairs = [(side, pair) for side, pairs in found.sides.items() for pair in pairs]
    behind = {path for files in found.backgrounds.values() for path in files}
    work = pairs + [(BEHIND, Pair(path.stem, path, None)) for path in sorted(behind)]
    looks: list[Look] = []
    suspects: list[Look] = []
    bar = tqdm(desc="looking at photos", total=len(work), delay=2, leave=False)
    with bar, ThreadPoolExecutor(jobs or min(8, os.cpu_count() or 1)) as pool:
        for block in batched(work, 64):
            looks += pool.map(look_at, block)
            bar.update(len(block))
            suspects += [k for k in looks[-len(block) :] if k.fit and k.fit.ranks is not None]
            while len(suspects) > 1000:  # enough to compare with each other
                suspects.pop().fit.ranks = None
    below = f"{found.root}{os.sep}"
    findings = [replace(f, reason=f.reason.replace(below, "")) for f in judge(looks, found)]
    order = {kind: i for i, kind in enumerate(KINDS)}
    findings.sort(key=lambda f: (order[f.kind], -f.score, f.reason))
    counts = {side: len(pairs) for side, pairs in found.sides.items()}
    seen = [look for look in looks[: len(pairs)] if look.thumb is not None]
    return Checkup(
        found.root.resolve().name or "dataset", found.root, name, args, seen, findings, counts
    )


def look_at(job: tuple[str, Pair]) -> Look:
    """Decodes a pair, the photo as small as JPEG allows, which notices a file that is cut off."""
    side, pair = job
    look, path = Look(pair, side), pair.image
    try:
        data = path.read_bytes()
        look.photo, look.photo_wh = hashlib.sha256(data).digest(), image_size(data)
        photo = np.asarray(load_image(data, 128))
        look.add(path, photo_faults(photo, look.photo_wh, data))
        if pair.mask is not None:
            path = pair.mask
            with opened(path) as image:
                matte = load_mask(image, kind=pair.mask_kind, dtype=np.uint8)
                look.add(path, mask_faults(image, matte, pair.mask_kind))
            look.mask_wh, look.share = matte.shape[::-1], float(matte.mean() / 255)
            look.add(path, size_faults(look.photo_wh, look.mask_wh))
            look.mask = hashlib.sha256(matte.tobytes()).digest()
            if pair.mask == pair.image:
                photo = _figure(photo, matte)
            elif not look.faults:
                look.fit = misfit.measure(photo, matte)
        look.thumb = twins.thumbnail(photo)
    except (ImageError, OSError) as error:
        reason = str(error).removeprefix(f"{path}: ").removeprefix("the given image: ")
        look.faults = [("unreadable", f"{path}: {reason}", 0.0)]
    return look


def _figure(photo: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """What a cut-out shows: its box, filled with its mean colour. Outlines alone are much alike."""
    inside = resize(matte, photo.shape[:2]) >= 128
    if not inside.any():
        return photo
    box = tuple(slice(i.min(), i.max() + 1) for i in inside.nonzero())
    return np.where(inside[..., None], photo, photo[inside].mean(0)).astype(np.uint8)[box]


def _find(root, name: str, args: dict) -> tuple[Found, str, dict]:
    if not name and str(root).partition(":")[0] in SOURCES:
        name, root = root, None  # a spec, as "folder:photos?groups=folder"
    if name:
        term, *more = read_spec(name)
        if more:
            raise ValueError(f"one source at a time can be examined, not '{name}'")
        name, root, args = term.name, root or term.root, dict(term.args) | args
    if root and name in ("", "synthetic"):  # the source "synthetic" would draw it
        name = detect(folders.locate(root, folders.LAYOUT))
    name = name or "folder"
    return find_pairs(name, root, **args), name, args
