"""The work on the photos and videos of `unetlib cut`: side by side, past those that fail."""

import errno
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import cv2
from tqdm import tqdm

from unetlib import video
from unetlib.app.plan import Outcome, Task
from unetlib.cutting import Cut, Recipe, cut_photo
from unetlib.data.images import ImageError, image_size
from unetlib.predict import Predictor

LARGE = 20_000_000  # pixels: photos above are cut one at a time, each may take a gigabyte


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
    if cut.cutout.binary.any():
        return ""
    text = f"no pixel reaches the threshold of {cut.recipe.threshold:g}"
    if not cut.cutout.rgba[..., 3].any():
        return f"{text}: the cut-out is empty"
    highest = cut.cutout.soft.max()
    return f"{text} (highest value of the soft mask {highest:.3f}): what is left is faint"


def cut_stream(predictor: Predictor, recipe: Recipe) -> Cut:
    """The photo on standard input. A remark on the result goes to standard error."""
    if sys.stdin is None:
        raise OSError("standard input is closed: there is nothing to read")
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

    `open_predictor(threads, video=False)` -> Predictor, once for photos and once for videos.
    `jobs`: photos at a time, a core each; None: one per core, all cores for a single photo. Videos
    follow one by one.
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
            predictor = open_predictor(None, video=True)
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
        cut.write(task.targets, threads)
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
