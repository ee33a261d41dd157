"""COCO portraits: the photos of COCO 2017 with one person who fills a good part of them."""

import json
from array import array
from collections import Counter
from pathlib import Path

import numpy as np

from unetlib.data.download import cache_dir, fetch, fetch_all, unpack_zip
from unetlib.data.images import MAX_PIXELS
from unetlib.data.layouts import below, find_folder, open_folder
from unetlib.data.pairs import DataError, Found, Skipped
from unetlib.data.rendered import join_drawn, masks_dir
from unetlib.paths import resolve, write_whole

ANNOTATIONS_URL = "http://images.cocodataset.org/annotations/annotations_trainval2017.zip"
EXPECTED = (
    "Expected {root}/annotations/instances_train2017.json and {root}/train2017/*.jpg, likewise "
    "val2017, from https://cocodataset.org/#download; download=True fetches what is missing"
)
_INSTANCES = {side: f"annotations/instances_{side}2017.json" for side in ("train", "val")}
_PERSON = 1  # its category in COCO


def find(
    root=None,
    *,
    low: float = 0.2,
    high: float = 0.7,
    limit: int | None = None,
    download: bool | None = None,
) -> Found:
    """Lin et al.: Microsoft COCO: Common Objects in Context, ECCV 2014, https://cocodataset.org

    Kept are photos with exactly one person, who covers between `low` and `high` of the photo and
    is no crowd; of each side the first `limit` by their numbers. `root` holds annotations/ and
    train2017/ and val2017/ (perhaps in images/). `download=True`, the default where no root is
    given, fetches the annotations (241 MB) and then the photos that are kept and missing. Masks are
    drawn once, into the cache. Needs pycocotools. Raises DataError, DownloadError.
    """
    shares = (low, high)
    if not all(isinstance(s, int | float) for s in shares) or not 0 <= low < high <= 1:
        raise ValueError(f"low and high are shares, 0 <= low < high <= 1, not {low} and {high}")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit must be a whole number above 0, not {limit}")
    download = root is None if download is None else download
    folder = Path(root) if root else cache_dir() / "coco"
    if download:
        folder = resolve(folder)
        if not _find(folder):
            archive = fetch(ANNOTATIONS_URL, cache_dir() / "coco" / Path(ANNOTATIONS_URL).name)
            unpack_zip(archive, folder)
    base = open_folder(folder, "COCO 2017", EXPECTED, _find)
    found = Found(base, {})
    for side, name in _INSTANCES.items():
        if (base / name).is_file():
            _add(found, side, base / name, (low, high), limit, download)
    found.free_lone_side()
    return found


def _find(root: Path) -> Path | None:
    return find_folder(root, fits, fits, "annotations|images|train2017|val2017")


def fits(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _INSTANCES.values())


def _add(found: Found, side: str, file: Path, shares, limit, download: bool) -> None:
    """The pairs of a side, whose annotations are in `file`."""
    name, keep = f"{side}2017", masks_dir("coco", found.root)
    images = below(found.root, f"{name}|images/{name}") or found.root / name
    chosen: dict[Path, dict] = {}
    for person in _people(file, keep / f"{side}-{file.stat().st_size}.json"):
        path = images / person["file"]
        if "error" in person:
            reason = f"its person in {file.name} cannot be drawn: {person['error']}"
            found.skipped.append(Skipped(path, reason, "unreadable"))
        elif shares[0] <= person["share"] <= shares[1] and len(chosen) != limit:
            chosen[path] = person
    urls = {path: person["urls"] for path, person in chosen.items()}
    failed = fetch_all(urls, f"COCO {side}") if download else {}
    photos, codes = {}, {}
    for path, person in chosen.items():
        if path.is_file():
            photos[path.stem], codes[path.stem] = path, person["mask"]
        else:
            reason = failed.get(path, "not there; download=True fetches it")
            found.skipped.append(Skipped(path, reason, "mask without image"))

    def draw(id: str) -> np.ndarray:
        return _pycocotools().decode(codes[id]).astype(bool)

    found.sides[side], more = join_drawn(photos, dict.fromkeys(photos, file), keep / side, draw)
    found.skipped += more


def _people(file: Path, index: Path) -> list[dict]:
    """The photos with one person, by their names: file, addresses, share of the photo, mask as a
    run-length code. Reading the annotations takes long, so this is kept in `index`."""
    if index.is_file() and index.stat().st_mtime >= file.stat().st_mtime:
        return json.loads(index.read_bytes())
    mask = _pycocotools()
    try:
        with open(file, encoding="utf-8") as text:
            content = json.load(text, object_hook=_slim)
        photos = {image["id"]: image for image in content["images"]}
        persons = [person for person in content["annotations"] if person]
        counts = Counter(person["image_id"] for person in persons)
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{file} is not an instances file of COCO ({error!r})") from error
    people = []
    for person in persons:
        image = photos.get(person["image_id"])
        if not image or counts[image["id"]] > 1 or person.get("iscrowd"):
            continue
        entry = {"file": Path(str(image["file_name"])).name}  # the name alone: none leads elsewhere
        entry["urls"] = [image[key] for key in ("coco_url", "flickr_url") if image.get(key)]
        try:
            code = _encode(mask, person["segmentation"], image["height"], image["width"])
            entry["share"] = float(mask.area(code)) / (image["height"] * image["width"])
            entry["mask"] = code | {"counts": code["counts"].decode()}
        except Exception as error:  # pycocotools raises Exception itself
            entry["error"] = str(error)
        people.append(entry)
    people.sort(key=lambda entry: entry["file"])
    index.parent.mkdir(parents=True, exist_ok=True)
    write_whole(index, json.dumps(people).encode())
    return people


def _slim(item: dict) -> dict | None:
    """Of an annotation of anything but a person nothing is kept, of polygons packed numbers: the
    whole file would take some gigabytes."""
    if "category_id" in item:
        if item["category_id"] != _PERSON:
            return None
        if isinstance(item.get("segmentation"), list):
            item["segmentation"] = [array("d", polygon) for polygon in item["segmentation"]]
    return item


def _encode(mask, segmentation, height: int, width: int) -> dict:
    """Polygons or any run-length code as a packed run-length code. What it is given is checked:
    pycocotools itself ends Python at some nonsense."""
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"its photo should have {width} x {height} pixels")
    if isinstance(segmentation, list):
        polygons = [np.array(p).reshape(-1, 2) for p in segmentation if len(p) >= 6]
        if not polygons or not all(np.isfinite(p).all() for p in polygons):
            raise ValueError("it has no polygon of three points")
        lines = [np.clip(p, 0, (width, height)).reshape(-1).tolist() for p in polygons]
        return mask.merge(mask.frPyObjects(lines, height, width))
    counts = segmentation["counts"]
    if segmentation["size"] != [height, width]:
        raise ValueError("its run-length code is for a photo of another size")
    if isinstance(counts, str):
        return segmentation | {"counts": counts.encode()}
    if min(counts) < 0 or sum(counts) != height * width:
        raise ValueError("its run-length code is too short or too long")
    return mask.frPyObjects(segmentation, height, width)


def _pycocotools():
    try:
        from pycocotools import mask
    except ImportError as error:
        raise DataError(
            'the masks of COCO need the package pycocotools: pip install "unetlib[coco]"'
        ) from error
    return mask
