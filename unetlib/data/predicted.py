"""Masks that were predicted elsewhere, as files: which belongs to which true mask."""

import warnings
from pathlib import Path

import numpy as np

from unetlib.data.images import image_size
from unetlib.data.masks import load_mask
from unetlib.data.pairs import DataError, Skipped, files_by_stem

ENDINGS = ("_mask_soft", "_soft", "_mask", "")  # of a prediction, after the name of its photo


def match_predictions(predictions: Path, masks: Path) -> dict[str, tuple[Path, Path]]:
    """id -> (prediction, true mask) for every true mask, sorted. Names and sizes are checked.

    Files of the same name belong together, whatever their type, in folders and folders below them.
    A true mask may end in _mask, a prediction in one of ENDINGS (of several, the first is taken).
    Raises NotADirectoryError; DataError for a folder without images, for missing or ambiguous
    files, for a prediction of another size than its mask, and for the same folder twice.
    """
    softs, truths = _images_in(predictions), _images_in(masks)
    if predictions.samefile(masks):
        raise DataError(f"{masks} cannot be both the predictions and the truth: name two folders")
    found: dict[str, tuple[Path, Path]] = {}
    missing = []
    for name, truth in sorted(truths.items()):
        id = name.removesuffix("_mask")
        known = (softs[id + ending] for ending in ENDINGS if id + ending in softs)
        if soft := next(known, None):
            found[id] = (soft, truth)
        else:
            missing.append(id)
    if missing:
        taken = tuple(f"{id}_" for id in found)
        others = _some([name for name in sorted(softs) if not f"{name}_".startswith(taken)])
        raise DataError(
            f"{len(missing)} of {len(truths)} masks in {masks} have no prediction of the same name "
            f"in {predictions}: {_some(missing)}" + (f" (it has {others})" if others else "")
        )
    for soft, truth in found.values():
        (w, h), (width, height) = image_size(soft), image_size(truth)
        if (w, h) != (width, height):
            raise DataError(
                f"a prediction must have the size of its mask: {soft} is {w} x {h}, {truth} is "
                f"{width} x {height}"
            )
    return found


def load_soft(path: Path) -> np.ndarray:
    """A predicted mask as float32 (H, W) in [0, 1]: grey values are probabilities, of 8 or 16 bits;
    of a picture with transparency it is the alpha."""
    soft = load_mask(path, kind="matte")
    if 0 < soft.max() <= 1 / 255 + 1e-6 and len(np.unique(soft)) == 2:
        warnings.warn(
            f"{path} holds the grey values 0 and 1 only and counts as black: a mask of labels has "
            "to be written as 0 and 255",
            stacklevel=2,
        )
    return soft


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _images_in(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder: expected one with images of masks")
    skipped: list[Skipped] = []
    found = files_by_stem(folder, skipped)
    if not found:
        raise DataError(f"{folder} has no images: expected one mask per photo")
    for skip in skipped:
        if skip.kind == "same stem":
            raise DataError(f"{skip.path}: {skip.reason}")
    return found
