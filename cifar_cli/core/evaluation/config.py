"""Config of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cifar_cli.core.choices import DeviceChoice, require_at_least, require_choice, require_picture_path


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """A checkpoint to score on the test split. Raises ConfigError for a value that can't be used."""

    checkpoint: Path
    """A checkpoint file, or a run directory, whose best checkpoint is taken."""
    dataset: str | None = None
    """Name or path of the dataset; None takes the one that the model was trained on."""
    data_dir: Path | None = None
    """Folder of the dataset; None takes the one that the model was trained from."""
    batch: int = 512
    """Images per forward pass."""
    device: DeviceChoice = "auto"
    out: Path | None = None
    """PNG file for the confusion matrix; None writes it to the run directory, or beside a lone checkpoint file."""

    def __post_init__(self) -> None:
        require_at_least("--batch", self.batch, 1, example=512)
        if self.out is not None:
            require_picture_path(self.out)
        require_choice("--device", self.device, DeviceChoice)
