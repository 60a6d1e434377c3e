"""Ctrl-C, SIGTERM and SIGHUP while a run trains."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interrupts:
    """Remembers the first signal, so that the current step is finished and saved; a second Ctrl-C ends the run at once.

    SIGTERM comes from a scheduler or `kill`, SIGHUP from a terminal that is closed.
    """

    def __init__(self) -> None:
        self.signal = 0
        """The number of the first signal; 0 before it."""

    @property
    def asked(self) -> bool:
        """Whether the run was asked to stop."""
        return self.signal != 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals while the block runs. Only the main thread can; in others nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # `nohup` ignores SIGHUP, and that must stay so.
        handled = [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN or each is signal.SIGINT]
        previous = {each: signal.signal(each, self._ask) for each in handled}
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number


def interrupted(what: str, run: RunDir, *, by: int = signal.SIGINT) -> Interrupted:
    """The error that ends the run, with the command that continues it where something was saved.

    by: the signal's number, which decides the exit status.
    """
    if run.last.exists():
        error = Interrupted(f"{what} in {run.path}", remedy=f"continue with `cifar train --resume {run.path}`")
    else:
        error = Interrupted(f"interrupted before anything was saved in {run.path}", remedy="start the run again")
    error.exit_code = 128 + by  # as shells report it
    return error
