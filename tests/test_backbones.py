"""The networks on torchvision's backbones, against segmentation-models-pytorch and torchvision."""

import urllib.error

import pytest
import torch
import torchvision

from unetlib.models import build_model

FILES = {"unet_resnet18": "resnet18", "unet_mobilenet_v3": "mobilenet_v3_large"}
FILES |= {"deeplabv3": "mobilenet_v3_large", "lraspp": "mobilenet_v3_large"}


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
def test_the_u_nets_on_resnets_are_those_of_smp(backbone):
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.Unet(backbone, encoder_weights=None, decoder_channels=(256, 128, 64, 32, 16))
    ours = build_model(f"unet_{backbone}")
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
