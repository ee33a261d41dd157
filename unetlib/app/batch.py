"""Photos, folders and videos -> cut-outs: which input becomes which files, and the work on them."""

import errno
import os
import re
import sys
import tempfile
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import cv2
from tqdm import tqdm

from unetlib import video
from unetlib.cutting import OUTPUTS, Cut, Recipe, cut_photo
from unetlib.data.images import ImageError, image_size
from unetlib.data.pairs import SUFFIXES
from unetlib.paths import find_input, write_whole
from unetlib.predict import Predictor

# What is taken from folders. Most files that end in .ts are programs.
SEARCHED = {*SUFFIXES, ".jfif", ".avif", ".heic", ".heif", *video.SUFFIXES} - {".ts"}
RESULT = re.compile(rf"(.+)_(?:{'|'.join(OUTPUTS)})(?:\.\w+)?")
LARGE = 20_000_000  # pixels: photos above are cut one at a time, each may take a gigabyte


@dataclass(frozen=True)
class Task:
    """A photo or video, and the files it becomes: kind (of OUTPUTS, or "video") -> path."""

    source: Path
    targets: dict[str, Path]

    def is_done(self) -> bool:
        """Whether every file is there and not older than the source."""
        try:
            changed = self.source.stat().st_mtime_ns
            return all(path.stat().st_mtime_ns >= changed for path in self.targets.values())
        except OSError:  # a missing source is reported where it is opened
            return False


@dataclass(frozen=True)
class Outcome:
    """How the work on an input ended; `text`: why it failed, or a remark on the result."""

    input: str
    failed: bool
    text: str


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


def check_writable(folder: Path) -> None:
    """Makes the folder where it is missing. Raises OSError where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        text = f"the output folder {folder} cannot be written ({error.strerror})"
        raise OSError(f"{text}: choose another, -o FOLDER") from error


def remark_on(cut: Cut) -> str:
    """A few words about a cut-out without foreground, "" for others."""
    facts = f"soft mask {cut.cutout.soft.max():.3f}, threshold {cut.recipe.threshold:g}"
    empty = not cut.cutout.binary.any()
    return f"nothing is left in the cut-out (highest value of the {facts})" if empty else ""


def cut_stream(predictor: Predictor, recipe: Recipe) -> Cut:
    """The photo on standard input. A remark on the result goes to standard error."""
    try:
        with redirect_stdout(sys.stderr):  # PyMatting prints, but only the file is to come there
            cut = cut_photo(sys.stdin.buffer.read(), predictor, recipe)
    except ImageError as error:
        raise OSError(str(error).replace("the given image", "standard input", 1)) from error
    if remark := remark_on(cut):
        print(f"standard input: {remark}", file=sys.stderr)
    return cut


def cut_all(
    tasks: Sequence[Task], open_predictor: Callable, recipe: Recipe, outcomes: list[Outcome],
    jobs: int | None = None, smooth: bool = True, debug: bool = False,
) -> None:  # fmt: skip
    """Does the tasks and adds how each ended to `outcomes`; one that fails does not stop others.

    `open_predictor(threads)` -> Predictor, once for photos and once for videos. `jobs`: photos at a
    time, a core each; None: one per core, all cores for a single photo. Videos follow one by one.
    Raises ImportError for a missing package, OSError for a full disk, and with `debug` any error;
    then, and after Ctrl-C, photos that were begun are finished, so that their files are whole.
    """
    photos = [task for task in tasks if "video" not in task.targets]
    threads = None if jobs is None and len(photos) == 1 else 1
    jobs, silent = jobs or os.cpu_count() or 1, None if len(tasks) < 20 else False  # None: in logs
    bar = tqdm(desc="cutting out", unit="file", total=len(tasks), delay=1, disable=silent)

    def note(task: Task, result: Callable[[], str]) -> None:
        try:
            failed, text = False, result()
        except Exception as error:  # codecs and runtimes raise whatever they like
            full = getattr(error, "errno", 0) == errno.ENOSPC
            if debug or full or isinstance(error, ImportError):
                raise
            failed, text = True, str(error) or type(error).__name__
        outcomes.append(Outcome(str(task.source), failed, text.removeprefix(f"{task.source}: ")))
        bar.update()

    running, pool, cv_threads = {}, ThreadPoolExecutor(jobs, "cut"), cv2.getNumThreads()
    try:
        if photos:
            predictor, gate = open_predictor(threads), threading.Lock()
            cv2.setNumThreads(threads or cv_threads)
            for task in photos:
                work = pool.submit(_cut_photo, task, predictor, recipe, threads, gate)
                running[work] = task
                while len(running) > (jobs if task is not photos[-1] else 0):
                    # with a timeout, or Windows would not hear of Ctrl-C
                    for work in wait(running, 0.5, return_when=FIRST_COMPLETED).done:
                        note(running.pop(work), work.result)
        if len(photos) < len(tasks):
            predictor = open_predictor(None)
        for task in tasks:
            if "video" in task.targets:
                note(task, lambda task=task: _cut_video(task, predictor, recipe, smooth))
    finally:
        pool.shutdown()
        for work, task in running.items():
            note(task, work.result)
        cv2.setNumThreads(cv_threads)
        bar.close()


def _cut_photo(task: Task, predictor: Predictor, recipe: Recipe, threads, gate) -> str:
    width, height = image_size(task.source)
    with gate if width * height > LARGE else nullcontext():
        cut = cut_photo(task.source, predictor, recipe)
        for kind, path in task.targets.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, cut.encode(kind, path.suffix[1:].lower(), threads))
    return remark_on(cut)


def _cut_video(task: Task, predictor: Predictor, recipe: Recipe, smooth: bool) -> str:
    target = task.targets["video"]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(desc=task.source.name, unit="frame", leave=False, delay=2) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        how = {"smooth": smooth, "progress": progress}
        done = video.cut_video(task.source, target, predictor, recipe, **how)
    rate, network = (done.frames / max(s, 1e-9) for s in (done.seconds, done.network_seconds))
    text = f"{done.frames} frames in {done.seconds:.1f} s: {rate:.1f} frames/s"
    text += f", the network alone {network:.1f}"
    return f"{text}. {done.warning}" if done.warning else text
