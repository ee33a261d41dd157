"""AISegment: 34,425 portraits with mattes, from Kaggle."""

import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from unetlib.data.download import DownloadError, size_of
from unetlib.data.layouts import below, find_folder, open_folder
from unetlib.data.pairs import DataError, Found, Pair, match_pairs
from unetlib.data.split import split_fraction

OWNER, SLUG, VERSION = "laurentmih", "aisegmentcom-matting-human-datasets", 1
# where Kaggle's notebooks and Colab show data sets, the older form first
MOUNTS = (f"/kaggle/input/{SLUG}", f"/kaggle/input/datasets/{OWNER}/{SLUG}")
PUBLISHED_TRAIN, PUBLISHED_VAL = 24_042, 10_383
WAIT = 2.0  # seconds before a lost download is taken up again
_BY_HAND = (
    f"By hand: download https://www.kaggle.com/datasets/{OWNER}/{SLUG} in a browser, unpack it and "
    "give the folder with clip_img/ and matting/ as root"
)
_EXPECTED = (
    "Expected {root}/clip_img/GROUP/clip_N/NAME.jpg and {root}/matting/GROUP/matting_N/NAME.png. "
    + _BY_HAND
)


def find(root=None, *, download: bool | None = None) -> Found:
    """AISegment.com Matting Human Datasets: https://github.com/aisegmentcn/matting_human_datasets

    `root` holds clip_img/GROUP/clip_N/NAME.jpg and matting/GROUP/matting_N/NAME.png, whose alpha is
    the mask. The archive has everything twice; the copy in matting_human_half/ is read only where
    it is the only one. Without a root: where Kaggle and Colab mount it, else through kagglehub,
    whose cache is used (KAGGLEHUB_CACHE), offline too; `download=False` downloads nothing.

    Photos of a group are near copies, so groups stay together. `published` divides whole groups so
    that the sizes come as close as can be to the 24,042 and 10,383 (of 34,425) that are published.
    Raises DataError, DownloadError.
    """
    if root is None:
        mounted = next((path for path in MOUNTS if Path(path).is_dir()), None)
        root = mounted or _from_kaggle(download is not False)
    base = open_folder(root, "AISegment, or half of it", _EXPECTED, _find)
    pairs, skipped = match_pairs(
        below(base, "clip_img"),
        below(base, "matting"),
        mask_kind="alpha",
        rename=lambda id: id.replace("/matting_", "/clip_"),
        strict=False,
    )
    pairs = [replace(pair, group=pair.id.partition("/")[0]) for pair in pairs]
    return Found(base, {"": pairs}, skipped, published=published)


def _find(root: Path) -> Path | None:
    return find_folder(root, fits, fits, "clip_img|matting")


def fits(folder: Path) -> bool:
    return bool(below(folder, "clip_img") and below(folder, "matting"))


def published(pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Whole groups, so chosen that val has the published share of the pairs or the next size that
    groups can make. The choice depends on the names of the groups and their sizes alone."""
    sizes = Counter(pair.group for pair in pairs)
    wanted = round(len(pairs) * PUBLISHED_VAL / (PUBLISHED_TRAIN + PUBLISHED_VAL))
    choices: dict[int, tuple[str, ...]] = {0: ()}  # a number of pairs -> groups that have so many
    for group in sorted(sizes, key=split_fraction):
        more = {n + sizes[group]: (*choice, group) for n, choice in choices.items()}
        choices = more | choices
    possible = sorted(n for n in choices if 0 < n < len(pairs))
    val = choices[min(possible, key=lambda n: abs(n - wanted), default=0)]
    return {
        "train": [pair for pair in pairs if pair.group not in val],
        "val": [pair for pair in pairs if pair.group in val],
    }


def _from_kaggle(download: bool) -> str:
    """The folder in kagglehub's cache, downloaded if it is not there."""
    cache = os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub"
    cache = Path(cache) / "datasets" / OWNER / SLUG
    archive = cache / f"{VERSION}.archive"
    if not download and not (cache / f"{VERSION}.complete").exists():
        raise DataError(f"AISegment is not in {cache}. download=True fetches it. {_BY_HAND}")
    try:
        import kagglehub
    except ImportError as error:
        raise DataError(
            'AISegment comes from Kaggle through the package kagglehub: pip install "unetlib'
            f'[kaggle]". {_BY_HAND}'
        ) from error
    import requests

    failures = 0
    while True:
        before = size_of(archive)
        try:
            return kagglehub.dataset_download(f"{OWNER}/{SLUG}/versions/{VERSION}")
        except requests.RequestException as error:
            status = getattr(error.response, "status_code", 500)
            failures = 1 if size_of(archive) > before else failures + 1
            if (status >= 500 or status == 429) and failures < 3:
                time.sleep(WAIT)  # kagglehub takes up what arrived
                continue
            reason = f"no connection to Kaggle ({error})" if error.response is None else str(error)
            if status in (401, 403):
                reason = f"Kaggle asks for a login, run kagglehub.login() ({error})"
        except OSError as error:
            reason = f"it cannot be written below {cache} ({error})"
        except Exception as error:  # a dozen kinds: of archives, of checksums, kagglehub's own
            reason = f"{error}. If {archive} is there, it is incomplete or damaged: delete it"
        raise DownloadError(
            f"AISegment could not be downloaded: {reason}. Try again (what arrived is kept). "
            f"{_BY_HAND}"
        )
