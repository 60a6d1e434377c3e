"""The largest batch by running it, on this machine's GPU or on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from cifar_cli.core.memory.config import GIB, MemoryConfig
from cifar_cli.core.memory.estimate import MOST, Tracer, find_max_batch, tensor_peak_bytes, what_would_help
from cifar_cli.core.memory.host import available_bytes
from cifar_cli.core.memory.real_steps import peak_of_trial, run_on_gpu, run_on_host
from cifar_cli.core.memory.results import MaxBatch, PeakMemory, Trial
from cifar_cli.core.memory.search import Found, Runner, Searching, largest_that
from cifar_cli.core.memory.worker import Trials, Worker
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.errors import ModelError, ResourceError

HOST = "this host"
HOST_SHARE = 0.9  # of what is available: the rest is for whoever else needs some meanwhile
FAR_BEYOND = 1.25  # an estimate of this many times the limit is not tried on the host


def gpu_and_memory() -> tuple[str, int]:
    """Name and total bytes of this machine's first CUDA GPU. Makes no context there."""
    device = torch.cuda.get_device_properties(0)
    return device.name, device.total_memory


def host_memory(asked_bytes: int | None) -> int:
    """How much of the host a search may take. Raises ResourceError when more is asked for than is there."""
    usable = int(HOST_SHARE * available_bytes())
    if asked_bytes is None:
        return usable
    if asked_bytes > usable:
        raise ResourceError(
            f"this host has {usable / GIB:.1f} GiB to spare, not {asked_bytes / GIB:.1f} GiB",
            remedy="pass less --memory, or leave --measure out to estimate",
        )
    return asked_bytes


def measure_max_batch(
    tracer: Tracer,
    runner: Runner,
    *,
    name: str,
    memory_bytes: int,
    guess: int,
    multiple_of: int = 1,
    most: int = MOST,
    with_speeds: bool = True,
) -> MaxBatch:
    """Search with `runner`, starting from a guess; the answer's batch was run, and proved in a fresh process.

    with_speeds: also time the powers of two below the answer. Raises ModelError when steps fail for another reason
    than memory at every size.
    """
    searching = Searching(runner, most=most, multiple_of=multiple_of)
    found = searching.find(guess)
    if found.proof is None:
        _require_short_of_memory(tracer.config, found)
        peak = _smallest_traced(tracer)
    else:
        peak = peak_of_trial(tracer.config, found.proof)
    refusal = found.refusal
    return MaxBatch(
        model=tracer.config.model.label,
        gpu=name,
        memory_bytes=memory_bytes,
        max_batch=found.batch,
        method="measure",
        peak=peak,
        margin_left_bytes=memory_bytes - peak.device_bytes,
        tested=tuple(dict.fromkeys(trial.batch for trial in found.trials)),
        help=None if found.batch else what_would_help(tracer.config),
        proved=found.proof is not None,
        stopped_by=None if refusal is None else _reason(refusal),
        speeds=searching.speeds_up_to(found.batch) if with_speeds and found.batch else (),
    )


@contextmanager
def gpu_trials(config: MemoryConfig, usable_bytes: int, *, on_progress: OnProgress = silent) -> Iterator[Trials]:
    """Trials on this machine's GPU, of which `usable_bytes` may be taken."""
    trials = Trials(
        lambda: Worker(partial(run_on_gpu, config, usable_bytes)), label=config.model.label, on_progress=on_progress
    )
    try:
        yield trials
    finally:
        trials.close()


@contextmanager
def host_trials(tracer: Tracer, usable_bytes: int, *, on_progress: OnProgress = silent) -> Iterator[Trials]:
    """Trials on the CPU within `usable_bytes`; what the estimate puts far beyond them is not tried."""
    config, foreseen = tracer.config, host_peaks(tracer)
    ceiling = max(usable_bytes, min(FAR_BEYOND * usable_bytes, HOST_SHARE * available_bytes()))
    trials = Trials(
        lambda: Worker(partial(run_on_host, config, usable_bytes)),
        label=config.model.label,
        refuses=lambda batch: foreseen(batch) > ceiling,
        on_progress=on_progress,
    )
    try:
        yield trials
    finally:
        trials.close()


def host_peaks(tracer: Tracer) -> Callable[[int], float]:
    """The foreseen peak on the host by batch size; the tracer follows the CPU's physics."""

    def peak(batch: int) -> float:
        trace = tracer.foreseen(batch)
        if trace is not None:
            return tensor_peak_bytes(trace)
        fixed, slope = tracer.line()
        return fixed + slope * batch

    return peak


def guess_on_host(tracer: Tracer, usable_bytes: int) -> int:
    """The largest batch whose foreseen peak stays within `usable_bytes`, at least 1."""
    peak = host_peaks(tracer)
    fixed, slope = tracer.line()
    first = int((usable_bytes - fixed) / max(slope, 1.0))
    return max(1, largest_that(lambda batch: peak(batch) <= usable_bytes, guess=first, most=MOST))


def on_gpu(
    tracer: Tracer,
    *,
    memory_bytes: int,
    name: str,
    margin: float = 0.0,
    multiple_of: int = 1,
    most: int = MOST,
    with_speeds: bool = True,
    on_progress: OnProgress = silent,
) -> tuple[MaxBatch, MaxBatch]:
    """The largest batch on this machine's GPU, by estimate and measured. memory_bytes: what may be taken in all."""
    foreseen = find_max_batch(tracer, gpu=name, memory_bytes=memory_bytes, margin=margin, multiple_of=multiple_of)
    with gpu_trials(tracer.config, int(memory_bytes * (1 - margin)), on_progress=on_progress) as trials:
        seen = measure_max_batch(
            tracer,
            trials,
            name=name,
            memory_bytes=memory_bytes,
            guess=min(most, foreseen.max_batch),
            multiple_of=multiple_of,
            most=most,
            with_speeds=with_speeds,
        )
    return foreseen, seen


def on_host(
    tracer: Tracer,
    *,
    memory_bytes: int,
    margin: float = 0.0,
    multiple_of: int = 1,
    on_progress: OnProgress = silent,
) -> MaxBatch:
    """The largest batch whose peak in the CPU's allocator stays within (1 - margin) of `memory_bytes`."""
    usable = int(memory_bytes * (1 - margin))
    with host_trials(tracer, usable, on_progress=on_progress) as trials:
        guess = guess_on_host(tracer, usable)
        return measure_max_batch(
            tracer, trials, name=HOST, memory_bytes=memory_bytes, guess=guess, multiple_of=multiple_of
        )


def _smallest_traced(tracer: Tracer) -> PeakMemory:
    peak = tracer.smallest_peak()
    if tracer.config.step.physics == "cuda":
        return peak
    taken = tensor_peak_bytes(tracer.at(peak.batch))
    return replace(
        peak, peak_allocated_bytes=taken, peak_reserved_bytes=taken, device_bytes=taken, terms=None, host=True
    )


def _require_short_of_memory(config: MemoryConfig, found: Found) -> None:
    smallest = min(found.trials, key=lambda trial: trial.batch, default=None)
    if smallest is not None and smallest.kind in ("failed", "timed out"):
        raise ModelError(
            f"{config.model.label} doesn't train at batch {smallest.batch}: {_reason(smallest)}",
            remedy="try another --precision or --img-size, or --estimate",
        )


def _reason(trial: Trial) -> str:
    return f"{trial.kind}: {trial.why}" if trial.why else trial.kind
