"""Two U-Nets as they were trained before this project, with exactly their parameters."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from unetlib.models.unet import UNet


class UNetDropout(UNet):
    """`unet_transposed` with dropout behind every pooling and a single convolution at the bottom.

    The bottom has a bias, and neither norm nor ReLU. The skips are taken before the dropout.

    Args:
        base: channels of the first level, 64 in the original.
        dropout: share of the pooled values that are set to 0 while training.

    Shape: float (N, 3, H, W), H and W any size of at least 16 -> logits (N, 1, H, W).
    """

    def __init__(self, base: int = 64, dropout: float = 0.6):
        super().__init__(base=base, upsampling="transposed")
        self.pool = nn.Sequential(nn.MaxPool2d(2), nn.Dropout(dropout))
        self.bottom = nn.Conv2d(8 * base, 16 * base, 3, padding=1)


class DropoutConv(nn.Sequential):
    """Twice (3×3 convolution with bias, dropout, batch norm, ReLU); (H, W) stays."""

    recompute = True

    def __init__(self, in_channels: int, out_channels: int, dropout: float):
        layers = []
        for channels in (in_channels, out_channels):
            layers.append(nn.Conv2d(channels, out_channels, 3, padding=1))
            layers += [nn.Dropout(dropout)] if dropout else []
            layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UNetPooled(nn.Module):
    """A U-Net for portraits, first written for Keras, that pools before its first convolution.

    Only the last two convolutions and the head work at full size, and there is no skip there.

    Args:
        base: channels of the first level, 64 in the original.
        dropout: share of values dropped while training in the lowest level, the first two
            upsamplings and the last one; there is none elsewhere.

    Shape: float (N, 3, H, W), H and W multiples of 32 -> logits (N, 1, H, W).
    """

    def __init__(self, base: int = 64, dropout: float = 0.3):
        super().__init__()
        widths = [base, 2 * base, 4 * base, 8 * base, 8 * base]  # at 1/2, 1/4, 1/8, 1/16, 1/32
        rates = [0, 0, 0, 0, dropout]
        self.encoder = nn.ModuleList(map(DropoutConv, [3, *widths], widths, rates))
        skips = [*reversed(widths[:-1]), 0]  # at 1/16, 1/8, 1/4, 1/2, full size
        widths = [8 * base, 4 * base, 2 * base, base, base]
        rates = [dropout, dropout, 0, 0, dropout]
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(below, width, 3, stride=2, padding=1, output_padding=1)
            for below, width in pairwise([8 * base, *widths])
        )
        merged = [width + skip for width, skip in zip(widths, skips, strict=True)]
        self.decoder = nn.ModuleList(map(DropoutConv, merged, widths, rates))
        self.head = nn.Conv2d(base, 1, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        if height % 32 or width % 32:
            smaller = "×".join(str(max(n // 32, 1) * 32) for n in (height, width))
            larger = "×".join(str(-(-n // 32) * 32) for n in (height, width))
            raise ValueError(
                f"unet_pooled takes heights and widths that are multiples of 32, not "
                f"{height}×{width}; the next are {smaller} and {larger}"
            )
        features = []
        for level in self.encoder:
            x = level(F.max_pool2d(x, 2))  # (N, 64, H/2, W/2), ... (N, 512, H/32, W/32)
            features.append(x)
        skips = [None, *features[:-1]]
        for up, level in zip(self.ups, self.decoder, strict=True):
            x, skip = up(x), skips.pop()
            x = level(x if skip is None else torch.cat([skip, x], dim=1))
        return self.head(x)  # (N, 1, H, W)
