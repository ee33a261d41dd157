"""U²-Net: a U whose every stage is a small U itself.

Qin, Zhang, Huang, Dehghan, Zaiane and Jagersand, "U²-Net: Going Deeper with Nested U-Structure
for Salient Object Detection", Pattern Recognition 2020, https://arxiv.org/abs/2005.09007.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from unetlib.models.blocks import check_size

Widths = Sequence[tuple[int, int]]
HEIGHTS = (7, 6, 5, 4, 4, 4)  # of the stages, full size first: convolutions on their way down
ENCODER = ((32, 64), (32, 128), (64, 256), (128, 512), (256, 512), (256, 512))
DECODER = ((16, 64), (32, 64), (64, 128), (128, 256), (256, 512))
# the official names of modules with a number, their d for "decoder" included, and of the others
PARTS = {"stage": "encoder", "staged": "decoder", "rebnconv": "down", "rebnconvd": "up"}
OTHERS = {"rebnconvin": "entry", "conv_s1": "conv", "bn_s1": "norm", "outconv": "fuse"}


class ConvNormReLU(nn.Sequential):
    """3×3 convolution with a bias (as the paper's code has it), batch norm, ReLU; (H, W) stays."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int):
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
        norm, relu = nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
        super().__init__(OrderedDict(conv=conv, norm=norm, relu=relu))


class RSU(nn.Module):
    """Residual U-block: a small U-Net whose result is added to what went into it.

    Args:
        height: convolutions on the way down, 7 to 4 (the paper's RSU-7 to RSU-4).
        in_channels, mid, out: channels of the input, inside the U, of the output.
        dilated: the paper's RSU-4F. No pooling; dilations of 1, 2, 4, 8 widen the view instead.

    Shape: (N, in_channels, H, W) -> (N, out, H, W), any H and W.
    """

    recompute = True

    def __init__(self, height: int, in_channels: int, mid: int, out: int, dilated: bool):
        super().__init__()
        self.dilated = dilated
        dilations = [2**k if dilated else 1 for k in range(height)]
        if not dilated:
            dilations[-1] = 2  # the lowest convolution is not pooled either
        ins, outs = [out] + [mid] * (height - 1), [out] + [mid] * (height - 2)
        self.entry = ConvNormReLU(in_channels, out, 1)
        self.down = nn.ModuleList(ConvNormReLU(ins[k], mid, dilations[k]) for k in range(height))
        self.up = nn.ModuleList(  # up[k] meets down[k], so that up[0] is the last one
            ConvNormReLU(2 * mid, outs[k], dilations[k]) for k in range(height - 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        entry = x = self.entry(x)
        features = []
        for k, level in enumerate(self.down):
            x = level(halve(x) if 0 < k < len(self.up) and not self.dilated else x)
            features.append(x)
        x = features.pop()
        for level, skip in zip(reversed(self.up), reversed(features), strict=True):
            x = level(torch.cat([resize_to(x, skip), skip], dim=1))
        return x + entry


class U2Net(nn.Module):
    """U²-Net with its six side outputs and their fusion.

    Args:
        encoder: (channels inside, channels out) of the six stages on the way down.
        decoder: the same of the five on the way up, full size first, as in `encoder`.

    Shape: float (N, 3, H, W), H and W any size of at least 32 -> in eval mode the fused logits
    (N, 1, H, W); in training mode what `outputs` returns, so that a loss can supervise every map.
    """

    def __init__(self, encoder: Widths = ENCODER, decoder: Widths = DECODER):
        super().__init__()
        if (len(encoder), len(decoder)) != (6, 5):
            given = f"{len(encoder)} and {len(decoder)}"
            raise ValueError(f"U²-Net has 6 pairs of widths in encoder, 5 in decoder, not {given}")
        skips = [out for _, out in encoder]
        ups = [*(out for _, out in decoder), skips[-1]]  # what comes up, from the bottom at last
        self.encoder = nn.ModuleList(
            RSU(HEIGHTS[k], [3, *skips][k], *encoder[k], k >= 4) for k in range(6)
        )
        self.decoder = nn.ModuleList(  # decoder[k] meets encoder[k]
            RSU(HEIGHTS[k], ups[k + 1] + skips[k], *decoder[k], k >= 4) for k in range(5)
        )
        self.sides = nn.ModuleList(nn.Conv2d(channels, 1, 3, padding=1) for channels in ups)
        self.fuse = nn.Conv2d(6, 1, kernel_size=1)

    def outputs(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """All seven maps of logits at full size: d0 the fusion, d1 (full size) to d6 (1/32)."""
        check_size(x, 5)
        image, features = x, []
        for k, stage in enumerate(self.encoder):
            x = stage(halve(x) if k else x)  # (N, 64, H, W), (N, 128, H/2, W/2), ...
            features.append(x)
        for k in reversed(range(5)):
            x = torch.cat([resize_to(features[k + 1], features[k]), features[k]], dim=1)
            features[k] = self.decoder[k](x)
        # one map is enlarged, not the 64 to 512 features that it is made of
        maps = [resize_to(side(f), image) for side, f in zip(self.sides, features, strict=True)]
        return {f"d{k}": d for k, d in enumerate([self.fuse(torch.cat(maps, dim=1)), *maps])}

    def forward(self, x: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        return self.outputs(x) if self.training else self.outputs(x)["d0"]


def halve(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 2, ceil_mode=True)  # an odd size keeps its last row


def resize_to(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    same = x.shape[-2:] == other.shape[-2:]
    return x if same else F.interpolate(x, other.shape[-2:], mode="bilinear", align_corners=False)


def load_official_u2net(path: str | Path) -> nn.Module:
    """The state dict of an official release (u2net.pth, u2netp.pth) in our `u2net` or `u2netp`.

    Which of them is told from the shapes. Returns the model in eval mode, with a `spec`, so that
    it can be saved as a checkpoint.

    Raises ValueError for a file that is no state dict, and for one of another network: the message
    has the first three keys or shapes that do not fit.
    """
    from unetlib.models import build_model  # that module imports this one

    try:
        official = torch.load(path, map_location="cpu", weights_only=True)
        names = {our_name(key): key for key in official}
        theirs = {name: tuple(official[key].shape) for name, key in names.items()}
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not a state dict of plain weights: {error}") from error
    small = theirs.get("encoder.0.down.0.conv.weight", ())[:1] == (16,)
    model = build_model("u2netp" if small else "u2net")
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    misfits = [
        f"{names.get(name, name)} is {theirs.get(name, 'absent')} in the file "
        f"and {own.get(name, 'absent')} in the model"
        for name in {**theirs, **own}
        if theirs.get(name) != own.get(name)
    ]
    if misfits:
        shown = "; ".join(misfits[:3]) + (f"; and {len(misfits) - 3} more" if misfits[3:] else "")
        raise ValueError(f"{path} does not fit {model.spec['name']}: {shown}")
    model.load_state_dict({name: official[key] for name, key in names.items()})
    return model.eval()


def our_name(official: str) -> str:
    """stage2d.rebnconv3d.bn_s1.weight -> decoder.1.up.2.norm.weight; theirs count from 1."""
    name = re.sub(
        r"\b(stage|rebnconv|side)(\d)(d?)\b",
        lambda part: f"{PARTS.get(part[1] + part[3], 'sides')}.{int(part[2]) - 1}",
        official,
    )
    return ".".join(OTHERS.get(part, part) for part in name.split("."))
