"""What the machine can do at best, and what it needs for that."""

from __future__ import annotations

import ctypes
import platform
import time

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h

SIDE = 2048
SECONDS = 0.3


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for the tensors of the next step; whether that could be set.

    glibc gives large blocks back to the system at once and asks for them again, page by page, in the next step: some
    10,000 page faults, a third of the time of a step of `null` at batch 128. It is set for the whole process, whose
    resident size stays at its peak from then on. Other C libraries are left alone.
    Source: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1))


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def matmul_flops_per_second(dtype: torch.dtype, device: torch.device) -> float:
    """The best rate of a square matrix product of SIDE, two operations for each multiply-add."""
    left, right = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
    _timed(left, right)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        best = min(best, _timed(left, right))
    return 2 * SIDE**3 / best


def _timed(left: torch.Tensor, right: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(left, right)
    wait_for(left.device)
    return time.perf_counter() - start
