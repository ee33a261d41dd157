"""What only the U-Nets promise: their bricks, their view, where their dropout is."""

import torch
from torch import nn

from unetlib.models import build_model
from unetlib.models.unet import DoubleConv


def test_where_the_dropout_of_the_two_older_u_nets_is():
    pooled, rates = build_model("unet_pooled", base=2), [0, 0, 0, 0, 0.3, 0.3, 0.3, 0, 0, 0.3]
    for block, rate in zip([*pooled.encoder, *pooled.decoder], rates, strict=True):
        kinds = ["Conv2d", "Dropout", "BatchNorm2d", "ReLU"] * 2
        assert [type(m).__name__ for m in block] == [k for k in kinds if rate or k != "Dropout"]
        assert {m.p for m in block if isinstance(m, nn.Dropout)} == ({rate} if rate else set())
    dropout = build_model("unet_dropout", base=2)
    assert [m.p for m in dropout.modules() if isinstance(m, nn.Dropout)] == [0.6]
    assert isinstance(dropout.bottom, nn.Conv2d)


def test_double_conv_is_two_convolutions_with_norm_by_hand():
    block = DoubleConv(2, 3).eval()
    x = torch.randn(1, 2, 5, 6)
    y = x
    for conv, norm in ((block[0], block[1]), (block[3], block[4])):
        padded = torch.nn.functional.pad(y, (1, 1, 1, 1))
        patches = padded.unfold(2, 3, 1).unfold(3, 3, 1)  # (1, C, 5, 6, 3, 3)
        y = torch.einsum("nchwij,ocij->nohw", patches, conv.weight)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        y = (y - norm.running_mean[:, None, None]) * scale[:, None, None]
        y = (y + norm.bias[:, None, None]).relu()
    torch.testing.assert_close(block(x), y, rtol=1e-4, atol=1e-6)
