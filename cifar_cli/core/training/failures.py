"""Failures of a long run, in words."""

from __future__ import annotations

import errno

import torch

from cifar_cli.core.training.ranks import LostProcessError
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import ResourceError


def explained(error: Exception, run: RunDir, *, compiled: bool) -> Exception:
    """The error as a ResourceError where the user can act on it, otherwise the error itself."""
    if isinstance(error, torch.OutOfMemoryError):
        return ResourceError(
            "the GPU ran out of memory", remedy="pass a smaller --batch; `cifar profile-memory` says which fits"
        )
    if compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return ResourceError(
            f"torch.compile can't compile this model here ({str(error).strip().splitlines()[0]})",
            remedy="pass --no-compile, or install a C++ compiler",
        )
    go_on = f"continue with `cifar train --resume {run.path}`" if run.last.exists() else "start again"
    if isinstance(error, LostProcessError):
        return LostProcessError(error.what, remedy=go_on)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    # torch.save reports a full disk as a RuntimeError: of the write, or of closing the file after it.
    if full or any(words in str(error) for words in ("PytorchStreamWriter failed", "inline_container.cc")):
        return ResourceError(f"there is no space left to write to {run.path}", remedy=f"free some, then {go_on}")
    return error
