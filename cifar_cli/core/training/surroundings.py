"""What a run needs around it: fast kernels, a quiet Lightning, and words for what ends it."""

from __future__ import annotations

import errno
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import ResourceError


def explained(error: OSError | RuntimeError, run: RunDir, *, compiled: bool) -> Exception:
    """The failures of a long run that a user can mend, in words; any other error as it is."""
    if isinstance(error, torch.OutOfMemoryError):
        return ResourceError(
            "the GPU ran out of memory", remedy="pass a smaller --batch; `cifar profile-memory` says which fits"
        )
    if compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return ResourceError(
            f"torch.compile can't compile this model here ({str(error).strip().splitlines()[0]})",
            remedy="pass --no-compile, or install a C++ compiler",
        )
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    # torch's zip writer reports a full disk as a RuntimeError of its own.
    if full or "PytorchStreamWriter failed" in str(error):
        go_on = f"continue with `cifar train --resume {run.path}`" if run.last.exists() else "start again"
        return ResourceError(f"there is no space left to write to {run.path}", remedy=f"free some, then {go_on}")
    return error


@contextmanager
def fast_kernels(device: torch.device) -> Iterator[None]:
    """On CUDA: TF32 for float32 products, and the convolution algorithms that are fastest for these shapes.

    On a CPU: no search for NVIDIA's library, with which torch's Adam asks at every step whether there is a GPU.
    """
    if device.type == "cpu":
        with _gpu_asked_of_driver():
            yield
        return
    if device.type != "cuda":
        yield
        return
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    tf32 = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = tf32, benchmark


@contextmanager
def _gpu_asked_of_driver() -> Iterator[None]:
    """Undo Lightning's choice of NVML, which is looked for on the disk each time where it isn't installed.

    Lightning chose it because asking the driver makes CUDA unusable in forked processes; this run doesn't use CUDA.
    """
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.pop(name, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's remarks about devices, tips and loaders to itself: they are answered here already."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
