"""A run while it trains: a live view in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cifar_cli.core.progress import OnProgress, Progress
from cifar_cli.core.training.results import EpochResult, TrainProgress
from cifar_cli.render.console import note, stderr
from cifar_cli.render.progress import PLAIN_LINE_SECONDS, clock, progress_shown
from cifar_cli.render.training_tables import EPOCH_HEADING, epoch_line

BLOCKS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 40


class TrainingView:
    """Shows preparation, steps and notes of a run; a terminal has one live part at a time."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._clock = clock
        self._live_part = ExitStack()  # closes the panel or the bars
        self._panel: Live | None = None
        self._bars: OnProgress | None = None
        self._said_at = -math.inf
        self._has_heading = False

    def on_progress(self, progress: Progress) -> None:
        """Preparation and scoring, as bars."""
        if self._bars is None:
            self.close()
            self._bars = self._live_part.enter_context(progress_shown())
        self._bars(progress)

    def on_step(self, progress: TrainProgress) -> None:
        """A training step: a panel in a terminal, a line every few seconds elsewhere."""
        if not self.console.is_terminal:
            if self._clock() - self._said_at >= PLAIN_LINE_SECONDS:
                self._said_at = self._clock()
                note(plain_line(progress))
            return
        if self._panel is None:
            self.close()
            self._panel = self._live_part.enter_context(Live(console=self.console, transient=True, auto_refresh=False))
        self._panel.update(panel(progress), refresh=True)

    def on_note(self, message: str) -> None:
        """A note that stays above the live part."""
        self.close()
        note(message)

    def on_epoch(self, result: EpochResult, *, fast_dev_run: bool) -> None:
        """The scores of an epoch, below a heading."""
        if not self._has_heading and not fast_dev_run:
            self.on_note(EPOCH_HEADING)
        self._has_heading = True
        self.on_note(epoch_line(result, fast_dev_run=fast_dev_run))

    def close(self) -> None:
        """Remove the live part."""
        self._live_part.close()
        self._panel = self._bars = None


def training_shown(*, clock: Callable[[], float] = time.monotonic) -> closing[TrainingView]:
    """A context with the view. At its end the live part is removed, and lines stay."""
    return closing(TrainingView(stderr(), clock=clock))


def panel(progress: TrainProgress) -> RenderableType:
    """Epoch, elapsed time and validation so far, in three lines of at most 80 columns."""
    bars = Table.grid(padding=(0, 1))
    bars.add_row(
        f"epoch {progress.epoch}/{progress.epochs}",
        ProgressBar(total=progress.steps, completed=progress.step, width=24),
        f"loss {progress.loss:.3f}  accuracy {progress.accuracy:.2%}  {progress.images_per_second:,.0f} images/s",
    )
    bars.add_row(
        "time",
        ProgressBar(total=progress.max_seconds, completed=progress.elapsed_seconds, width=24),
        f"{clock(progress.elapsed_seconds)} of {clock(progress.max_seconds)}, ends in {clock(seconds_left(progress))}",
    )
    seen = progress.val_accuracies
    if not seen:
        return bars
    line = Text.assemble("validation ", (sparkline(seen), "cyan"), f"  {seen[-1]:.2%}, best {max(seen):.2%}")
    return Group(bars, line)


def plain_line(progress: TrainProgress) -> str:
    """The same in one line, for logs."""
    best = f", val best {max(progress.val_accuracies):.2%}" if progress.val_accuracies else ""
    return (
        f"epoch {progress.epoch}/{progress.epochs} step {progress.step}/{progress.steps}: loss {progress.loss:.3f}, "
        f"accuracy {progress.accuracy:.2%}{best}, {progress.images_per_second:,.0f} images/s, "
        f"{clock(progress.elapsed_seconds)} of {clock(progress.max_seconds)}, "
        f"ends in {clock(seconds_left(progress))}"
    )


def seconds_left(progress: TrainProgress) -> float:
    """Seconds until the run is done at the current rate, or until the time cap."""
    by_work = progress.elapsed_seconds * (1 - progress.share_done) / max(progress.share_done, 1e-9)
    return max(0.0, min(by_work, progress.max_seconds - progress.elapsed_seconds))


def sparkline(values: Sequence[float]) -> str:
    """The last values as blocks, scaled between their lowest and highest."""
    shown = values[-SPARKLINE_WIDTH:]
    low, high = min(shown), max(shown)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in shown)
