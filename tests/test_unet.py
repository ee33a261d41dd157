"""What only the U-Nets promise: their bricks, their view, where their dropout is."""

import pytest
import torch
from torch import nn

from unetlib.models import DoubleConv, UNet, build_model


@pytest.mark.parametrize("name", ["unet", "unet_transposed", "unet_small"])
def test_the_u_nets_learn_without_skips_too(name):
    torch.manual_seed(0)
    model = build_model(name, base=4, skips=False)
    model(torch.randn(2, 3, 40, 56)).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", ["unet_small", "unet_dropout", "unet_pooled"])
def test_dropout_drops_only_while_training(name):
    torch.manual_seed(0)
    model = build_model(name, base=4, dropout=0.9)
    x = torch.randn(2, 3, 64, 64)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_where_the_dropout_of_the_two_older_u_nets_is():
    pooled, rates = build_model("unet_pooled", base=2), [0, 0, 0, 0, 0.3, 0.3, 0.3, 0, 0, 0.3]
    for block, rate in zip([*pooled.encoder, *pooled.decoder], rates, strict=True):
        kinds = ["Conv2d", "Dropout", "BatchNorm2d", "ReLU"] * 2
        assert [type(m).__name__ for m in block] == [k for k in kinds if rate or k != "Dropout"]
        assert {m.p for m in block if isinstance(m, nn.Dropout)} == ({rate} if rate else set())
    dropout = build_model("unet_dropout", base=2)
    assert [m.p for m in dropout.modules() if isinstance(m, nn.Dropout)] == [0.6]
    seen = []
    dropout.pool[1].register_forward_hook(lambda _, args, output: seen.append(output.shape[1:]))
    dropout(torch.zeros(2, 3, 64, 64))
    assert seen == [(2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4)]
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


def test_the_receptive_field_of_the_bottom_is_what_theory_says():
    # every double convolution adds 4 pixels of its level, every pooling one of the level above:
    # 1 + 4·(1 + 2 + 4 + 8 + 16) + (1 + 2 + 4 + 8) = 140 for depth 4
    model = UNet(base=2).eval()
    for parameter in model.parameters():
        parameter.data.abs_()  # all positive: no ReLU hides a path
    x = torch.ones(1, 3, 512, 512, requires_grad=True)
    features = model.stem(x)
    for level in [*model.encoder, model.bottom]:
        features = level(torch.nn.functional.avg_pool2d(features, 2))  # max would pick one path
    features[0, :, 16, 16].sum().backward()
    touched = x.grad.abs().sum((0, 1)).any(1).nonzero()
    assert touched.max() - touched.min() + 1 == 140
