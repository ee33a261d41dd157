"""Paths that are the same for notebooks, commands and tests in any working directory; atomic
writes and downloads."""

import codecs
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from uuid import uuid4

ATTEMPTS = 3  # at a download
LARGEST_TEXT = 50_000_000  # bytes: a notebook with its output may be large


def project_root() -> Path:
    """The folder that `data/` and `outputs/` belong to: the environment variable UNETLIB_ROOT if
    set; else the checkout that `unetlib` was imported from (it has a pyproject.toml beside the
    package); else the working directory, as after a plain `pip install` and in Colab."""
    if chosen := os.environ.get("UNETLIB_ROOT"):
        return user_path(chosen).resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def cache_dir() -> Path:
    """Where downloads are kept: the environment variable UNETLIB_CACHE, else ~/.cache/unetlib."""
    return user_path(os.environ.get("UNETLIB_CACHE") or "~/.cache/unetlib")


def user_path(path: str | os.PathLike) -> Path:
    """A path as people type it: `~` is a home folder where there is one, else part of a name.
    Raises ValueError for an empty one."""
    if not str(path).strip():
        raise ValueError("a path is empty (a variable that is not set?)")
    return Path(os.path.expanduser(path))


def resolve(path: str | os.PathLike) -> Path:
    """A folder or file that we write, as `user_path`; relative paths lie below project_root()."""
    return project_root() / user_path(path)  # an absolute right side wins


def find_input(path: str | os.PathLike) -> Path:
    """An input that must exist, see `user_path`: absolute, below the working directory, or
    below project_root(), in this order. Raises FileNotFoundError that names every place tried."""
    tried = list(dict.fromkeys([Path.cwd() / user_path(path), resolve(path)]))
    if found := [path for path in tried if path.exists()]:
        return found[0]
    raise FileNotFoundError(f"'{path}' not found: there is no {' nor '.join(map(str, tried))}")


def read_text(path: str | os.PathLike) -> str:
    """Text that a person or another program wrote: UTF-8, or UTF-16 with its mark, as PowerShell
    writes. Raises ValueError that names the file for any other."""
    if (size := os.stat(path).st_size) > LARGEST_TEXT:
        raise ValueError(f"{path} is too large: {size / 1e6:.0f} MB")
    content = Path(path).read_bytes()
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 or UTF-16, save it so: {error}") from error


@contextmanager
def folder_lock(folder: Path, seconds: float = 0) -> Iterator[None]:
    """Locks a folder until the block or the process ends. If another process still holds the lock
    after `seconds`, raises RuntimeError with its pid and start time."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    info = folder / ".writer.txt"  # the lock's own file cannot be read on Windows
    try:
        with FileLock(folder / ".writer.lock", timeout=seconds):
            info.write_text(f"process {os.getpid()}, since {datetime.now():%Y-%m-%d %H:%M:%S},")
            yield
            info.unlink(missing_ok=True)
    except Timeout:
        writer = info.read_text() if info.is_file() else "another process"
        advice = "wait for its end, or take another folder"
        raise RuntimeError(f"{writer} writes into {folder}: {advice}") from None


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a file to write beside `path`, and moves it there when the block ends without error.
    A kill or a full disk leaves what was at `path` as it was. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:20]}.{uuid4().hex[:8]}.part")  # the name may be long
    try:
        yield part
        try:
            os.replace(part, path)
        except PermissionError:  # on Windows, while a virus scanner reads the old one
            time.sleep(2 * (os.name == "nt"))
            os.replace(part, path)
    except OSError as error:
        if error.errno and not error.filename:  # of a write: a full disk, a limit
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)  # moved, or never written


def write_atomic(path: Path, content: bytes) -> None:
    """Write the whole file or nothing."""
    with atomic(path) as part:
        part.write_bytes(content)


class DownloadError(RuntimeError):
    """A download that did not come through; the message says what to do by hand."""


def fetch(url: str, path: str | Path, sha256: str = "") -> Path:
    """Downloads `url` to `path` and returns it; a file that is there (and right) is kept.

    Raises DownloadError after ATTEMPTS in vain, for a wrong SHA-256, and where it cannot write.
    """
    import pooch

    path, known = Path(path), f"sha256:{sha256}" if sha256 else None
    pooch.get_logger().setLevel("ERROR")  # the last error is told below
    options = {"urls": {path.name: url}, "registry": {path.name: known}}
    files = pooch.create(path.parent, "", retry_if_failed=ATTEMPTS - 1, **options)
    try:
        return Path(files.fetch(path.name, progressbar=True))
    except (OSError, ValueError) as error:  # of the network, of the disk; another SHA-256
        advice = f"Try again later, or save it as {path}"
        raise DownloadError(f"could not download {url}: {error}. {advice}") from error
