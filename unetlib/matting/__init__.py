"""Soft mask -> cut-out: refined alpha, foreground colours, composite. NumPy in, NumPy out.

Images are uint8 (H, W, 3) RGB, soft masks and alphas float32 (H, W) in [0, 1], cut-outs uint8
(H, W, 4) RGBA with straight (not premultiplied) alpha.
"""

from unetlib.matting.alpha import check_threshold, soft_to_alpha
from unetlib.matting.colours import estimate_foreground, multilevel_colours
from unetlib.matting.compose import (
    blurred,
    chequerboard,
    composite,
    fit_cover,
    greyed,
    mixed,
    parse_color,
)
from unetlib.matting.cutout import REFINEMENTS, CutOut, check_edge, cut_out

__all__ = [
    "REFINEMENTS", "CutOut", "blurred", "check_edge", "check_threshold", "chequerboard",
    "composite", "cut_out", "estimate_foreground", "fit_cover", "greyed", "mixed",
    "multilevel_colours", "parse_color", "soft_to_alpha",
]  # fmt: skip
