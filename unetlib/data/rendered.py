"""Masks that are drawn from annotations once and kept as PNG files in the cache."""

import hashlib
import io
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from unetlib.data.download import cache_dir
from unetlib.data.pairs import DataError, Pair, Skipped, join
from unetlib.paths import write_whole


def masks_dir(name: str, root: Path) -> Path:
    """Where the masks of the set in `root` are kept: a folder of its own for each place."""
    place = hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogatepass")).hexdigest()
    return cache_dir() / "masks" / f"{name}-{place[:12]}"


def join_drawn(
    photos: dict[str, Path | None],
    annotations: dict[str, Path],
    folder: Path,
    draw: Callable[[str], np.ndarray],
) -> tuple[list[Pair], list[Skipped]]:
    """`join` for masks that are drawn first, in `folder`: those that are missing or older than
    their annotation, whole files only. `draw`: id -> bool (H, W). What it raises is the reason why
    the annotation is Skipped and its photo left out: a DataError as it is, all else as damage."""

    def make(id: str) -> Skipped | None:
        path, annotation = folder / f"{id}.png", annotations[id]
        try:
            if path.is_file() and path.stat().st_mtime >= annotation.stat().st_mtime:
                return None
            mask = draw(id)
        except DataError as error:
            return Skipped(annotation, str(error), "skipped")
        except (ValueError, LookupError, TypeError, AttributeError, OSError, zlib.error) as error:
            reason = f"no annotation from which {path.name} can be drawn ({error!r})"
            return Skipped(annotation, reason, "unreadable")
        png = io.BytesIO()
        Image.fromarray(mask * np.uint8(255)).save(png, "PNG")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, png.getvalue())
        return None

    with ThreadPoolExecutor(8) as pool:
        bar = tqdm(pool.map(make, annotations), "drawing masks", len(annotations), delay=2)
        faults = dict(zip(annotations, bar, strict=True))
    usable = {id: path for id, path in photos.items() if not faults.get(id)}
    masks = {id: folder / f"{id}.png" for id, fault in faults.items() if not fault}
    pairs, skipped = join(usable, masks, "matte", ("image of {}", "annotation of {}"))
    return pairs, [fault for fault in faults.values() if fault] + skipped
