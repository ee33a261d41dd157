"""`unetlib cut`: which files come out of which inputs, what is skipped, what is refused, and that
whatever happens in the middle, files are whole. The network is known: how red a pixel is."""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from loopback import tree
from networks import write_color_network
from PIL import Image

from unetlib.app.cut import cut

KINDS = ("mask_binary", "mask_soft", "foreground")
RED, BLUE = (220, 20, 20), (20, 20, 220)


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    return write_color_network(tmp_path_factory.mktemp("network") / "redness.onnx")


@pytest.fixture(autouse=True)
def place(root, tmp_path, monkeypatch) -> None:
    """Works in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def picture(height: int = 48, width: int = 64) -> Image.Image:
    """Blue, its left half red."""
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, width // 2, height))
    return image


def put(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(name)


@pytest.fixture
def call(network):
    """The command without a process; raises what it raises."""

    def run(*args, code: int = 0, input: bytes | None = None):
        command = [*map(str, args), "--network", str(network)]
        result = CliRunner().invoke(cut, command, input=input)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def start(begin, network):
    """The command as a process, of bytes."""

    def run(*args) -> subprocess.Popen:
        env = {"PYTHONIOENCODING": "latin-1:strict"}
        return begin("cut", *args, "--network", network, env=env, encoding=None)

    return run


def names(folder="out") -> set[str]:
    return set(tree(Path(folder)))


def three(*stems: str) -> set[str]:
    return {f"{stem}_{kind}.png" for stem in stems for kind in KINDS}


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def assert_left_half(mask: np.ndarray) -> None:
    """Away from the edge, where the mask was resized."""
    middle = mask.shape[1] // 2
    assert (mask[:, : middle - 4] >= 128).all() and (mask[:, middle + 4 :] < 128).all()


def test_a_photo_becomes_three_files_in_the_folder_that_is_named(call, root):
    put("my.photo.jpg")
    said = call("my.photo.jpg").output
    folder = root / "outputs" / "cutouts"
    assert f"1 cut out into {folder}" in said and "redness.onnx: redness at 320×320 on cpu" in said
    assert names(folder) == three("my.photo")
    binary, soft, rgba = (pixels(folder / f"my.photo_{kind}.png") for kind in KINDS)
    assert set(np.unique(binary)) == {0, 255} and binary.shape == soft.shape == (48, 64)
    for mask in (binary, soft, rgba[..., 3]):
        assert_left_half(mask)
    np.testing.assert_array_equal(rgba[..., 3] >= 128, binary == 255)
    assert not rgba[rgba[..., 3] == 0].any()
    assert np.abs(rgba[5, 5, :3].astype(int) - RED).max() < 12


@pytest.mark.parametrize("format", ["png", "webp"])
def test_one_file_takes_the_cut_out_alone(call, format):
    put("me.png")
    call("me.png", "-o", f"deep/er/x.{format}")
    assert names(".") == {"me.png", f"deep/er/x.{format}"}
    with Image.open(f"deep/er/x.{format}") as image:
        assert image.format == format.upper() and image.mode == "RGBA"
        assert_left_half(np.asarray(image)[..., 3])
    call("me.png", "-o", f"mask.{format}", "--mask-only")
    with Image.open(f"mask.{format}") as image:
        assert_left_half(np.asarray(image.convert("L")))
    before = Path(f"mask.{format}").read_bytes()
    with pytest.raises(ValueError, match="is there already: --overwrite replaces it"):
        call("me.png", "-o", f"mask.{format}")
    assert Path(f"mask.{format}").read_bytes() == before


def test_options_arrive(call, network):
    put("me.png")
    call("me.png", "-o", "a", "--mask-only")
    assert names("a") == {"me_mask_binary.png", "me_mask_soft.png"}
    more = ("--refine", "none", "--feather", 6, "--grow", -2, "--no-flip", "--size", 64)
    more += ("--largest", "--fill-holes", "--threshold", 0.4, "--network", network)
    call("me.png", "-o", "b", "--comparison", "--format", "webp", "--background", "lime", *more)
    assert names("b") == {f"me_{kind}.webp" for kind in (*KINDS, "comparison")}
    assert pixels("b/me_comparison.webp").shape == (48, 3 * 64, 3)
    foreground = pixels("b/me_foreground.webp").astype(int)
    assert foreground.shape == (48, 64, 3)
    assert np.abs(foreground[:, -8:] - (0, 255, 0)).max() < 12
    soft = pixels("b/me_mask_soft.webp").astype(int)
    assert ((soft[..., 0] > 20) & (soft[..., 0] < 235)).any(axis=0).sum() >= 4  # feathered
    call("me.png", "-o", "c", "--crop")
    assert pixels("c/me_foreground.png").shape[1] < 40


def test_folders_keep_their_tree_and_originals_are_never_touched(call):
    put("in/a.jpg", "in/deep/er/b.PNG", "in/.hidden/c.png", "in/.d.png", "in/a.png")
    for name in ("notes.txt", "Thumbs.db", "program.ts", "._a.jpg"):
        Path("in", name).write_text("no photo", encoding="utf-8")
    before = tree(Path("in"))
    said = call("in", "-o", "out", code=1)
    assert "2 cut out" in said.output and "1 failed" in said.output
    assert "a_mask_binary.png belongs to" in said.stderr  # of a.jpg and a.png the second
    assert names() == three("a", "deep/er/b")
    call("in", "in/deep", "-o", "two", code=1)
    assert names("two") == three("in/a", "deep/er/b")
    assert tree(Path("in")) == before
    put("a.png", "a_foreground.png")
    call("a.png", "a_foreground.png", "-o", ".", code=1)
    assert pixels("a_foreground.png").shape == (48, 64, 3)


@pytest.mark.parametrize("into", ["in", "in/out"])
def test_results_in_the_input_folder_are_no_inputs_and_what_is_done_is_skipped(call, into):
    put("in/a.jpg", "in/deep/b.jpg")
    call("in", "-o", into, "--comparison")
    first = {name: Path("in", name).stat().st_mtime_ns for name in names("in")}
    assert len(first) == 2 + 2 * 4
    said = call("in", "-o", into, "--comparison").output
    assert "0 cut out" in said and "2 done before" in said and "network" not in said
    (Path(into) / "a_mask_soft.png").unlink()
    (Path(into) / "a_comparison.png").write_bytes(b"")  # as a full disk leaves it
    later = time.time() + 60
    os.utime("in/deep/b.jpg", (later, later))
    assert "2 cut out" in call("in", "-o", into, "--comparison").output
    now = {name: Path("in", name).stat().st_mtime_ns for name in names("in")}
    changed = {Path(name).name for name in now if first[name] != now[name]}
    again = {f"b_{kind}.png" for kind in (*KINDS, "comparison")}
    assert changed == {"b.jpg", "a_mask_soft.png", "a_comparison.png"} | again
    assert pixels(Path(into, "a_comparison.png")).shape == (48, 192, 3)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_that_lead_in_circles_nowhere_or_to_a_pipe(call):
    put("in/a.jpg")
    os.symlink("..", "in/up")
    os.symlink("loop.jpg", "in/loop.jpg")
    os.symlink("gone.jpg", "in/nowhere.jpg")
    os.symlink("a.jpg", "in/b.jpg")
    os.mkfifo("in/pipe.jpg")
    said = call("in", "-o", "out", code=1)
    assert names() == three("a", "b")
    assert "2 failed" in said.output and "loop.jpg: " in said.stderr
    assert "nowhere.jpg: [Errno 2]" in said.stderr
    content = Path("in/a.jpg").read_bytes()
    feed = threading.Thread(target=lambda: Path("in/pipe.jpg").write_bytes(content))
    feed.start()
    call("in/pipe.jpg", "-o", "piped.png")
    feed.join()
    os.utime("in/a.jpg", (0, 0))  # as of files in some archives
    assert "1 done before" in call("in/a.jpg", "-o", "out").output


def test_bad_files_are_listed_and_stop_nothing(call):
    put("in/plain.jpg")
    picture().convert("CMYK").save("in/cmyk.jpg")
    Image.fromarray(np.full((9, 7), 60000, np.uint16)).save("in/deep.png")
    Image.new("RGB", (1, 1), RED).save("in/dot.png")
    Image.new("RGB", (20000, 10), BLUE).save("in/long.png")
    good = {path.stem for path in Path("in").iterdir()}
    whole = Path("in/plain.jpg").read_bytes()
    bad = {"cut": whole[: len(whole) // 2], "zero": b"", "text": b"hello"}
    for name, content in bad.items():
        Path("in", f"{name}.jpg").write_bytes(content)
    Path("out/in/dot_mask_soft.png/x").mkdir(parents=True)  # an output that cannot be written
    said = call("in", "gone.jpg", "-o", "out", "--jobs", 2, code=1)
    assert f"{len(good) - 1} cut out into" in said.output and "5 failed" in said.output
    reasons = ["damaged or truncated", "zero.jpg: not an image", "text.jpg: not an image"]
    reasons += ["'gone.jpg' not found", "directory"]
    for name, reason in zip([*bad, "gone.jpg", "dot.png"], reasons, strict=True):
        [line] = [line for line in said.stderr.splitlines() if reason in line]
        assert name in line
    out = Path("out", "in")
    assert three(*good - {"dot"}) <= names(out)
    assert pixels(out / "long_mask_binary.png").shape == (10, 20000)
    assert "long.png: no pixel reaches the threshold" in said.output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["me.png", "--threshold", "nan"], "nan is no number"),
        (["me.png", "--background", "bleu"], "'bleu' is not found: there are transparent"),
        (["me.png", "--refine", "magic"], "'magic': there are guided, closed-form, none"),
        (["me.png", "-o", "x.jpg"], r"x\.jpg is no folder, and files end in \.png, \.webp"),
        (["me.png", "me.png", "-o", "x.png"], "takes one picture or video: several need a folder"),
        (["-", "me.png"], "standard output takes one picture"),
        (["-", "-o", "x.mp4"], "files end in .png, .webp"),
        (["clip.mp4", "-o", "-"], "files end in .mp4, .webm"),
        (["", "-o", "out"], "is empty"),
        (["empty"], "no photo or video in empty"),
    ],
)
def test_wrong_requests_write_nothing(call, root, args, words):
    put("me.png")
    Path("empty").mkdir()
    Path("clip.mp4").touch()
    with pytest.raises(ValueError, match=words):
        call(*args)
    assert names(".") == {"me.png", "clip.mp4"}


def test_videos_and_photos_together(call):
    put("in/a.jpg", "in/still.gif")
    Path("in/clip.MP4").touch()
    frames = [picture(), picture().rotate(180)]
    frames[0].save("in/moving.gif", save_all=True, append_images=frames[1:], duration=200)
    said = call("in", "-o", "out", "--video-format", "frames", code=1)
    made = {f"moving_foreground/frame_0000{n}.png" for n in (1, 2)}
    assert names() == three("a", "still") | made
    assert "moving.gif: 2 frames" in said.output and "clip.MP4: " in said.stderr
    assert "3 done before" in call("in", "-o", "out", "--video-format", "frames", code=1).output
    said = call("in/moving.gif", "-o", "x.gif", "--background", "lime", "--mask-only")
    assert "of videos the cut-out alone" in said.stderr
    with Image.open("x.gif") as film:
        assert film.n_frames == 2


# --- whole processes -----------------------------------------------------------------------------


def test_standard_input_and_output(start):
    file = io.BytesIO()
    picture().save(file, "PNG")
    done = start("-")
    out, err = done.communicate(file.getvalue())
    assert done.returncode == 0 and b"network: " in err, err
    rgba = pixels(io.BytesIO(out))
    assert rgba.shape == (48, 64, 4) and names(".") == set()
    assert_left_half(rgba[..., 3])
    put("~me.png")
    out, err = start("~me.png", "-o", "-").communicate()
    assert_left_half(pixels(io.BytesIO(out))[..., 3])
    Path("~me.png").unlink()
    for _ in range(2):  # it has no date: never done before
        out, err = start("-", "-o", "there").communicate(file.getvalue())
        assert b"1 cut out into" in out + err and len(list(Path("there").iterdir())) == 3
    shutil.rmtree("there")
    done = start("-", "-o", "x.webp")
    out, err = done.communicate(b"hello")
    assert (done.returncode, out, names(".")) == (1, b"", set())
    assert b"standard input: not an image that can be read" in err and b"Traceback" not in err


@pytest.mark.skipif(os.name == "nt", reason="sh closes them")
@pytest.mark.parametrize(
    ("rest", "code", "words"),
    [
        ("me.png -o out >&- 2>&-", 0, ""),
        ("- >&- <me.png", 2, "standard output is closed: name a file with -o FILE"),
        ("- <&-", 1, "standard input: not an image"),
        ("me.png -o - >/dev/full", 1, "No space left"),
    ],
)
def test_streams_that_are_closed_or_full(network, rest, code, words):
    put("me.png")
    command = f"'{sys.executable}' -m unetlib cut --network '{network}' {rest}"
    env = {**os.environ, "PYTHONUNBUFFERED": ""}  # as most people have it
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, env=env)
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr
    assert ("out" in rest) == Path("out/me_foreground.png").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere are blind to case")
def test_names_that_differ_in_case_and_one_as_long_as_can_be(call):
    put("in/IMG.png", "in/img.png", "in/caf\u00e9.png", "in/cafe\u0301.png", f"in/{'a' * 251}.png")
    put(f"in/{'b' * 200}.png")
    said = call("in", "-o", "out", code=1)
    assert names() == three("IMG", "img", "caf\u00e9", "cafe\u0301", "b" * 200)
    assert "1 failed" in said.output and "File name too long" in said.stderr


def test_of_several_pictures_in_one_file_the_first_is_taken_and_that_is_said(call):
    frames = [picture(), picture().rotate(180)]
    for suffix in ("webp", "png", "tif"):
        frames[0].save(f"{suffix}.{suffix}", save_all=True, append_images=frames[1:])
    said = call("webp.webp", "png.png", "tif.tif", "-o", "out").output
    assert said.count("the first of its 2 pictures was taken") == 3
    for suffix in ("webp", "png", "tif"):
        assert_left_half(pixels(f"out/{suffix}_mask_soft.png"))


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are a Linux affair")
def test_names_that_the_terminal_cannot_show(start):
    put("in/a.png")
    os.rename("in/a.png", b"in/\xff\xe4 \xc3\xa4.png")
    Path("in/\N{SNOWMAN}\udcff.jpg").write_bytes(b"hello")
    done = start("in", "-o", "\N{SNOWMAN}")
    out, err = done.communicate()
    assert done.returncode == 1 and b"Traceback" not in err
    assert b"1 cut out" in out and b"\\u2603\\udcff.jpg: not an image" in err
    assert len(names("\N{SNOWMAN}")) == 3


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent in another way on Windows")
def test_ctrl_c_leaves_whole_files_and_the_same_command_goes_on(start):
    count = 60
    Path("in").mkdir()
    picture(700, 900).save("in/00.jpg")
    for i in range(1, count):
        shutil.copyfile("in/00.jpg", f"in/{i:02}.jpg")
    running = start("in", "-o", "out", "--jobs", 2)
    while running.poll() is None and not [*Path("out").glob("*_foreground.png")]:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert b"Traceback" not in err and b"stopped with Ctrl-C" in err
    made = [*Path("out").glob("*_foreground.png")]
    assert f"{len(made)} cut out into".encode() in out and 0 < len(made) < count
    assert f"{count - len(made)} left: the same command goes on".encode() in out
    assert len(names()) == 3 * len(made)  # none is half done, no piece is left behind
    for path in Path("out").iterdir():
        pixels(path)
