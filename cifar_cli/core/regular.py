"""Reading files whose kind and size are not to be trusted."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from cifar_cli.core.limits import MAX_RUN_FILE_BYTES


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError for a pipe or a device, which may block or never end."""
    return open(path, "rb", opener=_without_waiting)


def read_regular(path: Path, most_bytes: int) -> bytes:
    """A file's content. Raises OSError for a pipe, for a device, and for a file of more than `most_bytes`."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise OSError(errno.EFBIG, f"it has more than {most_bytes:,} bytes", str(path))
        return file.read()


def read_text(path: Path, most_bytes: int = MAX_RUN_FILE_BYTES) -> str:
    """A text file's content. Raises OSError as `read_regular` does, ValueError for what is not UTF-8."""
    return read_regular(path, most_bytes).decode("utf-8")


def read_json(path: Path, most_bytes: int = MAX_RUN_FILE_BYTES) -> Any:
    """A JSON file's content. Raises OSError as `read_regular` does, ValueError for anything but JSON."""
    try:
        return json.loads(read_text(path, most_bytes))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _without_waiting(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe would wait for a writer
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # `open` itself refuses a folder
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is a pipe, a device or another special file", path)
