"""Near copies of photos: re-encoded, resized, brightened, mirrored, or cropped by a few per cent.

Two steps. A perceptual hash (Zauner: Implementation and Benchmarking of Perceptual Image Hash
Functions, 2010, https://www.phash.org/docs/pubs/thesis_zauner.pdf) of 64 bits finds candidates
among all pairs; a comparison of small grey pictures, cropped against each other, confirms them.
"""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

SIDE = 32  # of the small pictures
RADIUS = 18  # bits in which the hashes of candidates may differ
ROUGHLY, ALIKE = 0.6, 0.7  # correlations of candidates, and of near copies, see `likeness`
_BLOCK = 1024


def thumbnail(photo: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> grey uint8 (SIDE, SIDE), whatever the aspect, without a plain frame:
    photos in the same frame are not alike."""
    for axis in (0, 1):
        lines = np.moveaxis(photo, axis, 0)
        plain = np.ptp(lines, axis=1).max(-1) < 10
        first, last = (int(side.argmin()) for side in (plain, plain[::-1]))
        # a frame is on both sides: one alone may be the sky
        if first and last and np.ptp(lines[[0, -1]].mean(1), axis=0).max() < 8:
            most = len(lines) // 5
            photo = np.moveaxis(lines[min(first, most) : len(lines) - min(last, most)], 0, axis)
    small = cv2.resize(np.ascontiguousarray(photo), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def hashes(thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, SIDE, SIDE) -> bool (N, 64) of the pictures, and of the same pictures mirrored:
    where the 8 x 8 lowest frequencies of the cosine transform are above their median."""
    low = np.empty((len(thumbs), 8, 8), np.float32)
    for i, thumb in enumerate(thumbs):
        low[i] = cv2.dct(np.float32(thumb))[:8, :8]
    mirrored = low * np.where(np.arange(8) % 2, -1, 1)  # odd waves are upside down in a mirror
    pair = [x.reshape(-1, 64) for x in (low, mirrored)]
    return tuple(x > np.median(x, axis=1, keepdims=True) for x in pair)


def near_copies(thumbs: np.ndarray) -> list[tuple[int, int, float, bool]]:
    """Links (i, j, likeness, mirrored) between near copies among uint8 (N, SIDE, SIDE): enough to
    connect all that belong together, not each with each. What has no contrast is left out."""
    found = []
    bits, turned = hashes(thumbs)
    label = np.arange(len(thumbs))  # the same number: connected already
    label[thumbs.max((1, 2), initial=0) - thumbs.min((1, 2), initial=255) < 10] = -1
    for mirrored, other in ((False, bits), (True, turned)):
        for first, second in _candidates(bits, other):
            while len(first):
                new = (label[first] != label[second]) & (label[first] >= 0) & (label[second] >= 0)
                first, second = first[new], second[new]
                i, j = first[:_BLOCK], second[:_BLOCK]
                scores = likeness(thumbs[i], thumbs[j][:, :, :: -1 if mirrored else 1])
                for k in np.flatnonzero(scores >= ALIKE):
                    found.append((int(i[k]), int(j[k]), float(scores[k]), mirrored))
                    label[label == label[j[k]]] = label[i[k]]
                first, second = first[_BLOCK:], second[_BLOCK:]
    return found


def likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How alike pictures are, for each of uint8 (N, SIDE, SIDE): the correlation of their grey
    values times that of their details, where one fits best into the other when up to 10 % is cut
    off. Near copies have more than ALIKE. Brightness and contrast do not matter."""
    scores = np.zeros(len(a), np.float32)
    # photos that differ in a crop still agree roughly: most candidates need no closer look
    rough = np.flatnonzero(_correlation(_reduced(a, 8), _reduced(b, 8)) >= ROUGHLY)
    for first, second in ((a, b), (b, a)):
        near = rough[_best_crop(first[rough], second[rough], SIDE // 2)[0] >= ALIKE]
        whole = first[near]
        best, fitted = _best_crop(whole, second[near], SIDE)
        fine = _correlation(*(np.float32(x) - _BLUR @ x @ _BLUR.T for x in (whole, fitted)))
        scores[near] = np.maximum(scores[near], best * fine)
    return scores


def _best_crop(whole: np.ndarray, parts: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The crops of `parts` that look most like `whole`, both reduced to `side`: correlations (N,)
    and float32 (N, side, side)."""
    target, parts = _unit(_reduced(whole, side)), _reduced(parts, side)
    best, fitted = np.zeros(len(parts), np.float32), parts.copy()
    for rows in _CROPS[side]:
        cut = rows @ parts
        for columns in _CROPS[side]:
            part = cut @ columns.T
            score = np.einsum("nij,nij->n", target, _unit(part))
            better = score > best
            best[better], fitted[better] = score[better], part[better]
    return best, fitted


def groups(links: Iterable[tuple]) -> list[list[int]]:
    """The sets of numbers that links (i, j, ...) connect, each sorted."""
    member: dict[int, list[int]] = {}
    for i, j, *_ in links:
        one, other = member.setdefault(i, [i]), member.setdefault(j, [j])
        if one is not other:
            one += other
            member.update(dict.fromkeys(other, one))
    return sorted({id(m): sorted(m) for m in member.values()}.values())


def _candidates(bits: np.ndarray, other: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index arrays of pairs i < j with hashes no further apart than RADIUS, block by block: the
    product of vectors of +1 and -1 is 64 - 2 x distance."""
    signs, others = (np.where(x, 1, -1).astype(np.float32) for x in (bits, other))
    for start in range(0, len(bits), _BLOCK):
        rows = signs[start : start + _BLOCK]
        for at in range(start, len(bits), _BLOCK):
            near = np.flatnonzero(rows @ others[at : at + _BLOCK].T >= 64 - 2 * RADIUS)
            if len(near):
                first, second = np.divmod(near, len(others[at : at + _BLOCK]))
                first, second = first + start, second + at
                keep = first < second
                yield first[keep], second[keep]


def _crops(side: int) -> np.ndarray:
    """(7, side, side) matrices, each of which cuts a part out of `side` numbers and stretches it to
    `side` again, linearly."""
    kept = ((1, 0), (0.95, 0), (0.95, 0.025), (0.95, 0.05), (0.9, 0), (0.9, 0.05), (0.9, 0.1))
    at = [(start + (np.arange(side) + 0.5) / side * n) * side - 0.5 for n, start in kept]
    at = np.clip(at, 0, side - 1)[..., None]
    return np.maximum(0, 1 - np.abs(at - np.arange(side))).astype(np.float32)


def _reduced(pictures: np.ndarray, side: int) -> np.ndarray:
    step = SIDE // side
    return pictures.reshape(-1, side, step, side, step).mean((2, 4), dtype=np.float32)


def _unit(pictures: np.ndarray) -> np.ndarray:
    """Shifted and scaled to mean 0 and length 1 (0 for a flat one)."""
    x = pictures - pictures.mean((1, 2), dtype=np.float32, keepdims=True)
    return x / np.maximum(np.sqrt(np.einsum("nij,nij->n", x, x))[:, None, None], 1e-3)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nij,nij->n", _unit(a), _unit(b))


_CROPS = {side: _crops(side) for side in (SIDE, SIDE // 2)}
# sigma 2; what a blur leaves away is detail
_BLUR = np.float32([np.exp(-((np.arange(SIDE) - i) ** 2) / 8) for i in range(SIDE)])
_BLUR /= _BLUR.sum(1, keepdims=True)
