"""What `summarize` is asked."""

from __future__ import annotations

from dataclasses import dataclass

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryConfig:
    """Which model to count, for which batch, and how much of it to list.

    batch: images. depth: levels of the layer tree below the model itself. top: largest layers to name.
    Raises ConfigError for a batch or top below 1, or a negative depth.
    """

    model: ModelConfig
    batch: int = 128
    depth: int = 3
    top: int = 5

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"--batch {self.batch} holds no image", remedy="pass 1 or more, for example --batch 128")
        if self.depth < 0:
            raise ConfigError(f"--depth {self.depth} is less than the model itself", remedy="pass 0 or more, usually 3")
        if self.top < 1:
            raise ConfigError(f"--top {self.top} names no layer", remedy="pass 1 or more, usually 5")
