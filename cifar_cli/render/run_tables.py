"""Runs as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from cifar_cli.core.training.runs import RunList
from cifar_cli.render.tables import table_of
from cifar_cli.render.training_tables import duration


def runs(found: RunList, *, width: int) -> list[RenderableType]:
    """A row for each run, the oldest first. In fewer columns of text than all need, some are left out.

    A name stays whole, because other commands take it.
    """
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
    left_out = []
    for dispensable in ("model", "data", "state"):
        if _width(columns) > width:
            columns.pop(dispensable)
            left_out.append(dispensable)
    caption = f"not shown at this width: {', '.join(left_out)}" if left_out else None
    return [table_of(columns, words=("run", "model", "data", "state"), whole=("run",), caption=caption)]


def _width(columns: Mapping[str, Sequence[str | Text]]) -> int:
    """Columns of text of a table, with a border and two spaces for each."""
    return 1 + sum(3 + max(map(cell_len, (name, *map(str, cells)))) for name, cells in columns.items())
