"""Video or animated GIF -> the same over another background, or transparent; frames stream through.

ffmpeg decodes -> network, in small batches -> masks steadied over time -> cut_out -> over a
background -> ffmpeg encodes. ffmpeg is the program that imageio-ffmpeg brings (the extra "video"),
or else the one on the PATH.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from fractions import Fraction
from importlib.util import find_spec
from itertools import groupby, islice, takewhile
from math import gcd
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageSequence
from tqdm import tqdm

from unetlib.cutting import Recipe, over_background
from unetlib.data.images import open_photo
from unetlib.errors import need
from unetlib.matting import cut_out, fit_cover
from unetlib.paths import atomic, find_input
from unetlib.predict import Predictor, resize_soft

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts")
VIDEO_SUFFIXES += (".wmv", ".flv", ".3gp", ".ogv", ".gif")
BATCH = 4  # frames: more were no faster on a CPU
WORKERS = 4  # threads that cut out: each needs some hundred MB where frames are 4K
# Colours as players expect them of HD, and even sides, as a colour may span 2×2 pixels.
YUV = "-vf scale=ceil(iw/2)*2:ceil(ih/2)*2:out_color_matrix=bt709:out_range=tv,"
YUV += "setparams=color_primaries=bt709:color_trc=bt709"
# HLG and PQ -> sRGB: 203 nits become white (ITU-R BT.2408), what is brighter is bent into the rest.
HDR = "format=gbrap16le,zscale=t=linear:npl=203:agamma=0,format=gbrapf32le,zscale=p=bt709,"
HDR += "tonemap=mobius:param=0.9:desat=0:peak=5,zscale=t=iec61966-2-1:m=gbr:r=pc:agamma=0,"
WIDE = "format=gbrap16le,zscale=tin=iec61966-2-1:t=iec61966-2-1:p=bt709:r=pc,"  # as bright
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


def is_video(path: str | Path) -> bool:
    """By the suffix; a GIF with one frame is a photo."""
    suffix = Path(path).suffix.lower()
    if suffix != ".gif":
        return suffix in VIDEO_SUFFIXES
    with suppress(Exception), Image.open(path) as image:
        return image.is_animated
    return False  # opened as a photo, it fails with a message


def cut_video(
    source: str | Path, target: str | Path, predictor: Predictor, recipe: Recipe, smooth=True
) -> str:
    """Cut every frame of `source` out and write `target`, which is replaced where it exists.

    The suffix of `target` says what is written: .mp4 (H.264; needs a background), .webm (VP9),
    .mov (ProRes 4444), .gif; any other is a folder of frame_00001.png and so on. In the first three
    odd sides become even, and sound is kept, as stereo. Frames are upright, with square pixels, at
    even intervals and not cropped, HDR becomes sRGB, and nothing is more opaque than the source.
    `smooth` steadies the masks over time.

    The target is written atomically; of a damaged source, all readable frames are kept. Returns a
    line with the number of frames. Raises ValueError for options that do not fit together, OSError
    for files that cannot be read or written.
    """
    source, target = Path(os.path.abspath(find_input(source))), Path(os.path.abspath(target))
    known = not target.is_dir() and target.suffix.lower() in VIDEO_FORMATS
    suffix = target.suffix.lower() if known else ""
    background, clear = recipe.background, recipe.background is None
    if clear and suffix == ".mp4":
        raise ValueError(f"{target.name!r}: .mp4 has no transparency, write .webm or a folder")
    width, height, fps, converted, read, audio = probe(source)
    if isinstance(background, np.ndarray):  # made to fit once, not for each frame
        background = fit_cover(background, height, width)
    steady, done = Steady(), 0

    def cut(rgba: np.ndarray, rgb: np.ndarray, soft: np.ndarray) -> np.ndarray:
        soft = resize_soft(soft, height, width)
        result = cut_out(rgb, soft, own_alpha=rgba[..., 3], **recipe.edge()).rgba
        return over_background(result, rgb, background)

    def cut_all() -> Iterator[np.ndarray]:
        frames = iter(lambda: decoder.stdout.read(4 * width * height), 0)
        frames = takewhile(lambda data: len(data) == 4 * width * height, frames)
        # Frames that only stand still (a GIF, a phone's uneven times) are cut out once.
        runs = ((data, sum(1 for _ in same)) for data, same in groupby(frames))
        while batch := list(islice(runs, BATCH)):
            rgba = [np.frombuffer(data, np.uint8).reshape(height, width, 4) for data, _ in batch]
            rgb = [
                open_photo(f).rgb if f[..., 3].min() < 255 else cv2.cvtColor(f, cv2.COLOR_RGBA2RGB)
                for f in rgba
            ]
            softs = predictor.predict_small(rgb, recipe.size)
            if smooth:
                shown = [float(n / fps) for _, n in batch]
                softs = list(map(steady, softs, rgb, shown))
            for result, (_, n) in zip(pool.map(cut, rgba, rgb, softs), batch, strict=True):
                yield from [result] * n

    output, opaque, transparent, sound = VIDEO_FORMATS[suffix]
    write = ["-y", "-f", "rawvideo", "-pix_fmt", "rgba" if clear else "rgb24"]
    write += ["-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    if sound and audio:
        write += [*audio, "-map", "0:v:0", "-c:a", sound]
    write += [*output.split(), "-pix_fmt", transparent if clear else opaque]
    with (
        ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1), "video") as pool,
        FFmpeg(read, stdout=subprocess.PIPE) as decoder,
        atomic(target) if suffix else atomic_folder(target) as part,
        FFmpeg([*write, str(part)], stdin=subprocess.PIPE) as encoder,
    ):
        for picture in tqdm(cut_all(), source.name, unit="frame", leave=False, disable=None):
            try:
                encoder.stdin.write(picture)
            except OSError:  # it has ended before its time
                break
            done += 1
        why, damage = encoder.end(), decoder.end()
        if encoder.returncode or not done:
            raise OSError(f"{source}: its cut-out was not written ({first_error(why + damage)})")
    text = f"{done} frames{', HDR or wide colours converted to sRGB' * converted}"
    if damage or decoder.returncode:
        text += f", the rest of {source.name} is damaged or cut short ({first_error(damage)})"
    return text


class Steady:
    """Smooths the soft masks of a video over time: edges stay still where the picture does.

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
def atomic_folder(target: Path) -> Iterator[str]:
    """Yields the path that ffmpeg writes frames to; at the end they replace those in `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(".part", ".frames.", target.parent) as part:
        yield part.replace("%", "%%") + "/frame_%05d.png"
        target.mkdir(exist_ok=True)
        for old in target.glob("frame_[0-9]*.png"):
            old.unlink()
        for new in sorted(Path(part).iterdir(), reverse=True):  # the first means: done
            new.replace(target / new.name)


def probe(path: Path) -> tuple[int, int, Fraction, bool, list[str], list[str]]:
    """Width and height, upright, with square pixels; frames per second; whether the colours are
    converted; arguments for ffmpeg to decode the frames as RGBA, and to add the sound, as stereo,
    to another video, none where there is no sound. Raises OSError where no frame can be read."""
    # 0:V is the first stream that is no cover picture of a song.
    command = ["-i", str(path), "-map", "0:V:0", "-frames:v", "1", "-vf"]
    command += ["scale='max(1,round(iw*sar))':ih,showinfo", "-f", "null", "-"]
    log = FFmpeg(command, level="info").end().replace(str(path), "")
    log = re.sub(r"(?m)^\[info\] {4}(?! *alpha_mode).*", "", log)  # titles say anything
    streams, shape = log.partition("Output #0")[0], re.search(r" s:(\d+)x(\d+) ", log)
    if not shape:
        why = "there is no video in it" if "matches no streams" in log else first_error(log)
        raise OSError(f"{path}: no frame of this video can be read ({why})")
    width, height = map(int, shape.groups())
    fps = Fraction(re.search(r"frame_rate: (\d+/\d+)", log)[1])
    if fps > 60 and (mean := re.search(r"([\d.]+) fps", streams)):  # a finer grid than it uses
        fps = Fraction(max(60, round(float(mean[1]))))
    if path.suffix.lower() == ".gif":  # a grid that all changes lie on; ffmpeg proposes the mean
        with suppress(OSError), Image.open(path) as image:
            waits = [round(f.info.get("duration", 0) / 10) for f in ImageSequence.Iterator(image)]
            fps = Fraction(100, max(1, gcd(*(wait or 10 for wait in waits))))
    tags = dict(re.findall(r"color_(\w+):(\S+)", log))
    hdr, p3 = tags["trc"] in ("arib-std-b67", "smpte2084"), tags["primaries"].startswith("smpte43")
    convert = HDR if hdr else WIDE if p3 or tags["primaries"] == "bt2020" else ""
    primaries = matrix = "auto"  # as the film says; if it says nothing, as players take it
    if hdr and tags["primaries"] == "unknown":
        primaries = "bt2020"
    if tags["space"] == "unknown" and (convert or width >= 1280 or height > 576):
        matrix = "bt2020nc" if convert and not p3 else "bt709"
    alpha = re.search(r"Video: vp([89])[^#]*alpha_mode +: 1", streams)  # ffmpeg's own drop it
    decoder = ["-c:v", {"8": "libvpx", "9": "libvpx-vp9"}[alpha[1]]] if alpha else []
    tracks = enumerate(re.findall(r"Stream #0:.*: Audio: (.*)", streams))
    audio = [(n, text) for n, text in tracks if not text.startswith("none")]  # can be decoded
    # Of two that read picture and sound, each would let its own start at 0: the clock is set here.
    start = re.search(r"Duration: .*, start: (-?[\d.]+)", streams)
    source = ["-copyts", "-itsoffset", str(-float(start[1]))] if start and audio else []
    source += ["-i", str(path)]
    filters = f"fps={fps}:start_time=0,setparams=color_primaries={primaries}:colorspace={matrix},"
    filters += f"{convert}scale={width}:{height}"
    frames = [*decoder, *source, "-map", "0:V:0", "-vf", filters, "-f", "rawvideo"]
    sound = [*source, "-map", f"1:a:{audio[0][0]}", "-ac", "2"] if audio else []
    if audio and (kind := re.search(r"\d channels|ambisonic", audio[0][1])):
        right = 0 if kind[0] == "ambisonic" else 1  # nobody knows which is left; W is all around
        sound += ["-af", f"pan=stereo|c0=c0|c1=c{right}"]
    return width, height, fps, bool(convert), [*frames, "-pix_fmt", "rgba", "-"], sound


class FFmpeg(subprocess.Popen):
    """A running ffmpeg, which ends with the `with` block, whatever happens there."""

    def __init__(self, arguments: list[str], level: str = "error", **pipes):
        program = None if find_spec("imageio_ffmpeg") else shutil.which("ffmpeg")
        if not program:
            need("imageio_ffmpeg", extra="video")
            from imageio_ffmpeg import get_ffmpeg_exe

            program = get_ffmpeg_exe()
        command = [program, "-hide_banner", "-nostats", "-v", f"level+{level}", *arguments]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads blocks
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL} | pipes
        # In a group of its own: Ctrl-C reaches it through us, or a half video could pass for whole.
        super().__init__(command, stderr=self.log, start_new_session=True, **pipes)

    def __exit__(self, *exception):
        self.kill()
        self.end()

    def end(self) -> str:
        """Closes the pipes, waits until the process ends, and returns its log."""
        for pipe in filter(None, (self.stdin, self.stdout)):
            with suppress(OSError):  # what is left may not be taken any more
                pipe.close()
        self.wait()
        self.log.seek(0)
        return self.log.read().decode("utf-8", "replace")


def first_error(log: str) -> str:
    """ffmpeg's first error, without the name of the part that says it."""
    match = re.search(r"\[(?:error|fatal)\] (.*)", log)
    return match[1].strip() if match else "ffmpeg gives no reason"
