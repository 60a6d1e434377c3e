"""Signals while a run trains: Ctrl-C, SIGTERM, SIGHUP, and SIGUSR1 under SLURM."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from types import FrameType

from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import Interrupted, shell_line

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
HEARD_SECONDS = 1.0  # after which a step that still runs is called slow
REPEAT_SECONDS = 1.0  # shell and kernel may each send the same signal when a terminal is closed


class Interrupts:
    """Remembers the first signal, so that the current step is finished and saved; a second one ends the run at once.

    SIGTERM comes from a scheduler or `kill`, SIGHUP from a terminal that is closed, SIGUSR1 from SLURM before the time
    limit of a job (`sbatch --signal`). on_note: told about the signal where a step takes long.
    """

    def __init__(
        self, on_note: Callable[[str], None] = lambda sentence: None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.signal = 0
        """The number of the first signal; 0 before it."""
        self._on_note, self._clock = on_note, clock
        self._asked_at = 0.0
        self._slow: threading.Timer | None = None

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
        signals = [*SIGNALS, *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else [])]
        # `nohup` ignores SIGHUP, and that must stay so.
        handled = [each for each in signals if signal.getsignal(each) is not signal.SIG_IGN or each is signal.SIGINT]
        previous = {each: signal.signal(each, self._ask) for each in handled}
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)
            if self._slow is not None:
                self._slow.cancel()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = self._clock()
        if self.asked:
            if number == signal.SIGINT or now - self._asked_at >= REPEAT_SECONDS:
                raise KeyboardInterrupt(number)
            return
        self.signal, self._asked_at = number, now
        heard = f"{signal.Signals(number).name} was received: the run ends after this step; the same again ends it now"
        # A thread says it: a signal handler may have come in the middle of another line of output.
        self._slow = threading.Timer(HEARD_SECONDS, self._on_note, (heard,))
        self._slow.daemon = True
        self._slow.start()


def interrupted(what: str, run: RunDir, *, by: int = signal.SIGINT) -> Interrupted:
    """The error that ends the run, with the command that continues it where something was saved.

    by: the signal's number, which decides the exit status.
    """
    if run.saved:
        remedy = f"continue with `{shell_line('cifar train --resume', run.path)}`"
        error = Interrupted(f"{what} in {run.path}", remedy=remedy)
    else:
        error = Interrupted(f"interrupted before anything was saved in {run.path}", remedy="start the run again")
    error.before_time_limit = by == getattr(signal, "SIGUSR1", None)
    error.exit_code = 128 + (signal.SIGTERM if error.before_time_limit else by)  # as shells report it
    return error


def left_at_once(run: RunDir, second: KeyboardInterrupt) -> Interrupted:
    """The error after a second signal: nothing was saved since the last checkpoint."""
    number = next(iter(second.args), signal.SIGINT)
    what = "interrupted at once, without saving"
    with suppress(IndexError, OSError):
        saved_at = datetime.fromtimestamp(run.saved[0].stat().st_mtime)
        what = f"interrupted at once; the checkpoint of {saved_at:%H:%M:%S} stays"
    return interrupted(what, run, by=number)
