"""Predicted memory: from a trace to the device's peak, and to the largest batch that fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

from cifar_cli.core.choices import Precision
from cifar_cli.core.memory.allocator import Block, CachingAllocator, OutOfDeviceMemory
from cifar_cli.core.memory.config import MIB, MemoryConfig, Risk
from cifar_cli.core.memory.gpus import CONTEXT_BYTES, NOT_DERIVED, precision_on
from cifar_cli.core.memory.real_steps import built, least_batch
from cifar_cli.core.memory.recorder import Category, Trace
from cifar_cli.core.memory.results import FitCheck, MaxBatch, MemoryTerms, ModuleMemory, PeakMemory
from cifar_cli.core.memory.search import largest_that
from cifar_cli.core.memory.trace import TracedStep, trace_steps
from cifar_cli.core.models.build import build_without_weights
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import ResourceError

# cuBLAS requests this from PyTorch's allocator while an operator runs: 2 x 4096 KiB + 8 x 16 KiB = 8,519,680 bytes on
# cards before Hopper (seen in https://github.com/pytorch/pytorch/issues/95668). There is one at a time: since
# https://github.com/pytorch/pytorch/pull/194311 workspaces aren't kept per thread any more.
CUBLAS_WORKSPACE_BYTES = (2 * 4096 + 8 * 16) * 1024
# Scratch memory of cuDNN's convolutions differs by algorithm; this is an assumption.
CUDNN_WORKSPACE_BYTES = 64 * MIB
WORKSPACE_BYTES = CUBLAS_WORKSPACE_BYTES + CUDNN_WORKSPACE_BYTES
MODULES_SHOWN = 5
FIRST_SIZES = (8, 32)  # batch normalisation needs more than one image where the features are 1x1
MOST = 1 << 22  # a GPU takes no more images at once than this


class Tracer:
    """Traces of one model by batch size; each number of images that is computed at once is traced once.

    step_type: the step that is traced.
    """

    def __init__(
        self, config: MemoryConfig, *, step_type: type[TracedStep] = TracedStep, on_progress: OnProgress = silent
    ) -> None:
        self.config = config
        # A search on the CPU runs steps, so that the weights are needed there.
        self.model = (built if config.backend == "cpu" else build_without_weights)(config.model)
        self._step_type = step_type
        self._traces: dict[int, Trace] = {}
        self.on_progress = on_progress
        self.failure: str | None = None
        """Why the model can't be traced, where its steps run all the same."""

    def at(self, batch: int) -> Trace:
        """The trace of a batch size. Raises ModelError when it can't be traced."""
        return self._of(self.config.images_at_once(batch))

    def _of(self, images: int) -> Trace:
        if images not in self._traces:
            self.on_progress(
                Progress(task=f"tracing {self.config.model.label}", done=len(self._traces), detail=f"batch {images}")
            )
            self._traces[images] = trace_steps(self.model, images, self.config, step_type=self._step_type)
        return self._traces[images]

    @cached_property
    def least_batch(self) -> int:
        """The smallest batch that trains; see `least_batch`."""
        return least_batch(self.model, self.config)

    def scaled(self, batch: int) -> Trace | None:
        """The trace of a batch size as two small ones predict it; None where their events differ."""
        low, high = (self._of(size) for size in FIRST_SIZES)
        return scaled_trace(low, high, self.config.images_at_once(batch))

    def peak(self, batch: int, *, capacity_bytes: int | None = None, risk: Risk = "even") -> PeakMemory:
        """The peak of a batch size; see `peak_of`."""
        peak = peak_of(self.at(batch), model=self.config.model.label, capacity_bytes=capacity_bytes, risk=risk)
        return replace(peak, batch=batch, precision=self.config.step.precision)

    def line(self) -> tuple[float, float]:
        """Bytes at batch 0 and bytes per image, through two small traces."""
        low, high = FIRST_SIZES
        at_low, at_high = (tensor_peak_bytes(self._of(size)) for size in FIRST_SIZES)
        slope = (at_high - at_low) / (high - low)
        return at_low - slope * low, slope / (self.config.devices * self.config.accumulate)


def estimate(config: MemoryConfig, batch: int) -> PeakMemory:
    """Predict the peak of one batch size on CUDA. Raises ConfigError and ModelError."""
    return Tracer(config).peak(batch)


def find_max_batch(
    tracer: Tracer,
    *,
    gpu: str,
    memory_bytes: int,
    margin: float = 0.0,
    multiple_of: int = 1,
    risk: Risk = "even",
    even_batch: bool = True,
) -> MaxBatch:
    """The largest batch whose two traced steps run in (1 - margin) of the memory, and whose next one doesn't.

    memory_bytes: the device's total, context included. even_batch: also find it with half of the allowance.
    """
    assert multiple_of >= 1, multiple_of
    usable = int(memory_bytes * (1 - margin))
    capacity = capacity_bytes(usable, risk)
    tested: list[int] = []

    def runs(multiples: int) -> bool:
        batch = max(multiples * multiple_of, tracer.least_batch)  # so that no search ends below it
        tested.append(batch)
        return fits(tracer.at(batch), usable, risk)

    def should_run(multiples: int) -> bool:
        scaled = tracer.scaled(multiples * multiple_of)
        return runs(multiples) if scaled is None else fits(scaled, usable, risk)

    fixed, slope = tracer.line()
    most = tracer.config.devices * tracer.config.accumulate * MOST // multiple_of
    guess = int((capacity - WORKSPACE_BYTES - fixed) / max(slope, 1.0)) // multiple_of
    predicted = largest_that(should_run, guess=guess, most=most)
    best = largest_that(runs, guess=predicted, most=most) * multiple_of
    if best < tracer.least_batch:  # the least batch runs, and no multiple from there on
        best = 0
    if best:
        peak = tracer.peak(best, capacity_bytes=capacity, risk=risk)
    else:
        peak = tracer.peak(max(FIRST_SIZES[0], tracer.least_batch), risk=risk)
    even = best
    if even_batch and risk != "even":
        options = {"gpu": gpu, "memory_bytes": memory_bytes, "margin": margin, "multiple_of": multiple_of}
        even = find_max_batch(tracer, **options, even_batch=False).max_batch  # type: ignore[arg-type]
    found = {"gpu": gpu, "even_batch": even, "method": "estimate"}
    return largest(tracer, best, peak, tested, memory_bytes=memory_bytes, **found)


def check_fit(
    tracer: Tracer, batch: int, *, gpu: str, memory_bytes: int, margin: float = 0.0, risk: Risk = "safe"
) -> FitCheck:
    """Whether the steps of one batch size run in (1 - margin) of a card's memory."""
    usable, trace = int(memory_bytes * (1 - margin)), tracer.at(batch)
    runs = fits(trace, usable, risk)
    # A full card makes the allocator release cached blocks, so that less is reserved than with unlimited memory.
    needed = tracer.peak(batch, capacity_bytes=capacity_bytes(usable, risk) if runs else None, risk=risk)
    assert needed.terms is not None
    return FitCheck(
        model=tracer.config.model.label,
        batch=batch,
        gpu=gpu,
        memory_bytes=usable,
        needed_bytes=needed.device_bytes,
        precision=tracer.config.step.precision,
        even_bytes=CONTEXT_BYTES + int(needed.peak_reserved_bytes * (1 + NOT_DERIVED["even"])),
        help=None if runs else "add --what-would-help to rank the options that save memory",
    )


def largest(
    tracer: Tracer, batch: int, peak: PeakMemory, tested: Iterable[int], *, memory_bytes: int, **found: Any
) -> MaxBatch:
    """The result of a search, with what follows from the batch and its peak. found: the other fields."""
    return MaxBatch(
        model=tracer.config.model.label,
        max_batch=batch,
        peak=peak,
        memory_bytes=memory_bytes,
        margin_left_bytes=memory_bytes - peak.device_bytes,
        tested=tuple(dict.fromkeys(tested)),
        help=None if batch else memory_remedy(tracer.config, precision_on(str(found["gpu"]))),
        **found,
    )


def require_weights_fit(tracer: Tracer, memory_bytes: int, *, measured: bool = False) -> None:
    """Raise ResourceError when the weights alone, on a GPU with the CUDA context, don't fit.

    measured: steps will run, so that the context, whose size is an assumption, doesn't count.
    Of a model that several GPUs share, the part of one of them counts.
    """
    weights = sum(p.numel() * p.element_size() for p in tracer.model.parameters())
    if tracer.config.shards:
        weights //= tracer.config.devices
    on_gpu = tracer.config.backend == "cuda"
    with_context = on_gpu and not measured
    if weights + with_context * CONTEXT_BYTES > memory_bytes:
        context = f" and the CUDA context ({CONTEXT_BYTES / MIB:,.0f} MiB)" if with_context else ""
        raise ResourceError(
            f"the weights of {tracer.config.model.label} ({weights / MIB:,.0f} MiB){context} alone don't fit into "
            f"{memory_bytes / MIB:,.0f} MiB",
            remedy="pass a larger --gpu or --memory, or a smaller --model"
            + (", or share the weights with --devices and --strategy fsdp" if on_gpu else ""),
        )


def memory_remedy(config: MemoryConfig, half: Precision) -> str:
    """The remedy if no batch size fits. half: the 16-bit precision of the card; "32" if it has none."""
    helps = {
        f"--precision {half}": config.step.precision == "32" and half != "32",
        "--optimizer sgd": config.step.optimizer != "sgd" and not config.evaluate,
        "--trim-backbone": config.model.name == "hybrid" and not config.model.trim_backbone,
        "a smaller --img-size or --model": True,
    }
    return "try " + ", ".join(text for text, applies in helps.items() if applies)


def scaled_trace(low: Trace, high: Trace, batch: int) -> Trace | None:
    """The trace of another batch size, every tensor's size linear in the batch. None when the events differ."""
    if low.events != high.events:
        return None
    span = high.batch - low.batch
    sizes = [
        max(1, a + (b - a) * (batch - low.batch) // span)
        for a, b in zip(low.sizes_bytes, high.sizes_bytes, strict=True)
    ]
    return Trace(batch=batch, events=low.events, sizes_bytes=sizes, categories=low.categories, modules=low.modules)


def capacity_bytes(memory_bytes: int, risk: Risk) -> int:
    """What a device leaves to the allocator."""
    return int(max(0, memory_bytes - CONTEXT_BYTES) / (1 + NOT_DERIVED[risk]))


def fits(trace: Trace, memory_bytes: int, risk: Risk = "even") -> bool:
    """Whether the traced steps run in `memory_bytes` of a device."""
    try:
        replay(trace, capacity_bytes=capacity_bytes(memory_bytes, risk))
    except OutOfDeviceMemory:
        return False
    return True


def replay(trace: Trace, *, capacity_bytes: int | None = None) -> CachingAllocator:
    """Serve the workspaces and then the trace from an allocator. Raises OutOfDeviceMemory."""
    allocator = CachingAllocator(capacity_bytes)
    allocator.allocate(WORKSPACE_BYTES)
    blocks: dict[int, Block] = {}
    for event in trace.events:
        if event >= 0:
            blocks[event] = allocator.allocate(trace.sizes_bytes[event])
        else:
            allocator.release(blocks.pop(~event))
    return allocator


def peak_of(trace: Trace, *, model: str, capacity_bytes: int | None = None, risk: Risk = "even") -> PeakMemory:
    """Peak and terms of a trace. Raises OutOfDeviceMemory past `capacity_bytes` of reserved memory."""
    allocator = replay(trace, capacity_bytes=capacity_bytes)
    by_category = Counter[Category]()
    by_module = Counter[str]()
    for tensor in _live_at_peak(trace):
        by_category[trace.categories[tensor]] += trace.sizes_bytes[tensor]
        if trace.modules[tensor]:
            by_module[trace.modules[tensor]] += trace.sizes_bytes[tensor]
    reserved = allocator.peak_reserved_bytes
    not_derived = int(reserved * NOT_DERIVED[risk])
    return PeakMemory(
        model=model,
        batch=trace.batch,
        method="estimate",
        peak_allocated_bytes=allocator.peak_allocated_bytes,
        peak_reserved_bytes=reserved,
        device_bytes=reserved + CONTEXT_BYTES + not_derived,
        terms=MemoryTerms(
            **{f"{category.replace(' ', '_')}_bytes": by_category[category] for category in Category},
            workspace_bytes=WORKSPACE_BYTES,
            allocator_overhead_bytes=reserved - WORKSPACE_BYTES - sum(by_category.values()),
            context_bytes=CONTEXT_BYTES,
            not_derived_bytes=not_derived,
        ),
        largest_modules=tuple(
            ModuleMemory(name=name, held_bytes=held) for name, held in by_module.most_common(MODULES_SHOWN)
        ),
    )


def tensor_peak_bytes(trace: Trace) -> int:
    """The most bytes that tensors hold together, before any rounding."""
    return sum(trace.sizes_bytes[tensor] for tensor in _live_at_peak(trace))


def _live_at_peak(trace: Trace) -> set[int]:
    current = peak = peak_at = 0
    for at, event in enumerate(trace.events, start=1):
        current += trace.sizes_bytes[event] if event >= 0 else -trace.sizes_bytes[~event]
        if current > peak:
            peak, peak_at = current, at
    live: set[int] = set()
    for event in trace.events[:peak_at]:
        if event >= 0:
            live.add(event)
        else:
            live.remove(~event)
    return live
