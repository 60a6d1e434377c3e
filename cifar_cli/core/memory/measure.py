"""The largest batch, found by running it on this machine's GPU or on the host."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch

from cifar_cli.core.choices import Precision
from cifar_cli.core.memory.config import GIB, MemoryConfig, Risk
from cifar_cli.core.memory.estimate import (
    MOST,
    Tracer,
    find_max_batch,
    largest,
    require_weights_fit,
    tensor_peak_bytes,
)
from cifar_cli.core.memory.gpus import Gpu, precision_on
from cifar_cli.core.memory.host import available_bytes
from cifar_cli.core.memory.real_steps import peak_of_trial, run_on_gpu, run_on_host
from cifar_cli.core.memory.results import BatchTrial, MaxBatch
from cifar_cli.core.memory.search import Found, Runner, Searching, largest_that
from cifar_cli.core.memory.worker import StartProcess, Trials, Worker
from cifar_cli.errors import ModelError, ResourceError

_Found = TypeVar("_Found")
HOST = "this host"
FIRST_GUESS = 8  # of a search for a model that can't be traced
HOST_SHARE = 0.9  # of the available memory; the rest is left to other processes


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The machine that runs steps."""

    gpu: Gpu | None
    """Its first CUDA GPU."""
    host_bytes: Callable[[], int] = available_bytes
    """Memory of the host that is available now."""
    start: StartProcess = Worker
    """Begins a process that runs steps."""

    def spare_host_bytes(self) -> int:
        """The memory of the host that a search may use."""
        return int(HOST_SHARE * self.host_bytes())


def this_machine() -> Machine:
    """The machine that runs this. Makes no CUDA context."""
    if not torch.cuda.is_available():
        return Machine(gpu=None)
    device = torch.cuda.get_device_properties(0)
    has_matrix_units = device.major == 7 and precision_on(device.name) != "32"
    precision: Precision = "bf16" if device.major >= 8 else "16" if has_matrix_units else "32"
    gpu = Gpu(name=device.name, memory_bytes=device.total_memory, source="this machine", precision=precision)
    return Machine(gpu=gpu)


def host_memory(asked_bytes: int | None, machine: Machine) -> int:
    """The host memory that a search may use. Raises ResourceError if more is requested than is available."""
    usable = machine.spare_host_bytes()
    if asked_bytes is None:
        return usable
    if asked_bytes > usable:
        raise ResourceError(
            f"this host has {usable / GIB:.1f} GiB to spare, not {asked_bytes / GIB:.1f} GiB",
            remedy="pass less --memory, or leave --measure out to estimate",
        )
    return asked_bytes


def max_batch_on_gpu(
    tracer: Tracer,
    gpu: Gpu,
    *,
    margin: float = 0.0,
    multiple_of: int = 1,
    risk: Risk = "even",
    most: int = MOST,
    start: StartProcess = Worker,
) -> tuple[MaxBatch, ...]:
    """The largest batch on this machine's GPU, predicted and measured; measured alone where it can't be traced.

    gpu: with the memory that may be used. risk: of the prediction; the measured search starts from its middle.
    Raises ResourceError when the weights alone don't fit.
    """
    memory, config = gpu.memory_bytes, tracer.config
    require_weights_fit(tracer, memory, measured=True)
    search = partial(find_max_batch, gpu=gpu.name, memory_bytes=memory, margin=margin, multiple_of=multiple_of)
    predicted = if_traceable(tracer, lambda: search(tracer, risk=risk))
    guess = FIRST_GUESS
    if predicted is not None:
        guess = predicted.max_batch if predicted.even_batch is None else predicted.even_batch
    run = partial(run_on_gpu, config, int(memory * (1 - margin)))
    with closing(Trials(lambda: start(run), label=config.model.label, on_progress=tracer.on_progress)) as trials:
        measured = measure_max_batch(
            tracer,
            trials,
            name=gpu.name,
            memory_bytes=memory,
            guess=min(most, guess),
            multiple_of=multiple_of,
            most=most,
        )
    return (measured,) if predicted is None else (predicted, measured)


def if_traceable(tracer: Tracer, predict: Callable[[], _Found]) -> _Found | None:
    """A prediction, for steps that run anyway; None for a model that can't be traced, which the tracer notes."""
    try:
        return predict()
    except ModelError as error:
        tracer.failure = error.what
        return None


def max_batch_on_host(
    tracer: Tracer, machine: Machine, *, memory_bytes: int, margin: float = 0.0, multiple_of: int = 1
) -> MaxBatch:
    """The largest batch whose peak in the CPU's allocator stays within (1 - margin) of `memory_bytes`.

    Raises ResourceError when the weights alone don't fit.
    """
    require_weights_fit(tracer, memory_bytes)
    usable = int(memory_bytes * (1 - margin))
    with host_trials(tracer, usable, machine) as trials:
        guess = if_traceable(tracer, lambda: guess_on_host(tracer, usable)) or FIRST_GUESS
        return measure_max_batch(
            tracer, trials, name=HOST, memory_bytes=memory_bytes, guess=guess, multiple_of=multiple_of
        )


def host_trials(tracer: Tracer, usable_bytes: int, machine: Machine) -> closing[Trials]:
    """Trials on the CPU within `usable_bytes`. Every size is run: those beyond the host's memory fail there."""
    config = tracer.config
    trials = Trials(
        lambda: machine.start(partial(run_on_host, config, usable_bytes)),
        label=config.model.label,
        on_progress=tracer.on_progress,
    )
    return closing(trials)


def host_peaks(tracer: Tracer) -> Callable[[int], float]:
    """The predicted peak on the host by batch size; the tracer's backend is the CPU."""

    def peak(batch: int) -> float:
        scaled = tracer.scaled(batch)
        if scaled is not None:
            return tensor_peak_bytes(scaled)
        fixed, slope = tracer.line()
        return fixed + slope * batch

    return peak


def guess_on_host(tracer: Tracer, usable_bytes: int) -> int:
    """The largest batch whose predicted peak stays within `usable_bytes`, at least 1."""
    peak = host_peaks(tracer)
    fixed, slope = tracer.line()
    first = int((usable_bytes - fixed) / max(slope, 1.0))
    return max(1, largest_that(lambda batch: peak(batch) <= usable_bytes, guess=first, most=MOST))


def measure_max_batch(
    tracer: Tracer,
    runner: Runner,
    *,
    name: str,
    memory_bytes: int,
    guess: int,
    multiple_of: int = 1,
    most: int = MOST,
) -> MaxBatch:
    """Search with `runner`, starting from a guess. The batch of the result was run, and verified in a fresh process.

    The powers of two below it are timed too. Raises ModelError when steps fail at every size for a reason other than
    memory.
    """
    searching = Searching(_NotBelow(runner, tracer.least_batch), most=most, multiple_of=multiple_of)
    found = searching.find(guess)
    if found.batch < tracer.least_batch:  # the least batch runs, and no multiple from there on
        found = replace(found, batch=0, proof=None)
    if found.proof is None:
        _require_short_of_memory(tracer.config, found)
    smallest = min(found.trials, key=lambda trial: trial.batch, default=BatchTrial(batch=0, kind="out of memory"))
    peak = peak_of_trial(tracer.config, found.proof or smallest)
    return largest(
        tracer,
        found.batch,
        peak,
        (trial.batch for trial in found.trials),
        gpu=name,
        memory_bytes=memory_bytes,
        method="measure",
        proved=found.proof is not None,
        stopped_by=found.refusal and _reason(found.refusal),
        speeds=searching.speeds_up_to(found.batch) if found.batch else (),
    )


@dataclass(frozen=True, slots=True)
class _NotBelow:
    """Runs the smallest batch that trains in place of smaller ones, so that no search ends below it."""

    runner: Runner
    least: int

    def trial(self, batch: int) -> BatchTrial:
        return self.runner.trial(max(batch, self.least))

    def prove(self, batch: int) -> BatchTrial:
        return self.runner.prove(max(batch, self.least))


def _require_short_of_memory(config: MemoryConfig, found: Found) -> None:
    smallest = min(found.trials, key=lambda trial: trial.batch, default=None)
    if smallest is not None and smallest.kind in ("failed", "timed out"):
        raise ModelError(
            f"{config.model.label} doesn't train at batch {smallest.batch}: {_reason(smallest)}",
            remedy="try another --precision or --img-size, or --estimate",
        )


def _reason(trial: BatchTrial) -> str:
    return f"{trial.kind}: {trial.why}" if trial.why else trial.kind
