"""Photos, folders and videos -> which input becomes which files."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unetlib import video
from unetlib.cutting import OUTPUTS
from unetlib.data.pairs import SUFFIXES
from unetlib.paths import find_input

# What is taken from folders. Most files that end in .ts are programs.
SEARCHED = {*SUFFIXES, ".jfif", ".avif", ".heic", ".heif", *video.SUFFIXES} - {".ts"}
RESULT = re.compile(rf"(.+)_(?:{'|'.join(OUTPUTS)})(?:\.\w+)?")


@dataclass(frozen=True)
class Task:
    """A photo or video, and the files it becomes: kind (of OUTPUTS, or "video") -> path."""

    source: Path
    targets: dict[str, Path]

    def missing(self) -> "Task":
        """The same with the files that are not there yet: nothing is replaced unasked. A file
        without content counts as none, a folder as its frames."""
        left = {kind: path for kind, path in self.targets.items() if not _content(path)}
        return Task(self.source, left)

    def is_outdated(self) -> bool:
        """Whether the source was changed after one of the files that are there was written."""
        try:
            changed = self.source.stat().st_mtime_ns
        except OSError:  # a missing source is reported where it is opened
            return False
        there = [file for path in self.targets.values() for file in _content(path)]
        return any(file.stat().st_mtime_ns < changed for file in there)


@dataclass(frozen=True)
class Outcome:
    """How the work on an input ended; `text`: why it failed, or a remark on the result."""

    input: str
    failed: bool
    text: str


def _content(path: Path) -> list[Path]:
    """What a target holds: itself, or in a folder its frames; [] for an empty file."""
    if path.is_dir():
        return sorted(path.glob("frame_[0-9]*.png"))[:1]
    return [path] if path.exists() and path.stat().st_size else []


def plan(
    inputs: Sequence[str], into: Path, name_targets: Callable, outcomes: list[Outcome]
) -> list[Task]:
    """Photos, videos and folders -> tasks that write below `into`; missing ones go to `outcomes`.

    The tree of a folder is kept; where there are several inputs, below the folder's name. A file
    that is given twice counts once. `name_targets(source, base)` gives a Task's targets; `base` is
    what their paths begin with: the source's name without suffix, or with it where two would be
    called the same. Raises ValueError for a folder with nothing to cut, for two inputs that would
    still write one file, and for one that would be overwritten.
    """
    found: dict[str, tuple[Path, Path]] = {}
    for text in inputs:
        if not text:
            raise ValueError("an input is empty (a variable that is not set?): name a photo")
        try:
            path = find_input(text)
        except FileNotFoundError as error:
            outcomes.append(Outcome(text, True, str(error)))
            continue
        listed = [(path, into)]
        if path.is_dir():
            top = into / path.resolve().name if len(inputs) > 1 else into
            listed = [(p, top / p.relative_to(path).parent) for p in _search(path, into, outcomes)]
            if not listed:
                raise ValueError(f"no photo or video in {path} ({' '.join(sorted(SEARCHED))})")
        for file, folder in listed:
            found.setdefault(_identity(file), (file, folder))

    bases = {id: folder / file.stem for id, (file, folder) in found.items()}
    while True:  # a longer name may be that of a third: "a.jpg", "a.png" and "a.jpg.png"
        users = Counter(_place(base) for base in bases.values())
        shared = [id for id, base in bases.items() if users[_place(base)] > 1]
        longer = {id: bases[id].with_name(found[id][0].name) for id in shared}
        if longer.items() <= bases.items():
            break
        bases |= longer
    tasks, writers = [], {}
    for id, (file, _) in found.items():
        task = Task(file, name_targets(file, bases[id]))
        for path in task.targets.values():
            if _identity(path) in found:
                raise ValueError(f"{file} would replace {path}: choose another folder (-o)")
            if (other := writers.setdefault(_place(path), file)) != file:
                raise ValueError(
                    f"{other} and {file} would both write {path}: give each its own -o"
                )
        tasks.append(task)
    return tasks


def _search(folder: Path, into: Path, outcomes: list[Outcome]) -> Iterator[Path]:
    """Photos and videos below a folder, sorted. Left out: what is hidden, the output folder, what
    is named like a result of a file beside it, links to folders."""

    def unreadable(error: OSError) -> None:
        text = f"the folder cannot be read ({error.strerror})"
        outcomes.append(Outcome(str(error.filename), True, text))

    for here, folders, names in os.walk(folder, onerror=unreadable):
        files = [Path(here, name) for name in sorted(names) if not name.startswith(".")]
        files = [file for file in files if file.suffix.lower() in SEARCHED]
        beside = {name for file in files for name in (file.stem, file.name)}
        ours = {n for n in folders + names if (match := RESULT.fullmatch(n)) and match[1] in beside}
        folders[:] = [
            name
            for name in sorted(folders)
            if not (name.startswith((".", "__MACOSX")) or name in ours)
            and os.path.realpath(Path(here, name)) != os.path.realpath(into)
        ]
        for file in files:  # a pipe would never end; a link that leads nowhere is to be reported
            if file.name not in ours and (file.is_file() or not file.exists()):
                yield file


def _identity(path: Path) -> str:
    """The same for a file that is given twice; two links to one file are two."""
    return os.path.normcase(os.path.join(os.path.realpath(path.parent), path.name))


def _place(path: Path) -> str:
    """The same for paths that Windows or macOS may take for the same file."""
    return unicodedata.normalize("NFC", str(path).casefold())
