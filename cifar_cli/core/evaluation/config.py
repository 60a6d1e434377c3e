"""Config of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cifar_cli.core.choices import DeviceChoice, require_at_least, require_choice, require_picture_path
from cifar_cli.errors import ConfigError, shell_line

MOST_EXPLAINED = 48
"""Images that a prediction explains: each costs about 50 passes, and a picture of more can't be looked at."""

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
    views: bool = False
    """Score the mean over several views of each image as well."""
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
            remedy=shell_line("pass --out", out.with_suffix("")),
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file, not a folder", remedy="pass another --out")


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """Image files to classify. Raises ConfigError for a value that can't be used."""

    images: tuple[str, ...]
    """Files, folders, glob patterns, or "-" for one image on stdin."""
    checkpoint: Path
    """A checkpoint file, or a run directory, whose best checkpoint is taken."""
    batch: int = 512
    """Images per forward pass."""
    device: DeviceChoice = "auto"
    top: int = 5
    """Classes that are shown for an image, the most probable ones."""
    explain: bool = False
    """Find out which part of each image its prediction rests on; of the first MOST_EXPLAINED images."""
    explain_out: Path = Path("explain.png")
    """With `explain`, the picture that `save_explanation` is to write."""

    def __post_init__(self) -> None:
        require_at_least("--top", self.top, 1, example=5)
        require_at_least("--batch", self.batch, 1, example=512)
        require_choice("--device", self.device, DeviceChoice)
        if self.explain:
            require_picture_path(self.explain_out, flag="--explain-out")
        if not self.images:
            raise ConfigError("there is no image to predict", remedy="name files, folders or patterns")
        if self.images.count("-") > 1:
            raise ConfigError("- is given twice, but stdin has one image", remedy="pass - once")


ExportFormat = Literal["onnx", "torch-export", "safetensors"]
SUFFIXES: dict[str, str] = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """A trained model to write for other programs. Raises ConfigError for a value that can't be used."""

    checkpoint: Path
    """A checkpoint file, or a run directory, whose best checkpoint is taken."""
    format: ExportFormat = "onnx"
    out: Path | None = None
    """None writes CHECKPOINT-export.onnx, .pt2 or .safetensors beside the checkpoint."""
    with_preprocessing: bool = False
    """Take uint8 images [B, 3, S, S], and normalise them inside the graph."""
    half: bool = False
    """Weights and logits in float16."""
    verify: bool = True
    """Read the file again, and compare its logits with the model's."""

    def __post_init__(self) -> None:
        require_choice("--format", self.format, ExportFormat)
        if self.with_preprocessing and self.format == "safetensors":
            raise ConfigError(
                "--with-preprocessing needs a graph, but a safetensors file holds weights only",
                remedy="pass --format onnx or --format torch-export",
            )
        if self.out is not None and self.out.suffix != SUFFIXES[self.format]:
            raise ConfigError(
                f"--out {self.out} does not end in {SUFFIXES[self.format]}",
                remedy=shell_line("pass --out", self.out.with_suffix(SUFFIXES[self.format])),
            )
        if self.out is not None and not self.out.parent.is_dir():
            raise ConfigError(
                f"the folder {self.out.parent} for --out does not exist", remedy=shell_line("mkdir -p", self.out.parent)
            )
