"""All models of `build_model`, held to the same promises."""

import functools

import pytest
import torch
from torch import nn

from unetlib.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unetlib.data.preprocess import Preprocess
from unetlib.models import MODELS, build_model, count_parameters

PARAMETERS = {  # as published
    "unet": 17_262_977,
    "unet_transposed": 31_037_633,
    "unet_dropout": 21_597_377,
    "unet_pooled": 22_836_609,
    "u2net": 44_009_869,
    "u2netp": 1_131_181,
}
UNETS = ("unet", "unet_transposed", "unet_small", "unet_dropout", "unet_pooled")
SMALL = {name: {"base": 4} for name in UNETS}  # the same code, quick on a CPU
SMALL["unet_half"] = {"base": 4, "depth": 3}
SMALL |= {name: {"encoder": [[2, 6]] * 6, "decoder": [[2, 6]] * 5} for name in ("u2net", "u2netp")}
with_backbones = [name for name in MODELS if "resnet" in name or "mob" in name]
SMALL |= dict.fromkeys(with_backbones, {"decoder_widths": [16, 8, 8, 8, 8]})
every_model = pytest.mark.parametrize("name", MODELS)


def small_model(name, **args):
    torch.manual_seed(0)
    return build_model(name, **SMALL.get(name, {}), **args)


@functools.cache
def eval_model(name):
    """One for all tests that only look at it."""
    return small_model(name).eval().requires_grad_(False)


def images(count, height, width):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def maps(output):
    return list(output.values()) if isinstance(output, dict) else [output]


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameters_are_the_published_numbers(name, parameters):
    with torch.device("meta"):
        model = build_model(name)
    assert count_parameters(model) == parameters


@every_model
@pytest.mark.parametrize("size", [(32, 32), (65, 47), (33, 100)])
def test_any_size_in_the_same_size_out(name, size):
    x = images(2, *size)
    logits = eval_model(name)(x)
    torch.testing.assert_close(logits[1:], eval_model(name)(x[1:]), rtol=1e-3, atol=1e-5)
    assert logits.shape == (2, 1, *x.shape[-2:])
    assert logits.isfinite().all() and logits.std() > 0


@every_model
def test_gradients_reach_every_parameter_and_one_image_is_enough(name):
    model = small_model(name)
    x = images(2, 72, 88)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None  # so that one batch sets the running statistics
    outputs = maps(model.train()(x))
    assert len(outputs) == (7 if name in ("u2net", "u2netp") else 1)
    assert all(output.shape == (2, 1, *x.shape[-2:]) for output in outputs)
    sum(output.square().mean() for output in outputs).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    # a batch norm cancels the bias before it; with fixed statistics every bias counts as well
    model.zero_grad()
    model.eval()(x).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(output.isfinite().all() for output in maps(model.train()(images(1, 64, 64))))


@every_model
def test_a_checkpoint_brings_the_model_back(name, tmp_path):
    model, x = eval_model(name), images(1, 40, 56)
    path = save_checkpoint(tmp_path / "model.pth", Checkpoint(model, Preprocess(64)))
    again = load_checkpoint(path).model
    assert again.spec == model.spec == {"name": name, "args": SMALL.get(name, {})}
    assert torch.equal(model(x), again(x))


def test_where_the_dropout_of_the_two_older_u_nets_is():
    pooled, rates = build_model("unet_pooled", base=2), [0, 0, 0, 0, 0.3, 0.3, 0.3, 0, 0, 0.3]
    for block, rate in zip([*pooled.encoder, *pooled.decoder], rates, strict=True):
        kinds = ["Conv2d", "Dropout", "BatchNorm2d", "ReLU"] * 2
        assert [type(m).__name__ for m in block] == [k for k in kinds if rate or k != "Dropout"]
        assert {m.p for m in block if isinstance(m, nn.Dropout)} == ({rate} if rate else set())
    dropout = build_model("unet_dropout", base=2)
    assert [m.p for m in dropout.modules() if isinstance(m, nn.Dropout)] == [0.6]
    assert isinstance(dropout.bottom, nn.Conv2d)


def test_errors_say_what_is_known():
    with pytest.raises(ValueError, match="'unet_smal'. Did you mean 'unet_small'.*unet_dropout"):
        build_model("unet_smal")
    with pytest.raises(ValueError, match=r"needs 16×16 pixels or more, not .*8, 64"):
        small_model("unet")(torch.zeros(1, 3, 8, 64))
    with pytest.raises(ValueError, match="depth 1 to 9, not 64 and 99"):
        build_model("unet", depth=99)
    with pytest.raises(ValueError, match="bilinear or transposed, not 'cubic'"):
        build_model("unet", upsampling="cubic")
    with pytest.raises(ValueError, match="no argument of unet is called 'width'.* base, "):
        build_model("unet", width=3)
