"""Shared fixtures. Every file that the tests read is made here, except the real photos."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from loopback import serving
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
# A job in the background begins without Ctrl-C, and so do its children: several tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with people/ and PennFudanPed/: $UNETLIB_REAL_DATA, else ../shared/data."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("UNETLIB_REAL_DATA") or default)
    if not (folder / "people").is_dir() or not (folder / "PennFudanPed").is_dir():
        pytest.skip(f"no real photos in {folder} (set UNETLIB_REAL_DATA)")
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny networks are no quicker in several, and far slower where another process has the cores.
    Not for the notebooks, whose networks are larger."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A project root of the test's own, not made yet, and tmp_path as the working directory."""
    monkeypatch.setenv("UNETLIB_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "root"


@pytest.fixture
def begin():
    """begin(*args) -> that command as a process, all its texts through pipes; `env`: more."""

    def run(*args, env=None, **how) -> subprocess.Popen:
        command = [sys.executable, "-m", "unetlib", *map(str, args)]
        own = {"PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        how = pipes | {"encoding": "utf-8", "env": os.environ | own | (env or {})} | how
        return subprocess.Popen(command, **how)

    return run


@pytest.fixture
def unetlib(begin):
    """unetlib(*args) -> that command as a process, ended, with what it said."""

    def run(*args) -> subprocess.CompletedProcess:
        process = begin(*args)
        said = process.communicate()
        return subprocess.CompletedProcess(args, process.returncode, *said)

    return run


@pytest.fixture
def server(monkeypatch):
    """A web server on the loopback, see loopback.Server."""
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture
def photo():
    """photo(h, w, seed) -> uint8 (h, w, 3): smooth, so that it survives JPEG."""

    def make(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return np.array(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))

    return make


@pytest.fixture
def disc():
    """disc(h, w) -> uint8 (h, w): a soft white disc on black."""

    def make(height: int = 24, width: int = 32) -> np.ndarray:
        y, x = np.mgrid[:height, :width]
        radius = np.hypot((y - height / 2) / height, (x - width / 2) / width)
        return np.clip((0.35 - radius) * 1200 + 128, 0, 255).astype(np.uint8)

    return make


@pytest.fixture
def make_pairs(tmp_path, photo, disc):
    """make_pairs(ids, folder) writes images/ID.jpg and masks/ID.png there, returns folder."""

    def make(ids, folder: Path = tmp_path, height: int = 24, width: int = 32) -> Path:
        for number, id in enumerate(ids):
            image, mask = folder / "images" / f"{id}.jpg", folder / "masks" / f"{id}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo(height, width, number)).save(image, quality=95)
            Image.fromarray(disc(height, width)).save(mask)
        return folder

    return make
