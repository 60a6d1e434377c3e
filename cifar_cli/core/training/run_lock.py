"""One process at a time trains in a run directory."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from cifar_cli.core.limits import MAX_MARK_BYTES
from cifar_cli.core.regular import read_json
from cifar_cli.errors import CheckpointError

LOCK = "run.lock"


@contextmanager
def locked(path: Path, *, hold: bool = True) -> Iterator[None]:
    """Keep other processes out of a run directory while the block runs; the same one may enter again.

    The operating system holds the lock, so that one of a killed process is free. hold: False does nothing. A folder
    that can't be written to needs no lock. Raises CheckpointError, naming the process, where another one is in it.
    """
    lock = FileLock(path / LOCK, timeout=0, is_singleton=True)
    try:
        if hold:
            lock.acquire()
    except Timeout:
        raise CheckpointError(f"{path} is in use by {_holder(path)}", remedy="wait until that ends") from None
    except OSError:
        hold = False
    try:
        if hold:
            _introduce(path)
        yield
    finally:
        if hold:
            lock.release()


def _introduce(path: Path) -> None:
    """Write into the lock file who holds it. A full disk changes nothing: the lock holds without it."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with suppress(OSError):
        if (path / LOCK).is_file():  # writing into a pipe would wait for a reader
            (path / LOCK).write_text(json.dumps(holder), encoding="utf-8")


def _holder(path: Path) -> str:
    try:
        holder = read_json(path / LOCK, MAX_MARK_BYTES)
        return f"process {int(holder['pid'])} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
