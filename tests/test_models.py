"""All models of `build_model`, held to the same promises; and U-Net to its own."""

import pytest
import torch

from unetlib.models import MODELS, DoubleConv, UNet, build_model, count_parameters

SMALL = {"base": 4}  # the same code, quick on a CPU


@pytest.mark.parametrize(
    ("name", "parameters"), [("unet", 17_262_977), ("unet_transposed", 31_037_633)]
)
def test_parameters_are_the_published_numbers(name, parameters):
    assert count_parameters(build_model(name)) == parameters


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(16, 16), (64, 64), (65, 47), (33, 100)])
def test_any_size_in_the_same_size_out(name, size):
    model = build_model(name, **SMALL).eval()
    logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 1, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("skips", [True, False])
def test_gradients_reach_every_parameter(name, skips):
    model = build_model(name, skips=skips, **SMALL)
    model(torch.randn(2, 3, 40, 56)).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("name", MODELS)
def test_eval_is_deterministic_and_images_do_not_mix(name):
    model = build_model(name, dropout=0.5, **SMALL).eval()
    x = torch.randn(3, 3, 48, 48)
    together = model(x)
    assert torch.equal(together, model(x))
    torch.testing.assert_close(together[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_spec_rebuilds_the_model_and_its_weights_fit(name):
    model = build_model(name, **SMALL).eval()
    again = build_model(model.spec["name"], **model.spec["args"]).eval()
    again.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(x), again(x))


@pytest.mark.parametrize("name", MODELS)
def test_exports(name):
    model = build_model(name, **SMALL).eval()
    x = torch.randn(1, 3, 37, 50)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_dropout_drops_only_while_training():
    model = build_model("unet_small", dropout=0.9, **SMALL)
    x = torch.randn(2, 3, 64, 64)
    assert not torch.equal(model.train()(x), model(x))


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


def test_errors_say_what_is_known():
    with pytest.raises(ValueError, match=r"'unet_smal'.*unet_small.*Did you mean 'unet_small'"):
        build_model("unet_smal")
    with pytest.raises(ValueError, match=r"unet takes no argument 'width'; it takes .*base"):
        build_model("unet", width=3)
    with pytest.raises(ValueError, match="bilinear, transposed, not 'nearest'"):
        build_model("unet", upsampling="nearest")
    with pytest.raises(ValueError, match="at least 16×16 pixels, not 8×64"):
        build_model("unet_small")(torch.zeros(1, 3, 8, 64))
