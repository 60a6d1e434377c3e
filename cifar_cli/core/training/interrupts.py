"""Ctrl-C while a run trains."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import Interrupted


class Interrupts:
    """Remembers the first Ctrl-C, so that the current step is finished and saved; a second one ends the run at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle Ctrl-C while the block runs. Only the main thread can; in others nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def interrupted(what: str, run: RunDir) -> Interrupted:
    """The error that ends the run, with the command that continues it where something was saved."""
    if not run.last.exists():
        return Interrupted(f"{what}; nothing was saved yet in {run.path}", remedy="start the run again")
    return Interrupted(f"{what} in {run.path}", remedy=f"continue with `cifar train --resume {run.path}`")
