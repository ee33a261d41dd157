"""What only the U-Nets promise: their bricks, their view, where their dropout is."""

from torch import nn

from unetlib.models import build_model


def test_where_the_dropout_of_the_two_older_u_nets_is():
    pooled, rates = build_model("unet_pooled", base=2), [0, 0, 0, 0, 0.3, 0.3, 0.3, 0, 0, 0.3]
    for block, rate in zip([*pooled.encoder, *pooled.decoder], rates, strict=True):
        kinds = ["Conv2d", "Dropout", "BatchNorm2d", "ReLU"] * 2
        assert [type(m).__name__ for m in block] == [k for k in kinds if rate or k != "Dropout"]
        assert {m.p for m in block if isinstance(m, nn.Dropout)} == ({rate} if rate else set())
    dropout = build_model("unet_dropout", base=2)
    assert [m.p for m in dropout.modules() if isinstance(m, nn.Dropout)] == [0.6]
    assert isinstance(dropout.bottom, nn.Conv2d)
