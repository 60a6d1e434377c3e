"""The runs of a sweep as a table."""

from __future__ import annotations

from rich.table import Table

from cifar_cli.core.workflow.sweep_config import SweepReport
from cifar_cli.render.tables import table_of


def sweep(report: SweepReport) -> Table:
    """One row for each run, the highest validation accuracy first."""
    results = sorted(report.results, key=lambda result: -(result.val_accuracy or 0.0))
    columns = {key: [result.settings[key] for result in results] for key in (results[0].settings if results else ())}
    columns["validation"] = [_percent(result.val_accuracy) for result in results]
    columns["test"] = [_percent(result.test_accuracy) for result in results]
    columns["mirror averaged"] = [_percent(result.test_accuracy_flip_averaged) for result in results]
    columns["seconds"] = ["" if result.train_seconds is None else f"{result.train_seconds:,.0f}" for result in results]
    columns["status"] = [result.status for result in results]
    title = f"{report.folder}: {report.count('done')} of {len(results)} runs done"
    return table_of(columns, words=("status",), title=title)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"
