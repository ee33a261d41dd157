"""Who is train and who is val, and whether they are really apart."""

import hashlib
from collections.abc import Sequence

from unetlib.data.pairs import DataError, Pair
from unetlib.paths import sha256


def split_fraction(id: str, seed: int = 0) -> float:
    """A number in [0, 1) that depends on the id and the seed alone, the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{id}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits: exact in a float, never 1.0


def split_pairs(
    pairs: Sequence[Pair], val_fraction: float = 0.2, seed: int = 0
) -> tuple[list[Pair], list[Pair]]:
    """(train, val). Adding an image moves no other; a group stays together. val_fraction = 0 leaves
    val empty on purpose; otherwise a side without any pair raises DataError with a val_fraction
    that would work."""
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and below 1, got {val_fraction}")
    places = [split_fraction(p.group or p.id, seed) for p in pairs]
    val = [p for p, place in zip(pairs, places, strict=True) if place < val_fraction]
    train = [p for p, place in zip(pairs, places, strict=True) if place >= val_fraction]
    if pairs and (not train or not (val or val_fraction == 0)):
        marks = sorted(set(places))
        if len(marks) == 1:
            what = f"1 usable pair ('{pairs[0].id}')"
            if len(pairs) > 1:
                what = f"1 group of {len(pairs)} pairs ('{pairs[0].group}')"
            raise DataError(
                f"only {what}: it cannot be both train and val. Add photos, or set val_fraction=0 "
                "to train without validation"
            )
        middle = (marks[0] + marks[1]) / 2 if not val else (marks[-2] + marks[-1]) / 2
        works = _short_between(marks[0], marks[-1], middle)
        raise DataError(
            f"val_fraction={val_fraction} with seed={seed} puts {len(train)} of {len(pairs)} pairs "
            f"into train and {len(val)} into val; both need at least one. val_fraction={works} "
            "works (the split goes by a hash of the names, so small sets split unevenly)"
        )
    return train, val


def _short_between(low: float, high: float, near: float) -> float:
    """The number with the fewest digits that lies in (low, high], close to `near`."""
    for digits in range(1, 17):
        number = round(near, digits)
        if low < number <= high:
            return number
    return high


def same_bytes(train: Sequence[Pair], val: Sequence[Pair]) -> dict[str, str]:
    """val id -> id of a train photo with the same content. How long files are and what they end
    with is compared first, the whole only where these agree."""
    left, right = ([(p, _end(p)) for p in side] for side in (train, val))
    both = {end for _, end in left} & {end for _, end in right}
    known = {sha256(p.image): p.id for p, end in left if end in both}
    digests = {p.id: sha256(p.image) for p, end in right if end in both}
    return {id: known[digest] for id, digest in digests.items() if digest in known}


def _end(pair: Pair, n: int = 64) -> tuple[int, bytes]:
    with open(pair.image, "rb") as file:
        length = file.seek(0, 2)
        file.seek(max(0, length - n))
        return length, file.read()
