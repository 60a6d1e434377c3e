"""`cifar profile-memory`: peaks of batch sizes, or the largest batch on one or several cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cifar_cli.core.memory.config import GIB, MIB, MemoryRequest
from cifar_cli.core.memory.estimate import Tracer, check_fit, find_max_batch, require_weights_fit
from cifar_cli.core.memory.gpus import GPUS, TABLE_GPUS, Gpu, gpu_of
from cifar_cli.core.memory.measure import Machine, host_memory, max_batch_on_gpu, max_batch_on_host, this_machine
from cifar_cli.core.memory.real_steps import measure
from cifar_cli.core.memory.results import FitCheck, MaxBatch, MemoryReport, PeakMemory
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.errors import ResourceError


def profile(
    request: MemoryRequest, *, machine: Machine | None = None, on_progress: OnProgress = silent
) -> MemoryReport:
    """Answer the request. machine: None for this one.

    Raises ConfigError for an unknown card, ModelError for a model that can't be traced or doesn't train, ResourceError
    without the device or the memory.
    """
    machine = machine or this_machine()
    if request.measure and request.device != "cpu" and machine.gpu is None:
        raise ResourceError(
            "--measure needs a GPU, and this machine has none",
            remedy="pass --estimate, or --measure --device cpu for the memory of this host",
        )
    peaks: list[PeakMemory] = []
    largest: list[MaxBatch] = []
    checks: list[FitCheck] = []
    for config in request.configs:
        if request.measure and request.device == "cpu":
            config = replace(config, backend="cpu")
        tracer = Tracer(config, on_progress=on_progress)
        named = cards_of(request, machine) if request.gpus or request.memory_bytes else []
        if named:
            require_weights_fit(tracer, max(card.memory_bytes for card in named))
        if request.find_max_batch:
            largest.extend(_largest(request, tracer, machine))
        else:
            peaks.extend(_peaks(request, tracer, machine))
            checks.extend(
                check_fit(
                    tracer,
                    batch,
                    gpu=card.name,
                    memory_bytes=card.memory_bytes,
                    margin=request.margin,
                    risk=request.risk,
                )
                for card in named
                for batch in request.batches
                if tracer.config.backend == "cuda"
            )
    return MemoryReport(peaks=tuple(peaks), largest=tuple(largest), fits=tuple(checks))


def cards_of(request: MemoryRequest, machine: Machine) -> list[Gpu]:
    """The cards to estimate for: the requested one, this machine's, or several common ones."""
    if request.memory_bytes is not None:
        size = request.memory_bytes
        name = f"{size / GIB:g} GiB" if size >= GIB else f"{size / MIB:g} MiB"
        return [Gpu(name=name, memory_bytes=size, source="asked for")]
    if request.gpus:
        return [gpu_of(name) for name in request.gpus]
    return [machine.gpu] if machine.gpu is not None else [GPUS[name] for name in TABLE_GPUS]


def gpu_to_run_on(request: MemoryRequest, machine: Machine) -> Gpu | None:
    """The GPU with the memory that may be used; None if no steps run on a GPU.

    Steps run on a GPU with --measure, and without it if no other memory size is requested.
    """
    other_memory = bool(request.gpus) or request.memory_bytes is not None
    if machine.gpu is None or request.estimate or request.device == "cpu" or (other_memory and not request.measure):
        return None
    total = machine.gpu.memory_bytes
    return replace(machine.gpu, memory_bytes=min(request.memory_bytes or total, total))


def _largest(request: MemoryRequest, tracer: Tracer, machine: Machine) -> Sequence[MaxBatch]:
    margin, multiple_of = request.margin, request.multiple_of
    if tracer.config.backend == "cpu":
        memory = host_memory(request.memory_bytes, machine)
        return [max_batch_on_host(tracer, machine, memory_bytes=memory, margin=margin, multiple_of=multiple_of)]
    if gpu := gpu_to_run_on(request, machine):
        return max_batch_on_gpu(tracer, gpu, margin=margin, multiple_of=multiple_of, start=machine.start)
    return [
        find_max_batch(
            tracer,
            gpu=card.name,
            memory_bytes=card.memory_bytes,
            margin=margin,
            multiple_of=multiple_of,
            risk=request.risk,
        )
        for card in cards_of(request, machine)
    ]


def _peaks(request: MemoryRequest, tracer: Tracer, machine: Machine) -> list[PeakMemory]:
    on_host = tracer.config.backend == "cpu"
    found: list[PeakMemory] = []
    for batch in request.batches:
        if not on_host:
            found.append(tracer.peak(batch, risk=request.risk))
        if on_host or gpu_to_run_on(request, machine):
            found.append(measure(tracer.config, batch, start=machine.start))
    return [replace(peak, bytes_per_image=_slope([p for p in found if p.method == peak.method])) for peak in found]


def _slope(peaks: Sequence[PeakMemory]) -> float | None:
    """Bytes per image between the smallest and the largest of several batch sizes."""
    low, high = (choose(peaks, key=lambda peak: peak.batch) for choose in (min, max))
    if low.batch == high.batch:
        return None
    return (high.peak_allocated_bytes - low.peak_allocated_bytes) / (high.batch - low.batch)
