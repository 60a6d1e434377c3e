"""What the C library does with memory that the process has freed. Only glibc can be told; others are left as they are.

Source: mallopt(3), malloc_trim(3).
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # glibc's malloc.h
_DEFAULT_MMAP_MAX = 65_536
LARGE_BYTES = 4 << 20  # such as a picture that is decoded in full, or a batch
TOP_BYTES = 16 << 20  # that the heap may keep at its end


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for the next step. Returns whether the C library allowed it.

    By default glibc returns large blocks to the system and requests them again, page by page, in the next step: about
    10,000 page faults, a third of the time of a step of `null` at batch 128. The setting holds for the process, whose
    resident size stays at its peak from then on, and for those that it forks.
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1))


def return_large_blocks() -> bool:
    """Let this process return blocks of LARGE_BYTES and more when they are freed, whatever was set before.

    Blocks of many sizes that are kept leave gaps in which the next one does not fit. Returns whether the C library
    allowed it.
    """
    libc = _glibc()
    return libc is not None and bool(
        libc.mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
        and libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        and libc.mallopt(_M_TRIM_THRESHOLD, TOP_BYTES)
    )


def return_freed_memory() -> None:
    """Return what is free between the blocks in use to the system, once."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
