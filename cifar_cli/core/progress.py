"""How the core says how far it is: it calls the function it was handed, and never prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One step of a named task.

    task: what goes on, in a few words; the same words every time for the same task.
    done, total: in `unit`; total is None while it is not known.
    detail: what changes on the way (a mirror's name, a path), shown behind the bar.
    """

    task: str
    done: int = 0
    total: int | None = None
    unit: str = ""
    detail: str = ""


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The default listener: says nothing."""
