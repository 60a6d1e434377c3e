"""Results of a training run: choices, progress, epochs, times, scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cifar_cli.core.choices import MemoryFormat, Precision
from cifar_cli.core.notebook import NotebookView
from cifar_cli.core.plain import plain
from cifar_cli.core.training.config import TrainConfig

SCORES = ("val_accuracy", "test_accuracy", "test_accuracy_flip_averaged", "test_loss", "train_accuracy_plain")
LOSS_TOLERANCE = 0.05
"""Share of float32's loss by which the loss of another precision may differ after the first steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NumericsTrial:
    """A few training steps in one precision and memory format."""

    precision: Precision
    memory_format: MemoryFormat
    batch: int
    """Images per step of the trial; fewer than in training where steps are slow."""
    images_per_second: float
    """Of steps of the recipe's batch; where the trial's is smaller, what they would reach."""
    loss: float
    """Of the last compared step."""
    agrees: bool
    """The loss is within LOSS_TOLERANCE of float32's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Numerics:
    """The precision and memory format of a run."""

    precision: Precision
    memory_format: MemoryFormat
    trials: tuple[NumericsTrial, ...] = ()
    """What the choice was made from; empty where nothing was tried."""
    remembered_in: Path | None = None
    """The file with the trials of an earlier run; None where they are new."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochResult:
    """The figures of one epoch. Accuracies are fractions; train figures are of augmented images during training."""

    epoch: int
    step: int
    """Training steps of the run up to here."""
    train_loss: float
    """Mean cross-entropy without label smoothing, like `val_loss`."""
    train_optimized_loss: float
    """Mean of the loss that was minimised, label smoothing included."""
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    elapsed_seconds: float
    """Since the command began, earlier parts of a resumed run included."""
    images_per_second: float
    """Of the training steps alone."""
    best: bool
    """Its validation accuracy is higher than that of every earlier epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainProgress:
    """The state of a run between two steps. Accuracies are fractions."""

    epoch: int
    epochs: int
    step: int
    """Steps done in this epoch, of `steps`."""
    steps: int
    share_done: float
    """Of the computation of the whole run, in which small images count less."""
    loss: float
    """Mean over the epoch so far, like `accuracy`."""
    accuracy: float
    val_accuracies: tuple[float, ...]
    """Of the finished epochs, the first one first."""
    images_per_second: float
    elapsed_seconds: float
    max_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeSpent:
    """Seconds of a run by purpose; their sum is the time from the command to the end of the test.

    On a GPU, the parts of a step are measured in every 50th step, on CUDA by events on the device.
    """

    startup_seconds: float
    """Everything before the first step, imports included."""
    data_seconds: float
    """Making batches, and waiting for them."""
    step_seconds: float
    """Forward and backward pass."""
    optimizer_seconds: float
    """Clipping, update, averaged weights."""
    metrics_seconds: float
    """Metrics of the training steps."""
    validation_seconds: float
    logging_seconds: float
    """Records, pictures and checkpoints."""
    test_seconds: float
    other_seconds: float
    """The rest: the loop's own work."""

    @property
    def total_seconds(self) -> float:
        return float(sum(asdict(self).values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult(NotebookView):
    """The result of a run. Accuracies are fractions, of the weights with the highest validation accuracy."""

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
    """Median over windows of 16 steps, the first ten steps left out."""
    val_accuracy: float
    test_accuracy: float
    test_accuracy_flip_averaged: float
    """With the probabilities of each image and its mirror image averaged."""
    test_loss: float
    train_accuracy_plain: float | None = None
    """On training images as they are, a sample at even distances, with the weights of `val_accuracy`."""
    stopped_by: Literal["epochs", "time", "patience"]
    precision: Precision
    memory_format: MemoryFormat
    processes: int
    """That trained together."""
    time: TimeSpent
    asked_to_stop: bool
    """Ctrl-C came when only validation or test were left, which were finished."""
    fast_dev_run: bool = False
    """Only one batch each was trained, validated and tested: the scores are no results, and `to_dict` has none."""
    config: TrainConfig
    """What was trained, with nothing left to choose; `to_dict` leaves it to config.yaml."""
    already_finished: bool = False
    """Nothing was trained now: this is the recorded result of a finished run."""

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, run_dir: Path, config: TrainConfig) -> TrainResult:
        """A recorded result, of a run that may have moved to `run_dir`. Raises TypeError or KeyError otherwise."""
        here = {"run_dir": run_dir, "checkpoint": run_dir / Path(values["checkpoint"]).relative_to(values["run_dir"])}
        time = TimeSpent(**values["time"])
        return cls(**values | here | {"time": time}, config=config, asked_to_stop=False, already_finished=True)

    def to_dict(self) -> dict[str, Any]:
        """The documented keys of `--json`."""
        values: dict[str, Any] = plain(asdict(self))
        del values["config"], values["asked_to_stop"], values["already_finished"]
        if self.fast_dev_run:
            values |= dict.fromkeys(SCORES)
        return values
