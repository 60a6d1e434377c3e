"""Runs as a table."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from cifar_cli.core.training.runs import RunList
from cifar_cli.render.tables import table_of
from cifar_cli.render.training_tables import duration


def runs(found: RunList) -> list[RenderableType]:
    """A row for each run, the oldest first."""
    if not found.runs:
        return [Text(f"no runs in {found.folder}")]
    columns: dict[str, list[str | Text]] = {
        "run": [Text(run.name) for run in found.runs],
        "model": [Text(run.model) for run in found.runs],
        "data": [Text(run.dataset) for run in found.runs],
        "test": ["" if run.test_accuracy is None else f"{run.test_accuracy:.2%}" for run in found.runs],
        "time": ["" if run.train_seconds is None else duration(run.train_seconds) for run in found.runs],
        "state": [run.state for run in found.runs],
    }
    return [table_of(columns, words=("run", "model", "data", "state"))]
