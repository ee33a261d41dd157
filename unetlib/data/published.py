"""Published sets by their own layouts."""

from pathlib import Path

from unetlib.data.download import cache_dir, fetch, unpack_zip
from unetlib.data.folders import listing, locate
from unetlib.data.pairs import DataError, Found, match_pairs
from unetlib.paths import resolve

PENNFUDAN_URL = "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip"
PENNFUDAN_IMAGES = 170


def _pennfudan(root, *, download: bool | None = None) -> Found:
    """Wang, Shi, Song, Shen: Object Detection Combining Recognition and Segmentation, ACCV 2007.

    `root` holds PNGImages/ and PedMasks/. `download=True` fetches them (54 MB) first if they are
    not there. That is the default where no root is given: they are then fetched into the cache.

    Its publisher states no checksum, and none is made up here: the download is verified by the
    length that the server announces, the CRC-32 of every file in the archive and the count of 170
    images and masks.
    """
    layout = "Expected {root}/PNGImages/X.png and {root}/PedMasks/X_mask.png"
    folder = Path(root) if root else cache_dir()
    if download or (download is None and root is None):
        folder = _download_pennfudan(resolve(folder))
    elif root is None and not (folder / "PennFudanPed").is_dir():
        raise DataError(
            f"Penn-Fudan is not in {folder}. Give the folder with PNGImages/ and PedMasks/ as "
            f"root, or download=True to fetch it (54 MB) from {PENNFUDAN_URL}"
        )
    folder = locate(folder, layout)
    if (folder / "PennFudanPed").is_dir():
        folder /= "PennFudanPed"
    if not (folder / "PNGImages").is_dir() or not (folder / "PedMasks").is_dir():
        raise DataError(f"{folder} is not the Penn-Fudan set. {listing(folder, layout)}")
    images, masks = folder / "PNGImages", folder / "PedMasks"
    pairs, skipped = match_pairs(images, masks, "_mask", "labels", strict=False)
    return Found(folder, {"": pairs}, skipped)


def _download_pennfudan(folder: Path) -> Path:
    if (folder / "PNGImages").is_dir() or (folder / "PennFudanPed").is_dir():
        return folder
    archive = fetch(PENNFUDAN_URL, cache_dir() / "PennFudanPed.zip")
    unpack_zip(archive, folder)
    root = folder / "PennFudanPed"
    counts = [len(list((root / d).glob("*.png"))) for d in ("PNGImages", "PedMasks")]
    if counts != [PENNFUDAN_IMAGES] * 2:
        raise DataError(
            f"{archive} holds {counts[0]} images and {counts[1]} masks instead of "
            f"{PENNFUDAN_IMAGES} each. Delete it and {root}, then try again"
        )
    return folder


PUBLISHED = {"pennfudan": _pennfudan}
