"""Files from the network, for those who have one: resumed, verified, unpacked safely."""

import os
import re
import tarfile
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from unetlib.paths import sha256 as digest_of

DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError)
CLIMBS = re.compile(r"^[/\\]|:|(^|[/\\])\.\.([/\\]|$)")  # names that lead out of a folder


class DownloadError(RuntimeError):
    """A download that did not come through; the message says what to do by hand."""


def cache_dir() -> Path:
    """Where downloads are kept: the environment variable UNETLIB_CACHE, else ~/.cache/unetlib."""
    return Path(os.environ.get("UNETLIB_CACHE") or "~/.cache/unetlib").expanduser()


def fetch(url: str, path, sha256: str = "", progress: bool = True, wait: float = 1.0) -> Path:
    """Downloads `url` to `path` and returns it; a file that is there (and right) is kept.

    What arrives goes to `path` + ".part" and is taken up again after a lost connection or in a
    later session. Five attempts in vain, `wait` seconds (doubling) apart, or a wrong SHA-256 raise
    DownloadError.
    """
    from requests import RequestException

    path, failures = Path(path), 0
    if path.is_file() and (not sha256 or digest_of(path) == sha256):
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            part.touch()
            have = part.stat().st_size
            try:
                _receive(url, part, have, progress)
                found = digest_of(part)
                if sha256 in ("", found):
                    return part.replace(path)
                part.unlink()  # begun earlier, it was perhaps another version: once more
                if not have:
                    raise DownloadError(f"{url} has the SHA-256 {found}, expected was {sha256}")
            except RequestException as error:
                status = 500 if error.response is None else error.response.status_code
                failures = failures + 1 if part.stat().st_size == have else 1
                if failures == 5 or (status < 500 and status not in (408, 429)):
                    how = f"Try again later (what arrived is kept), or save it as {path}"
                    raise DownloadError(f"could not download {url}: {error}. {how}") from error
                time.sleep(wait * 2**failures)
    except OSError as error:
        raise DownloadError(f"cannot write {part}: {error}") from error


def _receive(url: str, part: Path, have: int, progress: bool) -> None:
    """Appends to `part` what is missing. Raises requests.RequestException."""
    import requests  # brings its own certificates, which Python on macOS lacks

    # identity: a length and a range of the file itself, not of its compressed form
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
        if answer.status_code == 416:  # nothing behind what we have: perhaps it is another file
            part.write_bytes(b"")
            return _receive(url, part, 0, progress)
        answer.raise_for_status()
        begin = have if answer.status_code == 206 else 0  # 0: ranges are ignored
        total = begin + int(answer.headers.get("Content-Length", 0)) or None
        bar = tqdm(None, part.stem, total, initial=begin, unit="B", disable=not progress)
        with bar, open(part, "ab" if begin else "wb") as file:
            for chunk in answer.iter_content(1 << 13):  # a chunk cut short is lost
                bar.update(file.write(chunk))


def unpack(path, folder) -> None:
    """Unpacks a zip or tar archive into `folder` without what macOS adds. Raises DownloadError for
    damage, and for names that lead out of it or are there already. All is moved there at the end,
    so that a kill leaves no half dataset."""
    path, folder = Path(path), Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack-") as work:
            if tarfile.is_tarfile(path):
                with tarfile.open(path) as archive:
                    archive.extractall(work, filter="data")  # refuses what leads out
            else:
                with zipfile.ZipFile(path) as archive:  # a link becomes a plain file
                    if climbing := list(filter(CLIMBS.search, archive.namelist())):
                        raise OSError(f"'{climbing[0]}' leads out of the folder")
                    archive.extractall(work)
            for item in Path(work).iterdir():
                if (folder / item.name).exists():
                    raise OSError(f"'{item.name}' is already there")
                if item.name != "__MACOSX":
                    item.replace(folder / item.name)
    except DAMAGED as error:
        raise DownloadError(f"{path} cannot be unpacked into {folder}: {error}") from error
