"""All that can be wrong with a dataset; and what is wrong with one photo or mask, by its pixels.

Each function returns (kind, reason, score) of what it found, a kind of KINDS. The
thresholds were set by measuring masks and photos of people, streets and drawn scenes: they lie
between what every one of those masks has and what planted faults have.
"""

import cv2
import numpy as np
from PIL import Image

from unetlib.data.images import JPEGS

SEVERITIES = ("error", "warning", "note")  # an error would spoil training
KINDS = {  # kind: its severity, and what to do
    "no pairs": ("error", "There is nothing to train with, or to validate with."),
    "unreadable": ("error", "Damaged, cut off, empty or no image: get the file again."),
    "another shape": ("error", "Export the mask from the uncropped photo again."),
    "lies on its side": ("error", "Apply the EXIF rotation to both, or to none."),
    "photo as mask": ("error", "The file beside the photo is a picture, not a mask."),
    "coloured mask": ("error", "Paint what is to be cut out white, the rest black."),
    "labels": (
        "error",
        "Read them with mask_kind=labels (trimaps: trimap), or make them 0 and 255.",
    ),
    "inverted mask": ("error", "White should be what is to be cut out."),
    "empty mask": ("error", "A photo with nothing to cut out teaches to find nothing."),
    "full mask": ("error", "Everything is foreground."),
    "blank photo": ("error", "There is nothing to see in it."),
    "mask as photo": ("error", "It is black and white like a mask: were the two exchanged?"),
    "masks beside their photos": ("error", "Are they shifted, mirrored, turned or exchanged?"),
    "same photo in train and val": ("error", "Scores on trained photos mean nothing."),
    "near copy in train and val": (
        "error",
        "Give them a group, or keep those of one side.",
    ),
    "same id in train and val": ("error", "Rename or remove one of them."),
    "same group in train and val": ("error", "Keep the photos of a group on one side."),
    "image without mask": ("warning", "It is left out of training."),
    "mask without image": ("warning", "It is left out of training."),
    "same stem": ("warning", "All of them are left out: keep one."),
    "same photo": ("warning", "It counts several times: keep one."),
    "near copy": (
        "warning",
        "Photos of one scene belong together: give them a group, or keep one.",
    ),
    "same mask": ("warning", "One mask for different photos: was one saved under a wrong name?"),
    "names differ in case": ("warning", "On Windows and macOS one replaces the other: rename one."),
    "mask beside its photo": ("warning", "Look whether it belongs to this photo."),
    "hardly a mask": ("warning", "Almost nothing, or almost everything, is foreground."),
    "grey end": ("warning", "Was the file cut off, and then repaired?"),
    "speckled mask": ("warning", "Many specks and holes: smooth it, or export it again."),
    "tiny photo": ("warning", "Too small to learn from."),
    "small mask": ("warning", "Its edges are coarse: export it in the photo's size."),
    "changed since the manifest": ("warning", "Prepare the set again if that was on purpose."),
    "unlike the others": ("note", "Look whether the mask is right."),
    "long photo": ("note", "Squeezed into the network's square input, little is left of it."),
    "mask of another size": ("note", "It is resized to the photo's size."),
    "JPEG mask": ("note", "JPEG blurs edges: save masks as PNG."),
    "few train photos": ("note", "So few are soon learned by heart."),
    "few val photos": ("note", "A score over so few photos says little."),
    "not in the manifest": ("note", "Prepare the set again to have them listed."),
    "another side in the manifest": ("note", "The folders decide, not manifest.csv."),
    "missing, but in the manifest": ("note", "Listed in manifest.csv, but not there."),
    "unknown type": ("note", "It is not used."),
    "resource fork": ("note", "Left behind by macOS, not used."),
    "skipped": ("note", "Not used."),
}
Fault = tuple[str, str, float]
SPECKS = 100  # in a mask that is to be looked at


def photo_faults(photo: np.ndarray, size: tuple[int, int], data: bytes) -> list[Fault]:
    """Of a photo, uint8 (H, W, 3), perhaps reduced from its true `size` (width, height), and of the
    content of its file."""
    faults: list[Fault] = []
    jpeg = data[:2] == b"\xff\xd8"
    ends = ((photo.max(-1) < 12) | (photo.min(-1) > 243)).mean()
    if max(photo.std((0, 1))) < 1.5:
        faults.append(("blank photo", "it is of one colour", 0.0))
    elif ends > 0.8 and np.ptp(photo, axis=-1).max() < 12:
        faults.append(("mask as photo", f"{ends:.0%} of it are black and white", ends))
    elif jpeg and _holes(data):
        faults.append(("unreadable", "a part of the file was never written: it holds zeros", 1.0))
    elif jpeg and (missing := _grey_end(photo)) > 0.05:
        faults.append(("grey end", f"the lower {missing:.0%} are plain grey", missing))
    if min(size) < 32:
        faults.append(("tiny photo", f"{size[0]} x {size[1]} pixels", 1 / min(size)))
    elif (aspect := max(size) / min(size)) > 4:
        faults.append(("long photo", f"{size[0]} x {size[1]} pixels", aspect))
    return faults


def _grey_end(photo: np.ndarray) -> float:
    """The share of rows below that have the grey which decoders put where a JPEG ends early. The
    same grey above or beside the picture is a frame."""
    grey = (np.abs(photo.astype(np.int16) - 128) <= 1).all(-1)
    rows = grey.all(1)
    missing = int(rows[::-1].argmin())
    above = grey[: len(grey) - missing]
    framed = rows.all() or rows[0] or above[:, 0].all() or above[:, -1].all()
    return 0.0 if framed else missing / len(rows)


def _holes(data: bytes) -> bool:
    """Whether a run of zeros lies in the pixels of a JPEG file, where no encoder writes one: unless
    its code of zeros means "the rest of this block is empty", which makes flat areas."""
    at, empty = 2, False
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xC4:  # code tables: kind and number, 16 counts, symbols; see ITU T.81
            table, end = at + 4, at + 2 + length
            while table + 17 < end:
                empty |= data[table] == 0x10 and data[table + 17] == 0
                table += 17 + sum(data[table + 1 : table + 17])
        at += 2 + max(length, 2)
    return not empty and data.find(bytes(64), at) >= 0


def size_faults(photo: tuple[int, int], mask: tuple[int, int]) -> list[Fault]:
    """Of sizes (width, height) of the same shape."""
    if photo == mask:
        return []
    scale = max(photo) / max(mask)
    kind = "small mask" if scale > 3 else "mask of another size"
    return [(kind, f"{mask[0]} x {mask[1]} for a photo of {photo[0]} x {photo[1]}", scale)]


def mask_faults(image: Image.Image, matte: np.ndarray, kind: str) -> list[Fault]:
    """Of a mask: `image` as stored, decoded, and `matte`, uint8 (H, W), as load_mask reads it."""
    faults: list[Fault] = []
    if image.format in JPEGS:
        faults.append(("JPEG mask", "it is a JPEG", 0.0))
    levels = _histogram(matte)
    soft = levels[26:230].sum()
    as_stored = kind == "labels" or image.mode in ("P", "PA")  # which are read as 0 and 255
    tones = _histogram(np.asarray(image.convert("L"))) if as_stored else levels
    spread, pure = _entropy(tones), tones[:4].sum() + tones[252:].sum()
    colours, coloured, flat = _colours(image, kind)
    top = (np.asarray(image) if len(image.getbands()) == 1 else matte).max()
    painted = colours >= 4 and flat > 0.8
    if not painted and ((spread > 4.3 and coloured > 0.05) or (spread > 5 and pure < 0.5)):
        what = "colours" if coloured > 0.05 else "greys"
        opaque = " (its alpha is opaque everywhere)" if "A" in image.mode else ""
        return [*faults, ("photo as mask", f"it holds {what} as a photo does{opaque}", spread)]
    if painted or colours >= 24 or (colours > 0 and coloured > 0.01 and soft > 0.02):
        what = f"it is painted in {colours} {'colours' if colours > 1 else 'colour'}"
        return [*faults, ("coloured mask", what, colours)]
    if not levels[128:].any() and top > 0:
        return [*faults, ("labels", f"nearly black: its largest value is {top}", 1.0)]
    if not levels[128:].any():
        return [*faults, ("empty mask", "all of it is background", 0.0)]
    if not levels[:128].any():
        why = "its alpha is opaque everywhere" if kind == "alpha" else "all of it is foreground"
        return [*faults, ("full mask", why, 0.0)]
    if (
        kind in ("auto", "matte")
        and (levels > 0).sum() <= 32
        and (flat := _flat_greys(matte)) > 0.01
    ):
        values = ", ".join(map(str, np.flatnonzero(levels > 0.001)[:8]))
        return [*faults, ("labels", f"a few flat greys ({values}), as labels have", flat)]
    small = cv2.resize(matte, (64, 64), interpolation=cv2.INTER_AREA) / 255
    border = np.concatenate([small[:6].ravel(), small[6:, :6].ravel(), small[6:, -6:].ravel()])
    middle = small[16:48, 16:48].mean()
    if border.mean() > 0.85 or (border.mean() > 0.7 and border.mean() - middle > 0.04):
        what = f"{border.mean():.0%} of its border is foreground, {middle:.0%} of its middle"
        faults.append(("inverted mask", what, float(border.mean() - middle)))
    if (specks := _specks(matte)) >= SPECKS:
        faults.append(("speckled mask", f"{specks} tiny specks and holes", specks))
    return faults


def _histogram(grey: np.ndarray) -> np.ndarray:
    """Shares of the 256 values of uint8 (H, W)."""
    return cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel() / grey.size


def _entropy(shares: np.ndarray) -> float:
    used = shares[shares > 0]
    return float(-(used * np.log2(used)).sum())


def _colours(image: Image.Image, kind: str) -> tuple[int, float, float]:
    """How many colours (no greys) there are that cover 0.1 % each, the share of all of them, and
    that of pixels like their right neighbour; none where only the alpha is read, or labels are."""
    if kind not in ("auto", "matte") or image.mode in ("1", "L", "LA", "F") or "I" in image.mode:
        return 0, 0.0, 0.0
    if image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255:
        return 0, 0.0, 0.0
    step = max(1, max(image.size) // 256)
    rows = np.asarray(image.convert("RGB"))[::step]
    flat = float((rows[:, 1:] == rows[:, :-1]).all(-1).mean()) if rows.shape[1] > 1 else 0.0
    rgb = rows[:, ::step].reshape(-1, 3)
    bright = rgb[np.ptp(rgb, axis=1) > 40] >> 4  # JPEG blurs a colour to a few close ones
    codes = np.bincount(bright @ np.array([256, 16, 1]), minlength=1)
    return int((codes > 0.001 * len(rgb)).sum()), len(bright) / len(rgb), flat


def _flat_greys(matte: np.ndarray) -> float:
    """The share of pixels of a middle grey that have the same grey below and to the right."""
    here = matte[:-1, :-1]
    flat = (here > 0) & (here < 250) & (here == matte[1:, :-1]) & (here == matte[:-1, 1:])
    return float(flat.mean()) if flat.size else 0.0


def _specks(matte: np.ndarray) -> int:
    """How many spots and holes are smaller than 1/50,000 of the mask (two pixels at least). Those
    in or beside soft parts are hair, and do not count."""
    step = max(1, max(matte.shape) // 1024)
    matte = np.ascontiguousarray(matte[::step, ::step])
    mask = cv2.inRange(matte, 128, 255)
    if cv2.countNonZero(mask ^ cv2.medianBlur(mask, 5)) < SPECKS:  # which is quick
        return 0
    soft = cv2.dilate(cv2.inRange(matte, 26, 229), np.ones((5, 5), np.uint8))
    count = 0
    for part in (mask, ~mask):
        boxes = cv2.connectedComponentsWithStats(part)[2][1:]
        tiny = boxes[boxes[:, cv2.CC_STAT_AREA] <= max(2, part.size / 50_000)]
        count += int((soft[tiny[:, cv2.CC_STAT_TOP], tiny[:, cv2.CC_STAT_LEFT]] == 0).sum())
    return count
