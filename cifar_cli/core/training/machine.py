"""What the machine can do at best."""

from __future__ import annotations

import time

import torch

SIDE = 2048
SECONDS = 0.3


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
    if left.device.type == "cuda":
        torch.cuda.synchronize(left.device)
    return time.perf_counter() - start
