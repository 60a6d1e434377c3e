"""The record of a run: a row per epoch in metrics.csv and TensorBoard, and the progress of the steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.results import EpochResult, TrainProgress
from cifar_cli.core.training.run_dir import RunDir

PROGRESS_SECONDS = 0.5  # between two reports: reading the loss waits for the device


class Record:
    """Writes the result of every epoch and tells the listeners, in the one process that calls `write_to`."""

    def __init__(self, run: RunDir, listeners: Listeners, *, clock: Callable[[], float]) -> None:
        self.val_accuracies: list[float] = []
        """Of the finished epochs, the first one first."""
        self._run, self._listeners, self._clock = run, listeners, clock
        self._writer: SummaryWriter | None = None
        self._last_progress = 0.0

    def write_to(self, writer: SummaryWriter) -> None:
        """Begin to write. Rows of metrics.csv after the finished epochs are dropped: those epochs are trained again."""
        self._writer = writer
        self._run.keep_metrics(len(self.val_accuracies))

    @property
    def best_val_accuracy(self) -> float:
        """The highest so far; -1 before the first validation."""
        return max(self.val_accuracies, default=-1.0)

    def progress_is_due(self) -> bool:
        """Whether PROGRESS_SECONDS have passed since progress was last reported."""
        return self._clock() - self._last_progress >= PROGRESS_SECONDS

    def report_progress(self, progress: TrainProgress) -> None:
        self._last_progress = self._clock()
        self._listeners.on_step(progress)

    def add_epoch(self, result: EpochResult) -> None:
        """Append the epoch to metrics.csv and TensorBoard and tell the listeners."""
        self.val_accuracies.append(result.val_accuracy)
        if self._writer is None:
            return
        self._run.append_metrics(result)
        for name, value in asdict(result).items():
            if name != "best":
                self._writer.add_scalar(name.replace("train_", "train/").replace("val_", "val/"), value, result.epoch)
        self._writer.flush()
        self._listeners.on_epoch(result)

    def state_dict(self) -> dict[str, Any]:
        return {"val_accuracies": self.val_accuracies}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the epochs of a checkpoint."""
        self.val_accuracies = [float(accuracy) for accuracy in state["val_accuracies"]]
