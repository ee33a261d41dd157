"""U-Net: an encoder that shrinks, a decoder that grows back, and skips between them.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015, https://arxiv.org/abs/1505.04597.
"""

import torch
import torch.nn.functional as F
from torch import nn


class DoubleConv(nn.Sequential):
    """Twice (3×3 convolution, batch norm, ReLU): (N, in, H, W) -> (N, out, H, W).

    The paper's convolutions are unpadded and have no batch norm. Without `dropout`, here they have
    no bias, which batch norm would subtract again.
    """

    def __init__(self, in_channels: int, out_channels: int, mid_channels=None, dropout=None):
        mid, layers = mid_channels or out_channels, []
        for ins, outs in ((in_channels, mid), (mid, out_channels)):
            layers.append(nn.Conv2d(ins, outs, 3, padding=1, bias=dropout is not None))
            layers += [nn.Dropout(dropout)] if dropout else []
            layers += [nn.BatchNorm2d(outs), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class Up(nn.Module):
    """One decoder level: double the size, meet the encoder's features, convolve twice.

    `upsampling`: "bilinear", or "transposed": a learned convolution that also halves the channels.
    Shape: x (N, in_channels, h, w), skip (N, skip_channels, *size) or None -> (N, out_channels,
    *size); after an odd size one pixel is missing, and x is resized.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, upsampling: str):
        super().__init__()
        if upsampling == "bilinear":
            self.up: nn.Module = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(in_channels + skip_channels, out_channels, in_channels)
        else:
            self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2)
            self.conv = DoubleConv(in_channels // 2 + skip_channels, out_channels)

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None, size: tuple[int, int]):
        x = self.up(x)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
        return self.conv(x if skip is None else torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    """U-Net with batch norm and padded convolutions.

    Shape: float (N, 3, H, W), H and W at least 2**depth, 2**(depth + 1) with `half` ->
    logits (N, 1, H, W).
    """

    def __init__(
        self,
        base: int = 64,  # channels of the first level; every level below has twice as many
        depth: int = 4,  # how many times the image is halved
        upsampling: str = "bilinear",  # see `Up`; this one halves the widths of the lower levels
        skips: bool = True,  # False cuts the skip connections, to see what they do
        dropout: float = 0.0,  # share of channels dropped behind the lowest level while training
        half: bool = False,  # work at half the size: wider for the same cost, without fine detail
    ):
        super().__init__()
        if base < 2 or not 1 <= depth <= 9:
            raise ValueError(f"base is at least 2 and depth 1 to 9, not {base} and {depth}")
        if upsampling not in ("bilinear", "transposed"):
            raise ValueError(f"upsampling is bilinear or transposed, not {upsampling!r}")
        self.skips, self.halved = skips, half  # nn.Module has a `half`
        narrow = 2 if upsampling == "bilinear" else 1
        widths = [base * 2**level for level in range(depth)]  # 64, 128, 256, 512
        below = 2 * widths[-1] // narrow  # 512 or 1024
        if half:
            shrink = nn.Conv2d(3, base, kernel_size=4, stride=2, padding=1, bias=False)
            self.shrink = nn.Sequential(shrink, nn.BatchNorm2d(base), nn.ReLU(inplace=True))
        self.stem = DoubleConv(base if half else 3, base)
        self.pool = nn.MaxPool2d(2)
        self.encoder = nn.ModuleList(DoubleConv(width, 2 * width) for width in widths[:-1])
        self.bottom = DoubleConv(widths[-1], below)
        self.drop = nn.Dropout2d(dropout)
        self.decoder = nn.ModuleList()
        for level in reversed(range(depth)):
            out = widths[level] // (narrow if level else 1)
            self.decoder.append(Up(below, widths[level] if skips else 0, out, upsampling))
            below = out
        self.head = nn.Conv2d(base, 1, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, least = x.shape[-2:], 2 ** (len(self.decoder) + self.halved)
        if min(size) < least:
            raise ValueError(f"this network needs {least}×{least} pixels or more, not {size}")
        features = [self.stem(self.shrink(x) if self.halved else x)]  # (N, 64, H, W)
        for level in self.encoder:
            features.append(level(self.pool(features[-1])))  # (N, 128, H/2, W/2), ...
        x = self.drop(self.bottom(self.pool(features[-1])))  # (N, 512 or 1024, H/16, W/16)
        for level, skip in zip(self.decoder, reversed(features), strict=True):
            x = level(x, skip if self.skips else None, skip.shape[-2:])
        x = self.head(x)  # (N, 1, H, W)
        return F.interpolate(x, size=size, mode="bilinear") if self.halved else x


class UNetDropout(UNet):
    """`unet_transposed` with dropout of pooled values and a single convolution at the bottom."""

    def __init__(self, base: int = 64, dropout: float = 0.6):
        super().__init__(base=base, upsampling="transposed")
        self.pool = nn.Sequential(nn.MaxPool2d(2), nn.Dropout(dropout))
        self.bottom = nn.Conv2d(8 * base, 16 * base, 3, padding=1)


class UNetPooled(nn.Module):
    """A U-Net for portraits that pools before its first convolution, with no skip at full size.

    Shape: float (N, 3, H, W), H and W any size of at least 32 -> logits (N, 1, H, W).
    """

    def __init__(self, base: int = 64, dropout: float = 0.3):
        super().__init__()
        self.encoder, self.ups, self.decoder = (nn.ModuleList() for _ in range(3))
        down = (1, 0), (2, 0), (4, 0), (8, 0), (8, dropout)
        up = (8, 8, dropout), (4, 4, dropout), (2, 2, 0), (1, 1, 0), (1, 0, dropout)
        below = 3
        for factor, rate in down:
            self.encoder.append(DoubleConv(below, factor * base, dropout=rate))
            below = factor * base
        for factor, skip, rate in up:
            out = factor * base
            self.ups.append(nn.ConvTranspose2d(below, out, 3, 2, padding=1, output_padding=1))
            self.decoder.append(DoubleConv(out + skip * base, out, dropout=rate))
            below = out
        self.head = nn.Conv2d(base, 1, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [x]  # of which the photo itself only says the size
        for level in self.encoder:
            features.append(level(F.max_pool2d(features[-1], 2)))  # (N, 64, H/2, W/2), ...
        x = features.pop()  # (N, 512, H/32, W/32)
        for up, level in zip(self.ups, self.decoder, strict=True):
            skip = features.pop()
            x = F.interpolate(up(x), size=skip.shape[-2:])  # after an odd size a pixel is missing
            x = level(torch.cat([skip, x], dim=1) if features else x)
        return self.head(x)  # (N, 1, H, W)
