"""What `cifar profile-memory` asks: peaks of batch sizes, or the largest batch of several cards."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from cifar_cli.core.memory.config import MemoryConfig, MemoryRequest, parse_bytes, parse_margin
from cifar_cli.core.memory.estimate import Tracer, find_max_batch, peak_of, require_weights_fit
from cifar_cli.core.memory.gpus import GPUS, TABLE_GPUS, gpu_of
from cifar_cli.core.memory.measure import gpu_and_memory, host_memory, on_gpu, on_host
from cifar_cli.core.memory.real_steps import measure, require_gpu
from cifar_cli.core.memory.results import MaxBatch, PeakMemory
from cifar_cli.core.progress import OnProgress, silent


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryReport:
    """Peaks by model and batch, and largest batches by model and card."""

    peaks: tuple[PeakMemory, ...] = ()
    largest: tuple[MaxBatch, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The documented keys of `--json`."""
        models = [
            peak.to_dict() | {"max_batch": None, "memory_bytes": None, "largest_modules": _modules(peak)}
            for peak in self.peaks
        ]
        for found in self.largest:
            models.append(
                found.peak.to_dict()
                | {
                    "gpu": found.gpu,
                    "max_batch": found.max_batch,
                    "memory_bytes": found.memory_bytes,
                    "margin_left_bytes": found.margin_left_bytes,
                    "tested_batches": list(found.tested),
                    "help": found.help,
                    "proved": found.proved,
                    "stopped_by": found.stopped_by,
                    "images_per_second": [asdict(speed) for speed in found.speeds],
                    "knee_batch": found.knee_batch,
                    "largest_modules": _modules(found.peak),
                }
            )
        return {"models": models}


def profile(request: MemoryRequest, *, on_progress: OnProgress = silent) -> MemoryReport:
    """Answer the request. Raises CifarError children for what can't be had."""
    if request.measure and request.device == "cuda":
        require_gpu()
    peaks: list[PeakMemory] = []
    largest: list[MaxBatch] = []
    for config in request.configs:
        if request.find_max_batch:
            largest.extend(_largest(request, config, on_progress))
        else:
            peaks.extend(_peaks(request, config, on_progress))
    return MemoryReport(peaks=tuple(peaks), largest=tuple(largest))


def memory_of_cards(request: MemoryRequest) -> dict[str, int]:
    """Total memory by name of the cards to look at: the one asked for, this machine's, or several common ones."""
    if request.memory is not None:
        return {request.memory: parse_bytes(request.memory)}
    if request.gpu is not None:
        gpu = gpu_of(request.gpu)
        return {gpu.name: gpu.memory_bytes}
    if torch.cuda.is_available():
        name, memory = gpu_and_memory()
        return {name: memory}
    return {name: GPUS[name].memory_bytes for name in TABLE_GPUS}


def measures_on_gpu(request: MemoryRequest) -> bool:
    """Whether to run steps on the GPU: where asked to, and where there is one and no other memory was named."""
    if request.estimate or request.device == "cpu":
        return False
    return request.measure or (torch.cuda.is_available() and request.gpu is None and request.memory is None)


def _largest(request: MemoryRequest, config: MemoryConfig, on_progress: OnProgress) -> list[MaxBatch]:
    margin, multiple_of = parse_margin(request.margin), request.multiple_of
    asked = None if request.memory is None else parse_bytes(request.memory)
    if request.measure and request.device == "cpu":
        memory = host_memory(asked)
        tracer = Tracer(replace(config, step=replace(config.step, physics="cpu")), on_progress=on_progress)
        require_weights_fit(tracer, memory)
        return [on_host(tracer, memory_bytes=memory, margin=margin, multiple_of=multiple_of, on_progress=on_progress)]
    tracer = Tracer(config, on_progress=on_progress)
    if measures_on_gpu(request):
        name, total = gpu_and_memory()
        memory = total if asked is None else min(asked, total)
        require_weights_fit(tracer, memory)
        return list(
            on_gpu(
                tracer,
                name=name,
                memory_bytes=memory,
                margin=margin,
                multiple_of=multiple_of,
                on_progress=on_progress,
            )
        )
    cards = memory_of_cards(request)
    if request.gpu or request.memory:
        require_weights_fit(tracer, min(cards.values()))
    return [
        find_max_batch(tracer, gpu=name, memory_bytes=memory, margin=margin, multiple_of=multiple_of)
        for name, memory in cards.items()
    ]


def _peaks(request: MemoryRequest, config: MemoryConfig, on_progress: OnProgress) -> list[PeakMemory]:
    on_host = request.measure and request.device == "cpu"
    measured = on_host or measures_on_gpu(request)
    if on_host:
        config = replace(config, step=replace(config.step, physics="cpu"))
    tracer = Tracer(config, on_progress=on_progress)
    if request.gpu or request.memory:
        require_weights_fit(tracer, min(memory_of_cards(request).values()))
    found: list[PeakMemory] = []
    for batch in request.batches:
        if not on_host:
            peak = peak_of(tracer.at(batch), model=config.model.label)
            found.append(replace(peak, bytes_per_image=tracer.line()[1]))
        if measured:
            found.append(measure(config, batch, device=request.device))
    return found


def _modules(peak: PeakMemory) -> list[dict[str, Any]]:
    return [{"name": module.name, "held_bytes": module.held_bytes} for module in peak.largest_modules]
