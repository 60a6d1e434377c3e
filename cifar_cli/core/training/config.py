"""What a training is asked to do, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.suggest import nearest
from cifar_cli.core.training.recipe import RECIPES, Recipe
from cifar_cli.errors import ConfigError

ACCELERATORS = ("auto", "cpu", "gpu")
PIPELINES = ("batched", "albumentations")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training, wholly described.

    img_size: side the images are resized to; None keeps the dataset's (the model's own classes and img_size
    follow the dataset). seed: initial weights, order and augmentation; the validation split has its own fixed
    seed, so that runs with different seeds are measured on the same images. workers: processes of the
    albumentations pipeline. augment_file: a policy saved with albumentations' `A.save`, instead of the recipe's.
    fast_dev_run: one batch of each kind. run_dir: None makes one below runs/.
    Raises ConfigError for a value that is not offered.
    """

    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    recipe: Recipe = RECIPES["course"]
    img_size: int | None = None
    seed: int = 42
    pipeline: str = "batched"
    augment_file: Path | None = None
    workers: int = 2
    accelerator: str = "auto"
    fast_dev_run: bool = False
    run_dir: Path | None = None

    def __post_init__(self) -> None:
        _require_one_of("--accelerator", self.accelerator, ACCELERATORS)
        _require_one_of("--pipeline", self.pipeline, PIPELINES)
        if self.augment_file is not None and self.pipeline != "albumentations":
            raise ConfigError(
                "--augment names an albumentations policy, which the batched pipeline can't carry out",
                remedy="add --pipeline albumentations",
            )
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed} is negative", remedy="pass 0 or more")
        if self.workers < 0:
            raise ConfigError(f"--workers {self.workers} is negative", remedy="pass 0 or more")

    def to_dict(self) -> dict[str, Any]:
        """The config as plain values, as config.yaml and checkpoints hold it."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`. Raises TypeError or KeyError when `plain` is something else."""
        values = dict(plain)
        data = dict(values.pop("data"))
        data["data_dir"] = Path(data["data_dir"])
        for name in ("run_dir", "augment_file"):
            values[name] = Path(values[name]) if values[name] else None
        return cls(
            model=ModelConfig(**values.pop("model")),
            data=DataConfig(**data),
            recipe=Recipe(**values.pop("recipe")),
            **values,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochResult:
    """What one epoch gave. Accuracies are fractions; train figures are of augmented images as seen in training.

    elapsed_seconds: since training began, over resumptions too. images_per_second: training steps only.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    elapsed_seconds: float
    images_per_second: float
    best: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a training gave. Accuracies are fractions, measured with the best weights by validation.

    images_per_second: median over the steps after the first ten. stopped_by: "epochs" or "time".
    """

    run_dir: Path
    checkpoint: Path
    model: str
    dataset: str
    synthetic: bool
    epochs: int
    train_seconds: float
    images_per_second: float
    val_accuracy: float
    test_accuracy: float
    test_loss: float
    stopped_by: str

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _require_one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{flag} {value} is not offered", remedy=nearest(value, known))
