"""What a training is asked to do, and what came of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cifar_cli.core.augment.config import PIPELINES
from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.suggest import nearest
from cifar_cli.core.training.recipe import RECIPES, Recipe
from cifar_cli.errors import ConfigError

ACCELERATORS = ("auto", "cpu", "gpu")
PRECISIONS = ("auto", "32", "bf16", "16")
MEMORY_FORMATS = ("auto", "channels-last", "contiguous", "onednn")
LOSS_TOLERANCE = 0.05  # of float32's loss, by which another precision's may differ after the first steps


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training, wholly described.

    img_size: side the images are resized to; None keeps the dataset's (the model's own classes and img_size
    follow the dataset). seed: initial weights, order and augmentation; the validation split has its own fixed
    seed, so that runs with different seeds are measured on the same images. workers: processes of the
    albumentations pipeline. augment_file: a policy saved with albumentations' `A.save`, instead of the recipe's.
    precision: "32", or autocast to "bf16" or "16" with float32 weights; memory_format: how images and kernels lie in
    memory, "onednn" for that library's own layout; "auto" of either takes the fastest on this machine.
    compile: run the model through torch.compile. profile: write a profiler's trace of some steps. fast_dev_run: one
    batch of each kind.
    run_dir: None makes one below runs/.
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
    precision: str = "auto"
    memory_format: str = "auto"
    compile: bool = False
    profile: bool = False
    fast_dev_run: bool = False
    run_dir: Path | None = None

    def __post_init__(self) -> None:
        _require_one_of("--accelerator", self.accelerator, ACCELERATORS)
        _require_one_of("--pipeline", self.pipeline, PIPELINES)
        _require_one_of("--precision", self.precision, PRECISIONS)
        _require_one_of("--memory-format", self.memory_format, MEMORY_FORMATS)
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
class Trial:
    """A few training steps in one precision and layout.

    batch: images a step of the trial, perhaps fewer than training's. loss: of the last compared step. agrees: that
    loss lies within LOSS_TOLERANCE of float32's.
    """

    precision: str
    memory_format: str
    batch: int
    images_per_second: float
    loss: float
    agrees: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Numerics:
    """The choice. trials: what it was made from, empty where nothing was tried. remembered_in: the file that
    an earlier run left them in, None where they are fresh.
    """

    precision: str
    memory_format: str
    trials: tuple[Trial, ...] = ()
    remembered_in: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochResult:
    """What one epoch gave. Accuracies are fractions; train figures are of augmented images as seen in training.

    elapsed_seconds: since the command began, over resumptions too. images_per_second: training steps only.
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
class TrainProgress:
    """How far a training is. Loss and accuracy are means over the epoch so far; accuracies are fractions.

    step: of `steps` in this epoch. val_accuracies: of the epochs done, the first one first.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    val_accuracies: tuple[float, ...]
    images_per_second: float
    elapsed_seconds: float
    max_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeSpent:
    """Seconds of a run by what they went to; the sum is the time from the command to the end of the test.

    startup: everything before the first step, the libraries' import included. data: waiting for batches.
    step: forward and backward pass; optimizer: clipping and update. metrics: those of the steps; what it takes to
    show them is logging. other: what is left, the trainer's own work.
    On a GPU the parts of a step are taken from every 50th one, for which the device is waited for.
    """

    startup_seconds: float
    data_seconds: float
    step_seconds: float
    optimizer_seconds: float
    metrics_seconds: float
    validation_seconds: float
    logging_seconds: float
    test_seconds: float
    other_seconds: float

    @property
    def total_seconds(self) -> float:
        return float(sum(asdict(self).values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a training gave. Accuracies are fractions, measured with the best weights by validation.

    test_accuracy_flip_averaged: with the probabilities of each image and its mirror image averaged.
    images_per_second: median over windows of 16 steps after the first ten. stopped_by: "epochs" or "time".
    asked_to_stop: Ctrl-C came when nothing but the closing was left, so that it was finished.
    config: what was trained, nothing left open; plain values leave it to config.yaml.
    """

    run_dir: Path
    checkpoint: Path
    model: str
    dataset: str
    synthetic: bool
    recipe: str
    seed: int
    epochs: int
    train_seconds: float
    images_per_second: float
    val_accuracy: float
    test_accuracy: float
    test_accuracy_flip_averaged: float
    test_loss: float
    stopped_by: str
    precision: str
    memory_format: str
    time: TimeSpent
    asked_to_stop: bool
    config: TrainConfig

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = _plain(asdict(self))
        del plain["config"], plain["asked_to_stop"]
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON knows no other numbers
    return str(value) if isinstance(value, Path) else value


def _require_one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{flag} {value} is not offered", remedy=nearest(value, known))
