"""TensorBoard's event files, on disks that may be full."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class Events(SummaryWriter):
    """A writer whose failures are raised once, by the next call.

    TensorBoard writes in a thread, and Python would print the thread's traceback as well.
    """

    def __init__(self, folder: Path, *, purge_step: int | None = None) -> None:
        if not isinstance(threading.excepthook, _QuietHook):
            threading.excepthook = _QuietHook(threading.excepthook)
        super().__init__(folder, purge_step=purge_step)

    def close(self) -> None:
        """Close the file. What can't be written now was flushed, or has failed, before."""
        with suppress(OSError):
            super().close()


class _QuietHook:
    """`threading.excepthook` for every thread but TensorBoard's."""

    def __init__(self, other: Any) -> None:
        self._other = other

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            self._other(args)
