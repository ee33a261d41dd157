"""What `prepare` has done in a folder: which pairs were begun and which are done, so that a later
call knows what is left to do, and which files are not its own. root/.prepare.jsonl holds it: the
request in the first line, then a line for each pair that is begun, and another when it is done.
"""

import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from unetlib.data.pairs import DataError, Pair
from unetlib.paths import write_whole

JOURNAL = ".prepare.jsonl"
_PART = re.compile(r"\.(.+)\.\d+\.part")  # what `whole` writes before it is moved


class Row(NamedTuple):
    """A line of the journal: a pair that was begun or, with all values, one that is done."""

    id: str  # in the source
    split: str
    target: str  # the id that it is written under
    suffix: str  # of the photo
    stamp: str = ""  # times and lengths of the files that it was made from
    size: str = ""
    sha256: str = ""
    share: str = ""

    @property
    def files(self) -> tuple[str, str]:
        """Photo and mask, below root."""
        side, name = self.split, self.target
        return f"{side}/images/{name}{self.suffix}", f"{side}/masks/{name}.png"


def read(root: Path, request: dict) -> dict[str, Row]:
    """Source id -> what was begun or done. Raises DataError for another request."""
    if not (path := root / JOURNAL).is_file():
        return {}
    with open(path, encoding="utf-8") as file:
        before, *lines = file
    before = json.loads(before)
    if other := [f"{key} {before.get(key)}, not {value}" for key, value in request.items()
                 if before.get(key) != value]:  # fmt: skip
        raise DataError(
            f"{root} was prepared from another source or in another way ({'; '.join(other)}). "
            "Nothing was changed: choose another folder (--into)"
        )
    rows = [Row(*json.loads(line)) for line in lines if line.endswith("]\n")]  # not cut by a kill
    return {row.id: row for row in rows}


def survey(root: Path, rows: dict[str, Row], plan: dict[str, Row]) -> set[str]:
    """The files in train/ and val/, by their paths below root. Removes own ones that are half
    written. Raises DataError for the first that is not our own, or not of this plan."""
    own, wanted = ({f for row in some.values() for f in row.files} for some in (rows, plan))
    present = set()
    for name in (JOURNAL, "manifest.csv"):
        for part in root.glob(f".{name}.*.part"):
            part.unlink()
    for side in ("train", "val"):
        for here, _, names in os.walk(root / side):
            folder = Path(here).relative_to(root).as_posix()
            for name in names:
                if (part := _PART.fullmatch(name)) and f"{folder}/{part[1]}" in own:
                    Path(here, name).unlink()
                elif not name.startswith(".") and name.lower() not in ("thumbs.db", "desktop.ini"):
                    present.add(unicodedata.normalize("NFC", f"{folder}/{name}"))
    foreign, what = sorted(present - own), "not prepared from a source"
    if not (root / JOURNAL).is_file():
        foreign += [n for n in ("manifest.csv", "images", "cutouts") if (root / n).exists()]
    if (root / "synthetic.json").is_file():
        what = "part of the synthetic set that was drawn there"
    if not foreign and (foreign := sorted(present - wanted)):
        what = "of a photo that the source does not have any more, or on the split's other side"
    if foreign:
        raise DataError(
            f"{root} holds files that would be mixed up with the new ones ({len(foreign)}): "
            f"{root / foreign[0]} is {what}. Nothing was changed: choose another folder (--into)"
        )
    return present


def stamp(pair: Pair) -> str:
    """Times and lengths of a pair's files; "" if one is not there."""
    try:
        stats = [os.stat(path) for path in (pair.image, pair.mask, pair.background) if path]
    except OSError:
        return ""
    return " ".join(f"{stat.st_mtime_ns}:{stat.st_size}" for stat in stats)


@contextmanager
def noting(root: Path, request: dict, rows: dict[str, Row]) -> Iterator[Callable[[Row], None]]:
    """Yields a function that adds a row to `rows` and, at once, to the file."""
    text = "".join(json.dumps(line) + "\n" for line in (request, *rows.values()))
    write_whole(root / JOURNAL, text.encode())  # without a line that a kill cut off
    with open(root / JOURNAL, "a", encoding="utf-8", newline="\n") as file:

        def note(row: Row) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()
            rows[row.id] = row

        yield note
