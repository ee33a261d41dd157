"""Video or animated GIF -> the same over another background, or transparent; frames stream through.

ffmpeg decodes -> network, in small batches -> masks steadied over time -> cut_out -> over a
background -> ffmpeg encodes. Only a handful of frames are in memory, however long the video is.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from unetlib.config import hint
from unetlib.cutting import Recipe
from unetlib.data.ffmpeg import KINDS, Kind, frame_writer, open_clip, read_frames
from unetlib.matting import cut_out, fit_cover
from unetlib.paths import find_input, whole
from unetlib.predict import Predictor, resize_soft

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts")
SUFFIXES += (".wmv", ".flv", ".3gp", ".ogv", ".gif")
BATCH = 4  # frames: more were no faster on a CPU
WORKERS = 4  # threads that cut out: each needs some hundred MB where frames are 4K


@dataclass(frozen=True)
class VideoResult:
    """What `cut_video` did.

    target: the file, or the folder of pictures. frames: written. size: (width, height), upright.
    fps: frames per second. seconds: all of it took. network_seconds: the network alone.
    sound: whether the target has sound. warning: one line where the source is damaged, else "".
    """

    target: Path
    frames: int
    size: tuple[int, int]
    fps: float
    seconds: float
    network_seconds: float
    sound: bool
    warning: str = ""


def is_video(path: str | Path) -> bool:
    """By the suffix; a GIF with one frame is a photo."""
    suffix = Path(path).suffix.lower()
    if suffix != ".gif":
        return suffix in SUFFIXES
    try:
        with Image.open(path) as image:
            return getattr(image, "is_animated", False)
    except OSError:
        return False  # opened as a photo, it fails with a message


def default_target(source: str | Path, recipe: Recipe) -> Path:
    """`<stem>_foreground.mp4` beside the source, `.webm` where the background is transparent."""
    suffix = ".webm" if recipe.background.kind == "transparent" else ".mp4"
    return Path(source).with_name(Path(source).stem + "_foreground" + suffix)


def cut_video(
    source: str | Path,
    target: str | Path,
    predictor: Predictor,
    recipe: Recipe,
    *,
    smooth: bool = True,
    progress: Callable[[int, int | None], None] | None = None,
) -> VideoResult:
    """Cut every frame of `source` out and write `target`, which is replaced where it exists.

    The suffix of `target` says what is written: .mp4 (H.264; needs a background), .webm (VP9),
    .mov (ProRes 4444), .gif, or none: a folder of frame_00001.png and so on. In the first three odd
    sides become even, by a pixel, and sound is kept. Frames are upright, with square pixels and at
    even intervals; `smooth` steadies the masks over time, see `Steady`. `progress(done,
    total)` is called after each frame; total is an estimate, None where unknown.

    The target is there whole or not at all. A source that is damaged or cut short gives what could
    be read of it, and a warning in the result. Raises ValueError for a request that cannot be met,
    OSError for a source without a readable frame and a target that cannot be written.
    """
    start = time.perf_counter()
    source, target = Path(os.path.abspath(find_input(source))), Path(os.path.abspath(target))
    kind = _kind(source, target, recipe)
    clip = open_clip(source)
    width, height = clip.size
    background = recipe.background
    if background.image is not None:  # once, not for each frame
        background = replace(background, image=fit_cover(background.image, height, width))
    edge = recipe.edge()

    def cut(frame: np.ndarray, soft: np.ndarray) -> np.ndarray:
        rgba = cut_out(frame, resize_soft(soft, height, width), **edge).rgba
        return background.lay(rgba, frame)

    clear = background.kind == "transparent"
    total = round(clip.seconds * clip.fps) or None
    steady, done, network, complaints = Steady(), 0, 0.0, []
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1), "video") as pool,
        closing(read_frames(clip, complaints)) as frames,
        _whole_folder(target) if kind is KINDS[""] else whole(target) as part,
        frame_writer(part, kind, clear, clip) as write,
    ):
        # Frames that only stand still (a GIF, a phone's uneven times) are cut out once.
        runs = ((data, sum(1 for _ in same)) for data, same in groupby(frames))
        while batch := list(islice(runs, BATCH)):
            pictures = [np.frombuffer(d, np.uint8).reshape(height, width, 3) for d, _ in batch]
            begin = time.perf_counter()
            softs = predictor.predict_small(pictures, recipe.size)
            network += time.perf_counter() - begin
            if smooth:
                lasting = [float(count / clip.fps) for _, count in batch]
                softs = list(map(steady, softs, pictures, lasting))
            for result, (_, count) in zip(pool.map(cut, pictures, softs), batch, strict=True):
                for _ in range(count):
                    write(result)
                    done += 1
                    if progress:
                        progress(done, max(done, total) if total else None)
        if not done:
            raise OSError(f"{source}: no frame of this video can be read ({''.join(complaints)})")
    warning = ""
    if complaints:
        share = f"{done} of about {total}" if total else str(done)
        warning = f"{source.name} is damaged or cut short: {share} frames read ({complaints[0]})"
    seconds = time.perf_counter() - start
    sound = bool(clip.sound and kind.sound)
    return VideoResult(target, done, clip.size, float(clip.fps), seconds, network, sound, warning)


class Steady:
    """Steadies the small soft masks of a video: edges rest where the picture rests.

    Called with each mask, float32 (h, w), its frame, uint8 (H, W, 3), and how long that is shown,
    in seconds. An exponential mean whose weight grows with the speed of what is seen, as in the 1€
    filter (Casiez, Roussel, Vogel, CHI 2012, https://gery.casiez.net/1euro/): still edges do not
    flicker, moving ones drag no ghost. The speed is that of the picture, which has less noise than
    the mask; where the mask itself leaps, it is followed too. Starts anew at a cut between scenes.
    """

    TAU = 0.16  # seconds that the mean reaches back where nothing moves
    # Per change (0…1) of the picture; of the mask, cubed. Measured on a disc whose mask has a
    # restless edge: at rest a third of the flicker is left; at 0.1 to 2 pixels a frame the IoU is
    # no lower.
    PICTURE, MASK = 150.0, 250.0
    CUT = 0.1  # mean change of all pixels: 27 of 255 is usual for finding cuts (PySceneDetect)
    SPREAD = (5, 5)  # pixels over which changes are averaged, with their sign: noise goes

    def __init__(self) -> None:
        self.mean = self.small = None
        self.lasting = 0.0

    def __call__(self, soft: np.ndarray, frame: np.ndarray, lasting: float) -> np.ndarray:
        small = cv2.resize(frame, soft.shape[::-1], interpolation=cv2.INTER_AREA)
        small = small.astype(np.float32) / 255
        before, self.small = self.small, small
        passed, self.lasting = self.lasting, lasting
        if before is None or np.abs(small - before).mean() > self.CUT:
            self.mean = soft
            return soft
        moved = np.abs(cv2.blur(small - before, self.SPREAD)).max(axis=2)
        leap = np.abs(cv2.blur(soft - self.mean, self.SPREAD))
        rate = passed / self.TAU + self.PICTURE * moved + self.MASK * leap**3
        self.mean = self.mean + rate / (1 + rate) * (soft - self.mean)
        return self.mean


def _kind(source: Path, target: Path, recipe: Recipe) -> Kind:
    """What is to be written, or ValueError for what cannot be."""
    suffix = "" if target.is_dir() else target.suffix.lower()
    if suffix not in KINDS:
        known = ", ".join(filter(None, KINDS))
        raise ValueError(
            f"{target.name!r}: a video is written as {known}, or as pictures into a folder (no "
            f"suffix).{hint(suffix, KINDS)}"
        )
    if KINDS[suffix].clear is None and recipe.background.kind == "transparent":
        raise ValueError(
            f"{target.name!r}: {suffix} has no transparency. Choose a background, or write .webm, "
            ".mov or a folder of pictures"
        )
    if recipe.crop:
        raise ValueError("crop: the frames of a video keep their size, leave it out")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{source}: the video would be written over itself, choose another target")
    return KINDS[suffix]


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """Like `unetlib.paths.whole` for a folder of pictures; frames of before are replaced."""
    with tempfile.TemporaryDirectory(".part", f".{target.name}.", target.parent) as part:
        yield Path(part)
        target.mkdir(exist_ok=True)
        for old in target.glob("frame_[0-9]*.png"):
            old.unlink()
        for new in sorted(Path(part).iterdir()):
            new.replace(target / new.name)
