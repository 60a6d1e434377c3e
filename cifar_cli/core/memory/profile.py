"""`cifar profile-memory`: peaks of batch sizes, or the largest batch on one or several cards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import torch

from cifar_cli.core.choices import Precision
from cifar_cli.core.memory.config import GIB, MIB, MemoryConfig, MemoryRequest
from cifar_cli.core.memory.estimate import Tracer, check_fit, find_max_batch, require_weights_fit
from cifar_cli.core.memory.gpus import GPUS, TABLE_GPUS, Gpu, gpu_of
from cifar_cli.core.memory.measure import (
    Machine,
    host_memory,
    if_traceable,
    max_batch_on_gpu,
    max_batch_on_host,
    this_machine,
)
from cifar_cli.core.memory.real_steps import measure
from cifar_cli.core.memory.remedies import what_would_help
from cifar_cli.core.memory.results import FitCheck, HelpReport, MaxBatch, MemoryReport, PeakMemory
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.core.training.numerics import offered_precisions, require_precision
from cifar_cli.errors import ConfigError, ResourceError


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
    on_host = request.measure and request.device == "cpu"
    cards = cards_of(request, machine)
    if request.what_would_help and not request.names_memory and machine.gpu is None:
        raise ConfigError("--what-would-help needs the memory of a card", remedy="pass --gpu or --memory")
    peaks: list[PeakMemory] = []
    largest: list[MaxBatch] = []
    checks: list[FitCheck] = []
    helps: list[HelpReport] = []
    untraced: dict[str, None] = {}
    for asked, (precision, alike) in product(request.configs, _by_precision(request, cards, on_host)):
        step = replace(asked.step, precision=precision or asked.step.precision)
        if on_host:
            require_precision(step.precision, torch.device("cpu"))
        config = replace(asked, step=step, backend="cpu" if on_host else asked.backend)
        tracer = Tracer(config, on_progress=on_progress)
        if request.names_memory and not request.what_would_help and len(request.configs) == 1:
            require_weights_fit(tracer, max(card.memory_bytes for card in cards), measured=request.measure)
        if request.find_max_batch:
            largest.extend(_largest(request, tracer, machine, alike))
        else:
            peaks.extend(_peaks(request, tracer, machine))
        if tracer.failure is not None:
            untraced[f"nothing is predicted, and steps run all the same: {tracer.failure}"] = None
        estimates = not (request.find_max_batch or on_host or request.measure)
        if (request.names_memory or request.what_would_help) and estimates:
            checked = list(_checks(request, tracer, alike))
            checks.extend(checked)
            if request.what_would_help:
                halves = {card.name: card.precision for card in alike}
                helps.extend(what_would_help(tracer, check, request.risk, half=halves[check.gpu]) for check in checked)
    # Cards with different precisions are traced one after the other; they are shown in the order asked for.
    order = [(config.model.label, card.name) for config, card in product(request.configs, cards)]
    checks.sort(key=lambda check: order.index((check.model, check.gpu)))
    helps.sort(key=lambda found: order.index((found.check.model, found.check.gpu)))
    if not on_host and gpu_to_run_on(request, machine) is None:
        largest.sort(key=lambda found: order.index((found.model, found.gpu)))
    remarks = dict.fromkeys(text for config in request.configs for text in remarks_on(config)) | untraced
    if request.device == "cpu" and not request.measure:
        remarks["the figures are of a GPU; --measure --device cpu runs the steps in the memory of this host"] = None
    if request.device == "cuda" and machine.gpu is None:
        remarks["this machine has no CUDA GPU; the figures are predicted"] = None
    return MemoryReport(
        peaks=tuple(peaks),
        largest=tuple(largest),
        fits=tuple(checks),
        helps=tuple(helps),
        remarks=tuple(remarks),
        configs=request.configs,
    )


def _by_precision(
    request: MemoryRequest, cards: Sequence[Gpu], on_host: bool
) -> list[tuple[Precision | None, list[Gpu]]]:
    """The cards by the precision that training probably chooses there; None where the request decides."""
    if not request.precision_auto:
        return [(None, list(cards))]
    if any(config.evaluate for config in request.configs):
        return [("32", list(cards))]  # as `cifar evaluate` and `cifar predict`
    if on_host:
        return [(offered_precisions(torch.device("cpu"))[-1], list(cards))]
    if not (request.names_memory or request.find_max_batch):
        cards = cards[:1]  # without a card there is one answer
    found: dict[Precision | None, list[Gpu]] = {}
    for card in cards:
        found.setdefault(card.precision, []).append(card)
    return list(found.items())


def remarks_on(config: MemoryConfig) -> Iterator[str]:
    """What a reader must know about a prediction, one sentence each."""
    if config.compile:
        yield (
            "torch.compile is not traced: it fuses operators and chooses which tensors the backward pass keeps, and "
            "the prediction is that of the model without it; --measure runs the compiled model"
        )
    if config.devices > 1:
        yield (
            f"the memory is that of one of {config.devices} GPUs, without what NCCL takes outside of PyTorch's "
            "allocator"
        )


def _checks(request: MemoryRequest, tracer: Tracer, cards: Sequence[Gpu]) -> Iterator[FitCheck]:
    for card, batch in product(cards, request.batches):
        memory = {"memory_bytes": card.memory_bytes, "margin": request.margin}
        yield check_fit(tracer, batch, gpu=card.name, risk=request.risk, **memory)  # type: ignore[arg-type]


def cards_of(request: MemoryRequest, machine: Machine) -> list[Gpu]:
    """The cards to estimate for: the requested one, this machine's, or several common ones."""
    if request.memory_bytes is not None:
        size = request.memory_bytes
        name = f"{size / GIB:g} GiB" if size >= GIB else f"{size / MIB:g} MiB"
        precision = machine.gpu.precision if machine.gpu is not None else "bf16"
        return [Gpu(name=name, memory_bytes=size, source="asked for", precision=precision)]
    if request.gpus:
        return list(dict.fromkeys(gpu_of(name) for name in request.gpus))
    return [machine.gpu] if machine.gpu is not None else [GPUS[name] for name in TABLE_GPUS]


def gpu_to_run_on(request: MemoryRequest, machine: Machine) -> Gpu | None:
    """The GPU with the memory that may be used; None if no steps run on a GPU.

    Steps run on a GPU with --measure, and without it if no other memory size is requested.
    """
    names_memory = request.names_memory and not request.measure
    several = any(config.devices > 1 for config in request.configs)
    estimates = request.estimate or request.what_would_help or request.device == "cpu"
    if machine.gpu is None or estimates or names_memory or several:
        return None
    total = machine.gpu.memory_bytes
    return replace(machine.gpu, memory_bytes=min(request.memory_bytes or total, total))


def _largest(request: MemoryRequest, tracer: Tracer, machine: Machine, cards: Sequence[Gpu]) -> Sequence[MaxBatch]:
    margin, multiple_of = request.margin, request.multiple_of
    if tracer.config.backend == "cpu":
        memory = host_memory(request.memory_bytes, machine)
        return [max_batch_on_host(tracer, machine, memory_bytes=memory, margin=margin, multiple_of=multiple_of)]
    if gpu := gpu_to_run_on(request, machine):
        return max_batch_on_gpu(
            tracer, gpu, margin=margin, multiple_of=multiple_of, risk=request.risk, start=machine.start
        )
    return [
        find_max_batch(
            tracer,
            gpu=card.name,
            memory_bytes=card.memory_bytes,
            margin=margin,
            multiple_of=multiple_of,
            risk=request.risk,
        )
        for card in cards
    ]


def _peaks(request: MemoryRequest, tracer: Tracer, machine: Machine) -> list[PeakMemory]:
    on_host = tracer.config.backend == "cpu"
    asked = request.memory_bytes if request.measure else None
    usable = None if asked is None else int(asked * (1 - request.margin))
    found: list[PeakMemory] = []
    for batch in request.batches:
        runs = on_host or gpu_to_run_on(request, machine) is not None
        if not on_host:
            predict = partial(tracer.peak, batch, risk=request.risk)
            predicted = if_traceable(tracer, predict) if runs else predict()
            found += [] if predicted is None else [predicted]
        if runs:
            found.append(measure(tracer.config, batch, usable_bytes=usable, start=machine.start))
    return [replace(peak, bytes_per_image=_slope([p for p in found if p.method == peak.method])) for peak in found]


def _slope(peaks: Sequence[PeakMemory]) -> float | None:
    """Bytes per image between the smallest and the largest of several batch sizes."""
    low, high = (choose(peaks, key=lambda peak: peak.batch) for choose in (min, max))
    if low.batch == high.batch:
        return None
    return (high.peak_allocated_bytes - low.peak_allocated_bytes) / (high.batch - low.batch)
