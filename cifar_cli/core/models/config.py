"""Which model, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cifar_cli.core.models.registry import TIMM_PREFIX, spec_of
from cifar_cli.errors import ConfigError

DEFAULT_BACKBONE = "efficientnet_b0"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Everything that decides a model's function and its initial weights.

    name: a registry name, or `timm:NAME` for any timm classifier.
    classes: outputs K. img_size: side of the square input, pixels.
    backbone: timm model behind `cnn`. weights: "imagenet", "none", "bundled" or a path; None means the
    model's own default. trim_backbone, patch_size: `hybrid` only.
    Raises ModelError for an unknown name and ConfigError for a bad value.
    """

    name: str
    classes: int = 10
    img_size: int = 32
    backbone: str = DEFAULT_BACKBONE
    weights: str | None = None
    trim_backbone: bool = False
    patch_size: int = 2

    def __post_init__(self) -> None:
        spec = spec_of(self.name)
        if self.classes < 1:
            raise ConfigError(f"--classes {self.classes} leaves nothing to tell apart", remedy="pass 1 or more")
        if self.img_size < 1:
            raise ConfigError(f"--img-size {self.img_size} is not a picture", remedy="pass 1 or more, usually 32")
        if self.patch_size not in (2, 4):
            raise ConfigError(f"--patch-size {self.patch_size} is not offered", remedy="pass 2 or 4")
        if self.weights is not None and self.weights not in spec.weights and not Path(self.weights).is_file():
            raise ConfigError(
                f"--weights {self.weights} is neither a file nor one of {', '.join(spec.weights)} for {self.name}",
                remedy="pass --weights none to start from random weights, or the path of a checkpoint",
            )

    @property
    def source_of_weights(self) -> str:
        """The weights asked for, with the model's default filled in."""
        return self.weights if self.weights is not None else spec_of(self.name).weights[0]

    @property
    def label(self) -> str:
        """What tables and run directories call the model."""
        return self.name.removeprefix(TIMM_PREFIX)
