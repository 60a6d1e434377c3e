"""The record of a run: its epochs and learning rates in files and TensorBoard, and the progress of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.loggers import Loggers
from cifar_cli.core.training.repeat import repeat_command
from cifar_cli.core.training.results import SCORES, EpochResult, TrainProgress, TrainResult
from cifar_cli.core.training.run_dir import RunDir

PROGRESS_SECONDS = 0.5  # between two reports: reading the loss waits for the device
RATE_CHANGE = 0.01  # of the highest rate so far, by which the learning rate must change to be recorded again

Rate = tuple[int, float]
"""A step, counted from 1, and its learning rate."""


class Record:
    """Writes the result of every epoch and tells the listeners, in the one process that calls `write_to`.

    keeps_scores: False for a run of one batch, whose scores mean nothing and are not written.
    """

    def __init__(
        self, run: RunDir, listeners: Listeners, *, clock: Callable[[], float], keeps_scores: bool = True
    ) -> None:
        self.val_accuracies: list[float] = []
        """Of the finished epochs, the first one first."""
        self._run, self._listeners, self._clock, self._keeps_scores = run, listeners, clock, keeps_scores
        self._writer: SummaryWriter | None = None
        self._loggers: Loggers | None = None
        self._last_progress = 0.0
        self._rates: list[Rate] = []  # of the unfinished epoch
        self._recorded, self._highest = -1.0, 0.0  # the last rate in the record, and the highest

    def unwritten_step(self, step: int) -> int:
        """The first step of which nothing is in the files yet, if `step` steps of the run are done."""
        return self._rates[0][0] if self._rates else step + 1

    def write_to(self, writer: SummaryWriter, step: int, loggers: Loggers | None = None) -> None:
        """Begin to write, and to tell the loggers.

        What the files hold of later steps is dropped: those steps are trained again.
        """
        self._writer, self._loggers = writer, loggers
        self._run.keep_metrics(len(self.val_accuracies))
        self._run.keep_rates(before=self.unwritten_step(step))

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

    def add_step(self, step: int, learning_rate: float) -> None:
        """Note the learning rate of a step, counted from 1, where it has changed. Steps may be taken back."""
        if self._rates and self._rates[-1][0] >= step:
            self._rates = [rate for rate in self._rates if rate[0] < step]
            self._recorded = -1.0
        self._highest = max(self._highest, learning_rate)
        if self._recorded < 0 or abs(learning_rate - self._recorded) > RATE_CHANGE * self._highest:
            self._rates.append((step, learning_rate))
            self._recorded = learning_rate

    def add_epoch(self, result: EpochResult, confusion: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """Append the epoch to the files and TensorBoard and tell the listeners.

        confusion: counts by split name, true class by row; those of the best epoch are kept.
        """
        self.val_accuracies.append(result.val_accuracy)
        if self._writer is None:
            return
        self._write_rates(self._writer, result)
        if self._keeps_scores:
            self._run.append_metrics(result)
            if result.best:
                self._run.write_confusion({"epoch": result.epoch, **confusion})
            metrics = {
                name.replace("train_", "train/").replace("val_", "val/"): value
                for name, value in asdict(result).items()
                if name not in ("best", "step", "learning_rate")
            }
            for tag, value in metrics.items():
                self._writer.add_scalar(tag, value, result.step)
            if self._loggers is not None:
                self._loggers.add_metrics(metrics, result.step)
                self._loggers.flush()
        self._writer.flush()
        self._listeners.on_epoch(result)

    def _write_rates(self, writer: SummaryWriter, result: EpochResult) -> None:
        rates = [*self._rates]
        if not rates or rates[-1][0] < result.step:
            rates.append((result.step, result.learning_rate))
        self._run.append_rates(rates)
        for step, rate in rates:
            writer.add_scalar("learning_rate", rate, step)
            if self._loggers is not None:
                self._loggers.add_metrics({"learning_rate": rate}, step)
        self._rates.clear()

    def add_texts(self, config: TrainConfig, *, dataset: str) -> None:
        """Tell TensorBoard what is trained. dataset: its name and origin, in words."""
        assert self._writer is not None
        self._writer.add_text("dataset", dataset)
        self._writer.add_text("config", _as_code(yaml.safe_dump(config.to_dict(), sort_keys=False)))
        self._writer.add_text("command", _as_code(repeat_command(config)))
        if self._loggers is not None:
            self._loggers.add_config(config.to_dict())

    def add_result(self, result: TrainResult, step: int) -> None:
        """Show the result of the run in TensorBoard: as a table, and in the tab HParams."""
        if self._writer is None or not self._keeps_scores:
            return
        values = result.to_dict()
        shown = {name: value for name, value in values.items() if not isinstance(value, (dict, list))}
        rows = "\n".join(f"| {name} | {value} |" for name, value in shown.items())
        self._writer.add_text("summary", f"| | |\n| --- | --- |\n{rows}", step)
        recipe = {name: value for name, value in asdict(result.config.recipe).items() if name != "source"}
        chosen = {"model": result.model, "dataset": result.dataset, "seed": result.seed, **recipe}
        measured = (*SCORES, "images_per_second", "train_seconds")
        scores = {f"final/{name}": float(values[name]) for name in measured if values[name] is not None}
        # As SummaryWriter.add_hparams does, which would begin another folder beside the run's events.
        simple = {name: "none" if value is None else value for name, value in chosen.items()}
        for summary in hparams(simple, scores):  # type: ignore[no-untyped-call]
            self._writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]
        for name, value in scores.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
        if self._loggers is not None:
            self._loggers.add_metrics(scores, step)
            self._loggers.flush()

    def state_dict(self) -> dict[str, Any]:
        return {
            "val_accuracies": self.val_accuracies,
            "rates": [list(rate) for rate in self._rates],
            "recorded": self._recorded,
            "highest": self._highest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the epochs of a checkpoint. Those of an earlier version hold no learning rates."""
        self.val_accuracies = [float(accuracy) for accuracy in state["val_accuracies"]]
        self._rates = [(int(step), float(rate)) for step, rate in state.get("rates", ())]
        self._recorded, self._highest = state.get("recorded", -1.0), state.get("highest", 0.0)


def _as_code(text: str) -> str:
    """As a block of code in Markdown."""
    return "".join(f"    {line}\n" for line in text.splitlines())
