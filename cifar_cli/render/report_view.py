"""The answers of a report on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from cifar_cli.core.evaluation.report.comparison import table
from cifar_cli.core.evaluation.report.results import Comparison, ReportResult
from cifar_cli.printable import printable
from cifar_cli.render.tables import table_of


def answers(result: ReportResult) -> Iterator[RenderableType]:
    """Each question with its answer, by run, and the page's path."""
    for run in result.runs:
        yield Text(f"{run.model} in {run.run_dir}", style="bold", overflow="fold")
        if run.notice is not None:
            yield Text(printable(run.notice), style="yellow")
        for answer in run.answers:
            yield Text(answer.question, style="dim")
            yield Padding(Text(answer.sentence), (0, 0, 0, 2))
        yield Text()
    if result.comparison is not None:
        yield from _compared(result.comparison)
    yield Text(f"report: {result.page}", overflow="fold")


def _compared(comparison: Comparison) -> Iterator[RenderableType]:
    rows = table(comparison)
    columns: dict[str, list[str | Text]] = {"": [label for label, _ in rows]}
    for place, run in enumerate(comparison.runs):
        columns[printable(run.name)] = [Text(printable(values[place])) for _, values in rows]
    yield Text("How do the runs compare?", style="dim")
    yield from (Padding(Text(printable(sentence)), (0, 0, 0, 2)) for sentence in comparison.sentences)
    yield table_of(columns, words=("",))
    yield from (Text(printable(test.sentence)) for test in comparison.tests)
    yield Text()
