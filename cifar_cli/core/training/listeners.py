"""Callbacks of a training run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.core.training.loggers import LoggerName
from cifar_cli.core.training.results import EpochResult, Numerics, TrainProgress


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """Functions that a run calls with what happens; each does nothing by default."""

    on_note: Callable[[str], None] = lambda sentence: None
    """A sentence about what is trained, chosen or left out."""
    on_progress: OnProgress = silent
    """Progress of preparation and scoring."""
    on_step: Callable[[TrainProgress], None] = lambda progress: None
    """Progress of the steps, at most twice a second."""
    on_epoch: Callable[[EpochResult], None] = lambda result: None
    on_numerics: Callable[[Numerics], None] = lambda numerics: None
    """The precision and memory format, once they are chosen."""
    loggers: tuple[LoggerName, ...] = ()
    """Other programs that get the metrics; TensorBoard always does."""
    began: float | None = None
    """When the user's command began, in seconds of time.monotonic(); None for the call of `train`."""


SILENT = Listeners()
