"""The entry point of `cifar` and `python -m cifar_cli`: output that can't be written, and signals before a run."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line."""
    names = ["SIGINT", "SIGTERM", "SIGHUP"] + ["SIGUSR1"] * ("SLURM_JOB_ID" in os.environ)
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and background jobs of a shell want it
            signal.signal(number, _stop)
    from cifar_cli.streams import guard_streams

    guard_streams()
    from cifar_cli.app import app
    from cifar_cli.completion import leave_out_what_bash_cut_off

    leave_out_what_bash_cut_off(os.environ)

    app()


def _stop(number: int, frame: FrameType | None) -> None:
    """End the command as Ctrl-C does; during an import at once, because libraries turn that into other errors."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"error: interrupted\n")
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt(number)
