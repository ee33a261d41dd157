"""`pip install .` gives the tool: small, without PyTorch, and it needs no network afterwards."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageStat
from skimage.data import astronaut

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 400  # MB, as `du` counts them, with Python's bytecode

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sizes are measured with du")


def run(*command, **how) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, **how)


def megabytes(folder: Path) -> int:
    return int(run("du", "-sm", folder).stdout.split()[0])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """base(*args, status) -> what the command says, in a fresh environment that has no network."""
    folder = tmp_path_factory.mktemp("base")
    source, venv = folder / "source", folder / "venv"
    shutil.copytree(ROOT / "unetlib", source / "unetlib")  # building leaves files there
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    assert run(sys.executable, "-m", "venv", venv).returncode == 0
    empty = megabytes(venv)
    settings = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    installed = run(venv / "bin/pip", "install", "--quiet", source, env=settings)
    if "No matching distribution found" in installed.stderr:
        pytest.skip(f"pip reaches no index: {installed.stderr.splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr
    unshare = shutil.which("unshare")
    alone = unshare and run(unshare, "-n", "true").returncode == 0
    unetlib = [*[unshare, "-n"] * bool(alone), venv / "bin/unetlib"]
    closed = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    env = {"UNETLIB_ROOT": str(folder), "LANG": "C.UTF-8", "PATH": str(folder)}  # no ffmpeg
    how = {"cwd": folder, "env": env | closed}

    def call(*args, status: int = 0) -> str:
        done = run(*unetlib, *args, **how)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    Image.fromarray(astronaut()).save(folder / "me.jpg")
    (folder / "clip.mp4").write_bytes(b"a film")
    call.folder, call.venv, call.size = folder, venv, megabytes(venv) - empty
    return call


def test_it_is_small_and_has_no_pytorch(base):
    assert base.size <= LIMIT, run("sh", "-c", f"du -m {base.venv}/lib/*/*/* -d0 | sort -n").stdout
    names = {path.name for path in base.venv.glob("lib/*/site-packages/*")}
    assert "cv2" in names and not names & {"torch", "pandas", "gradio", "nbconvert", "matplotlib"}


def test_a_photo_is_cut_out(base):
    assert "1 cut out" in base("cut", "me.jpg")
    mask = Image.open(base.folder / "outputs/cutouts/me_mask_binary.png")
    assert 0.3 < ImageStat.Stat(mask).mean[0] / 255 < 0.7
    assert "people " in base("networks")


def test_sets_and_masks_are_examined(base, make_pairs):
    """The pages are the course's; what they are about is found without it."""
    masks = make_pairs("abcd", base.folder / "set") / "masks"
    said = base("check", "set")
    assert "4 pairs" in said and 'no page: nbconvert is not installed: pip install "un' in said
    shutil.copytree(masks, base.folder / "made")
    args = ["evaluate", "--predictions", "made", "--masks", masks, "--threshold", "best"]
    assert re.search(r"(?m)^IoU +1.000 +1.000 +1.000$", base(*args))
    folder = base.folder / "outputs/evaluation/made"
    assert json.loads((folder / "metrics.json").read_text())["networks"][0]["iou"] == 1
    assert len((folder / "evaluation.csv").read_text().splitlines()) == 5
    said = base("evaluate", "people", "--source", "folder:set", "--all-photos")
    assert "4 photos of folder" in said and "texture" in said


@pytest.mark.parametrize(
    ("args", "extra"),
    [
        ("train --help", None),
        ("train", "course"),
        ("serve", "serve"),
        ("export people", "course"),
        ("cut clip.mp4", "video"),
        ("cut me.jpg --refine closed-form --overwrite", "matting"),
        ("cut me.jpg --device cuda --overwrite", "gpu"),
    ],
)
def test_what_is_not_there_names_its_extra(base, args, extra):
    said = base(*args.split(), status=1 if extra else 0)
    assert extra is None or f'"unetlib[{extra}]"' in said, said
    assert "Traceback" not in said
