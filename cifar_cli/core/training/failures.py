"""Failures of a long run, as errors with a remedy."""

from __future__ import annotations

import errno
import math

import torch

from cifar_cli.core.training.ranks import LostProcessError
from cifar_cli.core.training.results import EpochResult
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import CifarError, ResourceError, shell_line


def explained(error: Exception, run: RunDir, *, compiled: bool) -> Exception:
    """The error as a ResourceError where the user can act on it, otherwise the error itself."""
    if isinstance(error, torch.OutOfMemoryError):
        return ResourceError(
            "the GPU ran out of memory",
            remedy="pass a smaller --batch; `cifar profile-memory --find-max-batch` finds the largest one that fits",
        )
    if compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return ResourceError(
            f"torch.compile can't compile this model here ({first_line(error)})",
            remedy="pass --no-compile, or install a C++ compiler",
        )
    go_on = f"continue with `{shell_line('cifar train --resume', run.path)}`" if run.saved else "start again"
    if isinstance(error, LostProcessError):
        return LostProcessError(error.what, remedy=go_on)
    if "DataLoader worker" in str(error):
        return ResourceError(
            f"a process that augments images ended, perhaps because memory ran out ({first_line(error)})",
            remedy=f"pass fewer --workers for a new run, or {go_on}",
        )
    denied = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    if denied or any(words in str(error) for words in ("Permission denied", "Read-only file system")):
        return ResourceError(
            f"{run.path} can't be written to ({first_line(error)})",
            remedy=f"make it writable, or copy the run elsewhere, then {go_on}",
        )
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    # torch.save reports a full disk as a RuntimeError: of the write, or of closing the file after it.
    if full or any(words in str(error) for words in ("PytorchStreamWriter failed", "inline_container.cc")):
        return ResourceError(f"there is no space left to write to {run.path}", remedy=f"free disk space, then {go_on}")
    return error


def require_finite(result: EpochResult, run: RunDir, *, weights_are: bool) -> None:
    """Raise CifarError when the loss or a weight is NaN or infinite.

    weights_are: whether all weights are finite. oneDNN's poolings and ReLUs can hide a NaN weight from the loss.
    """
    if not math.isfinite(result.train_loss):
        lost = f"the training loss became {result.train_loss}"
    elif not weights_are:
        lost = "a weight became NaN or infinite"
    else:
        return
    kept = f"; the best weights so far are in {run.path}" if run.best.exists() else ""
    raise CifarError(f"{lost} in epoch {result.epoch}", remedy=f"lower --lr (it was {result.learning_rate:g}){kept}")


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
