"""Videos cut out frame by frame: real files, made and read back with ffmpeg itself."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image
from torch import nn

from unetlib.checkpoint import Checkpoint
from unetlib.cutting import Recipe
from unetlib.data.preprocess import Preprocess
from unetlib.predict import Predictor
from unetlib.video import Steady, cut_video

ROOT = Path(__file__).resolve().parents[1]
SIZE = 96, 64  # width, height
GREY, RED = (110, 110, 110), (230, 20, 20)


class Redness(nn.Module):
    """Logit 20 * (red - green - 0.4): red is foreground, any grey is not."""

    def forward(self, x):
        return 20 * (x[:, :1] - x[:, 1:2] - 0.4)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    plain = Preprocess((64, 96), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Predictor(Checkpoint(Redness(), plain), device="cpu")


def ffmpeg(*arguments, data: bytes | None = None) -> bytes:
    """Texts are split at spaces, paths are not."""
    words = [[str(a)] if isinstance(a, Path) else a.split() for a in arguments]
    command = [get_ffmpeg_exe(), "-v", "error", "-y", *sum(words, [])]
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


def make_video(path: Path, frames, fps="25", sound: float = 0, options="") -> Path:
    """Any container, near lossless; `sound`: seconds of a sine at 440 Hz."""
    frames = [np.ascontiguousarray(frame) for frame in frames]
    height, width = frames[0].shape[:2]
    arguments = [f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -"]
    if sound:
        arguments += [f"-f lavfi -i sine=frequency=440:duration={sound}"]
    if path.suffix in (".mp4", ".mov", ".mkv", ".ts"):
        arguments += ["-c:v libx264 -crf 10 -pix_fmt yuv444p"]
    ffmpeg(*arguments, options, path, data=b"".join(frame.tobytes() for frame in frames))
    return path


def read_video(path: Path, size=SIZE, alpha: bool = False) -> np.ndarray:
    """All frames as they are stored, none doubled: uint8 (N, H, W, 3 or 4)."""
    decoder = "-c:v libvpx-vp9" if path.suffix == ".webm" else ""  # ffmpeg's own drops alpha
    raw = f"-fps_mode passthrough -f rawvideo -pix_fmt {'rgba' if alpha else 'rgb24'} -"
    data = ffmpeg(decoder, "-i", path, "-map 0:v:0", raw)
    return np.frombuffer(data, np.uint8).reshape(-1, size[1], size[0], 4 if alpha else 3)


def read_sound(path: Path) -> np.ndarray:
    """The first sound track, 8000 values a second, padded where it starts late."""
    how = "-map 0:a:0 -af aresample=8000:async=1:first_pts=0 -ac 1 -f s16le -"
    data = ffmpeg("-copyts -i", path, how)
    return np.frombuffer(data, np.int16).astype(np.float64)


def pitch(sound: np.ndarray) -> float:
    return np.abs(np.fft.rfft(sound)).argmax() * 8000 / len(sound)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """25 frames in a second, with sound."""
    path = tmp_path_factory.mktemp("clip") / "a moving disc.mp4"
    return make_video(path, map(disc, range(25)), sound=1, options="-c:a aac")


def check_disc(frames: np.ndarray, background, tolerance: float = 10) -> None:
    """Each frame is the disc in its place, over the background; the very edge is left out."""
    for number, frame in enumerate(frames):
        inside = (disc(number)[..., 1] < 50).astype(np.uint8)
        sure = cv2.erode(inside, np.ones((5, 5))) > 0
        far = cv2.dilate(inside, np.ones((7, 7))) == 0
        assert np.abs(frame[sure].mean(axis=0) - RED).max() < tolerance, number
        assert np.abs(frame[far].mean(axis=0) - background).max() < tolerance, number


def test_a_new_background_with_the_sound(tmp_path, clip, predictor):
    target = tmp_path / "new" / "disc.mp4"
    assert cut_video(clip, target, predictor, Recipe(background="#0a8c46")) == "25 frames"
    assert len(read_video(target)) == 25
    check_disc(read_video(target), (10, 140, 70), tolerance=6)
    text = about(target)
    assert all(word in text for word in ("h264", "yuv420p(tv, bt709", "25 fps", "96x64"))
    sound = read_sound(target)
    assert abs(len(sound) / 8000 - 1) < 0.06 and abs(pitch(sound) - 440) < 5
    assert os.listdir(target.parent) == ["disc.mp4"]


@pytest.mark.parametrize("suffix", [".webm", ".MOV"])
def test_transparent_with_the_sound(tmp_path, clip, predictor, suffix):
    target = tmp_path / f"disc{suffix}"
    cut_video(clip, target, predictor, Recipe())
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
    folder = tmp_path / "100%d disc.2024.v1"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "frame_00099.png").write_bytes(b"of a longer video")
    assert cut_video(clip, folder, predictor, Recipe()) == "25 frames"
    names = [f"frame_{n:05}.png" for n in range(1, 26)]
    assert sorted(p.name for p in folder.iterdir()) == [*names, "notes.txt"]
    frames = np.stack([np.asarray(Image.open(folder / name)) for name in names])
    assert frames.shape == (25, 64, 96, 4)
    assert not frames[frames[..., 3] == 0].any()  # the old background leaks nowhere
    for number, frame in enumerate(frames):
        assert ((frame[..., 3] >= 128) == (disc(number)[..., 1] < 50)).mean() > 0.99
    assert not list(folder.parent.glob("*part*"))
    times = [(folder / name).stat().st_ctime_ns for name in names]
    assert max(times) == times[0]  # by the first one is seen that all are there


def test_names_and_titles_are_no_facts_on_a_film(tmp_path, predictor):
    film = make_video(tmp_path / "120 fps, s:3x3 Output #0.mp4", map(disc, range(12)), "240", 0.05)
    told, made = tmp_path / "told.mp4", tmp_path / "made.mp4"
    ffmpeg("-i", film, "-c copy -metadata", Path("comment=at 120 fps s:3x3 Output #0"), told)
    for path in (film, told):
        assert cut_video(path, made, predictor, Recipe(background="blue")) == "12 frames"
        assert "96x64" in about(made) and "Audio: aac" in about(made)


def test_gif_in_gif_out(tmp_path, predictor):
    source, target = tmp_path / "disc.gif", tmp_path / "new.GIF"
    pictures = [Image.fromarray(disc(n)) for n in (0, 5, 10)]
    durations = [100, 300, 200]
    pictures[0].save(source, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    calls = []
    spy = Predictor(predictor.networks[0].checkpoint, device="cpu")
    small = spy.predict_small
    spy.predict_small = lambda photos, size: calls.append(len(photos)) or small(photos, size)
    said = cut_video(source, target, spy, Recipe(background="white"))
    assert said == "6 frames"  # 0.1 s each: durations are kept
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


@pytest.mark.parametrize("size", [(97, 65), (1, 1)])
@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mov", ".gif", ""])
def test_odd_sizes_and_a_single_frame(tmp_path, predictor, size, suffix):
    source = make_video(tmp_path / "odd.mkv", [disc(0, *size)])
    target = tmp_path / f"odd cut{suffix}"
    assert cut_video(source, target, predictor, Recipe(background="blue")) == "1 frames"
    if suffix in (".mp4", ".webm", ".mov"):
        size = tuple(side + side % 2 for side in size)
    where = target if suffix else target / "frame_00001.png"
    assert len(read_video(where, size)) == 1


def test_upright_as_a_phone_means_it(tmp_path, clip, predictor):
    turned, target = tmp_path / "phone.mp4", tmp_path / "cut.mp4"
    ffmpeg("-display_rotation 90 -i", clip, "-c copy", turned)
    cut_video(turned, target, predictor, Recipe(background="white"))
    assert "64x96" in about(target) and "rotation" not in about(target)
    frames = read_video(target, SIZE[::-1])
    check_disc(np.rot90(frames, -1, axes=(1, 2)), (255, 255, 255))


@pytest.mark.parametrize("late", ["sound", "picture"])
@pytest.mark.parametrize(("suffix", "to"), [(".mp4", ".webm"), (".mkv", ".mp4"), (".mkv", ".mov")])
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
    codecs = "-c:v libx264 -crf 10 -fps_mode passthrough -c:a aac"
    streams = f"-f s16le -ar 48000 -ac 1 -i - -map 0:v -map 1:a -vf {video} -af {audio} {codecs}"
    ffmpeg("-i", tmp_path / "silent.mkv", streams, source, data=click.tobytes())
    target = tmp_path / f"cut{to}"
    cut_video(source, target, predictor, Recipe(background="black"))
    red = read_video(target)[..., 0].mean(axis=(1, 2))
    flash = np.flatnonzero(red > 120)
    assert len(flash) == 1
    loud = np.flatnonzero(np.abs(read_sound(target)) > 6000)[0] / 8000
    apart = loud - flash[0] / 25
    assert abs(apart - (0.2 if late == "sound" else -0.2)) < 0.05


def test_a_video_cut_short_gives_what_there_is_and_a_warning(tmp_path, predictor):
    rng = np.random.default_rng(0)
    noisy = [disc(n) + rng.integers(0, 20, (64, 96, 3), dtype=np.uint8) for n in range(40)]
    source = make_video(
        tmp_path / "film.mp4", noisy, sound=1.6, options="-movflags +faststart -c:a aac"
    )
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 2 // 3])
    target = tmp_path / "cut.mp4"
    said = cut_video(source, target, predictor, Recipe(background="white"))
    assert 5 < len(read_video(target)) < 40 and f"{len(read_video(target))} frames" in said
    assert "the rest of film.mp4 is damaged or cut short" in said
    source.write_bytes(data[:300])
    before = target.read_bytes()
    with pytest.raises(OSError, match="film.mp4"):
        cut_video(source, target, predictor, Recipe(background="white"))
    assert target.read_bytes() == before  # still there, and whole
    assert not list(tmp_path.glob("*part*"))


def test_what_is_no_video_and_no_transparency_in_mp4(tmp_path, clip, predictor):
    white = Recipe(background="white")
    text, song, empty = (tmp_path / name for name in ("text.mp4", "song.mp4", "empty.mov"))
    text.write_text("not a video\n" * 50, encoding="utf-8")
    empty.write_bytes(b"")
    ffmpeg("-f lavfi -i sine=duration=1", song)
    for path, words in ((text, "no frame"), (song, "there is no video"), (empty, "no frame")):
        with pytest.raises(OSError, match=f"{path.name}.*{words}"):
            cut_video(path, tmp_path / "out.mp4", predictor, white)
    with pytest.raises(ValueError, match=r"a\.mp4.*transparency.*webm"):
        cut_video(clip, tmp_path / "a.mp4", predictor, Recipe())
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        cut_video(tmp_path / "gone.mp4", tmp_path / "out.mp4", predictor, white)
    assert sorted(os.listdir(tmp_path)) == ["empty.mov", "song.mp4", "text.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ""])
def test_an_error_in_the_middle_leaves_nothing(tmp_path, clip, predictor, suffix):
    class Broken:
        done = 0

        def predict_small(self, photos, size):
            self.done += 1
            if self.done == 3:
                raise KeyError("in the middle")
            return predictor.predict_small(photos, size)

    with pytest.raises(KeyError, match="in the middle"):
        cut_video(clip, tmp_path / f"a{suffix}", Broken(), Recipe(background="white"))
    assert not os.listdir(tmp_path)


def test_a_film_is_no_more_opaque_than_it_was(tmp_path, predictor):
    """As GIF, VP9 and ProRes store it; the figure's lower half is transparent."""
    frames = [np.dstack([disc(n), np.full(SIZE[::-1], 255, np.uint8)]) for n in range(4)]
    for number, frame in enumerate(frames):
        frame[32:, :, 3] = 0
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    options = {
        "half.gif": "-filter_complex split[a][b];[a]palettegen[p];[b][p]paletteuse",
        "half.webm": "-c:v libvpx-vp9 -pix_fmt yuva420p",
        "old.webm": "-c:v libvpx -auto-alt-ref 0 -pix_fmt yuva420p",
        "half.mkv": "-c:v libvpx-vp9 -pix_fmt yuva420p",
        "lossless.mov": "-c:v qtrle -pix_fmt argb",
        "half.mov": "-c:v prores_ks -profile:v 4 -pix_fmt yuva444p10le",
    }
    for name, how in options.items():
        ffmpeg("-framerate 10 -i", tmp_path / "%d.png", how, tmp_path / name)
        assert cut_video(tmp_path / name, tmp_path / "frames", predictor, Recipe()) == "4 frames"
        cut = np.asarray(Image.open(tmp_path / "frames" / "frame_00001.png"))
        assert not cut[34:].any(), name
        seen = (disc(0)[..., 1] < 50)[:30]
        assert ((cut[:30, :, 3] >= 128) == seen).mean() > 0.99, name
        assert np.abs(cut[20:28, 18:22, :3].astype(int) - RED).max() < 12, name
    cut_video(tmp_path / "half.mov", tmp_path / "own.webm", predictor, Recipe())
    cut_video(tmp_path / "own.webm", tmp_path / "frames", predictor, Recipe())
    assert not np.asarray(Image.open(tmp_path / "frames" / "frame_00001.png"))[34:].any()


def encoded(linear: np.ndarray, transfer: str) -> np.ndarray:
    """BT.2020 light, 1 being white, as BT.2020 SDR, or as PQ or HLG with white at 203 nits (ITU-R
    BT.2408), by hand."""
    if transfer == "bt2020-10":
        return 1.099 * linear**0.45 - 0.099
    if transfer == "smpte2084":
        power = (linear * 0.0203) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    scene = linear * 0.203 / (linear @ [0.2627, 0.678, 0.0593] * 0.203) ** (0.2 / 1.2)
    bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67", "bt2020-10"])
def test_hdr_and_wide_colours_become_srgb(tmp_path, predictor, transfer):
    colour = np.array([200, 120, 110]) / 255
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    if transfer == "bt2020-10":  # SDR is as bright as ever: its values are shown as they are
        linear = ((colour + 0.099) / 1.099) ** (1 / 0.45)
    to_2020 = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    signal = encoded(np.array(to_2020) @ linear, transfer)  # ITU-R BT.2087
    frame = np.full((64, 96, 4), 65535, "<u2")
    frame[..., :3], frame[50:, :, 3] = np.rint(signal * 65535), 0
    tags = f"color_primaries=bt2020:color_trc={transfer}:colorspace=bt2020nc"
    x265 = f"log-level=error:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    codec = f"-c:v libx265 -pix_fmt yuv420p10le -x265-params {x265}"
    if alpha := transfer == "arib-std-b67":
        codec = "-c:v prores_ks -profile:v 4 -pix_fmt yuva444p10le"
    source, target = tmp_path / "phone.mov", tmp_path / "frames"
    ffmpeg(
        "-f rawvideo -pix_fmt rgba64le -s 96x64 -r 10 -i -",
        f"-vf scale=out_color_matrix=bt2020nc:out_range=tv,setparams={tags}",
        codec,
        source,
        data=frame.tobytes() * 2,
    )
    everything = Recipe(threshold=0, refine="none")
    assert "converted to sRGB" in cut_video(source, target, predictor, everything)
    found = np.asarray(Image.open(target / "frame_00001.png"))
    assert np.abs(found[20:40, 30:60, :3].mean(axis=(0, 1)) - [200, 120, 110]).max() < 6
    assert found[52:, :, 3].any() != alpha


@pytest.mark.parametrize(("matrix", "size"), [("bt601", SIZE), ("bt709", (1280, 720))])
def test_colours_without_tags_are_those_of_their_size(tmp_path, predictor, matrix, size):
    how = f"-vf scale=out_color_matrix={matrix}:out_range=tv -c:v mpeg4 -q:v 2"
    raw = f"-f rawvideo -pix_fmt rgb24 -s {size[0]}x{size[1]} -r 10 -i -"
    ffmpeg(raw, how, tmp_path / "a.avi", data=bytes([200, 120, 110]) * size[0] * size[1])
    cut_video(tmp_path / "a.avi", tmp_path / "a", predictor, Recipe(threshold=0, refine="none"))
    found = np.asarray(Image.open(tmp_path / "a" / "frame_00001.png"))[20:40, 30:60, :3]
    assert np.abs(found.mean(axis=(0, 1)) - [200, 120, 110]).max() < 4


@pytest.mark.parametrize("layout", ["mono", "5.1(side)", "hexagonal", "unknown"])
@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mov"])
def test_every_sound_layout_becomes_stereo(tmp_path, predictor, layout, suffix):
    source, target = tmp_path / "film.mkv", tmp_path / f"cut{suffix}"
    tone = "|".join(["sin(440*2*PI*t)"] * (9 if layout == "unknown" else 1))
    how = "" if layout == "unknown" else f"-af aformat=channel_layouts={layout}"
    films = f"-f lavfi -i testsrc2=s=96x64:r=10:d=0.4 -f lavfi -i aevalsrc={tone}:d=0.4"
    ffmpeg(films, "-c:v libx264 -c:a pcm_s16le", how, source)
    cut_video(source, target, predictor, Recipe(background="white"))
    assert abs(pitch(read_sound(target)) - 440) < 5 and "stereo" in about(target)


def test_smoothing_steadies_the_masks_until_the_scene_changes():
    """A network that changes its mind about a still picture, with a little noise."""
    rng, steady, masks = np.random.default_rng(0), Steady(), []
    for number in range(20):
        frame = disc(10) + rng.integers(0, 3, (64, 96, 3), dtype=np.uint8)
        mind = np.full((32, 48), 0.4 + 0.2 * (number % 2), np.float32)
        masks.append(steady(mind, frame, 1 / 30))
    assert np.abs(np.diff(masks, axis=0)).mean() < 0.5 * 0.2
    new = np.full((32, 48), 0.9, np.float32)
    np.testing.assert_array_equal(steady(new, np.full((64, 96, 3), 250, np.uint8), 1 / 30), new)


def test_long_videos_take_no_more_memory(tmp_path):
    """Peak memory for 10 and 130 frames, each in a fresh process."""
    peaks = []
    for count in (10, 130):
        source = tmp_path / f"{count}.mkv"
        film = f"-f lavfi -i testsrc2=s=480x270:r=30 -frames:v {count} -c:v libx264"
        ffmpeg(film, "-preset ultrafast", source)
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
            recipe = Recipe(background="white", refine="none")
            said = cut_video({str(source)!r}, out, Half(), recipe)
            print(said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            """)
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        frames, peak = map(int, re.findall(r"\d+", done.stdout) or pytest.fail(done.stderr))
        assert frames == count
        peaks.append(peak)
    assert peaks[1] < 1.1 * peaks[0]  # 120 frames more would be 47 MB as bytes alone
