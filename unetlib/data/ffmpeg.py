"""Videos read and written frame by frame with the ffmpeg that imageio-ffmpeg brings.

Its own `read_frames` and `write_frames` are not used: they do not look at ffmpeg's exit code (a
full disk would go unnoticed), round the frame rate, and keep no word of what ffmpeg complains of.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageSequence

FASTEST = 60  # frames per second, where a file with uneven times names a finer grid than it uses
# Colours as players expect them of HD, ffmpeg alone takes those of old television for all; and even
# sides, as a colour may span 2×2 pixels.
YUV = " -vf scale=ceil(iw/2)*2:ceil(ih/2)*2:out_color_matrix=bt709:out_range=tv"
YUV += ",setparams=color_primaries=bt709"
YUV += ":color_trc=bt709 -colorspace bt709 -color_primaries bt709 -color_trc bt709"
PALETTES = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1"


@dataclass(frozen=True)
class Kind:
    """A kind of video: arguments for ffmpeg; pixel formats without and with transparency, None
    where it has none; the codec of its sound and ffmpeg's encoder of it, None where it is silent.
    """

    arguments: str
    opaque: str
    clear: str | None
    sound: tuple[str, str] | None = None


# In VP9 alpha excludes frames that are not shown (alt-ref). A GIF gets a palette for each frame:
# one for all would have to wait for the last.
H264 = "-f mp4 -c:v libx264 -preset veryfast -crf 20 -movflags +faststart" + YUV
VP9 = "-f webm -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -row-mt 1 -auto-alt-ref 0 -b:v 0"
VP9 += " -crf 30" + YUV
PRORES = "-f mov -c:v prores_aw -profile:v 4" + YUV
PNG = "-f image2 -c:v png -pred mixed -compression_level 3"
KINDS = {
    ".mp4": Kind(H264, "yuv420p", None, ("aac", "aac")),
    ".webm": Kind(VP9, "yuv420p", "yuva420p", ("opus", "libopus")),
    ".mov": Kind(PRORES, "yuv444p10le", "yuva444p10le", ("pcm_s16le", "pcm_s16le")),
    ".gif": Kind("-f gif -filter_complex " + PALETTES, "pal8", "pal8"),
    "": Kind(PNG, "rgb24", "rgba"),  # a folder of pictures
}


@dataclass(frozen=True)
class Clip:
    """A video that can be read. size: (width, height) as it is shown: upright, square pixels.
    fps: of an even grid. seconds: 0 where unknown. sound: name of its codec, "" without. start:
    the time, in seconds, that its clock shows at its first picture or sound."""

    path: Path
    size: tuple[int, int]
    fps: Fraction
    seconds: float
    sound: str
    start: float

    def input(self) -> list[str]:
        """Arguments for ffmpeg. Of two that read picture and sound, each would let its own start at
        0, so the clock is set here."""
        clock = ["-copyts", "-itsoffset", str(-self.start)] if self.sound else []
        return [*clock, "-i", str(self.path)]


def open_clip(path: Path) -> Clip:
    """Read a frame, and what ffmpeg says of the file. Raises OSError where there is no frame."""
    # 0:V is the first stream that is no cover picture of a song.
    arguments = ["-i", str(path), "-map", "0:V:0", "-vf", "scale='max(1,round(iw*sar))':ih"]
    arguments += ["-frames:v", "1", "-pix_fmt", "yuv444p", "-f", "yuv4mpegpipe", "-"]
    with _ffmpeg(arguments, stdout=subprocess.PIPE) as (process, log):
        head = process.stdout.read().partition(b"\n")[0].decode("ascii", "replace").split(" ")
        process.wait()
        said = _said(log)
    if head[0] != "YUV4MPEG2":
        if "matches no streams" in said:
            raise OSError(f"{path}: there is no video in this file")
        raise OSError(f"{path}: no frame of this video can be read ({_last(said)})")
    named = {word[0]: word[1:] for word in head[1:]}  # W1280 H720 F30000:1001 ...
    fps = Fraction(named["F"].replace(":", "/"))
    mean = re.search(r"([\d.]+) fps", said)
    if fps > FASTEST and mean and float(mean[1]) < 0.99 * fps:
        fps = Fraction(max(FASTEST, round(float(mean[1]))))
    length = re.search(r"^  Duration: (\d+):(\d+):([\d.]+)", said, re.M)
    hours, minutes, seconds = map(float, length.groups()) if length else (0, 0, 0)
    seconds += 60 * minutes + 3600 * hours
    sound = re.search(r"^ +Stream #0:.*: Audio: (\w+)", said, re.M)
    start = re.search(r"^  Duration: .*start: (-?[\d.]+)", said, re.M)
    return Clip(
        path,
        (int(named["W"]), int(named["H"])),
        _gif_rate(path, fps) if path.suffix.lower() == ".gif" else fps,
        seconds,
        sound[1] if sound and sound[1] != "none" else "",  # none: ffmpeg cannot decode it
        float(start[1]) if start else 0.0,
    )


def _gif_rate(path: Path, mean: Fraction) -> Fraction:
    """Frames per second of a grid that all changes lie on: at the mean rate, which ffmpeg proposes,
    frames of a GIF that rests at its end would be lost."""
    waits = []
    with suppress(OSError), Image.open(path) as image:  # one that is cut short: as far as it goes
        for frame in ImageSequence.Iterator(image):
            waits.append(round(frame.info.get("duration", 0) / 10))
    waits = [wait if wait > 1 else 10 for wait in waits]  # as ffmpeg and browsers show it
    if not waits:
        return mean
    uneven = max(waits) - min(waits) > 1
    return Fraction(100, max(2, gcd(*waits))) if uneven else Fraction(100 * len(waits), sum(waits))


def read_frames(clip: Clip, complaints: list[str]) -> Iterator[bytes]:
    """The frames as RGB, H * W * 3 bytes each. After the last one `complaints` has ffmpeg's, if it
    had any: then the file is damaged or cut short."""
    width, height = clip.size
    even = f"fps={clip.fps}:start_time=0,scale={width}:{height}"  # the size may change midway
    arguments = ["-v", "error", *clip.input(), "-map", "0:V:0", "-vf", even]
    arguments += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    length = width * height * 3
    with _ffmpeg(arguments, stdout=subprocess.PIPE) as (process, log):
        while len(data := process.stdout.read(length)) == length:
            yield data
        if process.wait() or _said(log):
            complaints.append(_last(_said(log)))


@contextmanager
def frame_writer(
    target: Path, kind: Kind, clear: bool, clip: Clip
) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that takes the frames to write, uint8 (H, W, 3), or (H, W, 4) if `clear`.

    `target`: a file, or an existing folder for pictures; complete when the block has ended. Size,
    frame rate and sound are those of `clip`. Raises OSError.
    """
    arguments = ["-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgba" if clear else "rgb24"]
    arguments += ["-s", "{}x{}".format(*clip.size), "-r", str(clip.fps), "-i", "-"]
    if clip.sound and kind.sound:
        codec, encoder = kind.sound
        arguments += [*clip.input(), "-map", "0:v:0", "-map", "1:a:0"]
        arguments += ["-c:a", "copy" if clip.sound == codec else encoder]
    arguments += [*kind.arguments.split(), "-pix_fmt", kind.clear if clear else kind.opaque]
    folder = target.is_dir()  # run there, as its own name may have a %
    arguments.append("frame_%05d.png" if folder else str(target))
    cwd = target if folder else None
    with _ffmpeg(arguments, stdin=subprocess.PIPE, cwd=cwd) as (process, log):

        def write(picture: np.ndarray) -> None:
            try:
                process.stdin.write(np.ascontiguousarray(picture))
            except OSError:  # it has ended, and says why
                process.wait()
                raise OSError(
                    f"{clip.path.name}: its cut-out was not written ({_last(_said(log))})"
                ) from None

        yield write
        process.stdin.close()
        if process.wait():
            raise OSError(f"{clip.path.name}: its cut-out was not written ({_last(_said(log))})")


@contextmanager
def _ffmpeg(arguments: list[str], **pipes) -> Iterator[tuple[subprocess.Popen, IO[bytes]]]:
    """A running ffmpeg and what it complains of. It ends with the block, whatever happens there."""
    from imageio_ffmpeg import get_ffmpeg_exe

    # In a group of its own: Ctrl-C reaches it through us, or a half video could pass for a whole.
    group = {"start_new_session": True}
    if os.name == "nt":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        group = {"creationflags": flags}
    command = [get_ffmpeg_exe(), "-hide_banner", "-nostats", *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL} | pipes
    with tempfile.TemporaryFile() as log:  # a pipe that nobody reads would block it
        process = subprocess.Popen(command, stderr=log, **pipes, **group)
        try:
            yield process, log
        finally:
            process.kill()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with suppress(OSError):  # half a frame may be on its way
                    pipe.close()
            process.wait()


def _said(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode("utf-8", "replace")


def _last(text: str) -> str:
    """The last line, without the name of the part of ffmpeg that says it."""
    lines = [line.strip() for line in text.replace("Conversion failed!", "").splitlines()]
    lines = [line for line in lines if line]
    return re.sub(r"^(\[[^]]* @ 0x\w+\] *)+", "", lines[-1]) if lines else "ffmpeg gives no reason"
