"""What a training step really takes: on the host through the profiler, on a GPU in a process of its own."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.host import limit_this_process, watched_allocations
from cifar_cli.core.memory.real_steps import built, prove_steps, try_steps
from cifar_cli.core.memory.results import PeakMemory, Trial
from cifar_cli.core.memory.worker import in_child
from cifar_cli.errors import ConfigError, ResourceError


def require_gpu() -> None:
    """Raises ResourceError where there is no CUDA GPU."""
    if not torch.cuda.is_available():
        raise ResourceError(
            "--measure needs a GPU, and this machine has none",
            remedy="pass --estimate, or --measure --device cpu for the memory of this host",
        )


def measure(config: MemoryConfig, batch: int, *, device: str, timeout_seconds: float = 600.0) -> PeakMemory:
    """Run real steps and report their peak; device is "cpu" or "cuda".

    Raises ConfigError for a batch below 1, ResourceError without a GPU and when the steps don't fit.
    """
    if batch < 1:
        raise ConfigError(f"--batch {batch} holds no image", remedy="pass 1 or more, for example --batch 128")
    if device == "cpu":
        return peak_of_trial(config, run_on_host(config, None, batch))
    require_gpu()
    outcome = in_child(run_on_gpu, config, None, batch, timeout_seconds=timeout_seconds)
    if outcome.kind != "done":
        raise ResourceError(
            f"{batch} images of {config.model.label} don't run on this GPU: {outcome.kind}",
            remedy="pass a smaller --batch, or --find-max-batch",
        )
    return peak_of_trial(config, outcome.value)


def peak_of_trial(config: MemoryConfig, trial: Trial) -> PeakMemory:
    """A trial that ran, as a peak."""
    return PeakMemory(
        model=config.model.label,
        batch=trial.batch,
        method="measure",
        peak_allocated_bytes=trial.peak_allocated_bytes,
        peak_reserved_bytes=trial.peak_reserved_bytes,
        device_bytes=trial.device_bytes,
        host=trial.host,
    )


def run_on_gpu(config: MemoryConfig, usable_bytes: int | None, batch: int, proof: bool = False) -> Trial:
    """Run steps on the GPU as if it had `usable_bytes`, context and other processes included; None is all of it.

    Meant for a process of its own. Raises torch.OutOfMemoryError.
    """
    gc.collect()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    usable = total if usable_bytes is None else min(usable_bytes, total)
    if usable < total:
        # Held against the allocator, so that it gives back and tries again at this limit as it would at the card's.
        left = usable - (total - free)
        if left <= 0:
            raise torch.OutOfMemoryError("context and other processes leave nothing")
        torch.cuda.set_per_process_memory_fraction(left / total)
    torch.cuda.reset_peak_memory_stats()
    speed = _steps_of(proof)(config, batch, device="cuda")
    free, _ = torch.cuda.mem_get_info()
    if total - free > usable:
        raise torch.OutOfMemoryError("the context grew into what was to stay free")
    return Trial(
        batch=batch,
        kind="ran",
        peak_allocated_bytes=torch.cuda.max_memory_allocated(),
        peak_reserved_bytes=torch.cuda.max_memory_reserved(),
        device_bytes=total - free,
        images_per_second=speed,
    )


def run_on_host(config: MemoryConfig, usable_bytes: int | None, batch: int, proof: bool = False) -> Trial:
    """Run steps on the CPU; they fit when the allocator's peak stays within `usable_bytes`, None for no bound."""
    if usable_bytes is not None:
        limit_this_process()
    built(config.model)  # before the watch: only the copy that trains counts
    # The profiler remembers a block's size by its address, from watch to watch: what was left behind and is given back
    # during this one might be counted as a block that lay there once.
    gc.collect()
    with watched_allocations() as watched:
        speed = _steps_of(proof)(config, batch, device="cpu")
    peak = watched.peak_bytes()
    fits = usable_bytes is None or peak <= usable_bytes
    return Trial(
        batch=batch,
        kind="ran" if fits else "out of memory",
        peak_allocated_bytes=peak,
        peak_reserved_bytes=peak,
        device_bytes=peak,
        images_per_second=speed,
        host=True,
    )


def _steps_of(proof: bool) -> Callable[..., float]:
    return prove_steps if proof else try_steps
