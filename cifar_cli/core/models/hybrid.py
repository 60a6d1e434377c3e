"""`hybrid`: a small vision transformer on early features of a ResNet18."""

from __future__ import annotations

from typing import Any, Self

import timm
from torch import Tensor, nn
from vit_pytorch.simple_vit import SimpleViT

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.errors import ModelError

BACKBONE = "resnet18"
FEATURE_INDEX = 1  # 64 channels
STRIDE = 4  # of that feature map: its side is a quarter of the image's
UNUSED_LAYERS = ("layer2", "layer3", "layer4")  # the full backbone computes them, but the transformer doesn't read them


class Hybrid(nn.Module):
    """ResNet18's features (index 1: 64 channels), followed by SimpleViT.

    config.trim_backbone: leave out the layers that never reach the logits. The full backbone is initialised in both
    cases, so that the same seed gives the same logits.
    Sources: He et al. 2015 (ResNet); Beyer, Zhai & Kolesnikov 2022 (SimpleViT).
    """

    optional_prefixes = tuple(f"backbone.{layer}." for layer in UNUSED_LAYERS)
    """Prefixes of state-dict keys of unused layers, which a checkpoint may lack."""
    backbone_prefix = "backbone."
    """Of the parameters that ImageNet weights bring."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        backbone = timm.create_model(BACKBONE, pretrained=False, features_only=True)
        channels = backbone.feature_info.channels()[FEATURE_INDEX]
        for layer in UNUSED_LAYERS if config.trim_backbone else ():
            del backbone[layer]
        self.backbone = backbone
        self.vit = SimpleViT(
            image_size=(config.sides[0] // STRIDE, config.sides[1] // STRIDE),
            patch_size=config.patch_size,
            num_classes=config.classes,
            dim=256,
            depth=4,
            heads=4,
            mlp_dim=512,
            channels=channels,
        )

    def _apply(self, function: Any, recurse: bool = True) -> Self:
        """Move the positions too: SimpleViT keeps them on the CPU, and would upload them in every forward pass."""
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        self.vit.pos_embedding = function(self.vit.pos_embedding)
        return self

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Map float images [B, 3, H, W] to logits [B, K]."""
        logits_BK: Tensor = self.vit(self.backbone(images_BCHW)[FEATURE_INDEX])
        return logits_BK


def build(config: ModelConfig) -> nn.Module:
    """Build `hybrid`. Raises ModelError if the feature map doesn't divide into patches."""
    step = STRIDE * config.patch_size
    if any(side % step for side in config.sides):
        smallest = "x".join(str(-(-int(side) // step) * step) for side in config.pixels.split("x"))
        raise ModelError(
            f"hybrid's {config.patch_size}x{config.patch_size} patches don't divide the features of "
            f"{config.pixels}-pixel images",
            remedy=f"pass --img-size {smallest}, or another multiple of {step}",
        )
    return Hybrid(config)
