"""Supervisely Person: photos with bitmaps and polygons in JSON files, drawn as masks."""

import base64
import json
import unicodedata
import zlib
from pathlib import Path

import cv2
import numpy as np

from unetlib.data.images import MAX_PIXELS, opened
from unetlib.data.layouts import Layout, Row, below, find_folder, folders_in
from unetlib.data.pairs import SUFFIXES, DataError, Found, Skipped, files_by_stem
from unetlib.data.rendered import join_drawn, masks_dir


class Supervisely(Layout):
    """Any number of folders with img/NAME.png and ann/NAME.png.json (or NAME.json), or the version
    on Kaggle with images/ and masks/.

    Bitmaps and polygons of a class that begins with "person" are foreground, others ("neutral") are
    not. Photos whose annotation says "not-marked-people" are left out. The masks are drawn once,
    into the cache.
    """

    def find(self, root: Path) -> Path | None:
        return find_folder(root, self.fits, self.tells, "img|ann|images|masks")

    def fits(self, folder: Path) -> bool:
        return bool(_parts(folder)) or super().fits(folder)

    def tells(self, folder: Path) -> bool:
        return bool(_parts(folder)) or super().tells(folder)

    def open(self, root=None, *, download: bool | None = None) -> Found:
        root = self.place(root, download)
        return _annotated(root) if _parts(root) else super().open(root)

    def expected(self) -> str:
        other = "As Supervisely itself gives it: ds1/img/NAME.png with ds1/ann/NAME.png.json, ds2/"
        return f"{super().expected()}. {other}"


LAYOUT = Supervisely(
    "Supervisely Person",
    # Supervisely, 2018: https://app.supervisely.com/ecosystem/projects/supervisely-person-dataset
    "https://www.kaggle.com/datasets/tapakah68/supervisely-filtered-segmentation-person-dataset",
    (Row("", "images", "masks", 2667),),
)


def _parts(folder: Path) -> list[Path]:
    return [f for f in (folder, *folders_in(folder)) if below(f, "img") and below(f, "ann")]


def _annotated(root: Path) -> Found:
    photos: dict[str, Path | None] = {}
    annotations: dict[str, Path] = {}
    skipped: list[Skipped] = []
    for part in _parts(root):
        for id, path in files_by_stem(below(part, "img"), skipped).items():
            photos[f"{part.name}/{id}"] = path
        for file in sorted(below(part, "ann").glob("[!.]*.json")):
            name = Path(file.stem)
            stem = name.stem if name.suffix.lower() in SUFFIXES else file.stem
            id = unicodedata.normalize("NFC", f"{part.name}/{stem}")
            if id not in photos:
                reason = f"annotation without image (expected one img/{stem}.*)"
                skipped.append(Skipped(file, reason, "mask without image"))
            elif id in annotations:
                reason = f"same photo as {annotations[id].name}: unclear which one is meant"
                skipped.append(Skipped(file, reason, "same stem"))
            else:
                annotations[id] = file
    keep = masks_dir("supervisely", root)
    pairs, more = join_drawn(photos, annotations, keep, lambda id: draw_annotation(annotations[id]))
    return Found(root, {"": pairs}, skipped + more)


def draw_annotation(file: Path) -> np.ndarray:
    """bool (H, W): the people of an annotation. See
    https://docs.supervisely.com/customization-and-integration/00_ann_format_navi"""
    content = json.loads(file.read_text(encoding="utf-8"))
    if "not-marked-people" in json.dumps(content.get("tags", "")):
        raise DataError("not all people in the photo are marked, says its annotation")
    height, width = content["size"]["height"], content["size"]["width"]
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"a photo of {width} x {height} pixels")
    mask = np.zeros((height, width), bool)
    for thing in content["objects"]:
        if not thing["classTitle"].lower().startswith("person"):
            continue
        if bitmap := thing.get("bitmap"):
            part = _bitmap(bitmap["data"])
            x, y = bitmap["origin"]
            part = part[max(-y, 0) :, max(-x, 0) :]  # it may reach beyond the photo
            clip = mask[max(y, 0) :, max(x, 0) :][: part.shape[0], : part.shape[1]]
            clip |= part[: clip.shape[0], : clip.shape[1]]
        else:
            plane = np.zeros((height, width), np.uint8)
            shape = thing["points"]
            for line, value in [(shape["exterior"], 1), *((hole, 0) for hole in shape["interior"])]:
                if len(line) > 2:  # fewer points enclose nothing
                    points = np.rint(np.array(line, float)).clip(-MAX_PIXELS, MAX_PIXELS)
                    cv2.fillPoly(plane, [points.astype(np.int32).reshape(-1, 1, 2)], value)
            mask |= plane > 0
    return mask


def _bitmap(data: str) -> np.ndarray:
    """bool: a PNG, squeezed and in letters; what is not transparent in it."""
    with opened(zlib.decompress(base64.b64decode(data))) as image:
        if image.has_transparency_data:
            return np.asarray(image.convert("RGBA"))[..., 3] > 0
        return np.asarray(image.convert("L")) > 0
