"""Progress of a task: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from cifar_cli.core.progress import OnProgress, Progress
from cifar_cli.render.console import note, stderr

PLAIN_LINE_SECONDS = 5.0


@contextmanager
def progress_shown(console: Console | None = None, now: Callable[[], float] = time.monotonic) -> Iterator[OnProgress]:
    """Yield a listener for the core's progress. Bars are erased at the end, lines stay.

    console: where to print; None is stderr. now: the clock, in seconds.
    """
    console = stderr() if console is None else console
    if not console.is_terminal:
        yield _plain_listener(console, now)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        _AmountColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn(
            "{task.fields[detail]}", markup=False, table_column=Column(ratio=3, no_wrap=True, overflow="ellipsis")
        ),
    )
    with Bars(*columns, console=console, transient=True, expand=True) as bars:
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
            if _finished(progress):
                bars.remove_task(tasks.pop(progress.task))

        yield listen


class _AmountColumn(ProgressColumn):
    """The amount done, the total, and for bytes the speed."""

    def render(self, task: Task) -> RenderableType:
        speed = task.finished_speed or task.speed
        return Text(amount(task.completed, task.total, task.fields["unit"], speed))


def amount(done: float, total: float | None, unit: str, per_second: float | None = None) -> str:
    """Format as "12/40 images", or as "1.5/170.5 MB, 0.30 MB/s" for bytes. Total and speed may be unknown (None)."""
    if unit != "bytes":
        of = "" if total is None else f"/{total:,.0f}"
        return f"{done:,.0f}{of} {unit}".rstrip()
    of = "" if total is None else f"/{total / 1e6:,.1f}"
    speed = "" if per_second is None else f", {per_second / 1e6:,.2f} MB/s"
    return f"{done / 1e6:,.1f}{of} MB{speed}"


def clock(seconds: float) -> str:
    """Format seconds as "0:51" or "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_left(seconds: float) -> str:
    """Format seconds as "0:51 left" or "1:02:03 left"."""
    return f"{clock(seconds)} left"


def _plain_listener(console: Console, time_now: Callable[[], float]) -> OnProgress:
    """Print a line when a task begins, ends or switches to another mirror, and every few seconds in between.

    The line of a task without amounts would always be the same, and is printed once.
    """
    printed: dict[str, tuple[Progress, float]] = {}  # the progress on the last line of each task, and its time

    def listen(progress: Progress) -> None:
        now = time_now()
        last, at = printed.get(progress.task, (progress, -math.inf))
        switched = progress.unit == "bytes" and progress.detail != last.detail  # another mirror
        ended = _finished(progress) and not _finished(last)
        due = switched or ended or now - at >= PLAIN_LINE_SECONDS
        if due and (progress.unit or progress.task not in printed):
            printed[progress.task] = progress, now
            note(_plain_line(progress, done=progress.done - last.done, seconds=now - at), console)

    return listen


def _plain_line(progress: Progress, *, done: int, seconds: float) -> str:
    """The line about a task of which `done` units were done in the last `seconds`."""
    if not progress.unit:
        return progress.task
    per_second = done / seconds if seconds > 0 and done > 0 else None
    parts = [f"{progress.task}: {amount(progress.done, progress.total, progress.unit, per_second)}"]
    if per_second and progress.total and progress.total > progress.done:
        parts.append(time_left((progress.total - progress.done) / per_second))
    return ", ".join([*parts, progress.detail] if progress.detail else parts)


def _finished(progress: Progress) -> bool:
    return progress.total is not None and progress.done >= progress.total
