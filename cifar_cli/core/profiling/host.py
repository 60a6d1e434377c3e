"""What the CPU's kernels allocate inside an operator, for comparing a trace with the memory of this host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

_MARK = "cifar: operator "


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor's metadata: what a kernel chooses its way by."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Call:
    """One operator and its operands, tensors as Operand and lists as tuples, so that equal calls compare equal."""

    operator: Any
    args: tuple[Any, ...]


# Operators whose kernels were seen (torch's profiler) to take memory that they give back before they return. Others
# take none, or so little that it never decides a peak.
_TAKES_SCRATCH = frozenset(
    {
        torch.ops.aten.convolution.default,
        torch.ops.aten.convolution_backward.default,
        torch.ops.aten.mean.dim,
    }
)


def call_of(operator: Any, args: tuple[Any, ...]) -> Call | None:
    """The call, when its kernel may take memory of its own."""
    return Call(operator, _described(args)) if operator in _TAKES_SCRATCH else None


def scratch_bytes(calls: Sequence[Call]) -> list[int]:
    """The most that each call holds beside its operands and results, on this processor with this many threads.

    oneDNN decides by shape, type, instruction set and threads in which layouts a convolution computes and what it
    copies for that; there is no formula to follow, so each call is run once, alone, and the allocator watched.
    """
    if not calls:
        return []
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for number, call in enumerate(calls):
            args = _made(call.args)
            with record_function(f"{_MARK}{number}"):
                results = call.operator(*args)
            del args, results
    return _beyond_results(profiler, len(calls))


def _beyond_results(profiler: Any, count: int) -> list[int]:
    events = list(profiler.profiler.kineto_results.events())
    spans = {
        int(event.name().removeprefix(_MARK)): (event.start_ns(), event.end_ns())
        for event in events
        if event.name().startswith(_MARK)
    }
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    at = 0
    found = []
    for number in range(count):
        start, end = spans[number]
        now = peak = 0
        while at < len(changes) and changes[at][0] <= end:
            if changes[at][0] >= start:
                now += changes[at][1]
                peak = max(peak, now)
            at += 1
        found.append(peak - now)
    return found


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Operand(tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, (list, tuple)):
        return tuple([_described(item) for item in value])
    return value


def _made(value: Any) -> Any:
    if isinstance(value, Operand):
        return torch.empty_strided(value.shape, value.stride, dtype=value.dtype).zero_()
    return tuple([_made(item) for item in value]) if isinstance(value, tuple) else value
