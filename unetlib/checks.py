"""Exercises that check themselves, and say what is missing instead of "wrong".

A check is a function with `@exercise` before it. It gets the student's function, tries it, and
returns None when the answer is right, else a hint. A notebook shows "correct" or "not yet: HINT".
"""

import contextlib
import functools
import os
import sys
import traceback
from collections import namedtuple
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from unetlib import losses
from unetlib.config import TrainConfig
from unetlib.metrics import count
from unetlib.models import build_model
from unetlib.training import fit, seed_everything

MIME = "application/vnd.unetlib.exercise+json"
UNTOUCHED = "nothing is returned so far. Write the function, end it with return, and come back"


class Verdict(namedtuple("Verdict", "exercise passed hint")):
    """What a check says: a sentence, and data (MIME) in a notebook. hint: None when passed."""

    def __repr__(self) -> str:
        return "correct" if self.passed else f"not yet: {self.hint}"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"text/plain": repr(self), MIME: self._asdict()}


def exercise(check: Callable) -> Callable[[Callable], Verdict | None]:
    """Turn `check` (student's function -> None or a hint) into one that returns a `Verdict`.

    Whatever the student's function raises becomes a hint. nbgrader (NBGRADER_EXECUTION is set)
    gives all points to a cell without an error, so a wrong answer raises AssertionError there; a
    right one is printed, as a value would pass for points.
    """

    @functools.wraps(check)
    def run(answer) -> Verdict | None:
        with contextlib.redirect_stderr(sys.stdout):  # nbgrader gives no points where there is any
            hint = _hint(check, answer)
        if not os.environ.get("NBGRADER_EXECUTION"):
            return Verdict(check.__name__, hint is None, hint)
        if hint is not None:
            raise AssertionError(hint)
        print("correct")

    return run


def _hint(check: Callable, answer: Callable) -> str | None:
    returned = []

    @functools.wraps(answer)
    def watched(*arguments, **named):
        returned.append(answer(*arguments, **named))
        return returned[-1]

    try:
        hint = check(watched)
    except NotImplementedError:
        return UNTOUCHED
    except (Exception, SystemExit) as error:
        text, calls = f"{type(error).__name__}: {error}", traceback.extract_tb(error.__traceback__)
        names = [call.name for call in calls]
        if "watched" in names:  # what follows is the student's
            calls = calls[names.index("watched") + 1 :]
            lines = [call.lineno for call in calls if call.filename == calls[0].filename]
            return f"{f'line {lines[-1]} of ' if lines else ''}your code raised {text}"[:300]
        if isinstance(error, NameError):
            return f"run the cells above first, the check needs them ({text})"
        kind = type(returned[-1]).__name__ if returned else "answer"
        hint = f"the check cannot work with this {kind} ({text})"[:300]
    untouched = returned and all(value is None or value is ... for value in returned)
    return UNTOUCHED if hint is not None and untouched else hint


@exercise
def iou(answer):
    """01: IoU of two bool masks; two empty ones are equal."""
    a, b = np.zeros((2, 6, 6), bool)
    a[1:5, 1:5], b[2:6, 1:5] = True, True
    found = float(answer(a, b))
    if np.isclose(found, 24 / 32):
        return "this is Dice: the intersection by the mean size. IoU divides by the union"
    if np.isclose(found, 12 / 36) or np.isclose(found, 20 / 36):
        return "only pixels that are foreground somewhere count, not the whole picture"
    if not np.isclose(found, 12 / 20):
        return f"two squares of 16 pixels that share 12 have 12 / 20 = 0.6, not {found:.3f}"
    if not np.isclose(float(answer(a, ~a)), 0):
        return "masks that share nothing score 0"
    if float(answer(a & False, a & False)) != 1:
        return "two empty masks are equal and score 1"
    if not np.isclose(float(answer(a & False, a)), 0):
        return "an empty mask and one that is not score 0"


@exercise
def mirrored_item(answer):
    """01: item i of a set twice as long, whose second half is mirrored."""
    rng = torch.Generator().manual_seed(0)
    items = [
        (torch.rand(3, 4, 6, generator=rng), torch.rand(1, 4, 6, generator=rng)) for _ in "abc"
    ]
    for i, (image, mask) in enumerate(items):
        same, mirrored = answer(items, i), answer(items, i + 3)
        if len(same) != 2 or len(mirrored) != 2:
            return "return two tensors, image and mask"
        if not (torch.equal(same[0], image) and torch.equal(same[1], mask)):
            return f"item {i} of 3 is as it is in the set"
        if torch.equal(mirrored[0], image):
            return f"item {i + 3} is item {i}, mirrored"
        if torch.equal(mirrored[0], image.flip(1)):
            return "this is upside down. Left and right is the last axis of (3, H, W)"
        if not torch.equal(mirrored[0], image.flip(-1)):
            return f"item {i + 3} is the image of item {i} with its last axis flipped"
        if not torch.equal(mirrored[1], mask.flip(-1)):
            return "the mask must be mirrored with the photo"


@exercise
@torch.no_grad()
def decoder_block(answer):
    """02: double x, bring it to the skip's size, set both side by side, convolve."""
    seed_everything(0)
    up, conv = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, 5, 3, padding=1)
    for height, width in ((12, 10), (13, 11)):
        x, skip = torch.rand(2, 8, height // 2, width // 2), torch.rand(2, 4, height, width)
        larger = up(x)
        if larger.shape[-2:] != skip.shape[-2:]:
            larger = F.interpolate(larger, size=skip.shape[-2:])
        found = answer(x, skip, up, conv)
        if tuple(found.shape) != (2, 5, height, width):
            return (
                f"with a skip of {height} × {width} the result should be (2, 5, {height}, {width})"
            )
        if torch.allclose(found, conv(torch.cat([larger, skip], 1)), atol=1e-5):
            return "the skip goes first"
        inner = (..., slice(0, height - 2), slice(0, width - 2))  # however the rest was resized
        right = conv(torch.cat([skip, larger], 1))
        if height % 2 == 0 and not torch.allclose(found[inner], right[inner], atol=1e-5):
            return "double x, torch.cat it behind the skip along the channels, then conv"


@exercise
@torch.no_grad()
def depth_3(answer):
    """02: a U-Net of depth 3 from its parts."""
    seed_everything(0)
    widths = [3, 4, 8, 16, 32]
    levels = [nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, widths[1:], strict=False)]
    ups = [nn.ConvTranspose2d(w, w // 2, 2, stride=2) for w in (32, 16, 8)]
    decoder = [nn.Conv2d(w, w // 2, 3, padding=1) for w in (32, 16, 8)]
    head, x = nn.Conv2d(4, 1, 1), torch.rand(1, 3, 32, 24)
    features = [levels[0](x)]
    for level in levels[1:]:
        features.append(level(F.max_pool2d(features[-1], 2)))
    y = features.pop()
    for up, level in zip(ups, decoder, strict=True):
        y = level(torch.cat([features.pop(), up(y)], 1))
    found = answer(x, levels, ups, decoder, head)
    if tuple(found.shape) != (1, 1, 32, 24):
        return f"logits should be (1, 1, 32, 24), not {tuple(found.shape)}: head comes last"
    if torch.allclose(found, head(y).sigmoid(), atol=1e-4):
        return "return logits, without a sigmoid"
    if not torch.allclose(found, head(y), atol=1e-4):
        return (
            "pool before each level but the first; in torch.cat the skip first; lowest skip first"
        )


@exercise
def draw_mask(answer):
    """02: masks that a U-Net without skips cannot learn."""
    rng = np.random.default_rng(0)
    masks = [np.array(answer(rng)) for _ in range(32)]
    if any(m.shape != (64, 64) or not np.isin(m, (0, 1)).all() for m in masks):
        return "return a bool array of 64 × 64"
    if len({m.tobytes() for m in masks}) < 24:
        return "it draws the same again and again, and that can be memorised"
    masks = torch.from_numpy(np.stack(masks)).float()[:, None]
    photos = masks + torch.from_numpy(rng.normal(0, 0.3, (32, 3, 64, 64))).float()
    loader = DataLoader(TensorDataset(photos[:16], masks[:16]), batch_size=8)
    fresh = {}  # IoU on the other 16, with skips and without
    for skips in (True, False):
        seed_everything(0)
        model = build_model("unet_small", base=8, skips=skips)
        fit(model, loader, config=TrainConfig(epochs=30, lr=0.01), device="cpu", progress=False)
        with torch.no_grad():
            fresh[skips] = count(model(photos[16:]) > 0, masks[16:]).iou().mean().item()
    if fresh[True] < 0.8:
        return f"even with skips the IoU is {fresh[True]:.2f}; is there enough foreground?"
    if fresh[False] > 0.5:
        return f"without skips it is still {fresh[False]:.2f}; a block at the bottom is 16 wide"


@exercise
def dice_loss(answer):
    """03: the Dice loss of a batch."""
    torch.manual_seed(0)
    x = torch.randn(3, 1, 8, 8, requires_grad=True)
    t = (torch.rand(3, 1, 8, 8) > 0.5).float()
    t[1] = 0  # an image without foreground
    loss, right = answer(x, t.clone()), losses.dice_loss(x, t).item()
    if not torch.is_tensor(loss) or loss.numel() != 1:
        return "return one number as a tensor, the mean over the images"
    if not loss.requires_grad:
        return "no gradient flows through it: no threshold, no .item(), no numpy on the way"
    pooled = losses.dice_loss(x.reshape(1, 1, 24, 8), t.reshape(1, 1, 24, 8)).item()
    known = {
        "this is the score; the loss is 1 minus it": 1 - right,
        "only the first image was looked at": losses.dice_loss(x[:1], t[:1]).item(),
        "you pooled the batch into one big image; sum over each image alone": pooled,
    }
    for hint, value in known.items():
        if abs(loss.item() - value) < 1e-4:
            return hint
    if not abs(loss.item() - right) < 1e-4:
        return (
            f"it should be {right:.3f}: sigmoid, factor 2, 1 added above and below, sums per image"
        )


class Bright(nn.Module):
    """A network whose logit is the first colour; in training mode it is wrong on purpose."""

    def forward(self, x):
        self.learned = torch.is_grad_enabled()
        return -x[:, :1] if self.training else x[:, :1]


@exercise
def validate(answer):
    """03: the mean IoU over the photos of all batches."""
    torch.manual_seed(0)
    batches = [(torch.randn(n, 3, 6, 6), torch.rand(n, 1, 6, 6)) for n in (4, 4, 1)]
    per_batch = [count(x[:, :1] > 0, y >= 0.5).iou() for x, y in batches]
    net = Bright().train()
    found = float(answer(net, batches))
    if np.isclose(found, np.mean([ious.mean() for ious in per_batch])):
        return "the last batch is smaller: take the mean over photos, not over batches"
    if not np.isclose(found, np.concatenate(per_batch).mean(), atol=1e-5):
        wrong = [count(x[:, :1] < 0, y >= 0.5).iou() for x, y in batches]
        if np.isclose(found, np.concatenate(wrong).mean(), atol=1e-5):
            return "the network is still in training mode: net.eval() comes first"
        return (
            "logits above 0 and masks from 0.5 on are foreground; one IoU per photo, then the mean"
        )
    if net.learned:
        return "right, but it keeps gradients: put it into `with torch.no_grad():`"
    if not net.training:
        return "right, but the network stays in eval mode: end with net.train()"


@exercise
def which_run(answer):
    """03: which curves are those of few photos."""
    said = "".join(letter for letter in str(answer()).upper() if letter in "ABC")
    if sorted(said) != ["A", "B", "C"]:
        return "return the three letters, such as 'CAB'"
    if said[0] != "C":
        return "eight drawings are memorised at once: the two curves of that run are far apart"
    if said != "CAB":
        return "the more drawings, the closer both curves stay together"


@exercise
def explain(answer):
    """04: what kind of error is the larger one."""
    y, x = np.mgrid[:100, :100] - 50
    disc = np.hypot(x, y) < 25
    spot = np.hypot(x - 35, y - 35) < 9
    cases = [
        (disc & (x < 5), "missed", "two fifths of the disc are lost"),
        (disc | spot, "false positive", "there is a spot beside the disc"),
        (np.hypot(x, y) < 23, "edge", "all wrong pixels lie within 2 pixels of the outline"),
        (np.hypot(x, y) < 27, "edge", "it is too large by 2 pixels all around"),
        ((disc & (x < 15)) | spot, "missed", "more is lost than was added"),
        (disc & False, "missed", "nothing was found"),
        (
            (np.hypot(x, y) < 23) | (spot & (x < 31)),
            "edge",
            "86 % of the wrong pixels are in the band",
        ),
        ((np.hypot(x, y) < 23) & (x < 16), "missed", "less than 80 % are in the band"),
    ]
    for found, right, why in cases:
        said = answer(disc.copy(), found)
        if said != right:
            return f"{why}, so {right!r}, not {said!r}"


@exercise
def choose_threshold(answer):
    """04: the cheapest threshold of some photos, and its cost on the others."""
    rng = np.random.default_rng(1)
    thresholds = np.arange(1, 20) / 20
    person = rng.random((60, 400)) < 0.4
    shift = np.where(np.arange(60) < 30, 0.0, 0.15)[:, None]  # the test photos differ
    soft = np.clip(rng.normal(np.where(person, 0.65, 0.35) + shift, 0.15), 0, 1)
    kept = soft[..., None] >= thresholds
    fp, fn = (kept & ~person[..., None]).sum(1), (~kept & person[..., None]).sum(1)
    test, found = np.arange(60) >= 30, {}
    for cost in (1, 5, 20):
        answered = answer(fp.copy(), fn.copy(), thresholds, cost, test)
        if np.shape(answered) != (2,):
            return "return two numbers: the threshold, and its mean cost on the test photos"
        found[cost], said = map(float, answered)
        totals = cost * fn + fp
        place = totals[~test].mean(0).argmin()
        if np.isclose(found[cost], thresholds[totals[test].mean(0).argmin()]) and not np.isclose(
            found[cost], thresholds[place]
        ):
            return "this is the best on the test photos: choose on the others (~test)"
        if not np.isclose(found[cost], thresholds).any():
            return f"{found[cost]} is none of the thresholds; is it a place in the list?"
        if not np.isclose(found[cost], thresholds[place]):
            return (
                f"with cost {cost} another threshold is cheaper: cost × fn + fp, summed over photos"
            )
        if not np.isclose(said, totals[test, place].mean()):
            return "the threshold is right; its cost is the mean over the test photos"


@exercise
def foreground_colours(answer):
    """05: colours without the fringe of the old background."""
    rows, columns = np.mgrid[:120, :120] - 60
    alpha = np.clip((40 - np.hypot(rows, columns)) / 6 + 0.5, 0, 1).astype(np.float32)
    red, green = np.array([220, 20, 20]), np.array([20, 220, 20])
    photo = np.rint(alpha[..., None] * red + (1 - alpha[..., None]) * green).astype(np.uint8)
    found = np.asarray(answer(photo.copy(), alpha.copy()))
    if found.shape != photo.shape:
        return f"return an array {photo.shape}, this is {found.shape}"
    edge = (alpha > 0.05) & (alpha < 1)
    fringe = (alpha[..., None] * np.abs(found.astype(float) - red))[edge].mean()
    before = (alpha[..., None] * np.abs(photo.astype(float) - red))[edge].mean()
    if fringe > 0.9 * before:
        return (
            "the fringe is still there: each pixel of the edge needs the colour of what is inside"
        )
    if fringe > before / 2:
        return "green is left: pixels count by alpha, as in blur(photo · alpha) / blur(alpha)"
    if np.abs(found[alpha == 1] - photo[alpha == 1].astype(float)).max() > 1:
        return "where alpha is 1 the photo stays as it is"


@exercise
def soft_focus(answer):
    """05: the person sharp, the rest blurred, alpha in between."""
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    alpha = np.tile(np.clip(np.arange(-15, 45) / 30, 0, 1), (40, 1)).astype(np.float32)
    found = np.asarray(answer(photo.copy(), alpha.copy()))
    if found.shape != photo.shape:
        return f"expected an array {photo.shape}, this is {found.shape}. Try alpha[..., None]"
    blurred = cv2.blur(photo, (15, 15)).astype(float)
    if np.abs(found[alpha == 1] - blurred[alpha == 1]).max() <= 1:
        return "the other way round: the person stays sharp, and has alpha 1"
    if np.abs(found[alpha == 1] - photo[alpha == 1].astype(float)).max() > 1:
        return "where alpha is 1 the photo stays as it is"
    if np.abs(found[alpha == 0] - blurred[alpha == 0]).max() > 1:
        return "where alpha is 0 only the blurred photo is seen"
    right = alpha[..., None] * photo + (1 - alpha[..., None]) * blurred
    if not np.abs(found - right).max() < 1.5:
        return "where alpha is one half, half of each. Compute with floats"
    if found.dtype != np.uint8:
        return f"nearly: photos are uint8, this is {found.dtype}. Round, then astype"
    if (found - right).mean() < -0.2:
        return "a bit too dark everywhere: astype cuts off. np.rint rounds before that"


@exercise
def order_of_parts(answer):
    """06: what comes right first, and what last."""
    said = list(answer())
    if sorted(said) != ["core", "edge", "thin"]:
        return "return the three names: core, edge and thin, from the best to the worst"
    if said[0] != "core":
        return "what does the lowest level of the U-Net see, and what can it not see?"
    if said[2] != "thin":
        return "a strand of hair is thinner than a pixel of most levels"


@exercise
def is_val(answer):
    """Appendix A: a split by person."""

    def sides(people):
        return {p: {bool(answer(f"{p}_{shot}")) for shot in (1, 2, 9, 10, 127)} for p in people}

    found = sides([f"person{k}" for k in range(500)])
    torn = [person for person, side in found.items() if len(side) > 1]
    if torn:
        return f"{len(torn)} of 500 people are on both sides, as {torn[0]}. What should be hashed?"
    share = np.mean([True in side for side in found.values()])
    if not 0.12 < share < 0.28:
        return f"val has {share:.2f} of the people, it should be about 0.2"
    found = sides([f"eva_{k}" for k in range(100)])
    if any(len(side) > 1 for side in found.values()) or len(set(map(str, found.values()))) == 1:
        return "a person's name may hold a _ too, as eva_maria_12: only the last part is the shot"
