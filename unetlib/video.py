"""Video or animated GIF -> the same over another background, or transparent; frames stream through.

ffmpeg decodes -> network, in small batches -> masks steadied over time -> cut_out -> over a
background -> ffmpeg encodes. ffmpeg is the program that imageio-ffmpeg brings.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby, islice, takewhile
from math import gcd
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from PIL import Image, ImageSequence

from unetlib.cutting import Recipe
from unetlib.matting import composite, cut_out, fit_cover
from unetlib.paths import find_input, whole
from unetlib.predict import Predictor, resize_soft

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts")
SUFFIXES += (".wmv", ".flv", ".3gp", ".ogv", ".gif")
BATCH = 4  # frames: more were no faster on a CPU
WORKERS = 4  # threads that cut out: each needs some hundred MB where frames are 4K
# Colours as players expect them of HD, and even sides, as a colour may span 2×2 pixels.
YUV = (
    "-vf scale=ceil(iw/2)*2:ceil(ih/2)*2:out_color_matrix=bt709:out_range=tv,"
    "setparams=color_primaries=bt709:color_trc=bt709"
)
# HLG and PQ -> sRGB: 203 nits become white (ITU-R BT.2408), what is brighter is bent into the rest.
HDR = (
    "zscale=pin=bt2020:min=bt2020nc:t=linear:npl=203:agamma=0,format=gbrpf32le,zscale=p=bt709,"
    "tonemap=mobius:param=0.9:desat=0:peak=5,zscale=t=iec61966-2-1:m=gbr:r=pc:agamma=0,format=gbrp,"
)
# In VP9 alpha excludes alt-ref frames. One palette for all of a GIF would wait for the last frame.
H264 = f"-f mp4 -c:v libx264 -preset veryfast -crf 20 -movflags +faststart {YUV}"
VP9 = "-f webm -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -row-mt 1 -auto-alt-ref 0"
PALETTES = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1"
VIDEO_FORMATS = {  # arguments of ffmpeg; pixels without and with transparency; encoder of the sound
    ".mp4": (H264, "yuv420p", "", "aac"),
    ".webm": (f"{VP9} -b:v 0 -crf 30 {YUV}", "yuv420p", "yuva420p", "libopus"),
    ".mov": (f"-f mov -c:v prores_aw {YUV}", "yuv444p10le", "yuva444p10le", "pcm_s16le"),
    ".gif": (f"-f gif -filter_complex {PALETTES}", "pal8", "pal8", ""),
    "": ("-f image2 -c:v png -pred mixed -compression_level 3", "rgb24", "rgba", ""),  # a folder
}


@dataclass(frozen=True)
class VideoResult:
    """What `cut_video` did. size: (width, height). warning: a line where there is one to give."""

    target: Path  # the file, or the folder of pictures
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
    with suppress(OSError), Image.open(path) as image:
        return image.is_animated
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
    sides become even, and sound is kept, as stereo. Frames are upright, with square pixels and at
    even intervals, HDR becomes sRGB, and nothing is more opaque than the source. `smooth` steadies
    the masks over time. `progress(done, total)` is called after each frame, total may be None.

    The target is there whole or not at all. A damaged source gives what can be read and a warning.
    Raises ValueError for a request that cannot be met, OSError for files that cannot be.
    """
    start = time.perf_counter()
    source, target = Path(os.path.abspath(find_input(source))), Path(os.path.abspath(target))
    suffix = "" if target.is_dir() else target.suffix.lower()
    if suffix not in VIDEO_FORMATS:  # .webb is a wrong suffix, clip.2024 a name without one
        if difflib.get_close_matches(suffix, SUFFIXES, cutoff=0.75):
            raise ValueError(f"{target.name!r}: write .mp4, .webm, .mov, .gif, or into a folder")
        suffix = ""
    background, clear = recipe.background, recipe.background.kind == "transparent"
    if clear and suffix == ".mp4":
        raise ValueError(f"{target.name!r}: .mp4 has no transparency, write .webm or a folder")
    if recipe.crop:
        raise ValueError("crop: the frames of a video keep their size, leave it out")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{source}: the video would be written over itself, choose another target")
    clip = open_clip(source)
    width, height = clip.size
    if background.image is not None:  # once, not for each frame
        background = replace(background, image=fit_cover(background.image, height, width))
    steady, done, network, total = Steady(), 0, 0.0, round(clip.seconds * clip.fps) or None

    def cut(frame: np.ndarray, alpha: np.ndarray, soft: np.ndarray) -> np.ndarray:
        soft = resize_soft(soft, height, width)
        rgba = cut_out(frame, soft, own_alpha=alpha, **recipe.edge()).rgba
        return np.ascontiguousarray(background.lay(rgba, frame))

    def cut_all() -> Iterator[np.ndarray]:
        nonlocal network
        frames = iter(lambda: decoder.stdout.read(4 * width * height), 0)
        frames = takewhile(lambda data: len(data) == 4 * width * height, frames)
        # Frames that only stand still (a GIF, a phone's uneven times) are cut out once.
        runs = ((data, sum(1 for _ in same)) for data, same in groupby(frames))
        while batch := list(islice(runs, BATCH)):
            rgba = [np.frombuffer(data, np.uint8).reshape(height, width, 4) for data, _ in batch]
            seen, alphas = zip(*map(on_white, rgba), strict=True)
            begin = time.perf_counter()
            softs = predictor.predict_small(seen, recipe.size)
            network += time.perf_counter() - begin
            if smooth:
                shown = [float(n / clip.fps) for _, n in batch]
                softs = list(map(steady, softs, seen, shown))
            for result, (_, n) in zip(pool.map(cut, seen, alphas, softs), batch, strict=True):
                yield from [result] * n

    output, opaque, transparent, sound = VIDEO_FORMATS[suffix]
    write = ["-v", "level+error", "-y", "-f", "rawvideo", "-pix_fmt", "rgba" if clear else "rgb24"]
    write += ["-s", f"{width}x{height}", "-r", str(clip.fps), "-i", "-"]
    if sound and clip.sound:  # the encoders take few layouts but stereo
        write += [*clip.sound, "-map", "0:v:0", "-map", "1:a:0", "-c:a", sound, "-ac", "2"]
    write += [*output.split(), "-pix_fmt", transparent if clear else opaque]
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1), "video") as pool,
        ffmpeg(clip.frames, stdout=subprocess.PIPE) as (decoder, decoded),
        whole(target) if suffix else whole_folder(target) as part,
        ffmpeg([*write, str(part)], stdin=subprocess.PIPE) as (encoder, encoded),
    ):
        for picture in cut_all():
            try:
                encoder.stdin.write(picture)
            except OSError:  # it has ended before its time
                break
            done += 1
            if progress:
                progress(done, max(done, total) if total else None)
        why, damage = encoded(), decoded()
        if encoder.returncode or not done:
            raise OSError(f"{source}: its cut-out was not written ({first_error(why + damage)})")
    warning = f"{source.name} is HDR: its colours were converted to sRGB" if clip.hdr else ""
    if damage or decoder.returncode:
        share = f"{done} of about {total}" if total else done
        why = f"{share} frames read ({first_error(damage)})"
        warning = f"{source.name} is damaged or cut short: {why}"
    seconds, sound = time.perf_counter() - start, bool(sound and clip.sound)
    return VideoResult(target, done, clip.size, float(clip.fps), seconds, network, sound, warning)


def on_white(rgba: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """A frame as the network sees it, like photos, and its alpha, None where all is opaque."""
    if rgba[..., 3].min() == 255:
        return cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), None
    return composite(rgba, "white"), rgba[..., 3]


class Steady:
    """Steadies the small soft masks of a video: edges rest where the picture rests.

    Called with each mask, float32 (h, w), its frame, uint8 (H, W, 3), and the seconds that it is
    shown. A mean whose weight grows with the speed of the picture, as in the 1€ filter (Casiez et
    al., CHI 2012), and with leaps of the mask. Starts anew at a cut.
    """

    def __init__(self) -> None:
        self.mean, self.small, self.lasting = None, None, 0.0

    def __call__(self, soft: np.ndarray, frame: np.ndarray, lasting: float) -> np.ndarray:
        small = cv2.resize(frame, soft.shape[::-1], interpolation=cv2.INTER_AREA) / np.float32(255)
        before, self.small, passed, self.lasting = self.small, small, self.lasting, lasting
        if before is None or np.abs(small - before).mean() > 0.1:  # as PySceneDetect finds cuts
            self.mean = soft
            return soft
        moved = np.abs(cv2.blur(small - before, (5, 5))).max(axis=2)  # averaged with the sign:
        leap = np.abs(cv2.blur(soft - self.mean, (5, 5)))  # noise goes
        rate = passed / 0.16 + 150 * moved + 250 * leap**3  # at rest it reaches back 0.16 s
        self.mean = self.mean + rate / (1 + rate) * (soft - self.mean)
        return self.mean


@contextmanager
def whole_folder(target: Path) -> Iterator[str]:
    """Where ffmpeg writes pictures, which in the end replace those of `target`."""
    with tempfile.TemporaryDirectory(".part", f".{target.name}.", target.parent) as part:
        yield part.replace("%", "%%") + "/frame_%05d.png"
        target.mkdir(exist_ok=True)
        for old in target.glob("frame_[0-9]*.png"):
            old.unlink()
        for new in sorted(Path(part).iterdir()):
            new.replace(target / new.name)


def open_clip(path: Path) -> SimpleNamespace:
    """Reads a frame, and what ffmpeg says of the file. Raises OSError where there is no frame.

    size: (width, height), upright, with square pixels. fps. seconds: 0 where unknown. hdr. frames:
    arguments for ffmpeg to decode them as RGBA. sound: arguments to add it to another video.
    """
    # 0:V is the first stream that is no cover picture of a song.
    read = ["-v", "level+info", "-i", str(path), "-map", "0:V:0", "-frames:v", "1", "-pix_fmt"]
    read += ["yuv444p", "-vf", "scale='max(1,round(iw*sar))':ih", "-f", "yuv4mpegpipe", "-"]
    with ffmpeg(read, stdout=subprocess.PIPE) as (process, end):
        head = process.stdout.read().partition(b"\n")[0].decode("ascii", "replace").split(" ")
        said = end()
    if head[0] != "YUV4MPEG2":
        why = "there is no video in it" if "matches no streams" in said else first_error(said)
        raise OSError(f"{path}: no frame of this video can be read ({why})")
    text = said.partition("Output #0")[0]
    named = {word[0]: word[1:] for word in head[1:]}  # W1280 H720 F30000:1001 ...
    size, fps = (int(named["W"]), int(named["H"])), Fraction(named["F"].replace(":", "/"))
    if fps > 60 and (mean := re.search(r"([\d.]+) fps", text)):  # a finer grid than it uses
        fps = Fraction(max(60, round(float(mean[1]))))
    if path.suffix.lower() == ".gif":  # a grid that all changes lie on; ffmpeg proposes the mean
        waits = []
        with suppress(OSError), Image.open(path) as image:  # cut short: as far as it goes
            for frame in ImageSequence.Iterator(image):
                waits.append(round(frame.info.get("duration", 0) / 10))
        fps = Fraction(100, max(2, gcd(*(wait if wait > 1 else 10 for wait in waits))))
    clock = re.search(r"Duration: (\d+):(\d+):([\d.]+), start: (-?[\d.]+)", text)
    hours, minutes, seconds, start = map(float, clock.groups()) if clock else (0.0,) * 4
    # Stream #0:0: Video: vp9 (Profile 0), yuv420p(tv, bt2020nc/bt2020/arib-std-b67), 96x128, ...
    # and below it its metadata. ffmpeg's own decoders of VP8 and VP9 drop alpha.
    video = re.search(r"Stream #0:.*: Video: (\w+)(?!.*attached pic)[^#]*", text)
    decoder = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(video[1], "")
    decoder = ["-c:v", decoder] if decoder and "alpha_mode      : 1" in video[0] else []
    hdr = re.search(r"arib-std-b67|smpte2084", video[0]) is not None
    # Of two that read picture and sound, each would let its own start at 0: the clock is set here.
    heard = re.search(r"Stream #0:.*: Audio: (?!none)", text)  # none: it cannot be decoded
    source = ["-copyts", "-itsoffset", str(-start)] if heard else []
    source += ["-i", str(path)]
    even = f"fps={fps}:start_time=0,{HDR if hdr else ''}scale={size[0]}:{size[1]}"
    frames = ["-v", "level+error", *decoder, *source, "-map", "0:V:0", "-vf", even]
    frames += ["-f", "rawvideo", "-pix_fmt", "rgba", "-"]
    sound, seconds = source if heard else [], 3600 * hours + 60 * minutes + seconds
    return SimpleNamespace(size=size, fps=fps, seconds=seconds, hdr=hdr, frames=frames, sound=sound)


@contextmanager
def ffmpeg(arguments: list[str], **pipes) -> Iterator[tuple[subprocess.Popen, Callable[[], str]]]:
    """A running ffmpeg, and a function that waits for its end and gives what it has said. It ends
    with the block, whatever happens there."""
    from imageio_ffmpeg import get_ffmpeg_exe

    command = [get_ffmpeg_exe(), "-hide_banner", "-nostats", *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL} | pipes
    # In a group of its own: Ctrl-C reaches it through us, or a half video could pass for a whole.
    with (
        tempfile.TemporaryFile() as log,  # a pipe that nobody reads would block it
        subprocess.Popen(command, stderr=log, start_new_session=True, **pipes) as process,
    ):

        def end() -> str:
            for pipe in filter(None, (process.stdin, process.stdout)):
                with suppress(OSError):  # what is left may not be taken any more
                    pipe.close()
            process.wait()
            log.seek(0)
            return log.read().decode("utf-8", "replace")

        try:
            yield process, end
        finally:
            process.kill()
            end()


def first_error(said: str) -> str:
    """ffmpeg's first error, without the name of the part that says it."""
    match = re.search(r"\[(?:error|fatal)\] (.*)", said)
    return match[1].strip() if match else "ffmpeg gives no reason"
