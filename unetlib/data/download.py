"""Files from the network, for those who have one: verified, and whole or not at all."""

import os
from pathlib import Path

ATTEMPTS = 3


class DownloadError(RuntimeError):
    """A download that did not come through; the message says what to do by hand."""


def cache_dir() -> Path:
    """Where downloads are kept: the environment variable UNETLIB_CACHE, else ~/.cache/unetlib."""
    return Path(os.environ.get("UNETLIB_CACHE") or "~/.cache/unetlib").expanduser()


def fetch(url: str, path: str | Path, sha256: str = "") -> Path:
    """Downloads `url` to `path` and returns it; a file that is there (and right) is kept.

    Raises DownloadError after ATTEMPTS in vain, for a wrong SHA-256, and where it cannot write.
    """
    import pooch

    path, known = Path(path), f"sha256:{sha256}" if sha256 else None
    pooch.get_logger().setLevel("ERROR")  # the last error is told below
    how = {"urls": {path.name: url}, "registry": {path.name: known}}
    files = pooch.create(path.parent, "", retry_if_failed=ATTEMPTS - 1, **how)
    try:
        return Path(files.fetch(path.name, progressbar=True))
    except (OSError, ValueError) as error:  # of the network, of the disk; another SHA-256
        advice = f"Try again later, or save it as {path}"
        raise DownloadError(f"could not download {url}: {error}. {advice}") from error
