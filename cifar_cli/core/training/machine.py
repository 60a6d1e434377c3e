"""The device to train on, the process settings that make it fast, and its highest matrix product rate."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import torch

from cifar_cli.core.choices import DeviceChoice
from cifar_cli.core.heap import keep_freed_memory
from cifar_cli.errors import ResourceError

# A GPU needs large matrices: a product of 2,048 takes an H100 some 25 µs, no longer than starting it does.
MATMUL_SIDES = {"cpu": 2048, "mps": 4096, "cuda": 8192}
MATMUL_SECONDS = 0.3


def device_of(choice: DeviceChoice) -> torch.device:
    """The device of a choice; "auto" takes CUDA before MPS before the CPU.

    Raises ResourceError for a device that this machine lacks.
    """
    if choice in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if choice in ("auto", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    if choice in ("cuda", "mps"):
        raise ResourceError(
            f"there is no {choice.upper()} device that PyTorch can use", remedy="pass --device cpu, or auto"
        )
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """What is installed as this device: the GPU's or the processor's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def processor_name() -> str:
    """The processor's name as the operating system gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def prepared_device(choice: DeviceChoice, *, deterministic: bool = False) -> torch.device:
    """The device of a choice, with this process set up to train on it. Raises ResourceError as `device_of` does."""
    if deterministic:  # cuBLAS reads it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = device_of(choice)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def matmul_flops_per_second(dtype: torch.dtype | None, device: torch.device) -> float:
    """The highest rate of a square matrix product (MATMUL_SIDES), at two operations per multiply-add.

    dtype: None for float32.
    """
    side = MATMUL_SIDES[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    _timed(left, right)
    best, end = float("inf"), time.perf_counter() + MATMUL_SECONDS
    while time.perf_counter() < end:
        best = min(best, _timed(left, right))
    return 2 * side**3 / best


def _timed(left: torch.Tensor, right: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(left, right)
    wait_for(left.device)
    return time.perf_counter() - start


@contextmanager
def kernels(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """The fastest kernels, or for a block those that give equal bits in every run.

    An operation without such a kernel then raises RuntimeError. Source: PyTorch's notes on reproducibility.
    """
    if not deterministic:
        with fast_kernels(device):
            yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]


@contextmanager
def fast_kernels(device: torch.device) -> Iterator[None]:
    """On CUDA: TF32 for float32 products, and cuDNN's search for the fastest convolution algorithms."""
    if device.type != "cuda":
        yield
        return
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with _tf32(True):
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark


def exact_kernels() -> AbstractContextManager[None]:
    """Products and convolutions of float32 in float32 on every device: by itself, cuDNN computes them in TF32."""
    return _tf32(False)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def release_cached_memory(device: torch.device) -> None:
    """Give memory that this process has freed back to the device, so that other processes can measure with it."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
