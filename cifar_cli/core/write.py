"""Writing files so that a kill, a crash or a full disk leaves the old content or the new, never a part of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file. Raises OSError, and leaves the old file then."""
    with replacing(path) as part:
        part.write_bytes(content)


@contextmanager
def replacing(path: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """A path to write to; after the block the file is on the disk, and has replaced `path`.

    keep: where the old file goes. Raises OSError when the new file can't be written; the old one stays then.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        _to_disk(part)
        if keep is not None and path.exists():
            path.replace(keep)
        part.replace(path)
    except BaseException:
        with suppress(OSError):  # what went wrong first is what the user must know
            part.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some file systems can't do it for a folder
        _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
