"""Masks that are drawn from annotations once and kept as PNG files in the cache."""

import hashlib
import io
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from unetlib.data.download import cache_dir
from unetlib.data.pairs import DataError, Pair, Skipped, batched, join
from unetlib.paths import write_whole


@dataclass(frozen=True)
class Drawing:
    """A mask to be: its file, the annotation it comes from and what draws it, bool (H, W).
    What that raises as DataError is a reason to leave the photo out, all else is damage."""

    mask: Path
    annotation: Path
    draw: Callable[[], np.ndarray]


def masks_dir(name: str, root: Path) -> Path:
    """Where the masks of the set in `root` are kept: a folder of its own for each place."""
    place = hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogatepass")).hexdigest()
    return cache_dir() / "masks" / f"{name}-{place[:12]}"


def join_drawn(
    photos: dict[str, Path | None], drawings: dict[str, Drawing], wanted: tuple[str, str]
) -> tuple[list[Pair], list[Skipped]]:
    """`join` for masks that are drawn first: those that are missing or older than their annotation,
    whole files only. An annotation that cannot be drawn is Skipped, and its photo is left out."""
    todo = [id for id, drawing in drawings.items() if not _fresh(drawing)]
    skipped, masks = [], {id: drawing.mask for id, drawing in drawings.items()}
    bar = tqdm(desc="drawing masks", total=len(todo), delay=2, mininterval=0.5)
    with bar, ThreadPoolExecutor(8) as pool:
        for block in batched(todo, 256):
            for id, fault in zip(block, pool.map(_draw, (drawings[i] for i in block)), strict=True):
                if fault:
                    skipped.append(fault)
                    del masks[id]
            bar.update(len(block))
    usable = {id: path for id, path in photos.items() if id in masks or id not in drawings}
    pairs, more = join(usable, masks, "matte", wanted)
    return pairs, skipped + more


def _fresh(drawing: Drawing) -> bool:
    try:
        return drawing.mask.stat().st_mtime >= drawing.annotation.stat().st_mtime
    except FileNotFoundError:
        return False


def _draw(drawing: Drawing) -> Skipped | None:
    try:
        mask = drawing.draw()
    except DataError as error:
        return Skipped(drawing.annotation, str(error), "skipped")
    except (ValueError, LookupError, TypeError, AttributeError, OSError, zlib.error) as error:
        reason = f"no annotation from which {drawing.mask.name} can be drawn ({error!r})"
        return Skipped(drawing.annotation, reason, "unreadable")
    png = io.BytesIO()
    Image.fromarray(mask * np.uint8(255)).save(png, "PNG")
    drawing.mask.parent.mkdir(parents=True, exist_ok=True)
    write_whole(drawing.mask, png.getvalue())
    return None
