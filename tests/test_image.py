"""The container: the Dockerfile's lines give a small image, which serves without rights, without a
network, and without a file system to write to."""

import io
import os
import re
import signal
import time

import pytest
from image import ROOT, Image, make_base, why_not
from PIL import Image as Picture

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
    assert job["static_configs"] == [{"targets": ["unetlib:8000"]}]
    copied = re.findall(r"(?m)^COPY (?!--)(.*) \S+$", (ROOT / "Dockerfile").read_text())
    kept = re.findall(r"(?m)^!(.*)", (ROOT / ".dockerignore").read_text())
    assert sorted(" ".join(copied).split()) == sorted(kept)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_it_is_small_and_serves(tmp_path, photo):
    make_base(tmp_path / "base")
    image = Image(tmp_path, tmp_path / "base")
    print(image.sizes())
    assert sum(image.layers.values()) <= 700
    log, begin = tmp_path / "log", time.monotonic()
    with open(log, "wb") as file:
        server = image.start(stdout=file, stderr=file)
    try:
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
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) in (0, -signal.SIGTERM), log.read_text()
    finally:
        server.kill()
        server.wait()
