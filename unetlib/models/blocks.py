"""The bricks of a U-Net: a double convolution, and the step up that meets a skip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class DoubleConv(nn.Sequential):
    """Twice (3×3 convolution, batch norm, ReLU); padding 1, so that (H, W) stays.

    The paper's convolutions are unpadded and have no batch norm (which came a few months
    later); padding and batch norm are how the network is taught today. The convolutions have
    no bias because batch norm would subtract it again.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H, W).
    """

    recompute = True  # `checkpoint_activations` keeps only what goes into such a block

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        mid_channels: int | None = None,
        dropout: float = 0.0,
    ):
        mid = mid_channels or out_channels
        layers = [
            nn.Conv2d(in_channels, mid, 3, padding=1, bias=False),
            nn.BatchNorm2d(mid),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
        if dropout:
            layers.append(nn.Dropout2d(dropout))
        super().__init__(*layers)


class Up(nn.Module):
    """One decoder level: double the size, meet the encoder's features, convolve twice.

    Args:
        in_channels: channels that come from below.
        skip_channels: channels of the encoder's features at this level (0: no skip).
        out_channels: channels that go on upwards.
        upsampling: "bilinear" (no parameters) or "transposed" (a learned 2×2 convolution with
            stride 2, which also halves the channels, as in the paper).

    Shape: x (N, in_channels, h, w), skip (N, skip_channels, H, W) -> (N, out_channels, H, W).
    The upsampled x is resized to its skip where the two differ by the pixel that pooling an odd
    size drops: that is what lets any input size through.
    """

    recompute = True

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, upsampling: str):
        super().__init__()
        if upsampling == "bilinear":
            self.up: nn.Module = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            merged = in_channels + skip_channels
            self.conv = DoubleConv(merged, out_channels, mid_channels=in_channels)
        else:
            self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2)
            self.conv = DoubleConv(in_channels // 2 + skip_channels, out_channels)

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None, size: tuple[int, int]):
        x = self.up(x)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
        return self.conv(x if skip is None else torch.cat([skip, x], dim=1))


def check_size(x: torch.Tensor, halvings: int) -> None:
    """Raises ValueError where images (N, C, H, W) are too small to be halved so many times."""
    height, width = x.shape[-2:]
    least = 2**halvings
    if min(height, width) < least:
        raise ValueError(
            f"this network halves its input {halvings} times and needs at least {least}×{least} "
            f"pixels, not {height}×{width}"
        )
