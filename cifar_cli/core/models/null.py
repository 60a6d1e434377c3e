"""`null`: the baseline, two convolutions and two linear layers."""

from __future__ import annotations

from torch import Tensor, nn

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.errors import ModelError

SMALLEST_SIDE = 4  # two poolings leave a quarter of it


class Null(nn.Module):
    """A small convolutional network for RGB images of one size.

    classes: number of logits K. sides: height and width in pixels; the number of flattened features grows with their
    product.
    Source: after LeNet-5 (LeCun et al. 1998), with ReLU and max pooling.
    """

    def __init__(self, *, classes: int, sides: tuple[int, int] = (32, 32)) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * (sides[0] // 4) * (sides[1] // 4), 128),
            nn.ReLU(inplace=True),
            nn.Linear(128, classes),
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Map float images [B, 3, H, W] to logits [B, K]."""
        logits_BK: Tensor = self.head(self.features(images_BCHW))
        return logits_BK


def build(config: ModelConfig) -> nn.Module:
    """Build `null`. Raises ModelError if the image is too small for two poolings."""
    if min(config.sides) < SMALLEST_SIDE:
        raise ModelError(
            f"null pools twice and can't read {config.pixels}-pixel images",
            remedy=f"pass --img-size {SMALLEST_SIDE} or more",
        )
    return Null(classes=config.classes, sides=config.sides)
