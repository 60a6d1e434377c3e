"""Config of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cifar_cli.core.choices import DeviceChoice, require_at_least, require_choice
from cifar_cli.errors import ConfigError

SplitName = Literal["test", "val", "train"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """A checkpoint to score on a split. Raises ConfigError for a value that can't be used."""

    checkpoint: Path
    """A checkpoint file, or a run directory, whose best checkpoint is taken."""
    split: SplitName = "test"
    """Test images, validation images, or the other training images, none of them augmented."""
    dataset: str | None = None
    """Name or path of the dataset; None takes the one that the model was trained on."""
    data_dir: Path | None = None
    """Folder of the dataset; None takes the one that the model was trained from."""
    batch: int = 512
    """Images per forward pass."""
    device: DeviceChoice = "auto"
    corruptions: bool = False
    """Score corrupted images as well."""
    out: Path | None = None
    """Folder of the files; None writes them into the run directory, or beside a lone checkpoint file."""

    def __post_init__(self) -> None:
        require_choice("--split", self.split, SplitName)
        require_at_least("--batch", self.batch, 1, example=512)
        require_choice("--device", self.device, DeviceChoice)
        if self.out is not None:
            _require_folder(self.out)


def _require_folder(out: Path) -> None:
    """Raise ConfigError when `out` can't become a folder."""
    if out.suffix.lower() == ".png":
        raise ConfigError(
            f"--out {out} names a picture, but takes the folder of all files",
            remedy=f"pass --out {out.with_suffix('')}",
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file, not a folder", remedy="pass another --out")
