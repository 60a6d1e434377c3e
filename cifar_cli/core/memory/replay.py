"""From a trace to the device's memory: the caching allocator's rules, and what lies outside of it."""

from __future__ import annotations

from collections import Counter

from cifar_cli.core.memory.allocator import Block, CachingAllocator, OutOfDeviceMemory
from cifar_cli.core.memory.config import MIB
from cifar_cli.core.memory.gpus import CONTEXT_BYTES
from cifar_cli.core.memory.results import MemoryTerms, ModuleMemory, PeakMemory
from cifar_cli.core.memory.trace import Category, Trace

# What cuBLAS asks PyTorch's allocator for, for the time of one operator: 2 x 4096 KiB + 8 x 16 KiB = 8,519,680 bytes on
# cards before Hopper (seen in https://github.com/pytorch/pytorch/issues/95668). One at a time: since
# https://github.com/pytorch/pytorch/pull/194311 workspaces aren't kept per thread any more.
CUBLAS_WORKSPACE_BYTES = (2 * 4096 + 8 * 16) * 1024
# Scratch memory of cuDNN's convolutions differs by algorithm; this is an assumption.
CUDNN_WORKSPACE_BYTES = 64 * MIB
WORKSPACE_BYTES = CUBLAS_WORKSPACE_BYTES + CUDNN_WORKSPACE_BYTES
MODULES_SHOWN = 5


def between(low: Trace, high: Trace, batch: int) -> Trace | None:
    """What the trace of another batch should be: every size is linear in the batch. None when the events differ."""
    if low.events != high.events:
        return None
    span = high.batch - low.batch
    sizes = [
        max(1, a + (b - a) * (batch - low.batch) // span)
        for a, b in zip(low.sizes_bytes, high.sizes_bytes, strict=True)
    ]
    return Trace(batch=batch, events=low.events, sizes_bytes=sizes, categories=low.categories, modules=low.modules)


def fits(trace: Trace, memory_bytes: int, *, context_bytes: int = CONTEXT_BYTES) -> bool:
    """Whether the traced steps run in `memory_bytes` of a device."""
    try:
        replay(trace, capacity_bytes=max(0, memory_bytes - context_bytes))
    except OutOfDeviceMemory:
        return False
    return True


def replay(trace: Trace, *, capacity_bytes: int | None = None) -> CachingAllocator:
    """Play the trace to the allocator, after the workspaces. Raises OutOfDeviceMemory."""
    allocator = CachingAllocator(capacity_bytes)
    allocator.allocate(WORKSPACE_BYTES)
    blocks: dict[int, Block] = {}
    for event in trace.events:
        if event >= 0:
            blocks[event] = allocator.allocate(trace.sizes_bytes[event])
        else:
            allocator.release(blocks.pop(~event))
    return allocator


def peak_of(
    trace: Trace, *, model: str, capacity_bytes: int | None = None, context_bytes: int = CONTEXT_BYTES
) -> PeakMemory:
    """Peak and terms of a trace. Raises OutOfDeviceMemory past `capacity_bytes` of reserved memory."""
    allocator = replay(trace, capacity_bytes=capacity_bytes)
    live = _live_at_peak(trace)
    by_category = Counter[Category]()
    by_module = Counter[str]()
    for tensor in live:
        by_category[trace.categories[tensor]] += trace.sizes_bytes[tensor]
        if trace.categories[tensor] is Category.ACTIVATIONS:
            by_module[trace.modules[tensor]] += trace.sizes_bytes[tensor]
    reserved = allocator.peak_reserved_bytes
    return PeakMemory(
        model=model,
        batch=trace.batch,
        method="estimate",
        peak_allocated_bytes=allocator.peak_allocated_bytes,
        peak_reserved_bytes=reserved,
        device_bytes=reserved + context_bytes,
        terms=MemoryTerms(
            weights_bytes=by_category[Category.WEIGHTS],
            gradients_bytes=by_category[Category.GRADIENTS],
            optimizer_bytes=by_category[Category.OPTIMIZER],
            activations_bytes=by_category[Category.ACTIVATIONS],
            input_bytes=by_category[Category.INPUT],
            temporaries_bytes=by_category[Category.TEMPORARIES],
            workspace_bytes=WORKSPACE_BYTES,
            allocator_overhead_bytes=reserved - WORKSPACE_BYTES - sum(by_category.values()),
            context_bytes=context_bytes,
        ),
        largest_modules=tuple(
            ModuleMemory(name=name or "(loss)", held_bytes=held) for name, held in by_module.most_common(MODULES_SHOWN)
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
