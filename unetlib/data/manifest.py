"""manifest.csv: what is known of each pair beside its files, and the split, to be rebuilt anywhere.

Columns: id, source, split (train or val), group, size (WxH of the photo), sha256 (of the photo that
the pair was made from), foreground_share, tags (separated by `;`). A reader takes what it finds.
"""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from unetlib.data.pairs import DataError, Pair, Skipped
from unetlib.paths import find_input

COLUMNS = ("id", "source", "split", "group", "size", "sha256", "foreground_share", "tags")


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


def text(rows: Iterable[dict[str, str]]) -> str:
    """Rows as the content of a manifest.csv, without the line of column names."""
    file = io.StringIO()
    csv.DictWriter(file, COLUMNS, lineterminator="\n").writerows(rows)
    return file.getvalue()


def divide(path: str, pairs: list[Pair]) -> tuple[dict[str, list[Pair]], list[Skipped]]:
    """The sides as the manifest at `path` names them; pairs that it does not list are skipped."""
    file = find_input(path)
    rows = read(file)
    if not any(row.get("split") in ("train", "val") for row in rows.values()):
        raise DataError(f"{file} has no column `split` with train and val in it")
    sides: dict[str, list[Pair]] = {"train": [], "val": []}
    skipped = []
    for pair in pairs:
        side = rows.get(pair.id, {}).get("split", "")
        if side in sides:
            sides[side].append(pair)
        else:
            skipped.append(Skipped(pair.image, f"not in {file.name}", "not in the manifest"))
    return sides, skipped
