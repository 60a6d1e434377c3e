"""What a checkpoint holds of a running run besides its weights, and how a resumed run gets it back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cifar_cli.core.data.loader import BatchLoader
from cifar_cli.core.training.checkpoint import restore_step, save_checkpoint
from cifar_cli.core.training.checkpoint_schema import SavedRun, validated
from cifar_cli.core.training.deadline import Deadline
from cifar_cli.core.training.failures import first_line
from cifar_cli.core.training.pace import Pace
from cifar_cli.core.training.ranks import ALONE, Ranks
from cifar_cli.core.training.record import Record
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.scores import Scores
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.errors import CheckpointError

StoppedBy = Literal["epochs", "time", "patience"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where a run is."""

    epoch: int = 0
    """Counted from 0."""
    epoch_step: int = 0
    """Steps done in this epoch."""
    global_step: int = 0
    """Steps done in all epochs."""
    stopped_by: StoppedBy = "epochs"
    """"time" once the time cap has ended the run."""


class RunState:
    """The parts of a run that change while it trains, and when they are saved.

    loader: of the training images. scores: of the training images of this epoch. every_seconds: time between
    checkpoints within an epoch, by `clock`; None for none.
    """

    def __init__(
        self,
        run: RunDir,
        *,
        step: TrainingStep,
        loader: BatchLoader,
        deadline: Deadline,
        pace: Pace,
        record: Record,
        scores: Scores,
        every_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run, self.step, self.loader, self.deadline, self.pace, self.record = (
            run, step, loader, deadline, pace, record,
        )  # fmt: skip
        self.scores = scores
        self._every_seconds, self._clock, self._saved_at = every_seconds, clock, clock()

    def is_due(self) -> bool:
        """Whether the last checkpoint is older than `every_seconds`."""
        return self._every_seconds is not None and self._clock() - self._saved_at >= self._every_seconds

    def save(
        self, path: Path, description: dict[str, Any], at: Position, *, next_epoch: int, ranks: Ranks = ALONE
    ) -> None:
        """Write a checkpoint that continues with the next step of `next_epoch`, counted from 0.

        The one before last.ckpt stays as previous.ckpt, and best.ckpt's weights are written as model.safetensors too.
        description: what `describe` returns. ranks: all of them call this, and the first one writes.
        Raises OSError or RuntimeError.
        """
        within_epoch = next_epoch == at.epoch and at.epoch_step > 0
        scores = self.scores.joined(ranks).state() if within_epoch else None
        save_checkpoint(
            path,
            self.step,
            description,
            keep=self.run.previous if path == self.run.last else None,
            weights=self.run.best_weights if path == self.run.best else None,
            write=ranks.is_first,
            epoch=at.epoch,
            global_step=at.global_step,
            loop={
                "epoch": next_epoch,
                "stopped_by": at.stopped_by,
                "loader": self.loader.state_dict(),
                "deadline": self.deadline.state_dict(),
                "pace": self.pace.state_dict(),
                "record": self.record.state_dict(),
                "scores": scores,
            },
        )
        self._saved_at = self._clock()

    def restore(self, content: dict[str, Any], *, origin: Path, ranks: Ranks = ALONE) -> Position:
        """Continue where the checkpoint with this content was written.

        origin: its file, for the error message. ranks: the first one goes on with the scores of all.
        Raises CheckpointError where it doesn't fit.
        """
        epoch_step = 0
        validated(SavedRun, content, origin=origin)
        try:
            restore_step(self.step, content)
            state = content["loop"]
            epoch, global_step = int(state["epoch"]), int(content["global_step"])
            if state["loader"]["epoch"] == epoch:
                self.loader.load_state_dict(state["loader"])
                epoch_step = int(state["loader"]["next_batch"])
            if ranks.is_first and state.get("scores") is not None:  # an earlier version saved none
                self.scores.restore(state["scores"])
            self.deadline.load_state_dict(state["deadline"])
            self.pace.load_state_dict(state["pace"])
            self.record.load_state_dict(state["record"])
            had_seconds = content["cifar"]["config"]["recipe"]["max_seconds"]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{origin} doesn't fit this run ({first_line(error)})", remedy="start a new run"
            ) from error
        used_up = state["stopped_by"] == "time" and self.deadline.max_seconds <= had_seconds
        return Position(
            epoch=epoch, epoch_step=epoch_step, global_step=global_step, stopped_by="time" if used_up else "epochs"
        )
