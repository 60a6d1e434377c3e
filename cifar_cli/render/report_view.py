"""The answers of a report on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from cifar_cli.core.evaluation.report.results import ReportResult


def answers(result: ReportResult) -> Iterator[RenderableType]:
    """Each question with its answer, by run, and the page's path."""
    for run in result.runs:
        state = "" if run.finished else ", not finished"
        yield Text(f"{run.model} in {run.run_dir}{state}", style="bold", overflow="fold")
        for answer in run.answers:
            yield Text(answer.question, style="dim")
            yield Padding(Text(answer.sentence), (0, 0, 0, 2))
        yield Text()
    yield Text(f"report: {result.page}", overflow="fold")
