"""What an evaluation is asked to do, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cifar_cli.core.choices import DeviceChoice
from cifar_cli.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """A checkpoint (or run directory) to score on the test split.

    dataset, data_dir: None takes what the checkpoint was trained on. out: where the confusion matrix is
    drawn; None puts it beside the run's checkpoints, or beside a lone checkpoint file.
    """

    checkpoint: Path
    dataset: str | None = None
    data_dir: Path | None = None
    batch: int = 512
    device: DeviceChoice = "auto"
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"--batch {self.batch} holds no image", remedy="pass 1 or more, for example --batch 512")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """One class, as fractions. precision: of the images called this, how many are. recall: of those that are,
    how many were called so. f1: their harmonic mean. 0 where nothing is there to divide by.
    """

    name: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateResult:
    """Scores on the test split. accuracy: fraction; loss: mean cross-entropy in nats.

    confusion: counts, true class by row, predicted class by column. figure: the PNG that shows them.
    """

    checkpoint: Path
    model: str
    dataset: str
    synthetic: bool
    images: int
    accuracy: float
    loss: float
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    figure: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = asdict(self)
        return plain | {"checkpoint": str(self.checkpoint), "figure": str(self.figure)}
