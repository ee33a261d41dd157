"""Synthetic samples as ordinary files, with manifest.csv and synthetic.json beside them.

Every file carries a comment that says which sample it is. That is how a later call knows what is
done, what is out of date, and what is not its own.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, PngImagePlugin
from tqdm import tqdm

from unetlib.data.synthetic.scene import GENERATOR_VERSION, generate_sample
from unetlib.paths import write_whole

COLUMNS = ["id", "source", "split", "tags", "foreground_share"]
MARK = "unetlib synthetic v{version} seed={seed} index={index} size={size}"
NAME = re.compile(r"synthetic-(\d{6,})\.(jpg|png)")
NOTE = re.compile(
    rb"(unetlib synthetic v\d+ seed=\d+ index=(\d+) size=\d+) tags=([a-z;]*) share=(\d\.\d{4})"
)
IGNORED = ("thumbs.db", "desktop.ini")
WORTH_A_POOL = 150  # samples; fewer are drawn before worker processes have started


def write_synthetic(
    root,
    count: int = 1200,
    size: int = 128,
    seed: int = 0,
    val_fraction: float = 0.2,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes samples 0 to count - 1 to root/{train,val}/{images/*.jpg, masks/*.png}, `size` square.

    The split is `split_fraction(id, seed) < val_fraction`. The files are the same for any number of
    `workers` (processes; None: one per core). What is there already is kept, so a call that was
    killed is finished by the next one; samples of other arguments are replaced. A file that this
    function did not write is never touched: it raises DataError. Returns root.
    """
    from unetlib.data.pairs import DataError
    from unetlib.data.split import split_fraction

    if count < 1 or not 0 <= val_fraction < 1:
        raise ValueError(
            f"count is at least 1 and val_fraction in [0, 1), not {count}, {val_fraction}"
        )
    root = Path(root)
    splits = [
        "val" if split_fraction(name(i), seed) < val_fraction else "train" for i in range(count)
    ]
    if len(set(splits)) == 1 and val_fraction > 0:
        raise DataError(f"all {count} samples fall into {splits[0]}: take a larger count")
    marks = [mark(seed, i, size) for i in range(count)]
    done, stale = survey(root, splits, marks)
    todo = [i for i in range(count) if i not in done]
    if (
        not todo
        and not stale
        and (root / "synthetic.json").is_file()
        and up_to_date(root, splits, done)
    ):
        return root
    for path in [*stale, root / "synthetic.json"]:
        path.unlink(missing_ok=True)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
    jobs = [(str(root / splits[i]), seed, i, size) for i in todo]
    bar = tqdm(total=count, initial=len(done), desc="drawing", unit="img", disable=not progress)
    with bar:
        for i, note in draw(jobs, workers):
            done[i] = note
            bar.update()
    write_whole(root / "manifest.csv", manifest(splits, done))
    stamp = {"generator": "unetlib synthetic", "version": GENERATOR_VERSION, "seed": seed}
    stamp |= {"size": size, "count": count, "val_fraction": val_fraction}
    write_whole(root / "synthetic.json", json.dumps(stamp, indent=1).encode())
    return root


def name(index: int) -> str:
    return f"synthetic-{index:06d}"


def mark(seed: int, index: int, size: int) -> str:
    return MARK.format(version=GENERATOR_VERSION, seed=seed, index=index, size=size)


def survey(root: Path, splits: list[str], marks: list[str]) -> tuple[dict, list[Path]]:
    """What is there: {index: (tags, share)} of whole samples, and own files to be replaced."""
    halves: dict[int, list] = {}
    stale, foreign = [], []
    folders = [root / s / k for s in ("train", "val") for k in ("images", "masks")]
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.name.startswith(".synthetic-"):
                stale.append(path)  # begun and not finished
                continue
            if path.name.startswith(".") or path.name.lower() in IGNORED:
                continue
            here, named = note_of(path), NAME.fullmatch(path.name)
            if not here or not named or int(here[2]) != int(named[1]):
                foreign.append(path)
                continue
            i = int(named[1])
            if i < len(marks) and here[1].decode() == marks[i] and folder.parent.name == splits[i]:
                halves.setdefault(i, []).append((here[3].decode(), here[4].decode(), path))
            else:
                stale.append(path)
    if foreign or not own_manifest(root / "manifest.csv"):
        from unetlib.data.pairs import DataError

        foreign = foreign or [root / "manifest.csv"]
        raise DataError(
            f"{root} holds {len(foreign)} file(s) that are not synthetic samples, the first is "
            f"{foreign[0]}. Nothing was changed. Choose another folder (data_dir) for the "
            "synthetic set; to use the photos that are there, choose the source 'folder'"
        )
    done = {}
    for i, found in halves.items():
        if len(found) == 2 and found[0][:2] == found[1][:2]:
            done[i] = found[0][:2]
        else:
            stale += [path for *_, path in found]
    return done, stale


def note_of(path: Path) -> re.Match | None:
    """The comment in the first bytes of a JPEG or PNG that this module wrote."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return NOTE.search(file.read(1024))


def own_manifest(path: Path) -> bool:
    if not path.exists():
        return True
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return lines[:1] == [",".join(COLUMNS)] and all(x.startswith("synthetic-") for x in lines[1:])


def manifest(splits: list[str], done: dict) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([name(i), "synthetic", split, *done[i]] for i, split in enumerate(splits))
    return text.getvalue().encode()


def up_to_date(root: Path, splits: list[str], done: dict) -> bool:
    path = root / "manifest.csv"
    return path.is_file() and path.read_bytes() == manifest(splits, done)


def draw(jobs: list[tuple], workers: int | None) -> Iterator[tuple[int, tuple[str, str]]]:
    """(index, (tags, share)) for every job, drawn in processes where that pays."""
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        workers = min(8, cores or 1, len(jobs) // WORTH_A_POOL + 1)
    left = {job[2]: job for job in jobs}
    if workers > 1:
        # spawn: safe beside the threads of torch and of a notebook, the same on every system
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        try:
            for i, note in pool.map(write_sample, jobs, chunksize=8):
                del left[i]
                yield i, note
        except BrokenProcessPool:
            warnings.warn(
                "the worker processes ended early (too little memory, or a script without "
                "`if __name__ == '__main__':`); going on in this one",
                stacklevel=3,
            )
        finally:
            pool.shutdown(cancel_futures=True)
    for job in left.values():
        yield write_sample(job)


def write_sample(job: tuple[str, int, int, int]) -> tuple[int, tuple[str, str]]:
    folder, seed, index, size = job
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        sample = generate_sample(seed, index, size)
    finally:
        cv2.setNumThreads(threads)
    note = ";".join(sample.tags), f"{sample.matte.mean():.4f}"
    text = f"{mark(seed, index, size)} tags={note[0]} share={note[1]}"
    photo, mask, info = io.BytesIO(), io.BytesIO(), PngImagePlugin.PngInfo()
    Image.fromarray(sample.image).save(photo, "JPEG", quality=95, subsampling=0, comment=text)
    info.add_text("Comment", text)
    Image.fromarray(np.rint(sample.matte * 255).astype(np.uint8)).save(mask, "PNG", pnginfo=info)
    write_whole(Path(folder, "images", name(index) + ".jpg"), photo.getvalue())
    write_whole(Path(folder, "masks", name(index) + ".png"), mask.getvalue())
    return index, note
