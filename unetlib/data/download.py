"""Files from the network, for those who have one: resumed, verified, unpacked safely."""

import os
import stat
import tempfile
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from unetlib.paths import sha256 as digest_of

_PASSING = (408, 429, 500, 502, 503, 504)  # errors of a server that is worth another attempt


class DownloadError(RuntimeError):
    """A download that did not come through; the message says what to do by hand."""


def cache_dir() -> Path:
    """Where downloads are kept: the environment variable UNETLIB_CACHE, else ~/.cache/unetlib."""
    return Path(os.environ.get("UNETLIB_CACHE") or "~/.cache/unetlib").expanduser()


def fetch(
    url: str,
    path: str | os.PathLike,
    sha256: str | None = None,
    progress: bool = True,
    retries: int = 5,
    wait: float = 1.0,
) -> Path:
    """Downloads `url` to `path` and returns it; a file that is there (and right) is kept.

    What arrives goes to `path` + ".part" first and is taken up again after a lost connection or in
    a later session. Gives up after `retries` attempts in a row without progress, `wait` seconds
    (doubling) apart; answers such as 403 or 404 are not tried again. The length announced by the
    server and, where given, the SHA-256 are verified. Raises DownloadError.
    """
    import requests  # brings its own certificates, which Python on macOS lacks

    path = Path(path)
    if path.is_file() and (sha256 is None or digest_of(path) == sha256.lower()):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    resumed = part.exists()
    failures = 0
    while True:
        before = size_of(part)
        try:
            _receive(url, part, progress)
        except requests.RequestException as error:
            failures = 1 if size_of(part) > before else failures + 1
            answer = error.response
            if failures >= retries or (answer is not None and answer.status_code not in _PASSING):
                what = "connection failed" if answer is None else "server answered"
                raise DownloadError(_by_hand(url, path, f"the {what} ({error})")) from error
            time.sleep(wait * 2 ** (failures - 1))
            continue
        except OSError as error:
            raise DownloadError(f"cannot write {part}: {error}") from error
        if sha256 is None or (found := digest_of(part)) == sha256.lower():
            return part.replace(path)
        part.unlink()
        if not resumed:
            raise DownloadError(
                _by_hand(url, path, f"its SHA-256 is {found}, expected was {sha256.lower()}")
            )
        resumed = False  # an old .part of another version of the file: once more from the start


def fetch_all(
    files: Mapping[Path, Sequence[str]], what: str = "files", wait: float = 1.0
) -> dict[Path, str]:
    """Downloads many small files, eight at a time with one bar: path -> addresses, tried in turn.

    Files that are there are kept. Returns path -> reason for those that did not come. Raises
    DownloadError when 20 in a row did not: that is no network rather than bad luck. `wait`: see
    fetch.
    """
    missing = [path for path in files if not path.is_file()]
    failed: dict[Path, str] = {}
    in_a_row = 0

    def get(path: Path) -> str:
        """Why no address gave the file; "" if one did."""
        reason = "it has no address"
        for url in files[path]:
            try:
                fetch(url, path, progress=False, retries=3, wait=wait)
                return ""
            except DownloadError as error:
                reason = str(error)
        return reason

    pool = ThreadPoolExecutor(8)
    try:
        tasks = {pool.submit(get, path): path for path in missing}
        for task in tqdm(as_completed(tasks), what, len(tasks), delay=2):
            reason = task.result()
            in_a_row = in_a_row + 1 if reason else 0
            if reason:
                failed[tasks[task]] = reason
            if in_a_row == 20:
                raise DownloadError(
                    f"20 {what} in a row could not be downloaded, the last: {reason}"
                )
    finally:
        pool.shutdown(cancel_futures=True)
    return failed


def unpack_zip(path: str | os.PathLike, folder: str | os.PathLike) -> Path:
    """Verifies the CRC of every file in the archive, unpacks it into `folder` and returns that.

    Names that lead out of the folder (absolute, `..`, drive letters), links and names that are
    there already are refused before anything is written; what macOS adds (__MACOSX) is left out.
    Unpacked beside the target and moved at the end, so that a kill leaves no half dataset. Raises
    DownloadError.
    """
    path, folder = Path(path), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = [i for i in archive.infolist() if not i.filename.startswith("__MACOSX/")]
            for info in wanted:
                name = PurePosixPath(info.filename.replace("\\", "/"))
                unsafe = "is a link" if stat.S_ISLNK(info.external_attr >> 16) else ""
                if name.is_absolute() or ".." in name.parts or ":" in info.filename:
                    unsafe = "leads out of the folder"
                if unsafe:
                    raise DownloadError(f"{path} is not safe: '{info.filename}' {unsafe}")
                if name.parts and (folder / name.parts[0]).exists():
                    raise DownloadError(
                        f"{folder / name.parts[0]} exists already; remove or rename it before "
                        f"{path} is unpacked"
                    )
            if bad := archive.testzip():
                raise zipfile.BadZipFile(f"wrong CRC in {bad}")
            with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack-") as work:
                archive.extractall(work, wanted)
                for item in sorted(Path(work).iterdir()):
                    item.replace(folder / item.name)
    except DownloadError:
        raise
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:  # or a password
        message = f"{path} cannot be unpacked ({error}). Delete it and try again"
        raise DownloadError(message) from error
    except OSError as error:  # no space left, no such archive, not allowed
        raise DownloadError(f"{path} cannot be unpacked into {folder}: {error}") from error
    return folder


def _receive(url: str, part: Path, progress: bool) -> None:
    """One attempt: appends to `part` what is missing. Returns when the file is complete; raises
    requests.RequestException."""
    import requests

    have = size_of(part)
    # identity: a length and a range of the file itself, not of its compressed form
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
        span = answer.headers.get("Content-Range", "")
        if answer.status_code == 416:  # nothing behind what we have: complete, or another file
            if span.rpartition("/")[2] == str(have):
                return
            part.unlink(missing_ok=True)
            raise requests.ConnectionError("the partial download was of another file")
        answer.raise_for_status()
        if answer.status_code != 206 or not span.startswith(f"bytes {have}-"):
            have = 0  # the server ignores ranges: it sends all of it again
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        bar = tqdm(desc=part.stem, total=total, initial=have, unit="B", unit_scale=True,
                   disable=not progress)  # fmt: skip
        with bar, open(part, "ab" if have else "wb") as file:
            for chunk in answer.iter_content(1 << 13):  # a chunk cut short is lost
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and size_of(part) != total:
        raise requests.ConnectionError(f"{size_of(part)} of {total} bytes arrived")


def size_of(file: Path) -> int:
    """In bytes; 0 for one that is not there."""
    return file.stat().st_size if file.is_file() else 0


def _by_hand(url: str, path: Path, reason: str) -> str:
    return (
        f"could not download {url}: {reason}. Try again later (what arrived is kept), or open the "
        f"address in a browser and save the file as {path}"
    )
