"""Downloads from a real server on the loopback that misbehaves in every way the tests ask for."""

import hashlib
import io
import tarfile
import zipfile

import pytest
from loopback import BODY

from unetlib.data.sources import unpack
from unetlib.paths import ATTEMPTS, DownloadError, fetch

SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between two attempts


def test_plain_download_and_no_second_one(server, tmp_path, capsys):
    path = fetch(server.url, tmp_path / "deep" / "set.zip", SHA)
    assert path.read_bytes() == BODY and list(path.parent.iterdir()) == [path]
    assert "300k/300k" in capsys.readouterr().err  # progress
    assert fetch(server.url, path, SHA) == path and len(server.paths) == 1
    path.write_bytes(b"half of it")
    assert fetch(server.url, path, SHA).read_bytes() == BODY


@pytest.mark.parametrize("plan", [["no length"], ["drop", "500", "ok"]])
def test_odd_servers_and_errors_that_pass(server, tmp_path, plan):
    server.plan = plan
    assert fetch(server.url, tmp_path / "set.zip", SHA).read_bytes() == BODY


@pytest.mark.parametrize("status", ["404", "500", "nothing", "drop"])
def test_lasting_errors_say_what_to_do_by_hand(server, tmp_path, status):
    server.plan = [status]
    with pytest.raises(DownloadError) as error:
        fetch(server.url, tmp_path / "set.zip")
    message = str(error.value)
    assert len(server.paths) == ATTEMPTS and server.url in message
    assert str(tmp_path / "set.zip") in message and "Try again" in message
    assert status in message or not status.isdigit()
    assert not list(tmp_path.iterdir())


def test_no_network_a_wrong_checksum_and_a_folder_that_cannot_be_written(server, tmp_path):
    with pytest.raises(DownloadError, match="could not download http://127.0.0.1:9/x"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x")
    with pytest.raises(DownloadError, match=SHA):
        fetch(server.url, tmp_path / "set.zip", "0" * 64)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="could not download .*file"):
        fetch(server.url, tmp_path / "file" / "set.zip")


# --- archives ------------------------------------------------------------------------------------


def archive(path, files: dict[str, bytes]):
    with zipfile.ZipFile(path, "w") as z:
        for name, content in files.items():
            z.writestr(name, content)
    return path


def test_unpack_takes_the_folder_alone_and_overwrites_nothing(tmp_path):
    files = {"set/a.txt": b"1", "set/deep/b.txt": b"2", "__MACOSX/set/._a.txt": b"3"}
    path, out = archive(tmp_path / "a.zip", files), tmp_path / "out"
    with pytest.raises(DownloadError, match="cannot be unpacked .*other"):
        unpack(path, out / "other")
    unpack(path, out / "set")
    assert [p.name for p in out.iterdir()] == ["set"]
    assert (out / "set/deep/b.txt").read_bytes() == b"2"
    (out / "set/a.txt").write_bytes(b"precious")
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack(path, out / "set")
    assert (out / "set/a.txt").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["set/a.txt", "../x", "/set/x"])
def test_tar_archives(tmp_path, name):
    info = tarfile.TarInfo(name)
    info.size = 5
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.addfile(info, io.BytesIO(b"hello"))
    if name != "set/a.txt":
        with pytest.raises(DownloadError, match="leads out"):
            unpack(tmp_path / "a.tar.gz", tmp_path / "out/set")
    else:
        unpack(tmp_path / "a.tar.gz", tmp_path / "out/set")
        assert (tmp_path / "out" / name).read_bytes() == b"hello"


@pytest.mark.parametrize("name", ["../x", "set/../../x", "/x", "..\\x", "C:\\x", "C:x"])
def test_what_climbs_is_refused(tmp_path, name):
    path = archive(tmp_path / "a.zip", {"set/good.txt": b"1", name: b"2"})
    with pytest.raises(DownloadError, match="cannot be unpacked .*leads out"):
        unpack(path, tmp_path / "out/set")
    assert list((tmp_path / "out").iterdir()) == [] and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "html", "password"])
def test_damaged_archives(tmp_path, damage):
    path = archive(tmp_path / "a.zip", {"set/a.txt": BODY[:5000]})
    content, locked = bytearray(path.read_bytes()), bytearray(path.read_bytes())
    content[2500] ^= 255
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(signature) + flags] |= 1
    damaged = {"cut": content[:3000], "flip": content, "html": b"<html>404</html>"}
    path.write_bytes((damaged | {"password": locked})[damage])
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack(path, tmp_path / "out/set")
    assert list((tmp_path / "out").iterdir()) == []
