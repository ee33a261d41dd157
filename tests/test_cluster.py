"""`unetlib cut --ray`, with real clusters of Ray on this machine: the same files as without it,
whatever happens to a photo or to a worker."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from loopback import tree
from networks import write_color_network
from PIL import Image

from unetlib.app.cut import cut

REASON = 'Ray is not installed: pip install "unetlib[ray]"'
ray = pytest.importorskip("ray", reason=REASON)
pytest.importorskip("pandas", reason=REASON)
COUNT = 32


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a network and `in`: COUNT photos in a tree, and three that cannot be cut."""
    folder = tmp_path_factory.mktemp("here")
    write_color_network(folder / "redness.onnx")
    rng, top = np.random.default_rng(0), folder / "in"
    for number in range(COUNT):
        path = top / f"part {number % 3}" / f"{number}#?%20 ä.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        coarse.resize((1000, 750), Image.BICUBIC).save(path)
    (top / "text.jpg").write_text("no photo", encoding="utf-8")
    (top / "empty.jpg").touch()
    os.symlink("gone.jpg", top / "broken.jpg")
    run = CliRunner().invoke(cut, args(folder, "local"))
    assert f"{COUNT} cut out into" in run.output and "3 failed" in run.output
    return folder


def args(here: Path, out: str, *more: str) -> list[str]:
    return [f"{here}/in", "-o", f"{here}/{out}", "--network", f"{here}/redness.onnx", *more]


def start(here: Path, out: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "unetlib", "cut", *args(here, out, *more)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    env |= {"RAY_ADDRESS": "127.0.0.1:1", "RAY_AUTH_MODE": "token"}  # of none; as Ray starts them
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, env=env, **pipes)


def workers_of(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children(recursive=True)
    return [one for one in children if any("MapWorker" in part for part in one.cmdline())]


def test_a_worker_is_killed_in_the_middle_and_nothing_is_lost_or_double(here):
    command = start(here, "ray", "--ray", "--jobs", "2")
    until = time.monotonic() + 240
    while not (made := [*(here / "ray").rglob("*_foreground.png")]):
        assert command.poll() is None and time.monotonic() < until, command.communicate()
        time.sleep(0.02)
    killed = workers_of(command.pid)[0]
    killed.kill()
    assert len(made) < COUNT
    out, err = command.communicate(timeout=300)
    assert command.returncode == 1, err
    assert out.splitlines()[0] == f"{COUNT} cut out into {here}/ray, 3 failed"
    for name in ("text.jpg: not an image", "empty.jpg: not an image", "broken.jpg: [Errno 2]"):
        assert sum(name in line for line in err.splitlines()) == 1
    assert "Traceback" not in err and "Warning" not in err, err
    assert not psutil.pid_exists(killed.pid)
    assert finished(tree(here / "ray")) == finished(tree(here / "local"))


def finished(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without the piece of a file that a kill may leave behind, hidden."""
    return {name: content for name, content in files.items() if not name.endswith(".part")}


def test_a_cluster_by_its_address_does_only_what_is_missing(here):
    first = here / "local" / "part 0"
    gone = sorted(first.glob("*_mask_soft.png"))[:3]
    before = tree(here / "local")
    for path in gone:
        path.unlink()
    dates = {path: path.stat().st_mtime_ns for path in (here / "local").rglob("*.png")}
    head = ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=10**8)
    try:
        command = start(here, "local", "--ray", head.address_info["gcs_address"])
        out, err = command.communicate(timeout=300)
        assert ray.cluster_resources()["CPU"] == 2  # it is not ours to stop
    finally:
        ray.shutdown()
    assert command.returncode == 1 and "3 failed" in out, err
    assert f"3 cut out into {here}/local" in out and f"{COUNT - 3} done before" in out
    assert tree(here / "local") == before
    assert {path: path.stat().st_mtime_ns for path in dates} == dates


def test_photos_of_a_bucket(here, monkeypatch):
    """Without workers: what they are handed is the same."""
    moto = pytest.importorskip("moto.server", reason="pip install moto[s3,server]")
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    try:
        import boto3

        bucket = boto3.resource("s3").create_bucket(Bucket="photos")
        for path in (here / "in").rglob("*.jpg"):
            if path.exists():
                key = path.relative_to(here / "in").as_posix()
                bucket.put_object(Key=f"trip/{key}", Body=path.read_bytes())
        command = ["s3://photos/trip", *args(here, "bucket")[1:]]
        said = CliRunner().invoke(cut, command)
        assert said.exit_code == 1 and f"{COUNT} cut out into" in said.output, said.output
        assert "  s3:/photos/trip/text.jpg: not an image" in said.stderr
        one = ["s3://photos/trip/part 0/0#?%20 ä.jpg", "-o", f"{here}/one.png", *command[3:]]
        assert "1 cut out into" in CliRunner().invoke(cut, one).output
        again = CliRunner().invoke(cut, [*command, "s3://none/x"])
        assert "s3://none/x: " in again.stderr and f"{COUNT} cut out" in again.output  # below trip/
    finally:
        server.stop()
    assert {k: v for k, v in tree(here / "bucket").items() if k[:5] != "trip/"} == tree(
        here / "local"
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--ray", "folder"], "--ray folder: an address is auto or HOST:PORT"),
        (["--ray", "-o", "x.png"], "x.png takes one picture"),
        (["-o", "s3://photos/cut"], "results go into a folder"),
        (["-", "--ray"], "--ray cuts photos of files and folders into a folder"),
    ],
)
def test_wrong_requests(here, more, words):
    with pytest.raises(ValueError, match=words):
        CliRunner().invoke(cut, args(here, "none", *more), catch_exceptions=False)
    assert not (here / "none").exists()
