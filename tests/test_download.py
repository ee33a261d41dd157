"""Downloads from a real server on the loopback that misbehaves in every way the tests ask for."""

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace

import pytest
from loopback import BODY, serving, untouched
from PIL import Image

from unetlib.data import DataError, open_source
from unetlib.data.download import DownloadError, cache_dir, fetch, fetch_all, unpack_zip
from unetlib.data.published import LAYOUTS

SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as server:
        yield server


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


def archive(path, files: dict[str, bytes], link=None, squeeze=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", squeeze) as z:
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


@pytest.mark.parametrize("squeeze", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("damage", ["cut", "flip", "html"])
def test_damaged_archives(tmp_path, damage, squeeze):
    path = archive(tmp_path / "a.zip", {"set/a.txt": BODY[:5000]}, squeeze=squeeze)
    content = bytearray(path.read_bytes())
    content[2500] ^= 255
    damaged = {"cut": content[:3000], "flip": content, "html": b"<html>404</html>"}
    path.write_bytes(damaged[damage])
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack_zip(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_macos_adds_is_left_out(tmp_path):
    path = archive(tmp_path / "a.zip", {"set/a.txt": b"1", "__MACOSX/set/._a.txt": b"2"})
    assert [p.name for p in unpack_zip(path, tmp_path / "out").iterdir()] == ["set"]


def test_an_archive_with_a_password(tmp_path):
    path = archive(tmp_path / "a.zip", {"set/a.txt": b"1"})
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(DownloadError, match="cannot be unpacked.*password"):
        unpack_zip(path, tmp_path / "out")


def test_an_archive_that_cannot_be_written_out(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = archive(tmp_path / "a.zip", {"set/a.txt": b"1"})
    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(DownloadError, match="into .*No space left"):
        unpack_zip(path, tmp_path / "out")
    assert [*(tmp_path / "out").iterdir()] == []


# --- many files ----------------------------------------------------------------------------------


def many(server, folder, count):
    server.files = {f"/{i}.jpg": bytes([i]) * 5000 for i in range(count)}
    return {folder / f"{i}.jpg": [f"{server.address}/{i}.jpg"] for i in range(count)}


def test_many_files_come_through_drops_errors_and_second_addresses(server, tmp_path):
    files = many(server, tmp_path, 40)
    (tmp_path / "3.jpg").write_bytes(b"mine")
    server.plans = {
        "/5.jpg": ["drop", "drop", "ok"],
        "/6.jpg": ["503", "ok"],
        "/7.jpg": ["404"],
        "/8.jpg": ["403"],
        "/9.jpg": ["500"],
    }
    files[tmp_path / "8.jpg"].append(f"{server.address}/2.jpg")
    files[tmp_path / "no.jpg"] = []
    failed = fetch_all(files, wait=0.01)
    assert {path.name for path in failed} == {"7.jpg", "9.jpg", "no.jpg"}
    assert "404" in failed[tmp_path / "7.jpg"] and "500" in failed[tmp_path / "9.jpg"]
    assert "no address" in failed[tmp_path / "no.jpg"]
    assert (tmp_path / "3.jpg").read_bytes() == b"mine" and "/3.jpg" not in server.paths
    assert (tmp_path / "8.jpg").read_bytes() == bytes([2]) * 5000
    right = [i for i in range(40) if i not in (3, 7, 8, 9)]
    assert all((tmp_path / f"{i}.jpg").read_bytes() == bytes([i]) * 5000 for i in right)
    asked = len(server.paths)
    assert fetch_all({p: files[p] for p in files if p not in failed}) == {}
    assert len(server.paths) == asked


def test_without_a_network_it_gives_up_early(server, tmp_path):
    files = many(server, tmp_path, 200)
    server.plan = ["404"]
    with pytest.raises(DownloadError, match="20 photos in a row could not be downloaded.*404"):
        fetch_all(files, "photos", wait=0.01)
    assert len(server.paths) < 60


# --- the whole way -------------------------------------------------------------------------------


def serve(monkeypatch, server, name: str, archives: dict[str, bytes]):
    """The archives of a set at addresses on the loopback instead of the publisher's."""
    urls = LAYOUTS[name].urls
    for url, creates in [*urls.items()]:
        monkeypatch.delitem(urls, url)
        path = "/" + url.rpartition("/")[2]
        if path[1:] in archives:
            server.files[path] = archives[path[1:]]
        monkeypatch.setitem(urls, server.address + path, creates)


def picture(mode, value, format="PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (6, 4), value).save(file, format)
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z:
        for name, content in files.items():
            z.writestr(name, content)
    return file.getvalue()


def pennfudan_zip(count: int) -> bytes:
    files = {}
    for i in range(count):
        files[f"PennFudanPed/PNGImages/F{i}.png"] = picture("RGB", (i, 0, 0))
        files[f"PennFudanPed/PedMasks/F{i}_mask.png"] = picture("L", 1)
    return zipped(files)


@pytest.mark.parametrize("args", [{"download": True}, {}], ids=["asked for", "without a root"])
def test_pennfudan_is_downloaded_once_and_opened(server, tmp_path, monkeypatch, args):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    serve(monkeypatch, server, "pennfudan", {"PennFudanPed.zip": pennfudan_zip(170)})
    server.plan = ["drop", "ok"]
    for _ in range(2):
        source = open_source("pennfudan", **args)
        assert len(source.train) + len(source.val) == 170
        assert source.root == tmp_path / "cache" / "PennFudanPed"
    assert len(server.ranges) == 2
    assert open_source("pennfudan", tmp_path / "mine", download=True).root.parent.name == "mine"


def test_pennfudan_of_the_wrong_length_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path))
    serve(monkeypatch, server, "pennfudan", {"PennFudanPed.zip": pennfudan_zip(20)})
    with pytest.raises(DataError, match="20 images and 20 masks instead of 170"):
        open_source("pennfudan", download=True)


def ecssd_zips(count=1000) -> dict[str, bytes]:
    """As published: one folder in each, and what macOS adds in both."""
    photo, mask = picture("RGB", (200, 9, 9), "JPEG"), picture("L", 255)
    names = [f"{i:04}" for i in range(1, count + 1)]
    junk = {"__MACOSX/._images": b"x"}
    return {
        "images.zip": zipped({f"images/{n}.jpg": photo + n.encode() for n in names} | junk),
        "ground_truth_mask.zip": zipped({f"ground_truth_mask/{n}.png": mask for n in names} | junk),
    }


def test_a_set_in_two_archives_is_completed_after_a_failure(server, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    serve(monkeypatch, server, "ecssd", ecssd_zips())
    server.plans["/ground_truth_mask.zip"] = ["404", "drop", "ok"]
    with pytest.raises(DownloadError, match="404"):
        open_source("ecssd")
    with untouched(tmp_path / "cache"):
        source = open_source("ecssd")
    assert len(source.train) + len(source.val) == 1000
    assert (
        server.paths.count("/images.zip") == 1 and server.paths.count("/ground_truth_mask.zip") == 3
    )
    assert source.root == tmp_path / "cache" / "ecssd" and source.skipped == ()
    asked = len(server.paths)
    assert len(open_source("ecssd").train) == len(source.train) and len(server.paths) == asked


def test_a_download_never_replaces_what_a_person_put_there(server, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    serve(monkeypatch, server, "ecssd", ecssd_zips(3))
    mine = tmp_path / "mine"
    (mine / "images").mkdir(parents=True)
    (mine / "images" / "holiday.jpg").write_bytes(picture("RGB", 7, "JPEG"))
    with untouched(mine), pytest.raises(DataError, match="1 images and 3 masks instead") as error:
        open_source("ecssd", mine, download=True)
    assert str(mine / "images") not in str(error.value)  # not to be deleted
    assert str(mine / "ground_truth_mask") in str(error.value)


def test_duts_is_completed_where_only_half_is_there(server, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    layout = LAYOUTS["duts"]
    urls = {}
    for side in ("DUTS-TR", "DUTS-TE"):
        files = {
            f"{side}/{side}-Image/{side}_{i}.jpg": picture("RGB", 99, "JPEG") for i in range(4)
        }
        files |= {f"{side}/{side}-Mask/{side}_{i}.png": picture("L", 255) for i in range(4)}
        server.files[f"/{side}.zip"] = zipped(files)
        urls[f"{server.address}/{side}.zip"] = side
    layout = replace(layout, urls=urls, rows=tuple(replace(row, count=4) for row in layout.rows))
    mine = tmp_path / "mine"
    archive(mine.parent / "tr.zip", {}).write_bytes(server.files["/DUTS-TR.zip"])
    unpack_zip(tmp_path / "tr.zip", mine)
    assert {side: len(p) for side, p in layout.open(mine).sides.items()} == {"": 4}
    with untouched(mine):
        found = layout.open(mine, download=True)
    assert {side: len(p) for side, p in found.sides.items()} == {"train": 4, "val": 4}
    assert server.paths == ["/DUTS-TE.zip"]


def test_a_damaged_archive_from_the_network_leaves_no_half_set(server, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path))
    good = ecssd_zips(3)
    serve(monkeypatch, server, "ecssd", good | {"images.zip": good["images.zip"][:-40]})
    with pytest.raises(DownloadError, match="images.zip cannot be unpacked.*Delete it"):
        open_source("ecssd")
    assert not (tmp_path / "ecssd" / "images").exists()


# --- Oxford-IIIT Pet, through torchvision --------------------------------------------------------


def tarred(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def pet(server, tmp_path, monkeypatch):
    from torchvision.datasets import OxfordIIITPet

    monkeypatch.setenv("UNETLIB_CACHE", str(tmp_path / "cache"))
    names = [f"Abyssinian_{i}" for i in range(6)] + [f"beagle_{i}" for i in range(6)]
    lines = [f"{n} {1 + 4 * n.startswith('b')} {1 + n.startswith('b')} 1\n" for n in names]
    annotations = {f"annotations/trimaps/{n}.png": picture("L", 1 + i % 3)
                   for i, n in enumerate(names)}  # fmt: skip
    annotations |= {f"annotations/trimaps/._{n}.png": b"junk" for n in names}
    annotations["annotations/trainval.txt"] = "".join(lines[::2]).encode()
    annotations["annotations/test.txt"] = "".join(lines[1::2]).encode()
    photos = {f"images/{n}.jpg": picture("RGB", 5 * i, "JPEG") + BODY[i * 9000 : i * 9000 + 9000]
              for i, n in enumerate(names)}  # fmt: skip
    archives = {"images.tar.gz": tarred(photos), "annotations.tar.gz": tarred(annotations)}
    serve(monkeypatch, server, "pet", archives)
    known = [(u, hashlib.md5(archives[u.rpartition("/")[2]]).hexdigest())
             for u in LAYOUTS["pet"].urls]  # fmt: skip
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", known)
    return server


def test_pet_is_downloaded_resumed_and_divided_by_its_lists(pet, tmp_path):
    pet.plan = ["drop", "ok"]
    for _ in range(2):
        source = open_source("pet")
        assert (len(source.train), len(source.val)) == (6, 6)
    assert pet.paths == ["/images.tar.gz", "/images.tar.gz", "/annotations.tar.gz"]
    assert pet.ranges[1].startswith("bytes=")
    root = tmp_path / "cache" / "oxford-iiit-pet"
    assert source.root == root and not (tmp_path / "cache" / ".oxford-iiit-pet.part").exists()
    assert {p.tags for p in source.train} == {("cat", "abyssinian"), ("dog", "beagle")}
    assert {s.kind for s in source.skipped} == {"resource fork"} and len(source.skipped) == 12


def test_pet_half_unpacked_by_a_killed_run_is_unpacked_again(pet, tmp_path):
    half = tmp_path / "cache" / ".oxford-iiit-pet.part" / "oxford-iiit-pet"
    for name in ("images", "annotations/trimaps"):  # torchvision alone would take this for whole
        (half / name).mkdir(parents=True)
    source = open_source("pet")
    assert len(source.train) + len(source.val) == 12


def test_pet_that_is_not_what_torchvision_knows_is_refused(pet, tmp_path):
    pet.files["/annotations.tar.gz"] = pet.files["/annotations.tar.gz"] + b"more"
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        open_source("pet", tmp_path / "mine", download=True)
    assert not (tmp_path / "mine" / "oxford-iiit-pet").exists()
