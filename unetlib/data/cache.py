"""Decoded pairs at training size, so that a photo is decoded once and not in every epoch.

A pair is one row: uint8 (H, W, 4), red, green, blue and mask. The colours of a cut-out's row are
multiplied by its mask (premultiplied): moving it mixes no colour from outside into its edge.
"""

import errno
import os
import shutil
import warnings
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import cv2
import numpy as np

from unetlib.config import CACHES, hint
from unetlib.data.download import cache_dir
from unetlib.data.images import image_size, load_cutout, load_image, resize
from unetlib.data.masks import clean_cutout, load_mask, resize_cutout
from unetlib.data.pairs import DataError, Pair, check_shape
from unetlib.matting import fit_cover
from unetlib.paths import resolve

MEMORY_BYTES = 135_000_000  # "auto" keeps so much in memory: 2000 photos of 128 x 128
SPARE_BYTES = 1_000_000_000  # "auto" leaves this much of the disk free, for checkpoints
FORMAT = 1  # to be raised when decoding changes: rows of another format are made again
_KEY, _HEAD = 16, 24  # bytes of a digest; of a digest and a sum before each row


def choose_cache(kind: str, n: int, size: tuple[int, int], folder=None) -> str:
    """`kind`, which is one of CACHES, for `n` pairs at `size` (H, W): "auto" is "memory" for up to
    MEMORY_BYTES, unless a folder is named, else "disk"."""
    if kind not in CACHES:
        raise ValueError(f"no cache '{kind}': use one of {', '.join(CACHES)}.{hint(kind, CACHES)}")
    if kind != "auto":
        return kind
    return "memory" if n * size[0] * size[1] * 4 <= MEMORY_BYTES and not folder else "disk"


def open_cache(pairs: Sequence[Pair], size: tuple[int, int], kind: str = "auto", folder=None):
    """MemoryRows or DiskRows for `pairs` at `size` (H, W); None for kind "none" or no pairs.

    Rows on disk lie in `folder`, by default cache_dir() / "decoded", which may be deleted at any
    time. A folder that cannot be written raises DataError if it was named; otherwise it is a
    warning and None.
    """
    kind = choose_cache(kind, len(pairs), size, folder)
    if kind == "none" or not pairs:
        return None
    if kind == "memory":
        return MemoryRows(len(pairs))
    rows = DiskRows(pairs, size, folder)
    try:
        rows.open()
    except OSError as error:
        return rows.give_up(error)
    return rows


def decode(pair: Pair, size: tuple[int, int]) -> np.ndarray:
    """The row of a pair. That of one with a background is of the cut-out alone, or, where its mask
    is None, of the background alone. Raises ImageError or DataError, naming the file."""
    if pair.background and pair.mask:
        return _decode_cutout(pair, size)
    h, w = size
    width, height = image_size(pair.image)
    # the sides shrink differently: take the larger picture of the two demands
    side = round(max(width, height) * max(w / width, h / height) + 0.5)
    photo = load_image(pair.image, max_side=side)
    if pair.background:
        covering = fit_cover(np.asarray(photo), h, w)
        return np.dstack([covering, np.zeros(size, np.uint8)])
    rgbx = np.frombuffer(photo.tobytes("raw", "RGBX"), np.uint8)  # as Pillow keeps it: no repacking
    row = _shrunk(rgbx.reshape(photo.height, photo.width, 4), size)
    if pair.mask is None:
        return cv2.insertChannel(np.zeros(size, np.uint8), row, 3)
    mask = load_mask(pair.mask, kind=pair.mask_kind, dtype=np.uint8)
    check_shape(pair.image, (width, height), pair.mask, mask.shape[::-1])
    return cv2.insertChannel(_shrunk(mask, size), row, 3)


def _decode_cutout(pair: Pair, size: tuple[int, int]) -> np.ndarray:
    rgba = load_cutout(pair.image)
    enough = tuple(min(n, 2 * to) for n, to in zip(rgba.shape, size, strict=False))
    rgba = clean_cutout(resize_cutout(rgba, enough))  # as good as before shrinking, and quick
    premultiplied = rgba[..., :3] * (rgba[..., 3:] / np.float32(255))
    return _shrunk(np.dstack([np.rint(premultiplied).astype(np.uint8), rgba[..., 3]]), size)


def _shrunk(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """resize() in a fifth of its time: halved as JPEGs are when they are decoded, then linear,
    which leaves out no pixel below a factor of 2."""
    h, w = array.shape[:2]
    while h % 2 == w % 2 == 0 and h >= 2 * size[0] and w >= 2 * size[1]:
        h, w = h // 2, w // 2
        array = resize(array, (h, w))
    if h < 2 * size[0] and w < 2 * size[1]:
        return cv2.resize(array, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resize(array, size)


def lay_over(front: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """The row of a cut-out on that of a background, whose mask is 0."""
    kept = cv2.merge([255 - cv2.extractChannel(front, 3)] * 4)
    return cv2.add(front, cv2.multiply(behind, kept, scale=1 / 255))


class MemoryRows:
    """Rows in memory. Forked workers share those that were there before they started."""

    def __init__(self, n: int):
        self._rows: list[np.ndarray | None] = [None] * n

    def read(self, index: int) -> np.ndarray | None:
        return self._rows[index]

    def write(self, index: int, row: np.ndarray) -> None:
        self._rows[index] = row

    def missing(self) -> list[int]:
        return [index for index, row in enumerate(self._rows) if row is None]


class DiskRows:
    """Rows in one file per image folder and size, read and filled by any number of processes.

    A second file lists the pairs, a line each: the n-th line owns the n-th row, and the first one
    counts where two processes added the same pair. Nothing rests on that list being right, nor on
    rows being whole: a row starts with a digest of the paths, sizes and times of its two files, and
    the sum of its bytes. Where these do not fit, the pair is decoded and written again. The file is
    opened for every row, so workers and threads have no position in it to share.
    """

    def __init__(self, pairs: Sequence[Pair], size: tuple[int, int], folder=None):
        self.named = bool(folder)
        self.folder = resolve(folder) if folder else cache_dir() / "decoded"
        images = Path(os.path.abspath(pairs[0].image)).parent
        digest = blake2b(os.fsencode(images), digest_size=4).hexdigest()
        name = f"{images.parent.name}-{digest}-{size[0]}x{size[1]}"
        self.path, self.list_path = (self.folder / f"{name}.{end}" for end in ("rows", "list"))
        self.shape, self.bytes = (*size, 4), _HEAD + size[0] * size[1] * 4
        keys = [_key(pair) for pair in pairs]
        # one object, not one per pair: memory stays small, and unwritten in forked workers
        self._stamps = b"".join(map(_stamp, pairs, keys))
        self._keys = np.array(keys)

    def open(self) -> None:
        """Finds the row of every pair, listing the new ones. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self._listed()
        if new := self._keys[~np.isin(self._keys, known)].tolist():
            with open(self.list_path, "ab", buffering=0) as file:
                file.write(b"".join(b"\n" + key for key in new))
            known = self._listed()
        lines, first = np.unique(known, return_index=True)
        if not np.isin(self._keys, lines).all():  # not all of it was written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._rows = first[np.searchsorted(lines, self._keys)]

    def _listed(self) -> np.ndarray:
        content = self.list_path.read_bytes() if self.list_path.exists() else b""
        return np.array(content.split(b"\n")[1:], f"S{2 * _KEY}")

    def read(self, index: int) -> np.ndarray | None:
        """None where there is no whole row of these two files."""
        record = np.empty(self.bytes, np.uint8)
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(int(self._rows[index]) * self.bytes)
                length = file.readinto(record)
        except OSError:
            return None
        row = record[_HEAD:].reshape(self.shape)
        whole = length == self.bytes and record[:_HEAD].tobytes() == self._head(index, row)
        return row if whole else None

    def write(self, index: int, row: np.ndarray) -> None:
        """Raises OSError."""
        with open(self.path, "wb", buffering=0, opener=_uncut) as file:
            file.seek(int(self._rows[index]) * self.bytes)
            if file.write(self._head(index, row)) + file.write(row) < self.bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def missing(self) -> list[int]:
        """Indices without a row of theirs. Raises OSError if the disk has no room for them."""
        missing = list(range(len(self._rows)))
        with suppress(FileNotFoundError), open(self.path, "rb", buffering=0) as file:
            missing = [index for index in missing if not self._has(file, index)]
        need, free = len(missing) * self.bytes, shutil.disk_usage(self.folder).free
        if need > free - (0 if self.named else SPARE_BYTES):
            text = f"{need / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free"
            raise OSError(errno.ENOSPC, text)
        return missing

    def _has(self, file, index: int) -> bool:
        file.seek(int(self._rows[index]) * self.bytes)
        return file.read(_KEY) == self._stamp(index)

    def give_up(self, error: OSError) -> None:
        """To be called with what the other methods raise: DataError, or a warning and None."""
        reason = f"the cache folder {self.folder} cannot be used ({error.strerror or error})"
        advice = "make room or allow writing there, or name another folder (cache_dir)"
        if self.named:
            raise DataError(f"{reason}: {advice}, or set cache='none'") from error
        text = f"{reason}: every photo is decoded again in every epoch. To change that, {advice}"
        warnings.warn(text, stacklevel=3)

    def _head(self, index: int, row: np.ndarray) -> bytes:
        total = np.add.reduce(row.view(np.uint32), axis=None, dtype=np.uint32)
        return self._stamp(index) + int(total).to_bytes(_HEAD - _KEY, "little")

    def _stamp(self, index: int) -> bytes:
        return self._stamps[index * _KEY : (index + 1) * _KEY]


def _uncut(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC, 0o666)


def _key(pair: Pair) -> bytes:
    paths = [os.fsencode(os.path.abspath(path)) for path in _files(pair)]
    facts = b"\0".join([*paths, pair.mask_kind.encode(), *[b"cut out"] * bool(pair.background)])
    return blake2b(facts, digest_size=_KEY).hexdigest().encode()


def _stamp(pair: Pair, key: bytes) -> bytes:
    facts = [FORMAT, key]
    for path in _files(pair):
        with suppress(OSError):  # decoding will name the file
            status = os.stat(path)
            facts += [status.st_size, status.st_mtime_ns]
    return blake2b(repr(facts).encode(), digest_size=_KEY).digest()


def _files(pair: Pair) -> list[Path]:
    return [path for path in (pair.image, pair.mask) if path]
