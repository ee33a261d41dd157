"""The container: the Dockerfile's lines give a small image, which serves without rights, network
or a file system to write to."""

import io
import json
import os
import re
import signal
import subprocess
import time

import pytest
from image import ROOT, Image, make_base, why_not
from PIL import Image as Picture

LIMIT = 700  # MB, all layers
SEND = """
import sys, urllib.request
photo = urllib.request.Request("http://127.0.0.1:8000/remove-background", sys.stdin.buffer.read())
photo.add_header("Content-Type", "image/jpeg")
sys.stdout.buffer.write(urllib.request.urlopen(photo).read())
"""


def test_what_docker_and_compose_are_told():
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    mounted = ROOT / services["prometheus"]["volumes"][0].split(":")[0]
    job = yaml.safe_load(mounted.read_text())["scrape_configs"][0]
    assert services["unetlib"]["read_only"] and services["unetlib"]["tmpfs"] == ["/tmp"]
    assert job["static_configs"][0]["targets"] == ["unetlib:8000"]
    copied = re.findall(r"(?m)^COPY (?!--)(.*) \S+$", (ROOT / "Dockerfile").read_text())
    kept = re.findall(r"(?m)^!(.*)", (ROOT / ".dockerignore").read_text())
    assert sorted(" ".join(copied).split()) == sorted(kept)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    if why_not():
        pytest.skip(why_not())
    folder = tmp_path_factory.mktemp("image")
    try:
        make_base(folder / "base")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"debootstrap: {error.stdout.strip().splitlines()[-1:]}")
    return Image(folder, folder / "base")


def test_its_layers_are_small(image):
    for line, megabytes in image.layers.items():
        print(f"{megabytes:5} MB  {line}")
    assert sum(image.layers.values()) <= LIMIT


def test_it_serves(image, tmp_path, photo):
    log = tmp_path / "log"
    with open(log, "wb") as file:
        server = image.start(stdout=file, stderr=file)
    try:
        begin = time.monotonic()
        while image.inside(server, *image.health).returncode:
            assert server.poll() is None and time.monotonic() < begin + 60, log.read_text()
            time.sleep(0.1)
        print(f"healthy after {time.monotonic() - begin:.1f} s")
        Picture.fromarray(photo(300, 400)).save(sent := io.BytesIO(), "JPEG")
        answer = image.inside(server, "python3", "-c", SEND, input=sent.getvalue())
        assert answer.returncode == 0, answer.stderr.decode() + log.read_text()
        assert Picture.open(io.BytesIO(answer.stdout)).size == (400, 300)
        assert os.stat(f"/proc/{server.pid}").st_uid > 0
        assert b"Read-only" in image.inside(server, "touch", "/opt/new").stderr
        links = json.loads(
            subprocess.check_output(["nsenter", "-t", str(server.pid), "-n", "ip", "-j", "link"])
        )
        assert [link["ifname"] for link in links if "UP" in link["flags"]] == ["lo"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) in (0, -signal.SIGTERM), log.read_text()
    finally:
        server.kill()
        server.wait()
