"""manifest.csv: what is known of each pair beside its files, and the split, to be rebuilt anywhere.

Columns: id, source, split (train or val), group, size (WxH of the photo), sha256 (of the photo that
the pair was made from), foreground_share, tags (separated by `;`). A reader takes what it finds.
"""

import csv
import hashlib
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from unetlib.data.pairs import DataError, Pair, Skipped
from unetlib.paths import find_input, sha256

COLUMNS = ("id", "source", "split", "group", "size", "sha256", "foreground_share", "tags")
LONGEST_ID = 140  # bytes: Windows ends paths at 260 characters, folder and all
_FORBIDDEN = re.compile('[<>:"|?*\\\\\x00-\x1f\x7f\ud800-\udfff]')
_SPECIAL = re.compile(
    r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$|__macosx)? *", re.IGNORECASE
)


def read(path: Path) -> dict[str, dict[str, str]]:
    """id -> its row; empty where there is no such file. Raises DataError for one that is none."""
    if not path.is_file():
        return {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no table of comma-separated values: {error}") from error
    return {r["id"]: {k: v or "" for k, v in r.items() if k} for r in rows if r.get("id")}


def text(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows with values in the order of COLUMNS as the content of a manifest.csv, sorted by split
    and id."""
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(sorted(rows, key=lambda row: (row[2], row[0])))
    return file.getvalue()


def divide(path: str, pairs: list[Pair]) -> tuple[dict[str, list[Pair]], list[Skipped]]:
    """The sides as the manifest at `path` names them; pairs that it does not list are skipped.

    A pair is looked up by its id, then by the id that it had among several sources, then, where ids
    were changed or are not clear, by the content of its photo.
    """
    file = find_input(path)
    rows = read(file)
    if not any(row.get("split") in ("train", "val") for row in rows.values()):
        raise DataError(f"{file} has no column `split` with train and val in it")
    of_source, of_photo = defaultdict(list), {}
    for id, row in rows.items():
        if row.get("sha256"):
            of_photo[row["sha256"]] = row
        name, slash, own_id = id.partition("/")
        if slash and name == row.get("source"):
            of_source[name.rstrip("0123456789-"), own_id].append(row)
    sides: dict[str, list[Pair]] = {"train": [], "val": []}
    skipped = []
    for pair in pairs:
        found = of_source.get((pair.source, pair.id), ())
        row = rows.get(pair.id) or (found[0] if len(found) == 1 else None)
        if row is None and of_photo:
            row = of_photo.get(sha256(pair.image))
        if row and row.get("split") in sides:
            sides[row["split"]].append(pair)
        else:
            skipped.append(Skipped(pair.image, f"not in {file.name}", "not in the manifest"))
    return sides, skipped


def target_ids(ids: Iterable[str], known: dict[str, str]) -> dict[str, str]:
    """id -> the id to write it under: itself, if every file system can hold it.

    Names that Windows refuses, names that this project's readers pass over, and very long ones are
    changed and get a mark that follows from the name alone. Of folders or files that differ only in
    case or in how accents are stored, the first in the alphabet keeps its name. `known`: targets
    given earlier, which stay.
    """
    places, taken = {"": ""}, set()
    for id, target in known.items():
        while target and id not in places:
            places[id] = target
            taken.add(_same_file(target))
            id, target = id.rpartition("/")[0], target.rpartition("/")[0]

    def place(id: str) -> str:
        if id not in places:
            folder, _, name = id.rpartition("/")
            if len(_bytes(id)) > LONGEST_ID:
                folder, name = "", f"{_bytes(name)[:60].decode(errors='ignore')}~{_mark(id)}"
            wanted = target = f"{place(folder)}/{_safe(name)}".removeprefix("/")
            mark = id
            while _same_file(target) in taken:
                mark = _mark(mark)
                target = f"{wanted}~{mark}"
            taken.add(_same_file(target))
            places[id] = target
        return places[id]

    return {id: place(id) for id in sorted(ids)}


def _safe(name: str) -> str:
    usual = unicodedata.normalize("NFC", name)
    safe = re.sub(r"^\.", "_", _FORBIDDEN.sub("_", usual).rstrip(". "))
    if _SPECIAL.fullmatch(safe.partition(".")[0]):
        safe = "_" + safe
    return safe if safe == usual else f"{safe}~{_mark(name)}"


def _same_file(path: str) -> str:
    """The same text for paths that Windows or macOS may take for the same file."""
    return unicodedata.normalize("NFC", path.casefold())


def _mark(text: str) -> str:
    return hashlib.sha256(_bytes(text)).hexdigest()[:8]


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
