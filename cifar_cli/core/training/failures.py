"""Failures of a long run, as errors with a remedy."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager

from cifar_cli.core.out_of_memory import is_of_the_host, is_out_of_memory
from cifar_cli.core.training.ranks import LostProcessError
from cifar_cli.core.training.results import EpochResult
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import CifarError, ConfigError, ResourceError, shell_line

DIVERGED_FACTOR = 100
"""A mean training loss of an epoch that is so many times the loss of guessing, ln(classes), has diverged. Runs that
recover from a bad first epoch stay far below."""


def explained(error: Exception, run: RunDir, *, compiled: bool) -> Exception:
    """The error as a ResourceError where the user can act on it, otherwise the error itself."""
    if is_out_of_memory(error):
        return _short_of_memory(error)
    if compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return ResourceError(
            f"torch.compile can't compile this model here ({first_line(error)})",
            remedy="pass --no-compile, or install a C++ compiler",
        )
    if "stream is capturing" in str(error):
        return ConfigError(
            f"the training step of this model can't be captured as a CUDA graph ({first_line(error)})",
            remedy="pass --cuda-graph off, or auto",
        )
    if "does not have a deterministic implementation" in str(error):
        return ConfigError(
            f"--deterministic isn't possible for this model on this device ({first_line(error)})",
            remedy="leave out --deterministic, or pass --device cpu",
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
    place = str(getattr(error, "filename2", None) or getattr(error, "filename", None) or "")  # of a rename, its target
    if isinstance(error, OSError) and place.startswith(str(run.path)):
        return ResourceError(
            f"{place} can't be read or written ({error.strerror})", remedy=f"move it away, then {go_on}"
        )
    return error


@contextmanager
def memory_named() -> Iterator[None]:
    """Raise ResourceError where memory runs out in a block: of the trials before training too, and within cuDNN."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise _short_of_memory(error) from error
        raise


def _short_of_memory(error: Exception) -> ResourceError:
    return ResourceError(
        f"{'this machine' if is_of_the_host(error) else 'the GPU'} ran out of memory",
        remedy="pass a smaller --batch; `cifar profile-memory --find-max-batch` finds the largest one that fits",
    )


def require_converging(result: EpochResult, run: RunDir, *, classes: int, weights_are_finite: bool) -> None:
    """Raise CifarError when a run has diverged. This is the only place that decides it, after every epoch.

    weights_are_finite: oneDNN's poolings and ReLUs can hide a NaN weight from the loss.
    """
    lost = _lost(result, classes, weights_are_finite=weights_are_finite)
    if lost is not None:
        kept = f"; the best weights so far are in {run.path}" if run.best.exists() else ""
        raise CifarError(
            f"the training diverged: {lost} in epoch {result.epoch}",
            remedy=f"lower --lr (it was {result.learning_rate:g}){kept}",
        )


def _lost(result: EpochResult, classes: int, *, weights_are_finite: bool) -> str | None:
    """How it shows that a run has diverged; None if it hasn't."""
    for split, loss in (("training", result.train_loss), ("validation", result.val_loss)):
        if not math.isfinite(loss):
            return f"the {split} loss became {loss}"
    if not weights_are_finite:
        return "a weight became NaN or infinite"
    guessing = math.log(max(classes, 2))
    if result.train_loss > DIVERGED_FACTOR * guessing:
        return f"the training loss rose to {result.train_loss:.3g}, while guessing has {guessing:.3g},"
    return None


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
