"""U-Net: an encoder that shrinks, a decoder that grows back, and skips between them.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015, https://arxiv.org/abs/1505.04597.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from unetlib.models.blocks import DoubleConv, Up, check_size

UPSAMPLINGS = ("bilinear", "transposed")


class UNet(nn.Module):
    """U-Net with batch norm and padded convolutions.

    Args:
        in_channels: channels of the input, 3 for RGB.
        out_channels: maps of logits, 1 for foreground against background.
        base: channels of the first level; every level below has twice as many.
        depth: how many times the image is halved (4 in the paper).
        upsampling: "bilinear" or "transposed", see `Up`. With "bilinear" the widths of the lower
            levels are halved, since there is no transposed convolution to halve them.
        skips: False cuts the skip connections, for the experiment that shows what they do.
        dropout: share of channels dropped behind the lowest level while training.
        half: a strided convolution halves the image first, and the logits are enlarged at the end.
            Four times as wide for the same work, at the price of the finest detail.

    Shape: float (N, in_channels, H, W), H and W any size of at least 2**depth -> logits
    (N, out_channels, H, W). Not probabilities: whoever needs those applies a sigmoid.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        base: int = 64,
        depth: int = 4,
        upsampling: str = "bilinear",
        skips: bool = True,
        dropout: float = 0.0,
        half: bool = False,
    ):
        super().__init__()
        if upsampling not in UPSAMPLINGS:
            raise ValueError(f"upsampling is one of {', '.join(UPSAMPLINGS)}, not {upsampling!r}")
        if base < 2 or depth < 1:
            raise ValueError(f"base is at least 2 and depth at least 1, not {base} and {depth}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a share in [0, 1), not {dropout}")
        self.depth = depth
        self.skips = skips
        halve = 2 if upsampling == "bilinear" else 1
        widths = [base * 2**level for level in range(depth)]  # 64 128 256 512
        bottom = base * 2**depth // halve  # 512 or 1024

        self.half = half
        if half:
            shrink = nn.Conv2d(in_channels, base, kernel_size=4, stride=2, padding=1, bias=False)
            self.shrink = nn.Sequential(shrink, nn.BatchNorm2d(base), nn.ReLU(inplace=True))
        self.stem = DoubleConv(base if half else in_channels, base)
        self.pool = nn.MaxPool2d(2)
        self.encoder = nn.ModuleList(
            DoubleConv(widths[level], widths[level + 1]) for level in range(depth - 1)
        )
        self.bottom = DoubleConv(widths[-1], bottom, dropout=dropout)
        self.decoder = nn.ModuleList()
        below = bottom
        for level in reversed(range(depth)):
            out = widths[level] // (halve if level else 1)
            self.decoder.append(Up(below, widths[level] if skips else 0, out, upsampling))
            below = out
        self.head = nn.Conv2d(base, out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_size(x, self.depth + self.half)
        size = x.shape[-2:]
        features = [self.stem(self.shrink(x) if self.half else x)]  # (N, 64, H, W)
        for level in self.encoder:
            features.append(level(self.pool(features[-1])))  # (N, 128, H/2, W/2), ...
        x = self.bottom(self.pool(features[-1]))  # (N, 512 or 1024, H/16, W/16)
        for level, skip in zip(self.decoder, reversed(features), strict=True):
            x = level(x, skip if self.skips else None, skip.shape[-2:])
        x = self.head(x)  # (N, 1, H, W)
        return F.interpolate(x, size=size, mode="bilinear") if self.half else x
