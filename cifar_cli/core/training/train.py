"""A run from its config to its result: started, or continued where it was interrupted."""

from __future__ import annotations

from pathlib import Path

from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.core.training.listeners import SILENT, Listeners
from cifar_cli.core.training.loop import REAL, Seams, fit
from cifar_cli.core.training.prepare import prepare, prepare_resumed
from cifar_cli.core.training.results import TrainResult


def train(config: TrainConfig, listeners: Listeners = SILENT, *, seams: Seams = REAL) -> TrainResult:
    """Train a model, keep the weights with the highest validation accuracy, and score them once on the test split.

    Writes the run directory described in docs/training.md. Raises what `prepare` and `fit` raise.
    """
    return fit(prepare(config, listeners), listeners, seams=seams)


def resume(run: Path | ResumeConfig, listeners: Listeners = SILENT, *, seams: Seams = REAL) -> TrainResult:
    """Continue a run from its last checkpoint, with the batch that was next.

    Raises what `prepare_resumed` and `fit` raise.
    """
    asked = run if isinstance(run, ResumeConfig) else ResumeConfig(run_dir=run)
    prepared, directory = prepare_resumed(asked, listeners)
    return fit(prepared, listeners, run=directory, seams=seams)
