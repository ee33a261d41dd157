"""`pip install .` gives the tool: small, without PyTorch, and it needs no network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 400e6  # bytes


def run(*command, **how) -> subprocess.CompletedProcess:
    how = {"capture_output": True, "text": True, "timeout": 600} | how
    return subprocess.run([*map(str, command)], **how)


def size_of(folder: Path) -> int:
    """Bytes of all files below, on the disk, as `du` counts them."""
    return sum(1024 * int(line.split()[0]) for line in run("du", "-sk", folder).stdout.splitlines())


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """unetlib(*args) in an environment that has the base only, without a network."""
    folder = tmp_path_factory.mktemp("base")
    assert run(sys.executable, "-m", "venv", folder / "venv").returncode == 0
    before, environment = size_of(folder / "venv"), {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    pip = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "pip"
    source = shutil.copytree(
        ROOT,
        folder / "source",
        ignore=shutil.ignore_patterns(".git", "outputs", "build", "*.egg-info"),
    )
    plain = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = run(pip, "install", "--quiet", source, env=plain)
    if done.returncode and "No matching distribution found for" in done.stderr:
        pytest.skip(f"pip reaches no index: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    alone = run("unshare", "-n", "true").returncode == 0 if shutil.which("unshare") else False

    def unetlib(*args, status: int = 0) -> str:
        command = [*["unshare", "-n"] * alone, pip.with_name("unetlib"), *args]
        done = run(*command, cwd=folder, env=environment | proxies | {"UNETLIB_ROOT": str(folder)})
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    unetlib.folder, unetlib.pip, unetlib.size = folder, pip, size_of(folder / "venv") - before
    return unetlib
