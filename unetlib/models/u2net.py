"""U²-Net: a U whose every stage is a small U itself.

Qin, Zhang, Huang, Dehghan, Zaiane and Jagersand, "U²-Net: Going Deeper with Nested U-Structure
for Salient Object Detection", Pattern Recognition 2020, https://arxiv.org/abs/2005.09007.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

HEIGHTS = (7, 6, 5, 4, 4, 4)  # of the stages, full size first: convolutions on their way down
ENCODER = ((32, 64), (32, 128), (64, 256), (128, 512), (256, 512), (256, 512))
DECODER = ((16, 64), (32, 64), (64, 128), (128, 256), (256, 512))
U2NETP = {"encoder": ((16, 64),) * 6, "decoder": ((16, 64),) * 5}  # the small form
# the official names of modules with a number (d: of the decoder), and of the others
NUMBERED = re.compile(r"\b(stage|rebnconv|side)(\d)(d?)\b")
PARTS = dict(stage="encoder", staged="decoder", rebnconv="down", rebnconvd="up", side="sides")
OTHERS = {"rebnconvin": "entry", "conv_s1": "conv", "bn_s1": "norm", "outconv": "fuse"}
halve = partial(F.max_pool2d, kernel_size=2, ceil_mode=True)  # an odd size keeps its last row
resize = partial(F.interpolate, mode="bilinear")


def conv_norm_relu(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """3×3 convolution with a bias (as the paper's code has it), batch norm, ReLU; (H, W) stays."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
    norm, relu = nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    return nn.Sequential(OrderedDict(conv=conv, norm=norm, relu=relu))


class RSU(nn.Module):
    """Residual U-block (N, in_channels, H, W) -> (N, out, H, W): a small U-Net added to its input.

    `height`: convolutions on the way down (the paper's RSU-7 to RSU-4). `mid`: channels inside.
    `dilated`: the paper's RSU-4F, with dilations of 1, 2, 4, 8 instead of pooling.
    """

    def __init__(self, height: int, in_channels: int, mid: int, out: int, dilated: bool):
        super().__init__()
        self.dilated = dilated
        dilations = [2**k for k in range(height)] if dilated else [1] * (height - 1) + [2]
        ins, outs = [out] + [mid] * (height - 1), [out] + [mid] * (height - 2)
        self.entry = conv_norm_relu(in_channels, out)
        self.down = nn.ModuleList(conv_norm_relu(ins[k], mid, dilations[k]) for k in range(height))
        self.up = nn.ModuleList(  # up[k] meets down[k], so that up[0] is the last one
            conv_norm_relu(2 * mid, outs[k], dilations[k]) for k in range(height - 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        entry = x = self.entry(x)
        features = []
        for k, level in enumerate(self.down):
            x = level(halve(x) if 0 < k < len(self.up) and not self.dilated else x)
            features.append(x)
        x = features.pop()
        for level, skip in zip(reversed(self.up), reversed(features), strict=True):
            x = level(torch.cat([resize(x, skip.shape[-2:]), skip], dim=1))
        return x + entry


class U2Net(nn.Module):
    """U²-Net with its six side outputs and their fusion.

    Shape: float (N, 3, H, W), H and W any size of at least 32 -> in eval mode the fused logits
    (N, 1, H, W); in training mode what `outputs` returns, so that a loss can supervise every map.
    """

    def __init__(
        self,
        encoder: Sequence[tuple[int, int]] = ENCODER,  # (channels inside, out), full size first
        decoder: Sequence[tuple[int, int]] = DECODER,  # the same of the way up, full size first
    ):
        super().__init__()
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
        size, features = x.shape[-2:], []
        for k, stage in enumerate(self.encoder):
            x = stage(halve(x) if k else x)  # (N, 64, H, W), (N, 128, H/2, W/2), ...
            features.append(x)
        for k in reversed(range(5)):
            x = torch.cat([resize(features[k + 1], features[k].shape[-2:]), features[k]], dim=1)
            features[k] = self.decoder[k](x)
        # one map is enlarged, not the 64 to 512 features that it is made of
        maps = [resize(side(f), size) for side, f in zip(self.sides, features, strict=True)]
        return {f"d{k}": d for k, d in enumerate([self.fuse(torch.cat(maps, dim=1)), *maps])}

    def forward(self, x: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        return self.outputs(x) if self.training else self.outputs(x)["d0"]


def load_official_u2net(path: str | Path) -> U2Net:
    """The weights of an official release (u2net.pth, u2netp.pth) in our network, in eval mode.
    Raises what `torch.load` and `load_state_dict` raise for other files."""
    given = torch.load(path, map_location="cpu", weights_only=True)
    given = {our_name(key): value for key, value in given.items()}
    small = len(given["encoder.0.down.0.conv.bias"]) == 16
    model = U2Net(**(U2NETP if small else {}))
    model.load_state_dict(given)
    model.spec = {"name": "u2netp" if small else "u2net", "args": {}}
    return model.eval()


def our_name(official: str) -> str:
    """stage2d.rebnconv3d.bn_s1.weight -> decoder.1.up.2.norm.weight; theirs count from 1."""
    name = NUMBERED.sub(lambda part: f"{PARTS[part[1] + part[3]]}.{int(part[2]) - 1}", official)
    return ".".join(OTHERS.get(part, part) for part in name.split("."))
