"""Downloads from a real server on the loopback that misbehaves in every way the tests ask for."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from unetlib.data import DataError, open_source, sources
from unetlib.data.download import DownloadError, cache_dir, fetch, unpack_zip

BODY = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """`plan`: what to do with each request in turn; the last entry stays. See Handler."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.body, self.ranges = ["ok"], BODY, []
        self.url = f"http://127.0.0.1:{self.server_port}/set.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        step = server.plan.pop(0) if len(server.plan) > 1 else server.plan[0]
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        if step.isdigit():
            self.send_error(int(step))
            return
        start = int(wanted[6:-1]) if wanted and step != "ignore range" else 0
        if wanted and start >= len(server.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        rest = server.body[start:]
        self.send_response(206 if start else 200)
        if start:
            end = len(server.body) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(server.body)}")
        if step != "no length":
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if step == "drop":  # a third of the rest, then the line is dead
            self.wfile.write(rest[: len(rest) // 3])
            self.wfile.flush()
            self.connection.close()
        elif step != "nothing":
            self.wfile.write(rest)

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def get(server, tmp_path, **args):
    return fetch(server.url, tmp_path / "set.zip", progress=False, wait=0.01, **args)


def test_plain_download_and_no_second_one(server, tmp_path, capsys):
    path = fetch(server.url, tmp_path / "deep" / "set.zip", SHA)
    assert path.read_bytes() == BODY and list(path.parent.iterdir()) == [path]
    assert "set.zip" in capsys.readouterr().err  # progress
    assert fetch(server.url, path, SHA.upper()) == path and len(server.ranges) == 1


def test_dropped_connections_are_taken_up_where_they_ended(server, tmp_path):
    server.plan = ["drop", "drop", "drop", "ok"]
    assert get(server, tmp_path, sha256=SHA, retries=2).read_bytes() == BODY
    starts = [int(r[6:-1]) for r in server.ranges[1:]]
    assert server.ranges[0] is None and len(starts) == 3 and starts == sorted(set(starts))
    assert 90_000 < starts[0] <= 100_000


def test_partial_file_of_an_earlier_session_is_continued(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(BODY[:123_456])
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY
    assert server.ranges == ["bytes=123456-"]


def test_complete_partial_file_is_accepted(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(BODY)
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY


def test_partial_file_longer_than_the_file_starts_again(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(BODY + b"more")
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY


def test_partial_file_of_another_version_starts_again(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(b"x" * 1000)
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY
    assert server.ranges == ["bytes=1000-", None]


def test_server_without_ranges(server, tmp_path):
    server.plan = ["drop", "ignore range"]
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY


def test_server_without_a_length(server, tmp_path):
    server.plan = ["no length"]
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY


@pytest.mark.parametrize("status", ["500", "503", "429"])
def test_passing_server_errors_are_tried_again(server, tmp_path, status):
    server.plan = [status, status, "ok"]
    assert get(server, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("status, requests", [("403", 1), ("404", 1), ("500", 3), ("nothing", 3)])
def test_lasting_errors_say_what_to_do_by_hand(server, tmp_path, status, requests):
    server.plan = [status]
    with pytest.raises(DownloadError) as error:
        get(server, tmp_path, retries=3)
    message = str(error.value)
    assert len(server.ranges) == requests and server.url in message
    assert str(tmp_path / "set.zip") in message and "browser" in message
    assert status in message or status == "nothing"
    assert not (tmp_path / "set.zip").exists()


def test_no_network_at_all(tmp_path):
    with pytest.raises(DownloadError, match="connection failed"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", progress=False, retries=2, wait=0.01)


def test_wrong_checksum_is_not_kept(server, tmp_path):
    with pytest.raises(DownloadError, match=f"SHA-256 is {SHA}"):
        get(server, tmp_path, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "set.zip.part").mkdir()
    with pytest.raises(DownloadError, match="cannot write"):
        get(server, tmp_path)


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("UNETLIB_CACHE")
    assert cache_dir().parts[-2:] == (".cache", "unetlib")


# --- archives ------------------------------------------------------------------------------------


def archive(path, files: dict[str, bytes], link: str | None = None):
    with zipfile.ZipFile(path, "w") as z:
        for name, content in files.items():
            z.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            z.writestr(info, "/etc/passwd")
    return path


def test_unpack(tmp_path):
    path = archive(tmp_path / "a.zip", {"set/a.txt": b"1", "set/deep/b.txt": b"2"})
    assert unpack_zip(path, tmp_path / "out") == tmp_path / "out"
    assert (tmp_path / "out/set/deep/b.txt").read_bytes() == b"2"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["set"]


@pytest.mark.parametrize("name", ["../x", "set/../../x", "/x", "..\\x", "C:\\x", "C:x"])
def test_paths_that_climb_out_are_refused(tmp_path, name):
    path = archive(tmp_path / "a.zip", {"good.txt": b"1", name: b"2"})
    with pytest.raises(DownloadError, match="not safe"):
        unpack_zip(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [] and len(list(tmp_path.iterdir())) == 2


def test_links_are_refused(tmp_path):
    with pytest.raises(DownloadError, match="is a link"):
        unpack_zip(archive(tmp_path / "a.zip", {"a": b"1"}, link="b"), tmp_path / "out")


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_bytes(b"precious")
    with pytest.raises(DownloadError, match="exists already"):
        unpack_zip(archive(tmp_path / "a.zip", {"set/a.txt": b"1"}), tmp_path)
    assert (tmp_path / "set" / "mine.txt").read_bytes() == b"precious"


@pytest.mark.parametrize("damage", ["cut", "flip", "html"])
def test_damaged_archives(tmp_path, damage):
    path = archive(tmp_path / "a.zip", {"set/a.txt": b"1" * 5000})
    content = bytearray(path.read_bytes())
    content[2500] ^= 255
    damaged = {"cut": content[:3000], "flip": content, "html": b"<html>404</html>"}
    path.write_bytes(damaged[damage])
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack_zip(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# --- the whole way -------------------------------------------------------------------------------


def pennfudan_zip(count: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z:
        for i in range(count):
            for name, image in (
                (f"PNGImages/F{i}.png", Image.new("RGB", (6, 4), (i, 0, 0))),
                (f"PedMasks/F{i}_mask.png", Image.new("L", (6, 4), 1)),
            ):
                png = io.BytesIO()
                image.save(png, "PNG")
                z.writestr(f"PennFudanPed/{name}", png.getvalue())
    return file.getvalue()


@pytest.mark.parametrize("args", [{"download": True}, {}], ids=["asked for", "without a root"])
def test_pennfudan_is_downloaded_once_and_opened(server, tmp_path, monkeypatch, args):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "PENNFUDAN_URL", server.url)
    server.body, server.plan = pennfudan_zip(170), ["drop", "ok"]
    for _ in range(2):
        source = open_source("pennfudan", **args)
        assert len(source.train) + len(source.val) == 170
        assert source.root == tmp_path / "cache" / "PennFudanPed"
    assert len(server.ranges) == 2
    assert open_source("pennfudan", tmp_path / "mine", download=True).root.parent.name == "mine"


def test_pennfudan_of_the_wrong_length_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "PENNFUDAN_URL", server.url)
    server.body = pennfudan_zip(20)
    with pytest.raises(DataError, match="20 images and 20 masks instead of 170"):
        open_source("pennfudan", download=True)
