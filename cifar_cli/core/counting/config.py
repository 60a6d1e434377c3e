"""Config of `cifar summarize`."""

from __future__ import annotations

from dataclasses import dataclass

from cifar_cli.core.choices import require_at_least
from cifar_cli.core.models.config import ModelConfig


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
        require_at_least("--batch", self.batch, 1, example=128)
        require_at_least("--depth", self.depth, 0, example=3)
        require_at_least("--top", self.top, 1, example=5)
