"""Videos cut out frame by frame: real files, made and read back with ffmpeg itself."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image
from torch import nn

from unetlib.checkpoint import Checkpoint
from unetlib.cutting import Recipe
from unetlib.data.preprocess import Preprocess
from unetlib.predict import Predictor
from unetlib.video import Steady, cut_video, default_target, is_video

ROOT = Path(__file__).resolve().parents[1]
SIZE = 96, 64  # width, height
GREY, RED = (110, 110, 110), (230, 20, 20)


class Redness(nn.Module):
    """Logit 20 * (red - green - 0.4): red is foreground, any grey is not."""

    def forward(self, x):
        return 20 * (x[:, :1] - x[:, 1:2] - 0.4)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.set_num_threads(1)
    plain = Preprocess((64, 96), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Predictor(Checkpoint(Redness(), plain), device="cpu")


def ffmpeg(*arguments, data: bytes | None = None) -> bytes:
    command = [get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def about(path) -> str:
    """What ffmpeg says of a file; its complaint that no target was named is expected."""
    return subprocess.run(
        [get_ffmpeg_exe(), "-hide_banner", "-i", str(path)], capture_output=True, text=True
    ).stderr


def disc(number: int, width: int = SIZE[0], height: int = SIZE[1]) -> np.ndarray:
    """A red disc on grey that moves two pixels to the right with each frame, uint8 (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(x - 20 - 2 * number, y - height / 2) < 14
    return np.where(inside[..., None], RED, GREY).astype(np.uint8)


def make_video(path: Path, frames, fps="25", sound: float = 0, options=()) -> Path:
    """Any container, near lossless; `sound`: seconds of a sine at 440 Hz."""
    frames = [np.ascontiguousarray(frame) for frame in frames]
    height, width = frames[0].shape[:2]
    arguments = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", fps]
    arguments += ["-i", "-"]
    if sound:
        arguments += ["-f", "lavfi", "-i", f"sine=frequency=440:duration={sound}"]
    if path.suffix in (".mp4", ".mov", ".mkv", ".ts"):
        arguments += ["-c:v", "libx264", "-crf", "10", "-pix_fmt", "yuv444p"]
    ffmpeg(*arguments, *options, path, data=b"".join(frame.tobytes() for frame in frames))
    return path


def read_video(path: Path, size=SIZE, alpha: bool = False) -> np.ndarray:
    """All frames as they are stored, none doubled: uint8 (N, H, W, 3 or 4)."""
    decoder = ["-c:v", "libvpx-vp9"] if path.suffix == ".webm" else []  # ffmpeg's own drops alpha
    raw = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgba" if alpha else "rgb24"]
    data = ffmpeg(*decoder, "-i", path, "-map", "0:v:0", *raw, "-")
    return np.frombuffer(data, np.uint8).reshape(-1, size[1], size[0], 4 if alpha else 3)


def read_sound(path: Path) -> np.ndarray:
    """The first sound track, 8000 values a second, padded where it starts late."""
    data = ffmpeg("-copyts", "-i", path, "-map", "0:a:0", "-af",
                  "aresample=8000:async=1:first_pts=0", "-ac", "1", "-f", "s16le", "-")  # fmt: skip
    return np.frombuffer(data, np.int16).astype(np.float64)


def pitch(sound: np.ndarray) -> float:
    return np.abs(np.fft.rfft(sound)).argmax() * 8000 / len(sound)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """25 frames in a second, with sound."""
    path = tmp_path_factory.mktemp("clip") / "a moving disc.mp4"
    return make_video(path, map(disc, range(25)), sound=1, options=["-c:a", "aac"])


def whole(path: Path) -> None:
    """Nothing half done lies around."""
    assert not [p for p in path.parent.iterdir() if "part" in p.name]


def children() -> set[str]:
    """ffmpeg processes that this process started and that still run."""
    listed = subprocess.run(["ps", "-eo", "ppid=,pid=,args="], capture_output=True, text=True)
    rows = [row.split(None, 2) for row in listed.stdout.splitlines()]
    return {pid for ppid, pid, args in rows if ppid == str(os.getpid()) and "ffmpeg" in args}


def check_disc(frames: np.ndarray, background, tolerance: float = 10) -> None:
    """Each frame is the disc in its place, over the background; the very edge is left out."""
    for number, frame in enumerate(frames):
        inside = (disc(number)[..., 1] < 50).astype(np.uint8)
        sure = cv2.erode(inside, np.ones((5, 5))) > 0
        far = cv2.dilate(inside, np.ones((7, 7))) == 0
        assert np.abs(frame[sure].mean(axis=0) - RED).max() < tolerance, number
        assert np.abs(frame[far].mean(axis=0) - background).max() < tolerance, number


def test_a_new_background_with_the_sound(tmp_path, clip, predictor):
    seen = []
    target = tmp_path / "new" / "disc.mp4"
    result = cut_video(
        clip, target, predictor, Recipe(background="#0a8c46"),
        progress=lambda *counts: seen.append(counts),
    )  # fmt: skip
    check_disc(read_video(target), (10, 140, 70), tolerance=6)
    text = about(target)
    assert all(word in text for word in ("h264", "yuv420p(tv, bt709", "25 fps", "96x64"))
    sound = read_sound(target)
    assert abs(len(sound) / 8000 - 1) < 0.06 and abs(pitch(sound) - 440) < 5
    assert (result.frames, result.size, result.fps) == (25, SIZE, 25) and result.sound
    assert 0 < result.network_seconds < result.seconds and result.warning == ""
    assert result.target == target and seen == [(n, 25) for n in range(1, 26)]
    assert os.listdir(target.parent) == ["disc.mp4"]


@pytest.mark.parametrize("suffix", [".webm", ".mov", ".MOV"])
def test_transparent_with_the_sound(tmp_path, clip, predictor, suffix):
    target = tmp_path / f"disc{suffix}"
    assert cut_video(clip, target, predictor, Recipe()).sound
    frames = read_video(target.rename(target.with_suffix(suffix.lower())), alpha=True)
    assert len(frames) == 25
    for number, frame in enumerate(frames):
        inside = disc(number)[..., 1] < 50
        assert ((frame[..., 3] >= 128) == inside).mean() > 0.99, number
        sure = cv2.erode(inside.astype(np.uint8), np.ones((5, 5))) > 0
        far = cv2.dilate(inside.astype(np.uint8), np.ones((9, 9))) == 0
        assert frame[sure][:, 3].min() > 245 and frame[far][:, 3].max() < 10
        assert np.abs(frame[sure][:, :3].mean(axis=0) - RED).max() < 8
    sound = read_sound(target.with_suffix(suffix.lower()))
    assert abs(len(sound) / 8000 - 1) < 0.06 and abs(pitch(sound) - 440) < 5


def test_pictures_numbered_from_one(tmp_path, clip, predictor):
    folder = tmp_path / "100%d disc"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "frame_00099.png").write_bytes(b"of a longer video")
    result = cut_video(clip, folder, predictor, Recipe())
    assert result.frames == 25 and not result.sound
    names = [f"frame_{n:05}.png" for n in range(1, 26)]
    assert sorted(p.name for p in folder.iterdir()) == [*names, "notes.txt"]
    frames = np.stack([np.asarray(Image.open(folder / name)) for name in names])
    assert frames.shape == (25, 64, 96, 4)
    assert not frames[frames[..., 3] == 0].any()  # the old background leaks nowhere
    for number, frame in enumerate(frames):
        assert ((frame[..., 3] >= 128) == (disc(number)[..., 1] < 50)).mean() > 0.99
    whole(folder)


def test_gif_in_gif_out(tmp_path, predictor):
    source, target = tmp_path / "disc.gif", tmp_path / "new.GIF"
    pictures = [Image.fromarray(disc(n)) for n in (0, 5, 10)]
    durations = [100, 300, 200]
    pictures[0].save(source, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    calls = []
    spy = Predictor(predictor.networks[0].checkpoint, device="cpu")
    small = spy.predict_small
    spy.predict_small = lambda photos, size: calls.append(len(photos)) or small(photos, size)
    result = cut_video(source, target, spy, Recipe(background="white"))
    assert (result.frames, result.fps) == (6, 10)  # 0.1 s each: durations are kept
    assert sum(calls) == 3  # and a frame that stands still costs nothing
    check_disc(read_video(target)[[0]], (255, 255, 255))
    with Image.open(target) as image:
        shown = []
        for number in range(image.n_frames):
            image.seek(number)
            shown += [np.asarray(image.convert("RGB"))] * (image.info["duration"] // 10)
    assert len(shown) == 60
    for moment, number in ((5, 0), (15, 5), (35, 5), (45, 10)):  # hundredths of a second
        assert (shown[moment][disc(number)[..., 1] < 50].mean(axis=0) > (190, -1, -1)).all()
        assert abs(int(shown[moment][2, 2, 1]) - 255) < 4


def test_a_gif_cut_short(tmp_path, predictor):
    rng = np.random.default_rng(0)
    frames = [disc(n) + rng.integers(0, 20, (64, 96, 3), dtype=np.uint8) for n in range(10)]
    source, target = tmp_path / "short.gif", tmp_path / "new.mp4"
    pictures = list(map(Image.fromarray, frames))
    pictures[0].save(source, save_all=True, append_images=pictures[1:], duration=[100, 300] * 5)
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    result = cut_video(source, target, predictor, Recipe(background="white"))
    assert result.fps == 10 and 5 < result.frames < 20
    assert len(read_video(target)) == result.frames


def test_transparent_gif(tmp_path, clip, predictor):
    cut_video(clip, tmp_path / "new.gif", predictor, Recipe())
    with Image.open(tmp_path / "new.gif") as image:
        assert image.n_frames == 25
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert ((alpha > 127) == (disc(0)[..., 1] < 50)).mean() > 0.98


def test_what_is_a_video(tmp_path):
    photo, film = tmp_path / "photo.gif", tmp_path / "film.GIF"
    pictures = [Image.fromarray(disc(n)) for n in range(3)]
    pictures[0].save(photo)
    pictures[0].save(film, save_all=True, append_images=pictures[1:])
    assert is_video(film) and not is_video(photo) and not is_video(str(tmp_path / "no.gif"))
    assert is_video("a.MP4") and is_video("b.webm")
    assert not is_video("c.jpg") and not is_video("mp4") and not is_video(tmp_path)


def test_targets_by_default():
    assert default_target("in/a.b.mov", Recipe()) == Path("in/a.b_foreground.webm")
    assert default_target("a.gif", Recipe(background="blur")) == Path("a_foreground.mp4")


@pytest.mark.parametrize("size", [(97, 65), (1, 1), (33, 2)])
@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mov", ".gif", ""])
def test_odd_sizes_and_a_single_frame(tmp_path, predictor, size, suffix):
    source = make_video(tmp_path / "odd.mkv", [disc(0, *size)])
    target = tmp_path / f"odd cut{suffix}"
    result = cut_video(source, target, predictor, Recipe(background="blue"))
    assert (result.frames, result.size, result.sound) == (1, size, False)
    if suffix in (".mp4", ".webm", ".mov"):
        size = tuple(side + side % 2 for side in size)
    where = target if suffix else target / "frame_00001.png"
    assert len(read_video(where, size)) == 1


def test_upright_as_a_phone_means_it(tmp_path, clip, predictor):
    turned, target = tmp_path / "phone.mp4", tmp_path / "cut.mp4"
    ffmpeg("-display_rotation", "90", "-i", clip, "-c", "copy", turned)
    result = cut_video(turned, target, predictor, Recipe(background="white"))
    assert result.size == SIZE[::-1] and "rotation" not in about(target)
    frames = read_video(target, SIZE[::-1])
    check_disc(np.rot90(frames, -1, axes=(1, 2)), (255, 255, 255))


def test_pixels_that_are_not_square_become_so(tmp_path, predictor):
    flat = [cv2.resize(disc(n), (48, 64), interpolation=cv2.INTER_AREA) for n in range(3)]
    source = make_video(tmp_path / "dv.mkv", flat, options=["-aspect", "3:2"])
    target = tmp_path / "cut.mp4"
    assert cut_video(source, target, predictor, Recipe(background="white")).size == SIZE
    check_disc(read_video(target), (255, 255, 255), tolerance=12)


def test_uneven_times_become_even_without_shifting(tmp_path, predictor):
    pictures = []
    for number, length in enumerate([0.1, 0.4, 0.2, 0.05, 0.25]):
        Image.fromarray(disc(5 * number)).save(tmp_path / f"{number}.png")
        pictures += [f"file '{number}.png'", f"duration {length}"]
    (tmp_path / "list.txt").write_text("\n".join(pictures) + "\n", encoding="utf-8")
    source = tmp_path / "phone.mkv"  # times in milliseconds: ffmpeg would take 1000 frames a second
    ffmpeg("-f", "concat", "-i", tmp_path / "list.txt", "-fps_mode", "passthrough", "-c:v",
           "libx264", "-crf", "10", "-pix_fmt", "yuv444p", source)  # fmt: skip
    target = tmp_path / "cut.mp4"
    result = cut_video(source, target, predictor, Recipe(background="white"))
    assert 20 <= result.fps <= 60
    frames = read_video(target)
    for moment, number in ((0.05, 0), (0.15, 1), (0.45, 1), (0.6, 2), (0.72, 3), (0.8, 4)):
        frame = frames[min(len(frames) - 1, int(moment * result.fps))]
        centre = np.flatnonzero(frame[32, :, 1] < 128).mean()
        assert abs(centre - 20 - 10 * number) < 2, moment


@pytest.mark.parametrize("late", ["sound", "picture"])
@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
@pytest.mark.parametrize("to", [".mp4", ".webm", ".mov"])
def test_flash_and_click_stay_together(tmp_path, predictor, suffix, late, to):
    """One frame is red all over while a click is heard; one stream starts 0.2 s after the other."""
    source = tmp_path / f"flash{suffix}"
    frames = [np.full((64, 96, 3), RED if n == 20 else GREY, np.uint8) for n in range(40)]
    make_video(tmp_path / "silent.mkv", frames)
    click = np.zeros(int(1.6 * 48000), np.int16)
    at = int(48000 * (20 / 25))
    click[at : at + 1920] = 20000 * np.sign(np.sin(np.arange(1920) / 8))
    delays = {"setpts": 0.2 * (late == "picture"), "asetpts": 0.2 * (late == "sound")}
    video, audio = (f"{name}=PTS+{delay}/TB" for name, delay in delays.items())
    ffmpeg("-i", tmp_path / "silent.mkv", "-f", "s16le", "-ar", 48000, "-ac", 1, "-i", "-",
           "-map", "0:v", "-map", "1:a", "-vf", video, "-af", audio, "-c:v", "libx264", "-crf", 10,
           "-fps_mode", "passthrough", "-c:a", "aac", source, data=click.tobytes())  # fmt: skip
    if "Duration" not in about(source):
        pytest.skip(f"this ffmpeg crashes on {suffix} files")  # imageio-ffmpeg 0.6 on Linux does
    target = tmp_path / f"cut{to}"
    result = cut_video(source, target, predictor, Recipe(background="black"))
    red = read_video(target)[..., 0].mean(axis=(1, 2))
    flash = np.flatnonzero(red > 120)
    assert len(flash) == 1
    loud = np.flatnonzero(np.abs(read_sound(target)) > 6000)[0] / 8000
    apart = loud - flash[0] / result.fps
    assert abs(apart - (0.2 if late == "sound" else -0.2)) < 0.05


def test_frame_rate_of_television(tmp_path, predictor):
    source = make_video(tmp_path / "tv.mp4", map(disc, range(6)), fps="30000/1001")
    result = cut_video(source, tmp_path / "cut.mp4", predictor, Recipe(background="white"))
    assert result.fps == float(Fraction(30000, 1001)) and "29.97 fps" in about(result.target)


def test_a_video_cut_short_gives_what_there_is_and_a_warning(tmp_path, predictor):
    rng = np.random.default_rng(0)
    noisy = [disc(n) + rng.integers(0, 20, (64, 96, 3), dtype=np.uint8) for n in range(40)]
    source = make_video(tmp_path / "film.mp4", noisy, sound=1.6,
                        options=["-movflags", "+faststart", "-c:a", "aac"])  # fmt: skip
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 2 // 3])
    target = tmp_path / "cut.mp4"
    result = cut_video(source, target, predictor, Recipe(background="white"))
    assert 5 < result.frames < 40 and len(read_video(target)) == result.frames
    assert "film.mp4" in result.warning and f"{result.frames} of about 40" in result.warning
    source.write_bytes(data[:300])
    before = target.read_bytes()
    with pytest.raises(OSError, match="film.mp4"):
        cut_video(source, target, predictor, Recipe(background="white"))
    assert target.read_bytes() == before  # still there, and whole
    whole(target)


def test_what_is_no_video(tmp_path, predictor):
    white = Recipe(background="white")
    text, song, empty = (tmp_path / name for name in ("text.mp4", "song.mp4", "empty.mov"))
    text.write_text("not a video\n" * 50, encoding="utf-8")
    empty.write_bytes(b"")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", song)
    for path, words in ((text, "no frame"), (song, "there is no video"), (empty, "no frame")):
        with pytest.raises(OSError, match=f"{path.name}.*{words}"):
            cut_video(path, tmp_path / "out.mp4", predictor, white)
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        cut_video(tmp_path / "gone.mp4", tmp_path / "out.mp4", predictor, white)
    assert sorted(os.listdir(tmp_path)) == ["empty.mov", "song.mp4", "text.mp4"]


def test_requests_that_cannot_be_met(tmp_path, clip, predictor):
    for target, recipe, words in (
        ("a.mp4", Recipe(), "transparency.*webm"),
        ("a.webb", Recipe(), "Did you mean '.webm'"),
        ("a.mkv", Recipe(background="white"), ".mp4, .webm, .mov, .gif"),
        ("a.webm", Recipe(crop=True), "crop"),
        (clip, Recipe(background="white"), "over itself"),
    ):
        with pytest.raises(ValueError, match=words):
            cut_video(clip, tmp_path / target, predictor, recipe)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("suffix", [".mp4", ""])
def test_an_error_in_the_middle_leaves_nothing(tmp_path, clip, predictor, suffix):
    def stop(done, total):
        if done == 9:
            raise KeyError("in the middle")

    with pytest.raises(KeyError, match="in the middle"):
        cut_video(clip, tmp_path / f"a{suffix}", predictor, Recipe(background="white"),
                  progress=stop)  # fmt: skip
    assert not os.listdir(tmp_path) and not children()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_a_full_disk_is_an_error(tmp_path, clip, predictor, monkeypatch):
    from contextlib import nullcontext

    monkeypatch.setattr("unetlib.video.whole", lambda target: nullcontext(Path("/dev/full")))
    with pytest.raises(OSError, match="not written.*No space left"):
        cut_video(clip, tmp_path / "a.webm", predictor, Recipe(background="white"))
    assert not children()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_leaves_nothing(tmp_path, clip):
    """To the whole group of processes, as a terminal sends it."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(ROOT)!r})
        import numpy as np
        from unetlib.cutting import Recipe
        from unetlib.video import cut_video

        class Slow:
            def predict_small(self, photos, size):
                print("working", flush=True)
                time.sleep(0.3)
                return np.ones((len(photos), 32, 32), np.float32)

        cut_video({str(clip)!r}, {str(tmp_path / "a.mp4")!r}, Slow(), Recipe(background="white"))
        """),
        encoding="utf-8",
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True, **pipes)
    assert process.stdout.readline() == process.stdout.readline() == "working\n"
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=20)[1]
    assert "KeyboardInterrupt" in errors and process.returncode != 0
    time.sleep(0.1)
    assert os.listdir(tmp_path) == ["run.py"]
    listed = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True).stdout
    assert str(tmp_path) not in listed.replace(str(script), "")


def test_a_background_picture_is_fitted_once(tmp_path, clip, predictor, monkeypatch):
    import unetlib.video

    sizes = []
    fit = unetlib.video.fit_cover
    monkeypatch.setattr(unetlib.video, "fit_cover", lambda *a: sizes.append(a[1:]) or fit(*a))
    Image.new("RGB", (300, 200), (10, 200, 30)).save(tmp_path / "beach.png")
    recipe = Recipe(background=str(tmp_path / "beach.png"))
    cut_video(clip, tmp_path / "a.mp4", predictor, recipe)
    assert sizes == [(64, 96)]
    check_disc(read_video(tmp_path / "a.mp4"), (10, 200, 30), tolerance=6)


def noisy_masks(speed: float, contrast: int, frames: int = 60):
    """A disc at `speed` pixels a frame: (true mask, mask with a restless edge, picture) each."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :160].astype(np.float32)
    ground = cv2.GaussianBlur(rng.normal(0, 1, (96, 160, 3)), (0, 0), 3) * 120 + 100
    for number in range(frames):
        true = np.clip((28 - np.hypot(x - 40 - speed * number, y - 48)) / 3 + 0.5, 0, 1)
        noise = cv2.GaussianBlur(rng.normal(0, 1, true.shape), (0, 0), 2)
        edge = cv2.GaussianBlur(((true > 0.02) & (true < 0.98)).astype(np.float32), (0, 0), 1.5)
        restless = np.clip(true + 0.15 * noise / noise.std() * edge, 0, 1).astype(np.float32)
        picture = ground + contrast * true[..., None] + rng.normal(0, 1.5, ground.shape)
        yield true, restless, np.clip(picture, 0, 255).astype(np.uint8)


def iou(a, b):
    return np.sum((a > 0.5) & (b > 0.5)) / np.sum((a > 0.5) | (b > 0.5))


def test_still_edges_do_not_flicker():
    steady, last, flicker = Steady(), None, []
    for true, restless, picture in noisy_masks(0, 60):
        mask = steady(restless, picture, 1 / 30)
        if last is not None:
            edge = (true > 0.02) & (true < 0.98)
            flicker.append([np.abs(a - b)[edge].mean() for a, b in zip((restless, mask), last,
                                                                      strict=True)])  # fmt: skip
        last = restless, mask
    before, after = np.mean(flicker, axis=0)
    assert before > 0.03 and after < 0.5 * before


@pytest.mark.parametrize("speed", [0.1, 0.5, 1, 2])
@pytest.mark.parametrize("contrast", [40, 100])
def test_moving_edges_do_not_lag(speed, contrast):
    steady, scores = Steady(), []
    frames = min(60, int(90 / speed))
    for true, restless, picture in noisy_masks(speed, contrast, frames):
        mask = steady(restless, picture, 1 / 30)
        scores.append([iou(restless, true), iou(mask, true)])
    before, after = np.mean(scores[3:], axis=0)
    assert after >= before - 0.0005


def test_a_new_scene_starts_anew():
    steady = Steady()
    dark, light = (np.full((90, 160, 3), level, np.uint8) for level in (30, 200))
    weak, strong = (np.full((32, 32), value, np.float32) for value in (0.4, 0.6))
    np.testing.assert_array_equal(steady(weak, dark, 0.04), weak)
    held = steady(strong, dark, 0.04)  # the picture says nothing has changed
    assert 0.4 < held.mean() < 0.56
    np.testing.assert_array_equal(steady(strong, light, 0.04), strong)


def test_smoothing_can_be_switched_off(tmp_path, predictor):
    """A network that changes its mind about a still picture: even frames yes, odd ones no."""
    rng = np.random.default_rng(0)
    frames = [disc(10) + rng.integers(0, 3, (64, 96, 3), dtype=np.uint8) for _ in range(12)]
    source = make_video(tmp_path / "still.mkv", frames)

    class Moody:
        def __init__(self):
            self.count = 0

        def predict_small(self, photos, size):
            numbers = range(self.count, self.count + len(photos))
            self.count += len(photos)
            return np.stack([np.full((64, 96), 0.4 + 0.2 * (n % 2), np.float32) for n in numbers])

    switches = []
    for smooth in (True, False):
        folder = tmp_path / str(smooth)
        cut_video(source, folder, Moody(), Recipe(refine="none"), smooth=smooth)
        alpha = np.stack([np.asarray(Image.open(p))[..., 3] for p in sorted(folder.iterdir())])
        switches.append(np.abs(np.diff(alpha.astype(float), axis=0)).mean())
    assert switches[0] < 0.5 * switches[1]


def test_importing_it_loads_no_torch_and_no_imageio():
    code = "import unetlib.video, sys; print({'torch', 'imageio_ffmpeg', 'scipy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr


def test_long_videos_take_no_more_memory(tmp_path):
    """Peak memory for 10 and 150 frames, each in a fresh process."""
    peaks = []
    for count in (10, 150):
        source = tmp_path / f"{count}.mkv"
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=640x360:r=30", "-frames:v", count, "-c:v",
               "libx264", "-preset", "ultrafast", source)  # fmt: skip
        code = textwrap.dedent(f"""
            import resource, numpy as np
            from unetlib.cutting import Recipe
            from unetlib.video import cut_video

            class Half:
                def predict_small(self, photos, size):
                    masks = np.zeros((len(photos), 32, 32), np.float32)
                    masks[:, 8:24, 8:24] = 1
                    return masks

            out = {str(tmp_path / "out.mp4")!r}
            result = cut_video({str(source)!r}, out, Half(), Recipe(background="white"))
            print(result.frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            """)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
        )
        frames, peak = map(int, re.findall(r"\d+", done.stdout) or pytest.fail(done.stderr))
        assert frames == count
        peaks.append(peak)
    assert peaks[1] < 1.1 * peaks[0]  # 140 frames more would be 97 MB as bytes alone
