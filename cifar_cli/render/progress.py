"""Progress as a person sees it: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from cifar_cli.core.progress import OnProgress, Progress
from cifar_cli.render.console import note, stderr

PLAIN_LINE_SECONDS = 5.0


@contextmanager
def progress_shown() -> Iterator[OnProgress]:
    """Give a listener for the core's progress; bars vanish at the end, lines stay."""
    console = stderr()
    if not console.is_terminal:
        yield _plain_listener()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def listen(progress: Progress) -> None:
            if progress.task not in tasks:
                tasks[progress.task] = bars.add_task(progress.task, total=progress.total, unit="", detail="")
            bars.update(
                tasks[progress.task],
                completed=progress.done,
                total=progress.total,
                unit=progress.unit,
                detail=progress.detail,
            )

        yield listen


def _plain_listener() -> OnProgress:
    last: dict[str, float] = {}

    def listen(progress: Progress) -> None:
        now = time.monotonic()
        finished = progress.total is not None and progress.done >= progress.total
        if not finished and now - last.get(progress.task, -PLAIN_LINE_SECONDS) < PLAIN_LINE_SECONDS:
            return
        last[progress.task] = now
        of = f"/{progress.total}" if progress.total is not None else ""
        note(f"{progress.task}: {progress.done}{of} {progress.unit} {progress.detail}".rstrip())

    return listen
