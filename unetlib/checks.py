"""Exercises that check themselves, and say what is missing instead of "wrong".

A check is a function with `@exercise` before it. It calls the student's function and yields a hint
(or returns one), or None for each thing that is right. Most are rows for `compare`: what came out,
the right result, what to say, and typical wrong results with the hint that each deserves.
"""

import contextlib
import functools
import os
import sys
import traceback
from collections import namedtuple
from collections.abc import Callable
from copy import deepcopy

import cv2
import numpy as np
import torch
from torch import nn

from unetlib import losses
from unetlib.metrics import count
from unetlib.models import build_model
from unetlib.models.unet import UNet, Up
from unetlib.training import TrainConfig, fit

MIME = "application/vnd.unetlib.exercise+json"
UNTOUCHED = "nothing is returned so far. Write the function, end it with return, and come back"


class Verdict(namedtuple("Verdict", "exercise passed hint")):
    """What a check says: a sentence, and data (MIME) in a notebook. hint: None when passed."""

    def __repr__(self) -> str:
        return "correct" if self.passed else f"not yet: {self.hint}"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"text/plain": repr(self), MIME: self._asdict()}


def exercise(check: Callable) -> Callable[[Callable], Verdict | None]:
    """Turn `check` (student's function -> hints) into a function that returns a `Verdict`.

    Whatever the student's function raises becomes a hint. nbgrader (NBGRADER_EXECUTION is set)
    gives all points to a cell without an error, so a wrong answer raises AssertionError there; a
    right one is printed, as a value would pass for points.
    """

    @functools.wraps(check)
    def run(answer) -> Verdict | None:
        # nbgrader gives no points where there is any stderr
        with contextlib.redirect_stderr(sys.stdout), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
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
    def recorded(*arguments):  # which gets copies, but for what has a state of its own
        stateful = nn.Module, np.random.Generator
        copies = [a if isinstance(a, stateful) else deepcopy(a) for a in arguments]
        returned.append(answer(*copies))
        return returned[-1]

    try:
        said = check(recorded)
        hint = said if isinstance(said, str | None) else next(filter(None, said), None)
    except NotImplementedError:
        return UNTOUCHED
    except (Exception, SystemExit) as error:
        text, calls = f"{type(error).__name__}: {error}", traceback.extract_tb(error.__traceback__)
        names = [call.name for call in calls]
        if "recorded" in names:  # what follows is the student's
            calls = calls[names.index("recorded") + 1 :]
            lines = [call.lineno for call in calls if call.filename == calls[0].filename]
            return f"{f'line {lines[-1]} of ' if lines else ''}your code raised {text}"[:300]
        if isinstance(error, NameError):
            return f"run the cells above first, the check needs them ({text})"
        kind = type(returned[-1]).__name__ if returned else "answer"
        hint = f"the check cannot work with this {kind} ({text})"[:300]
    untouched = returned and all(value is None or value is ... for value in returned)
    return UNTOUCHED if hint is not None and untouched else hint


def compare(found, right, hint: str, *wrong, within: float = 1e-4) -> str | None:
    """None where `found` is the `right` number, array or tensor, within a tolerance. Else the hint
    of the `wrong` result (result, hint) that it is, or `hint` where it is none of them."""

    def plain(value):
        return np.asarray(value.detach().cpu() if torch.is_tensor(value) else value, float)

    found, right = plain(found), plain(right)
    for value, said in [(right, None), *((plain(value), said) for value, said in wrong)]:
        alike = found.shape == value.shape or found.size == value.size == 1
        if alike and np.abs(found - value).max() <= within:
            return said
    if found.shape != right.shape and found.size * right.size > 1:
        wanted = f"the shape should be {right.shape}" if right.shape else "return one number"
        return f"{wanted}, not {found.shape}: {hint}"
    return f"{hint}, not {found.item():.3f}" if found.size == 1 else hint


@exercise
def iou(answer):
    """01: IoU of two bool masks; two empty ones are equal."""
    a, b = np.zeros((2, 6, 6), bool)
    a[1:5, 1:5], b[2:6, 1:5] = True, True
    whole = "only pixels that are foreground somewhere count, not the whole picture"
    yield compare(
        answer(a, b),
        12 / 20,
        "two squares of 16 pixels that share 12 have 12 / 20 = 0.6",
        (24 / 32, "this is Dice: the intersection by the mean size. IoU divides by the union"),
        *((pixels / 36, whole) for pixels in (12, 20, 28)),
    )
    yield compare(answer(a, ~a), 0, "masks that share nothing score 0")
    yield compare(answer(a & False, a & False), 1, "two empty masks are equal and score 1")
    yield compare(max(answer(a & False, a), answer(a, a & False)), 0, "one empty mask scores 0")


@exercise
def mirrored_item(answer):
    """01: item i of a set twice as long, whose second half is mirrored."""
    items = [(torch.rand(3, 4, 6), torch.rand(1, 4, 6)) for _ in "abc"]
    twice = items + [(image.flip(-1), mask.flip(-1)) for image, mask in items]
    upside = "this is upside down. Left and right is the last axis of (3, H, W)"
    for i, (image, mask) in enumerate(twice):
        found = answer(items, i)
        if not isinstance(found, tuple | list) or len(found) != 2:
            yield "return two tensors, image and mask"
        hint = f"item {i} is item {i % 3} of the set" + ", mirrored along its last axis" * (i > 2)
        yield compare(found[0], image, hint, (items[i % 3][0].flip(1), upside))
        yield compare(found[1], mask, "the mask must be mirrored with the photo")


@exercise
def decoder_block(answer):
    """02: double x, bring it to the skip's size, set both side by side, convolve."""
    x, skip, odd = (torch.rand(2, *size) for size in ((8, 6, 5), (4, 12, 10), (4, 13, 11)))
    block = Up(8, 4, 5, "transposed").eval()
    yield compare(
        answer(x, skip, block.up, block.conv),
        block(x, skip, (12, 10)),
        "double x, torch.cat it behind the skip along the channels, then conv",
        (block.conv(torch.cat([block.up(x), skip], 1)), "the skip goes first"),
    )
    found = answer(x, odd, block.up, lambda both: both[:, :4])  # however x was resized
    yield compare(found, odd, "where x is 12 × 10 and the skip 13 × 11, x is resized")


@exercise
def depth_3(answer):
    """02: a U-Net of depth 3 from its parts."""
    net, x = UNet(base=4, depth=3, upsampling="transposed"), torch.rand(1, 3, 32, 24)
    levels, right = [net.stem, *net.encoder, net.bottom], net(x)
    ups, decoder = [level.up for level in net.decoder], [level.conv for level in net.decoder]
    yield compare(
        answer(x, levels, ups, decoder, net.head),
        right,
        "pool before each level but the first; in torch.cat the skip first, the lowest skip first; "
        "the head comes last",
        (right.sigmoid(), "return logits, without a sigmoid"),
    )


@exercise
def draw_mask(answer):
    """02: masks that a U-Net without skips cannot learn."""
    rng = np.random.default_rng(0)
    masks = [np.array(answer(rng)) for _ in range(32)]
    if any(m.shape != (64, 64) or not np.isin(m, (0, 1)).all() for m in masks):
        yield "return a bool array of 64 × 64"
    if len({m.tobytes() for m in masks}) < 24:
        yield "it draws the same again and again, and that can be memorised"
    y = torch.from_numpy(np.stack(masks)).float()[:, None]
    x = y + torch.from_numpy(rng.normal(0, 0.3, (32, 3, 64, 64))).float()
    batches, fresh = [(x[:8], y[:8]), (x[8:16], y[8:16])], {}
    for skips in (True, False):
        torch.manual_seed(0)
        model, config = build_model("unet_small", base=8, skips=skips), TrainConfig(30, lr=0.01)
        fit(model, batches, config=config, device="cpu", progress=False)
        with torch.no_grad():
            fresh[skips] = count(model(x[16:]) > 0, y[16:]).iou().mean().item()
    if fresh[True] < 0.8:
        yield f"even with skips the IoU is {fresh[True]:.2f}; is there enough foreground?"
    if fresh[False] > 0.5:
        yield f"without skips it is still {fresh[False]:.3f}; a block at the bottom is 16 wide"


@exercise
def dice_loss(answer):
    """03: the Dice loss of a batch."""
    x, t = torch.randn(3, 1, 8, 8, requires_grad=True), (torch.rand(3, 1, 8, 8) > 0.5).float()
    t[1] = 0  # an image without foreground
    found, right = answer(x, t), losses.dice_loss(x, t)
    pooled = losses.dice_loss(x.reshape(1, 1, 24, 8), t.reshape(1, 1, 24, 8))
    if not getattr(found, "requires_grad", False):
        yield "no gradient flows through it: no threshold, no .item(), no numpy on the way"
    yield compare(
        found,
        right,
        f"sigmoid, factor 2, 1 added above and below, sums per image: it should be {right:.3f}",
        (1 - right, "this is the score; the loss is 1 minus it"),
        (3 * right, "take the mean over the images, not the sum"),
        (losses.dice_loss(x[:1], t[:1]), "only the first image was looked at"),
        (pooled, "you pooled the batch into one big image; sum over each image alone"),
    )


class Bright(nn.Module):
    """A network whose logit is the first colour; in training mode it is wrong on purpose."""

    def forward(self, x):
        self.learned = torch.is_grad_enabled()
        return -x[:, :1] if self.training else x[:, :1]


@exercise
def validate(answer):
    """03: the mean IoU over the photos of all batches."""
    batches = [(torch.randn(n, 3, 6, 6), torch.rand(n, 1, 6, 6)) for n in (4, 4, 1)]
    right = [count(x[:, :1] > 0, y >= 0.5).iou() for x, y in batches]
    wrong = [count(x[:, :1] < 0, y >= 0.5).iou() for x, y in batches]
    by_batch = np.mean([ious.mean() for ious in right])
    net = Bright()
    yield compare(
        answer(net, batches),
        np.concatenate(right).mean(),
        "logits above 0 and masks from 0.5 on are foreground; one IoU per photo, then the mean",
        (by_batch, "the last batch is smaller: take the mean over photos, not over batches"),
        (np.concatenate(wrong).mean(), "still in training mode: net.eval() comes first"),
    )
    if net.learned:
        yield "right, but it keeps gradients: put it into `with torch.no_grad():`"
    if not net.training:
        yield "right, but the network stays in eval mode: end with net.train()"


@exercise
def which_run(answer):
    """03: which curves are those of few photos."""
    said = "".join(letter for letter in str(answer()).upper() if letter in "ABC")
    if said[:1] != "C":
        yield "eight drawings are memorised at once: the two curves of that run are far apart"
    if said != "CAB":
        yield "the more drawings, the closer both curves stay together"


@exercise
def explain(answer):
    """04: what kind of error is the larger one."""
    y, x = np.mgrid[:100, :100] - 50
    radius, spot = np.hypot(x, y), np.hypot(x - 35, y - 35) < 9
    disc, smaller = radius < 25, radius < 23
    for found, right, why in (
        (disc & (x < 5), "missed", "two fifths of the disc are lost"),
        (disc | spot, "false positive", "there is a spot beside the disc"),
        (smaller, "edge", "all wrong pixels lie within 2 pixels of the outline"),
        (radius < 27, "edge", "it is too large by 2 pixels all around"),
        ((disc & (x < 15)) | spot, "missed", "more is lost than was added"),
        (disc & False, "missed", "nothing was found"),
        (smaller | (spot & (x < 31)), "edge", "86 % of the wrong pixels are in the band"),
        (smaller & (x < 16), "missed", "less than 80 % are in the band"),
    ):
        said = answer(disc, found)
        if said != right:
            yield f"{why}, so {right!r}, not {said!r}"


@exercise
def choose_threshold(answer):
    """04: the cheapest threshold of some photos, and its cost on the others."""
    rng, thresholds, test = np.random.default_rng(1), np.arange(1, 20) / 20, np.arange(60) >= 30
    person = rng.random((60, 400)) < 0.4
    mean = np.where(person, 0.65, 0.35) + 0.15 * test[:, None]  # the test photos differ
    kept = rng.normal(mean, 0.15)[..., None] >= thresholds
    fp, fn = (kept & ~person[..., None]).sum(1), (~kept & person[..., None]).sum(1)
    for cost in (1, 5, 20):
        found, totals = answer(fp, fn, thresholds, cost, test), cost * fn + fp
        if not hasattr(found, "__len__") or len(found) != 2:
            yield "return two numbers: the threshold, and its mean cost on the test photos"
        best, tempting = totals[~test].sum(0).argmin(), totals[test].sum(0).argmin()
        yield compare(
            found[0],
            thresholds[best],
            f"cost × fn + fp, summed over photos: with cost {cost} another threshold is cheaper",
            (thresholds[tempting], "the best on the test photos: choose on the others (~test)"),
            (best, f"{best} is none of the thresholds; is it a place in the list?"),
        )
        hint = "the threshold is right; its cost is the mean over the test photos"
        yield compare(found[1], totals[test, best].mean(), hint)


@exercise
def foreground_colours(answer):
    """05: colours without the fringe of the old background."""
    rows, columns = np.mgrid[:120, :120] - 60
    alpha = np.clip((40 - np.hypot(rows, columns)) / 6 + 0.5, 0, 1).astype(np.float32)
    red, green = np.array([220, 20, 20]), np.array([20, 220, 20])
    photo = np.rint(alpha[..., None] * red + (1 - alpha[..., None]) * green).astype(np.uint8)
    found = np.asarray(answer(photo, alpha))
    weight = np.where(alpha < 1, alpha, 0)[..., None]  # how much of a fringe is seen
    fringe, before = ((weight * np.abs(c - red)).sum() for c in (found.astype(float), photo))
    if not fringe <= 0.9 * before:  # NaN, too
        yield "the fringe is still there: each pixel of the edge needs the colour of what is inside"
    if not fringe <= before / 2:
        yield "green is left: pixels count by alpha, as in blur(photo · alpha) / blur(alpha)"
    inside = alpha == 1
    hint = "where alpha is 1 the photo stays as it is"
    yield compare(found[inside], photo[inside], hint, within=1)


@exercise
def soft_focus(answer):
    """05: the person sharp, the rest blurred, alpha in between."""
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    alpha = np.tile(np.clip(np.arange(-15, 45) / 30, 0, 1), (40, 1)).astype(np.float32)
    share, blurred = alpha[..., None], cv2.blur(photo, (15, 15))
    right, reverse = (a * photo + (1 - a) * blurred for a in (share, 1 - share))
    found = np.asarray(answer(photo, alpha))
    yield compare(
        found,
        right,
        "alpha 1: the photo, 0: the blurred one, one half: half of each. Compute with floats",
        (reverse, "the other way round: the person stays sharp, and has alpha 1"),
        (blurred, "where alpha is 1 the photo stays as it is"),
        (photo, "where alpha is 0 only the blurred photo is seen"),
        within=1.5,
    )
    if found.dtype != np.uint8:
        yield f"nearly: photos are uint8, this is {found.dtype}. Round, then astype"
    if (found - right).mean() < -0.2:
        yield "a bit too dark everywhere: astype cuts off. np.rint rounds before that"


@exercise
def is_val(answer):
    """Appendix A: a split by person."""

    def sides(people):
        return [{bool(answer(f"{p}_{shot}")) for shot in (1, 2, 9, 10, 127)} for p in people]

    found = sides(f"person{k}" for k in range(500))
    torn, share = sum(len(side) > 1 for side in found), sum(True in side for side in found) / 500
    if torn:
        yield f"{torn} of 500 people are on both sides. What should be hashed?"
    if not 0.12 < share < 0.28:
        yield f"val has {share:.2f} of the people, it should be about 0.2"
    found = sides(f"eva_{k}" for k in range(100))
    if any(len(side) > 1 for side in found) or len(set(map(str, found))) == 1:
        yield "a person's name may hold a _ too, as eva_maria_12: only the last part is the shot"
