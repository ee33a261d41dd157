"""All models of `build_model`, held to the same promises."""

import copy
import functools

import pytest
import torch
from torch import nn

from unetlib.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unetlib.data.preprocess import Preprocess
from unetlib.models import (
    MODELS,
    build_model,
    checkpoint_activations,
    complexity,
    count_parameters,
)

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
SMALL |= {
    name: {"decoder_widths": [16, 8, 8, 8, 8]}
    for name in MODELS
    if "resnet" in name or "mob" in name
}
every_model = pytest.mark.parametrize("name", MODELS)


def small_model(name, **args):
    torch.manual_seed(0)
    return build_model(name, **SMALL.get(name, {}), **args)


@functools.cache
def eval_model(name):
    """One for all tests that only look at it."""
    return small_model(name).eval().requires_grad_(False)


def images(name, count, height, width):
    if name == "unet_pooled":  # multiples of 32 only
        height, width = (-(-n // 32) * 32 for n in (height, width))
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def maps(output):
    return list(output.values()) if isinstance(output, dict) else [output]


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameters_are_the_published_numbers(name, parameters):
    with torch.device("meta"):
        model = build_model(name)
    assert count_parameters(model) == parameters
    if name == "unet_pooled":
        statistics = {k: b for k, b in model.named_buffers() if not k.endswith("tracked")}
        assert sum(b.numel() for b in statistics.values()) == 9_984


@every_model
@pytest.mark.parametrize("size", [(32, 32), (65, 47), (33, 100)])
def test_any_size_in_the_same_size_out(name, size):
    x = images(name, 2, *size)
    logits = eval_model(name)(x)
    assert logits.shape == (2, 1, *x.shape[-2:])
    assert logits.isfinite().all() and logits.std() > 0


@every_model
def test_gradients_reach_every_parameter(name):
    model = small_model(name)
    x = images(name, 2, 72, 88)
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


@every_model
def test_eval_is_deterministic_and_images_do_not_mix(name):
    model, x = eval_model(name), images(name, 3, 48, 49)
    together = model(x)
    assert torch.equal(together, model(x))
    torch.testing.assert_close(together[1:2], model(x[1:2]), rtol=1e-3, atol=1e-5)


@every_model
def test_a_checkpoint_brings_the_model_back(name, tmp_path):
    model, x = eval_model(name), images(name, 1, 40, 56)
    path = save_checkpoint(tmp_path / "model.pth", Checkpoint(model, Preprocess(64)))
    again = load_checkpoint(path).model
    assert again.spec == model.spec == {"name": name, "args": SMALL.get(name, {})}
    assert torch.equal(model(x), again(x))


@every_model
def test_exports(name):
    model, x = eval_model(name), images(name, 1, 37, 50)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


@every_model
def test_one_image_can_be_trained_on(name):
    assert all(
        output.isfinite().all() for output in maps(small_model(name)(images(name, 1, 64, 64)))
    )


@every_model
def test_too_small_images_are_refused(name):
    with pytest.raises(ValueError, match=r"at least (16×16|32×32) pixels, not 8×64|not 8×64; the"):
        small_model(name)(torch.zeros(1, 3, 8, 64))


def train_step(model, blocks):
    """Gradients of one step; returns the bytes held for the backward pass, weights aside."""
    weights = {p.data_ptr() for p in model.parameters()}
    held = {}

    def hold(tensor):
        if tensor.data_ptr() not in weights:
            held[tensor.data_ptr()] = tensor.nbytes
        return tensor

    def hold_inputs(block, args):
        for arg in args:
            for value in arg.values() if isinstance(arg, dict) else [arg]:
                if torch.is_tensor(value):
                    hold(value)

    for block in blocks:  # what goes into a block is held for its recomputation
        block.register_forward_pre_hook(hold_inputs)
    torch.manual_seed(1)  # of the dropout
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        outputs = maps(model(images(model.spec["name"], 2, 64, 64)))
    loss = sum(output.square().mean() for output in outputs)
    loss.backward(retain_graph=True)
    loss.backward()  # recomputed once more
    return sum(held.values())


@every_model
def test_recomputed_activations_change_nothing_but_memory(name):
    plain = small_model(name).train()
    frugal = copy.deepcopy(checkpoint_activations(copy.deepcopy(plain)))  # as an average's copy is
    blocks = [m for m in frugal.modules() if "forward" in vars(m)]
    used, held = train_step(plain, []), train_step(frugal, blocks)
    assert held < 0.5 * used
    assert frugal.state_dict().keys() == plain.state_dict().keys()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, frugal.state_dict()[key]), key
    for (key, p), q in zip(plain.named_parameters(), frugal.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), key
    x = images(name, 1, 64, 64)
    assert torch.equal(plain.eval()(x), frugal.eval()(x))


def test_a_recomputing_model_exports_and_learns():
    model = checkpoint_activations(small_model("unet_dropout", dropout=0.2))
    x = images("unet_dropout", 2, 32, 32)
    torch.export.export(model.eval(), (x,))
    before = model.stem[0].weight.clone()
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
    model(x).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, model.stem[0].weight)


def test_complexity_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Conv2d(5, 1, 1)).train()
    found = complexity(model, (8, 6))
    weights = 3 * 5 * 9 + 5
    assert found.parameters == weights + 5 + 1
    assert found.macs == weights * 4 * 3
    assert found.megabytes == pytest.approx(found.parameters * 4e-6)
    assert model.training


def test_complexity_of_the_textbook_u_net():
    # sum over the levels: channels in × channels out × 9 × H × W of each convolution
    pairs = [(3, 64, 1), (64, 64, 1), (128, 64, 1), (64, 64, 1)]
    for scale, width in ((2, 128), (4, 256), (8, 512)):
        pairs += [(width // 2, width, scale), (width, width, scale)]
        pairs += [(2 * width, width, scale), (width, width, scale)]
    pairs += [(512, 1024, 16), (1024, 1024, 16)]
    side = 64
    macs = sum(9 * i * o * (side // scale) ** 2 for i, o, scale in pairs)
    macs += sum(
        4 * 2 * w * w * (side // s // 2) ** 2 for w, s in ((64, 1), (128, 2), (256, 4), (512, 8))
    )
    assert complexity(build_model("unet_transposed"), (side, side)).macs == macs + 64 * side**2


def test_errors_say_what_is_known():
    with pytest.raises(ValueError, match=r"'unet_smal'.*unet_small.*Did you mean 'unet_small'"):
        build_model("unet_smal")
    with pytest.raises(ValueError, match=r"unet takes no argument 'width'; it takes .*base"):
        build_model("unet", width=3)
    with pytest.raises(ValueError, match=r"no argument 'backbone'; it takes pretrained, decoder"):
        build_model("unet_resnet18", backbone="resnet34")
    with pytest.raises(ValueError, match="bilinear, transposed, not 'nearest'"):
        build_model("unet", upsampling="nearest")
    with pytest.raises(ValueError, match="at least 16×16 pixels, not 8×64"):
        build_model("unet_small")(torch.zeros(1, 3, 8, 64))
    with pytest.raises(ValueError, match="not 65×40; the next are 64×32 and 96×64"):
        small_model("unet_pooled")(torch.zeros(1, 3, 65, 40))
    with pytest.raises(ValueError, match="five numbers from 1, not"):
        build_model("unet_resnet18", decoder_widths=(64, 32))
    with pytest.raises(ValueError, match="6 pairs of widths in encoder, 5 in decoder, not 5 and 5"):
        build_model("u2net", encoder=[(4, 8)] * 5)
