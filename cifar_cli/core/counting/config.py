"""What `summarize` is asked."""

from __future__ import annotations

from dataclasses import dataclass

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryConfig:
    """A model to count. Raises ConfigError for a batch or top below 1, or a negative depth."""

    model: ModelConfig
    batch: int = 128
    """Images per batch."""
    depth: int = 3
    """Levels of the layer table below the model itself."""
    top: int = 5
    """How many of the largest layers to list."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"--batch {self.batch} holds no image", remedy="pass 1 or more, for example --batch 128")
        if self.depth < 0:
            raise ConfigError(f"--depth {self.depth} is negative", remedy="pass 0 for the model alone, usually 3")
        if self.top < 1:
            raise ConfigError(f"--top {self.top} lists no layer", remedy="pass 1 or more, usually 5")
