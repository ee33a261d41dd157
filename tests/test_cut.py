"""`unetlib cut`: which files come out of which inputs, what is skipped, what is refused, and that
whatever happens in the middle, files are whole. The network of most tests is known: how red a pixel
is. Pictures are read with Pillow."""

import errno
import io
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from unetlib import cutting
from unetlib.app import batch
from unetlib.app.cut import cut
from unetlib.app.plan import plan
from unetlib.checkpoint import Checkpoint
from unetlib.cutting import Recipe
from unetlib.data.preprocess import Preprocess
from unetlib.predict import Predictor

KINDS = ("mask_binary", "mask_soft", "foreground")
RED, BLUE = (220, 20, 20), (20, 20, 220)


class Redness(nn.Module):
    def forward(self, x):
        return 12 * (x[:, :1] - 0.5)


def red_network() -> Predictor:
    how = Preprocess((64, 64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Predictor(Checkpoint(Redness(), how), device="cpu")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Works in an empty folder, with the network that finds what is red."""
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path / "root"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "any.pth").touch()
    monkeypatch.setattr(batch, "Predictor", lambda *args, **kwargs: red_network())
    return tmp_path / "here"


def picture(height: int = 48, width: int = 64) -> Image.Image:
    """Blue, its left half red."""
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, width // 2, height))
    return image


def put(*names: str, color=None) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        (Image.new("RGB", (16, 12), color) if color else picture()).save(name)


def call(*args, code: int = 0, input: bytes | None = None):
    """The command without a process; raises what it raises."""
    args = [*map(str, args)]
    if "--checkpoint" not in args:
        args += ["--checkpoint", "../any.pth"]
    result = CliRunner().invoke(cut, args, input=input)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def names(folder="out") -> set[str]:
    return {p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file()}


def three(*stems: str) -> set[str]:
    return {f"{stem}_{kind}.png" for stem in stems for kind in KINDS}


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def assert_left_half(mask: np.ndarray) -> None:
    """Away from the edge, where the mask was resized."""
    middle = mask.shape[1] // 2
    assert (mask[:, : middle - 4] >= 128).all() and (mask[:, middle + 4 :] < 128).all()


# --- what comes out ------------------------------------------------------------------------------


def test_a_photo_becomes_three_files_in_the_folder_that_is_named(tmp_path):
    put("me.jpg")
    said = call("me.jpg").output
    folder = tmp_path / "root" / "outputs" / "cutouts"
    assert (
        f"1 cut out into {folder}" in said
        and "network: ../any.pth: Redness at 64×64 on cpu" in said
    )
    assert names(folder) == three("me")
    binary, soft, rgba = (pixels(folder / f"me_{kind}.png") for kind in KINDS)
    assert set(np.unique(binary)) == {0, 255} and binary.shape == soft.shape == (48, 64)
    assert_left_half(binary)
    assert_left_half(soft)
    assert_left_half(rgba[..., 3])
    np.testing.assert_array_equal(rgba[..., 3] >= 128, binary == 255)
    assert not rgba[rgba[..., 3] == 0].any()
    assert np.abs(rgba[5, 5, :3].astype(int) - RED).max() < 12


@pytest.mark.parametrize("format", ["png", "webp"])
def test_one_file_takes_the_cut_out_alone(format):
    put("me.png")
    call("me.png", "-o", f"deep/er/x.{format}")
    assert names(".") == {"me.png", f"deep/er/x.{format}"}
    with Image.open(f"deep/er/x.{format}") as image:
        assert image.format == format.upper() and image.mode == "RGBA"
        assert_left_half(np.asarray(image)[..., 3])
    call("me.png", "-o", f"mask.{format}", "--mask-only")
    with Image.open(f"mask.{format}") as image:
        assert_left_half(np.asarray(image.convert("L")))


def test_masks_only_comparison_format_and_background():
    put("me.png")
    call("me.png", "-o", "a", "--mask-only")
    assert names("a") == {"me_mask_binary.png", "me_mask_soft.png"}
    call("me.png", "-o", "b", "--comparison", "--format", "webp", "--background", "lime")
    assert names("b") == {f"me_{kind}.webp" for kind in (*KINDS, "comparison")}
    assert pixels("b/me_comparison.webp").shape == (48, 3 * 64, 3)
    foreground = pixels("b/me_foreground.webp").astype(int)
    assert foreground.shape == (48, 64, 3)
    assert np.abs(foreground[:, -8:] - (0, 255, 0)).max() < 12


def test_every_setting_of_the_recipe_is_an_option_and_arrives(monkeypatch):
    put("me.png")
    given = dict(threshold=0.25, refine="none", largest=True, fill_holes=True, grow=-1.5)
    given |= dict(feather=2.0, background="white", crop=True, size=96)
    assert set(given) == {field.name for field in fields(Recipe)}
    args = []
    for name, value in given.items():
        switch = "--" + name.replace("_", "-")
        args += [switch] if value is True else [switch, str(value)]
    seen = {}

    def recipe(**values):
        seen.update(values)
        return Recipe(**values)

    monkeypatch.setattr("unetlib.cutting.Recipe", recipe)
    call("me.png", "-o", "out", *args)
    assert seen == given


def test_network_options_arrive(monkeypatch):
    put("me.png", "b.onnx.png")
    seen = []

    def predictor(*args, **kwargs):
        seen.append((args, kwargs))
        return red_network()

    monkeypatch.setattr(batch, "Predictor", predictor)
    Path("b.onnx").touch()
    two = ("--checkpoint", "../any.pth", "--checkpoint", "b.onnx")
    call("me.png", "-o", "out", *two, "--device", "cuda", "--flip")
    [((files, device), rest)] = seen
    assert [file.name for file in files] == ["any.pth", "b.onnx"] and device == "cuda"
    assert rest == {"flip": True, "threads": None}  # a single photo: all cores
    call("me.png", "b.onnx.png", "-o", "out", "--overwrite")
    call("me.png", "-o", "out", "--overwrite", "--jobs", 1)
    assert [kwargs["threads"] for _, kwargs in seen[1:]] == [1, 1]


# --- folders -------------------------------------------------------------------------------------


def test_the_tree_of_a_folder_is_kept_and_what_is_no_photo_ignored():
    put("in/a.jpg", "in/deep/er/b.PNG", "in/.hidden/c.png", "in/.d.png", "in/deep/__MACOSX/e.png")
    for name in ("notes.txt", "Thumbs.db", "program.ts", "._a.jpg"):
        Path("in", name).write_text("no photo", encoding="utf-8")
    said = call("in", "-o", "out").output
    assert "2 cut out" in said and "failed" not in said
    assert names() == three("a", "deep/er/b")


@pytest.mark.parametrize("into", ["in", "in/out", "in/deep/out"])
def test_results_in_the_input_folder_are_no_inputs(into):
    put("in/a.jpg", "in/deep/b.jpg", "in/deep/b.png", "in/other_foreground.png")
    call("in", "-o", into, "--comparison")
    first = names("in")
    assert len(first) == 4 + 4 * 4  # other_foreground belongs to no photo here
    said = call("in", "-o", into, "--comparison").output
    assert "0 cut out" in said and "4 done before" in said
    call("in", "-o", into, "--comparison", "--overwrite")
    assert names("in") == first


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_that_lead_in_circles_nowhere_or_to_a_pipe():
    put("in/a.jpg")
    os.symlink("..", "in/up")
    os.symlink("loop.jpg", "in/loop.jpg")
    os.symlink("gone.jpg", "in/nowhere.jpg")
    os.symlink("a.jpg", "in/b.jpg")
    os.mkfifo("in/pipe.jpg")
    said = call("in", "-o", "out", code=1).output
    assert names() == three("a", "b")
    assert "2 cut out" in said and "2 failed" in said
    assert "loop.jpg: " in said and "nowhere.jpg: cannot be read" in said


def test_a_folder_that_cannot_be_read_is_listed(monkeypatch):
    put("in/a.jpg", "in/closed/b.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    said = call("in", "-o", "out", code=1)
    assert "closed: the folder cannot be read (Permission denied)" in said.stderr
    assert names() == three("a")


def test_a_folder_without_photos_is_an_error_before_anything_is_written():
    put("a.jpg")
    Path("empty").mkdir()
    with pytest.raises(ValueError, match=r"no photo or video in .*empty \(\.3gp .*\.jpg"):
        call("a.jpg", "empty", "-o", "out")
    assert not Path("out").exists()


# --- two inputs never write one output -----------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "given", "expected"),
    [
        (["in/a.jpg", "in/a.png"], ["in"], ["a.jpg", "a.png"]),
        (["in/A.jpg", "in/a.png", "in/b.png"], ["in"], ["A.jpg", "a.png", "b"]),
        (["in/a.jpg", "in/a.png", "in/a.jpg.png"], ["in"], ["a.jpg", "a.png", "a.jpg.png"]),
        (["x/a.jpg", "y/a.png"], ["x/a.jpg", "y/a.png"], ["a.jpg", "a.png"]),
        (["a.jpg"], ["a.jpg", "./a.jpg", "../here/a.jpg"], ["a"]),
        (["x/a.jpg"], ["x", "x/../x"], ["x/a"]),
        (["x/a.jpg", "x/y/b.jpg"], ["x", "x/y"], ["x/a", "x/y/b"]),
        (["x/a.jpg", "x/y/b.jpg"], ["x/y", "x"], ["x/a", "y/b"]),
        (["x/a.jpg", "y/a.jpg", "a.jpg"], ["x", "y", "a.jpg"], ["x/a", "y/a", "a"]),
        (["1/x/a.jpg", "2/x/a.png"], ["1/x", "2/x"], ["x/a.jpg", "x/a.png"]),
    ],
)
def test_outputs_are_kept_apart(files, given, expected):
    put(*files)
    call(*given, "-o", "out")
    assert names() == three(*expected)


@pytest.mark.parametrize(
    ("files", "given"),
    [
        (["1/x/a.jpg", "2/x/a.jpg"], ["1/x", "2/x"]),
        (["1/a.jpg", "2/a.jpg"], ["1/a.jpg", "2/a.jpg"]),
        (["a.jpg", "a_foreground.png"], ["a.jpg", "a_foreground.png", "-o", "."]),
    ],
)
def test_where_they_cannot_be_the_error_names_both(files, given):
    put(*files)
    with pytest.raises(ValueError, match="(both write|would replace) .*-o") as error:
        call("-o", "out", *given)
    assert all(str(Path(file)) in str(error.value) for file in files)
    assert names(".") == set(files)


def test_one_file_is_never_its_own_input_nor_for_two():
    put("a.png", "b.png", "in/c.png")
    before = {name: Path(name).read_bytes() for name in names(".")}
    with pytest.raises(ValueError, match=r"a\.png would replace .*a\.png"):
        call("a.png", "-o", "a.png", "--overwrite")
    for inputs in (["a.png", "b.png"], ["in"]):
        with pytest.raises(ValueError, match="x.png is one file: several cut-outs need a folder"):
            call(*inputs, "-o", "x.png")
    assert before == {name: Path(name).read_bytes() for name in names(".")}


parts = st.sampled_from(["a", "A", "ä", "a\u0308", "b"])
paths = st.tuples(parts, parts, st.sampled_from([".jpg", ".png", ".jpg.png", "_foreground.png"]))


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.sets(paths, min_size=1, max_size=8), st.booleans(), st.randoms())
def test_no_two_tasks_share_a_target(tmp_path_factory, chosen, each, random):
    """Any files, as folders or one by one, in any order: all are cut, to places that are different
    on every file system, or the command refuses."""
    root = tmp_path_factory.mktemp("names")
    for folder, stem, suffix in chosen:
        (root / folder).mkdir(exist_ok=True)
        (root / folder / (stem + suffix)).touch()
    listed = [p for p in root.rglob("*") if p.is_file() == each]
    random.shuffle(listed)

    def name(source, base):
        return {kind: base.with_name(f"{base.name}_{kind}.png") for kind in KINDS}

    outcomes = []
    try:
        tasks = plan([*map(str, listed)], root / "out", name, outcomes)
    except ValueError as error:
        assert "both write" in str(error) or "no photo" in str(error)
        return
    targets = [str(path).casefold() for task in tasks for path in task.targets.values()]
    assert len(set(targets)) == len(targets) == 3 * len(tasks) and not outcomes
    sources = {task.source for task in tasks}
    assert len(sources) == len(tasks)
    left_out = {p for p in root.rglob("*") if p.is_file()} - sources
    assert not left_out if each else all("_foreground" in p.name for p in left_out)


# --- what is done --------------------------------------------------------------------------------


def test_what_is_there_is_kept_and_what_is_missing_or_outdated_is_told():
    put("in/a.jpg", "in/b.jpg", "in/c.jpg")
    call("in", "-o", "out")
    made = {name: Path("out", name).stat().st_mtime_ns for name in names()}
    later = time.time() + 60
    os.utime("in/b.jpg", (later, later))
    Path("out/c_mask_soft.png").unlink()
    said = call("in", "-o", "out", code=1)
    assert (
        "1 cut out" in said.output and "1 done before (--overwrite cuts them again)" in said.output
    )
    assert "b.jpg: changed after it was cut out: --overwrite cuts it again" in said.stderr
    now = {name: Path("out", name).stat().st_mtime_ns for name in names()}
    assert {name for name in made if made[name] != now[name]} == {"c_mask_soft.png"}
    assert "network" in call("in", "-o", "out", "--overwrite").output
    os.utime("in/b.jpg", (0, 0))
    assert "network" not in call("in", "-o", "out").output  # nothing to do, nothing is loaded


def test_a_file_of_ones_own_is_never_replaced_unasked():
    put("in/me.jpg")
    Path("in/me_foreground.png").write_text("precious")
    Path("in/me_mask_soft.png").touch()  # empty, as a full disk leaves it
    assert "1 cut out" in call("in/me.jpg", "-o", "in").output
    assert Path("in/me_foreground.png").read_text() == "precious"
    assert pixels(Path("in/me_mask_soft.png")).shape and Path("in/me_mask_binary.png").exists()
    call("in/me.jpg", "-o", "in", "--overwrite")
    assert pixels(Path("in/me_foreground.png")).shape[2] == 4
    Path("one.png").write_text("another's")
    with pytest.raises(ValueError, match="one.png is there already: --overwrite"):
        call("in/me.jpg", "-o", "one.png")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["", "-o", "out"], "an input is empty"),
        (["in", "-o", ""], "-o is empty"),
        (["in/a.jpg", "-o", "a.mp4"], "is a photo: its file ends in .png, .webp"),
        (["moving.gif", "-o", "a.png"], "is a video: its file ends in .mp4"),
        (["moving.gif", "--mask-only"], "--mask-only and --comparison are for photos"),
        (["in/a.jpg", "moving.gif", "--comparison"], "are for photos"),
        (["-", "-o", "a.mp4"], "one photo, no video"),
        (["in", "--background", "beach.jpg"], "background 'beach.jpg'.*steelblue"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_is_done(args, words):
    put("in/a.jpg")
    frames = [picture(), picture().rotate(180)]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=words):
        call(*args)


def test_a_file_that_is_there_is_not_replaced_unasked():
    put("a.png", "other.png", color=RED)
    os.utime("other.png", (0, 0))
    before = Path("other.png").read_bytes()
    with pytest.raises(ValueError, match="other.png is there already: --overwrite replaces it"):
        call("a.png", "-o", "other.png")
    with pytest.raises(ValueError, match="other.png is there already"):
        call("-", "-o", "other.png", input=Path("a.png").read_bytes())
    assert Path("other.png").read_bytes() == before
    call("a.png", "-o", "other.png", "--overwrite")
    assert Path("other.png").read_bytes() != before


# --- what goes wrong -----------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of 60000×60000 pixels, as its header says."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)]
    chunks += [b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_all_that_a_photo_can_be_and_all_that_it_cannot():
    folder = Path("in")
    put("in/plain.jpg", "in/flat.png")
    picture().convert("CMYK").save("in/cmyk.jpg")
    Image.fromarray(np.full((9, 7), 60000, np.uint16)).save("in/deep.png")
    picture().quantize(8).save("in/palette.png")
    picture().convert("L").save("in/grey.tif")
    still = [picture(), Image.new("RGB", (64, 48), BLUE)]
    still[0].save("in/moving.webp", save_all=True, append_images=still[1:], lossless=True)
    clear = picture().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((64, 48)))
    clear.save("in/clear.png")
    Image.new("RGB", (1, 1), RED).save("in/dot.png")
    Image.new("RGB", (20000, 10), RED).save("in/long.png")
    good = {path.stem for path in folder.iterdir()}
    whole = (folder / "plain.jpg").read_bytes()
    bad = {"cut": whole[: len(whole) // 2], "zero": b"", "text": b"hello", "bomb": bomb()}
    for name, content in bad.items():
        (folder / f"{name}.jpg").write_bytes(content)
    said = call("in", "gone.jpg", "notes.txt", "-o", "out", "--jobs", 2, code=1)
    assert f"{len(good)} cut out into" in said.output and "6 failed" in said.output
    assert {name.removeprefix("in/") for name in names()} == three(*good)
    reasons = ["damaged or truncated", "the file is empty", "not an image that can be read"]
    reasons += ["more than the limit of 200,000,000", "'gone.jpg' not found", "'notes.txt' not"]
    for name, reason in zip([*bad, "gone.jpg", "notes.txt"], reasons, strict=True):
        [line] = [line for line in said.stderr.splitlines() if reason in line]
        assert name in line
    out = Path("out", "in")
    assert pixels(out / "long_mask_binary.png").shape == (10, 20000)
    assert pixels(out / "dot_foreground.png").shape == (1, 1, 4)
    assert_left_half(pixels(out / "moving_mask_binary.png"))  # the first frame
    own = np.asarray(clear)[..., 3]
    assert (pixels(out / "clear_foreground.png")[..., 3] <= own.astype(int) + 1).all()


def test_a_photo_without_foreground_is_an_empty_cut_out_and_a_word():
    put("me.png", color=BLUE)
    said = call("me.png", "-o", "out").output
    assert not pixels("out/me_foreground.png").any() and not pixels("out/me_mask_binary.png").any()
    assert "me.png: no pixel reaches the threshold" in said and "threshold of 0.5" in said
    assert "the cut-out is empty" in said
    put("me.png", color=(100, 20, 220))  # a little red: 0.214
    said = call("me.png", "-o", "faint", "--refine", "none").output
    assert "highest value of the soft mask 0.2" in said and "what is left is faint" in said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--threshold", "1.5"], "threshold 1.5: it is a probability, from 0 to 1"),
        (["--threshold", "nan"], "threshold nan"),
        (["--background", "bleu"], "no opaque colour.*There are: transparent"),
        (["--refine", "magic"], "'magic': there are guided, closed-form, none"),
        (["--grow", "inf"], "grow inf.*widths in pixels"),
        (["--feather", "-1"], "feather -1.0: widths in pixels, feather 0 or more"),
        (["--size", "8"], "working size 8: sides are 32"),
        (["-o", "x.jpg"], r"files that end in \.png, \.webp, \.mp4"),
        (["-o", "x.png", "--format", "webp"], "--format webp, but the file is x.png"),
        (["-o", "x.png", "--comparison"], "--comparison is a file of its own"),
        (["-", "-o", "out"], "stands alone"),
    ],
)
def test_wrong_requests_write_nothing(args, words):
    put("me.png")
    with pytest.raises(ValueError, match=words):
        call("me.png", *args)
    assert names(".") == {"me.png"}


def test_an_output_folder_that_cannot_be_written_is_found_before_any_work():
    put("me.png")
    Path("taken").write_text("a file", encoding="utf-8")
    for into in ("taken", "taken/deeper"):
        with pytest.raises(OSError, match="output folder .*taken.* cannot be written") as error:
            call("me.png", "-o", into)
        assert "-o" in str(error.value)


def test_a_network_that_cannot_be_opened_is_no_matter_of_the_photos(monkeypatch):
    put("in/a.png", "in/b.png")

    def refuse(*args, **kwargs):
        raise RuntimeError("no such device")

    monkeypatch.setattr(batch, "Predictor", refuse)
    result = CliRunner().invoke(cut, ["in", "-o", "out", "--checkpoint", "../any.pth"])
    assert isinstance(result.exception, RuntimeError) and result.output == ""


def test_a_full_disk_ends_it_and_says_what_is_left(monkeypatch):
    put("in/a.png", "in/b.png", "in/c.png")
    real, written = cutting.write_whole, []

    def write(path, content):
        if "b_" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        real(path, content)

    monkeypatch.setattr(cutting, "write_whole", write)
    args = ["in", "-o", "out", "--jobs", "1", "--checkpoint", "../any.pth"]
    result = CliRunner().invoke(cut, args)
    assert isinstance(result.exception, OSError) and result.exception.errno == errno.ENOSPC
    assert "left: the same command goes on" in result.output
    monkeypatch.undo()


# --- several at a time ---------------------------------------------------------------------------


class Watched:
    """A predictor that counts how many photos it is asked for at the same time."""

    def __init__(self):
        self.inner, self.now, self.most, self.lock = red_network(), 0, 0, threading.Lock()

    def describe(self, size=None):
        return "watched"

    def predict(self, image, size=None):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        with self.lock:
            self.now -= 1
        return self.inner.predict(image, size)


@pytest.mark.parametrize(("jobs", "large", "most"), [(3, 1 << 30, 3), (1, 1 << 30, 1), (3, 9, 1)])
def test_photos_at_a_time(monkeypatch, jobs, large, most):
    put(*(f"in/{i}.png" for i in range(9)))
    watched = Watched()
    monkeypatch.setattr(batch, "Predictor", lambda *args, **kwargs: watched)
    monkeypatch.setattr(batch, "LARGE", large)
    call("in", "-o", "out", "--jobs", jobs)
    assert watched.most == most and len(names()) == 27


def test_any_number_of_jobs_gives_the_same_files():
    rng = np.random.default_rng(0)
    Path("in").mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)).save(f"in/{i}.png")
    for jobs in ("1", "4"):
        call("in", "-o", jobs, "--jobs", jobs)
    one, four = ({n: Path(jobs, n).read_bytes() for n in names(jobs)} for jobs in ("1", "4"))
    assert one == four and len(one) == 18


# --- videos --------------------------------------------------------------------------------------


def test_videos_go_their_own_way(monkeypatch):
    put("in/a.jpg", "in/still.gif")
    Path("in/clip.MP4").touch()
    frames = [picture(), picture().rotate(180)]
    frames[0].save("in/moving.gif", save_all=True, append_images=frames[1:])
    seen = []

    from unetlib.video import VideoResult

    def cut_video(source, target, predictor, recipe, *, smooth, progress):
        if source.suffix == ".MP4":
            raise OSError("no frame in it")
        progress(1, None)
        progress(2, 2)
        target.touch()
        seen.append((source.name, target.relative_to(Path.cwd()).as_posix(), smooth))
        return VideoResult(target, 300, (8, 8), 30.0, 50.0, 40.0, False, "cut short")

    monkeypatch.setattr("unetlib.video.cut_video", cut_video)
    said = call("in", "-o", "out", code=1)
    assert seen == [("moving.gif", "out/moving_foreground.webm", True)]
    assert names() == three("a", "still") | {"moving_foreground.webm"}
    assert said.output.count("network: ") == 1
    speed = "300 frames in 50.0 s: 6.0 frames/s, the network alone 7.5"
    assert (
        f"moving.gif: {speed}. cut short" in said.output
        and "clip.MP4: no frame in it" in said.stderr
    )
    for number, (args, target) in enumerate([
        (["-o", "out", "--background", "red", "--no-smooth"], "out/moving_foreground.mp4"),
        (["-o", "out", "--video-format", "mov"], "out/moving_foreground.mov"),
        (["-o", "out", "--video-format", "frames"], "out/moving_foreground"),
        (["-o", "new/x.gif"], "new/x.gif"),
    ]):  # fmt: skip
        call("in/moving.gif", *args)
        assert seen[number + 1] == ("moving.gif", target, "--no-smooth" not in args)


# --- whole processes -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A file, written without this project, whose answer is high where a pixel is red."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, numbers = onnx.helper, onnx.numpy_helper
    values = {"first": np.array([0]), "strength": np.array([4], np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["image", "first"], ["red"], axis=1),
            helper.make_node("Mul", ["red", "strength"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["probability"]),
        ],
        "redness",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, 64, 64])],
        [helper.make_tensor_value_info("probability", onnx.TensorProto.FLOAT, ["N", 1, 64, 64])],
        [numbers.from_array(value, name) for name, value in values.items()],
    )
    path = tmp_path_factory.mktemp("network") / "redness.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def start(*args, **kwargs) -> subprocess.Popen:
    command = [sys.executable, "-m", "unetlib", "cut", *map(str, args)]
    env = {**os.environ, "PYTHONIOENCODING": "latin-1:strict", "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, env=env, **{**pipes, **kwargs})


def test_standard_input_and_output(network):
    file = io.BytesIO()
    picture().save(file, "PNG")
    done = start("-", "--checkpoint", network)
    out, err = done.communicate(file.getvalue())
    assert done.returncode == 0, err
    rgba = pixels(io.BytesIO(out))
    assert (rgba[:, :24] == (*RED, 255)).all() and not rgba[:, -24:].any()
    assert rgba.shape == (48, 64, 4)
    assert_left_half(rgba[..., 3])
    assert b"network: " in err and names(".") == set()


def test_a_bad_photo_on_standard_input_gives_no_bytes(network):
    with pytest.raises(OSError, match="standard input: not an image that can be read"):
        call("-", input=b"hello")
    with pytest.raises(OSError, match="standard input: the file is empty"):
        call("-", input=b"")
    file = io.BytesIO()
    Image.new("RGB", (9, 9), BLUE).save(file, "PNG")
    result = call("-", "--format", "webp", input=file.getvalue())
    assert "standard input: no pixel reaches" in result.stderr
    with Image.open(io.BytesIO(result.stdout_bytes)) as image:
        assert image.format == "WEBP" and image.size == (9, 9)


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are a Linux affair")
def test_names_that_the_terminal_cannot_show(network):
    put("in/a.png")
    os.rename("in/a.png", b"in/\xff\xe4 \xc3\xa4.png")
    Path("in/\N{SNOWMAN}\udcff.jpg").write_bytes(b"hello")
    done = start("in", "-o", "\N{SNOWMAN}", "--checkpoint", network)
    out, err = done.communicate()
    assert done.returncode == 1 and b"Traceback" not in err
    assert b"1 cut out" in out and b"1 failed" in out
    assert b"\\u2603\\udcff.jpg: not an image" in err
    assert len(names("\N{SNOWMAN}")) == 3


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent in another way on Windows")
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_leaves_whole_files_and_the_same_command_goes_on(network, jobs):
    count = 60
    Path("in").mkdir()
    picture(700, 900).save("in/00.jpg")
    for i in range(1, count):
        shutil.copyfile("in/00.jpg", f"in/{i:02}.jpg")
    args = ("in", "-o", "out", "--jobs", jobs, "--checkpoint", network)
    running = start(*args)
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
    assert pixels(made[0]).shape == (700, 900, 4)


def test_an_exported_network_needs_no_torch(network):
    put("me.png")
    code = "import atexit, sys; from unetlib.app.cli import main; "
    code += "atexit.register(lambda: print(sorted(sys.modules))); main()"
    args = ["cut", "me.png", "-o", "out", "--checkpoint", str(network)]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, check=True)
    heavy = {"torch", "scipy", "skimage", "pandas", "matplotlib", "imageio", "onnx", "pymatting"}
    loaded = set(eval(done.stdout.splitlines()[-1]))
    assert "onnxruntime" in loaded and not heavy & loaded
    assert names() == three("me")
