"""The memory of a container (cgroup v2)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def used_bytes(control: Path) -> int:
    """The memory in use, without what the kernel gives up on demand: cached files that were not used lately.

    control: the folder of the container's files. Raises OSError or ValueError where they can't be read.
    Source: `inactive_file` of memory.stat, which `docker stats` takes off `memory.current` too.
    """
    used, cached = int((control / "memory.current").read_text(encoding="ascii")), 0
    with suppress(OSError, ValueError, StopIteration):
        lines = (control / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return used - cached
