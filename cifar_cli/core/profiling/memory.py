"""What `cifar profile-memory` asks: peaks of batch sizes, or the largest batch of several cards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from cifar_cli.core.profiling.config import MemoryConfig, MemoryRequest, parse_bytes, parse_margin
from cifar_cli.core.profiling.gpus import GPUS, TABLE_GPUS, gpu_of
from cifar_cli.core.profiling.max_batch import Tracer, find_max_batch, require_weights_fit
from cifar_cli.core.profiling.measure import measure, require_gpu
from cifar_cli.core.profiling.replay import peak_of
from cifar_cli.core.profiling.results import MaxBatch, PeakMemory
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
                    "largest_modules": _modules(found.peak),
                }
            )
        return {"models": models}


def profile(request: MemoryRequest, *, on_progress: OnProgress = silent) -> MemoryReport:
    """Answer the request. Raises CifarError children for what can't be had."""
    cards = memory_of_cards(request)
    if request.measure and request.device == "cuda":
        require_gpu()
    peaks: list[PeakMemory] = []
    largest: list[MaxBatch] = []
    for config in request.configs:
        tracer = Tracer(config, on_progress=on_progress)
        if request.gpu or request.memory:
            require_weights_fit(tracer, min(cards.values()))
        if request.find_max_batch:
            for name, memory in cards.items():
                found = find_max_batch(
                    tracer,
                    gpu=name,
                    memory_bytes=memory,
                    margin=parse_margin(request.margin),
                    multiple_of=request.multiple_of,
                )
                largest.append(found)
        else:
            peaks.extend(_peaks(request, tracer, config))
    return MemoryReport(peaks=tuple(peaks), largest=tuple(largest))


def memory_of_cards(request: MemoryRequest) -> dict[str, int]:
    """Total memory by name of the cards to look at: the one asked for, this machine's, or several common ones."""
    if request.memory is not None:
        return {request.memory: parse_bytes(request.memory)}
    if request.gpu is not None:
        gpu = gpu_of(request.gpu)
        return {gpu.name: gpu.memory_bytes}
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        return {device.name: device.total_memory}
    return {name: GPUS[name].memory_bytes for name in TABLE_GPUS}


def _peaks(request: MemoryRequest, tracer: Tracer, config: MemoryConfig) -> list[PeakMemory]:
    found: list[PeakMemory] = []
    on_gpu = not request.estimate and torch.cuda.is_available()
    for batch in request.batches:
        if not (request.measure and request.device == "cpu"):
            peak = peak_of(tracer.at(batch), model=config.model.label)
            found.append(replace(peak, bytes_per_image=tracer.line()[1]))
        if request.measure or on_gpu:
            found.append(measure(config, batch, device=request.device))
    return found


def _modules(peak: PeakMemory) -> list[dict[str, Any]]:
    return [{"name": module.name, "held_bytes": module.held_bytes} for module in peak.largest_modules]
