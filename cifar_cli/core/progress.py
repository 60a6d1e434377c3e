"""Progress reports of the core: it calls a function that its caller passes, and never prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cifar_cli.printable import printable


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a task is."""

    task: str
    """A short description, equal in all reports of the same task."""
    done: int = 0
    """Finished part, in `unit`."""
    total: int | None = None
    """Size of the task in `unit`; None while it is unknown."""
    unit: str = ""
    detail: str = ""
    """Text that may change between reports, such as a mirror's name; shown after the bar."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", printable(self.task))
        object.__setattr__(self, "detail", printable(self.detail))


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The default listener: does nothing."""
