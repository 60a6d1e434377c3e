"""`airbench`: a whitening layer and three blocks of two convolutions, made for short training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.errors import ModelError

SMALLEST_SIDE = 9  # the whitening takes one pixel, and three poolings halve the rest
PATCH_SIDE = 2
PATCH_VALUES = 3 * PATCH_SIDE**2
CHANNELS = (64, 256, 256)  # of the blocks, at width 1
SMALLEST_EIGENVALUE = 5e-4  # added to all: directions of the patches that hardly vary are not blown up
BATCH_NORM_MOMENTUM = 0.4  # of the new statistics, because a run has few steps
PATCHES_AT_ONCE = 1 << 19


class Block(nn.Sequential):
    """Convolution, max pooling, batch norm, GELU, convolution, batch norm, GELU; halves the side."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            convolution(channels_in, channels_out),
            nn.MaxPool2d(2),
            batch_norm(channels_out),
            nn.GELU(),
            convolution(channels_out, channels_out),
            batch_norm(channels_out),
            nn.GELU(),
        )


class ResidualBlock(nn.Module):
    """A block with a third convolution, around whose last two a shortcut leads; halves the side."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            convolution(channels_in, channels_out), nn.MaxPool2d(2), batch_norm(channels_out), nn.GELU()
        )
        self.rest = nn.Sequential(
            convolution(channels_out, channels_out),
            batch_norm(channels_out),
            nn.GELU(),
            convolution(channels_out, channels_out),
            batch_norm(channels_out),
        )

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, K, H // 2, W // 2]."""
        first_BKHW = self.first(maps_BCHW)
        return F.gelu(first_BKHW + self.rest(first_BKHW))


class Airbench(nn.Module):
    """A convolutional network whose first layer whitens patches of 2x2 pixels.

    classes: number of logits K. width: factor of the channels of the three blocks. residual: with ResidualBlock, the
    source's form for long training, instead of Block.
    The whitening's kernels are frozen. They are computed from training images (`initialise_from`); a model that is
    only counted, or whose weights come from a checkpoint, needs none.
    Source: Jordan 2024, 94% on CIFAR-10 in 3.29 seconds on a single GPU (arXiv 2404.00498), sections 3.1 and 3.2;
    residual: its larger variant airbench96.
    """

    def __init__(self, *, classes: int, width: float = 1.0, residual: bool = False) -> None:
        super().__init__()
        # Multiples of 8, which matrix units read without padding.
        channels = [max(8, 8 * round(each * width / 8)) for each in CHANNELS]
        self.whiten = nn.Conv2d(3, 2 * PATCH_VALUES, kernel_size=PATCH_SIDE)
        self.whiten.weight.requires_grad_(False)
        before = (2 * PATCH_VALUES, *channels[:-1])
        block = ResidualBlock if residual else Block
        self.blocks = nn.Sequential(nn.GELU(), *(block(*pair) for pair in zip(before, channels, strict=True)))
        self.head = nn.Linear(channels[-1], classes, bias=False)
        nn.init.normal_(self.head.weight)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Map float images [B, 3, H, W] to logits [B, K], scaled down so that training starts near even odds."""
        features_BC = self.blocks(self.whiten(images_BCHW)).amax(dim=(2, 3))
        logits_BK: Tensor = self.head(features_BC) / self.head.in_features
        return logits_BK

    def initialise_from(self, images_BCHW: Tensor) -> None:
        """Set the whitening's kernels from normalised training images [B, 3, H, W], the same for equal images."""
        kernels = whitening_kernels(images_BCHW)
        with torch.no_grad():
            self.whiten.weight.copy_(torch.cat([kernels, -kernels]))
            self.whiten.bias.zero_()  # type: ignore[union-attr]


def whitening_kernels(images_BCHW: Tensor) -> Tensor:
    """Kernels [12, 3, 2, 2] whose outputs on patches of the images are uncorrelated and of equal size.

    They are the eigenvectors of the patches' second moments, each divided by the root of its eigenvalue, the largest
    eigenvalue first.
    """
    moments = torch.zeros(PATCH_VALUES, PATCH_VALUES, dtype=torch.float64)
    patches = 0
    side_H, side_W = images_BCHW.shape[2:]
    for some_BCHW in torch.split(images_BCHW, max(1, PATCHES_AT_ONCE // (side_H * side_W))):
        patches_BPL = F.unfold(some_BCHW, PATCH_SIDE)
        moments += (patches_BPL @ patches_BPL.mT).sum(dim=0, dtype=torch.float64).cpu()
        patches += len(some_BCHW) * patches_BPL.shape[2]
    values, vectors = torch.linalg.eigh(moments / max(patches, 1))
    values, rows = values.flip(0), vectors.T.flip(0)
    # An eigenvector's sign is the library's choice; here its largest entry is positive.
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    whitened: Tensor = rows * largest.sign() / (values + SMALLEST_EIGENVALUE).sqrt()[:, None]
    return whitened.float().view(PATCH_VALUES, 3, PATCH_SIDE, PATCH_SIDE)


def convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A 3x3 convolution without bias that begins by passing its input on, as far as it has channels for it."""
    layer = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
    kept = min(channels_in, channels_out)
    nn.init.dirac_(layer.weight.detach()[:kept])
    return layer


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm that learns an offset and no scale: the next layer can scale."""
    layer = nn.BatchNorm2d(channels, momentum=BATCH_NORM_MOMENTUM)
    layer.weight.requires_grad_(False)
    return layer


def build(config: ModelConfig) -> nn.Module:
    """Build `airbench`. Raises ModelError if the image is too small for three poolings."""
    if min(config.sides) < SMALLEST_SIDE:
        raise ModelError(
            f"airbench pools three times and can't read {config.pixels}-pixel images",
            remedy=f"pass --img-size {SMALLEST_SIDE} or more",
        )
    return Airbench(classes=config.classes, width=config.width, residual=config.residual)
