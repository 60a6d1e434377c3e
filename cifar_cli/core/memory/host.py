"""Memory of this host: the available amount, and the allocations of torch's CPU allocator and kernels."""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import _disable_current_modes

from cifar_cli.core.container import used_bytes
from cifar_cli.core.memory.meta_ops import Metadata

_MARK = "cifar: operator "
_ATEN = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Call:
    """One operator and its operands; equal calls compare equal."""

    operator: Any
    args: tuple[Any, ...]
    """Tensors as Metadata, lists as tuples."""


# Operators whose kernels allocate memory that they release before they return (seen with torch's profiler). Others
# allocate none, or too little to decide a peak.
_TAKES_SCRATCH = (
    _ATEN.convolution.default,
    _ATEN.convolution_backward.default,
    _ATEN.mean.dim,
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN.baddbmm.default,
    _ATEN.native_batch_norm_backward.default,
    _ATEN.mkldnn_rnn_layer.default,
    _ATEN.mkldnn_rnn_layer_backward.default,
)


def call_of(operator: Any, args: tuple[Any, ...]) -> Call | None:
    """The call, if its kernel may use scratch memory; None otherwise."""
    return Call(operator, _described(args)) if operator in _TAKES_SCRATCH else None


def with_workspace(operator: Any, args: tuple[Any, ...], results: Any) -> Any:
    """The results of an operator on fake tensors, with oneDNN's workspace of an LSTM in its real size.

    Fake tensors have an empty workspace, and no formula is known, so the layer is run once for each distinct call.
    """
    if operator is not _ATEN.mkldnn_rnn_layer.default or not torch.is_grad_enabled():
        return results
    return (*results[:-1], torch.empty(_workspace_bytes(Call(operator, _described(args))), dtype=torch.uint8))


@lru_cache(maxsize=256)
def _workspace_bytes(call: Call) -> int:
    with (
        _disable_current_modes(),
        torch.enable_grad(),
    ):  # the kernel keeps a workspace only while gradients are recorded
        return int(call.operator(*_made(call.args))[-1].nbytes)


def scratch_bytes(calls: Sequence[Call]) -> list[int]:
    """The most bytes that each call holds besides its operands and results, on this processor with this many threads.

    oneDNN chooses the layouts of a convolution, and the copies it needs, by shape, type, instruction set and number of
    threads. No formula is known, so each call is run once, alone, while the allocator is recorded.
    """
    if not calls:
        return []
    with torch.no_grad(), limited_to_available(), watched_allocations() as watched:
        for number, call in enumerate(calls):
            args = _operands(call)
            with record_function(f"{_MARK}{number}"):
                results = call.operator(*args)
            del args, results
    return _beyond_results(watched.events, len(calls))


@dataclass(slots=True)
class Watched:
    """The profiler's events."""

    events: list[Any] = field(default_factory=list)
    """In order; filled when the watch ends."""

    def peak_bytes(self) -> int:
        """The most bytes that the CPU allocator had allocated at once since the watch began."""
        changes = (int(event.nbytes()) for event in self.events if event.name() == "[memory]")
        return max(accumulate(changes, initial=0))


@contextlib.contextmanager
def watched_allocations() -> Iterator[Watched]:
    """Record every allocation and release of torch's CPU allocator."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler logs to the terminal
    watched = Watched()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield watched
    watched.events.extend(profiler.profiler.kineto_results.events())


def available_bytes() -> int:
    """Memory that new processes may take without swapping, by the kernel or by the container's limit."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    with contextlib.suppress(OSError, ValueError):
        control = Path("/sys/fs/cgroup")
        free = min(free, max(0, int((control / "memory.max").read_text()) - used_bytes(control)))
    return free


@contextlib.contextmanager
def limited_to_available() -> Iterator[None]:
    """Make allocations beyond the available memory fail, before the kernel kills another process for them.

    The limit ends with the block: this process may be a caller's, and its children inherit limits.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError, ValueError):  # these limits exist on Unix only
            import resource

            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            before = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (mapped + available_bytes(), before[1]))
            stack.callback(resource.setrlimit, resource.RLIMIT_AS, before)
        yield


def _beyond_results(events: Sequence[Any], count: int) -> list[int]:
    spans = {
        int(event.name().removeprefix(_MARK)): (event.start_ns(), event.end_ns())
        for event in events
        if event.name().startswith(_MARK)
    }
    changes = [event for event in events if event.name() == "[memory]"]
    times = [event.start_ns() for event in changes]
    found = []
    for number in range(count):
        start, end = spans[number]
        inside = changes[bisect_left(times, start) : bisect_right(times, end)]
        held = list(accumulate((event.nbytes() for event in inside), initial=0))
        found.append(max(held) - held[-1])
    return found


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Metadata.of(value)
    if isinstance(value, (list, tuple)):
        return tuple([_described(item) for item in value])
    return value


def _operands(call: Call) -> Any:
    """Zeros to run the call on."""
    made = _made(call.args)
    if call.operator is not _ATEN.native_batch_norm_backward.default:
        return made
    # On the CPU the statistics stay in float32 beside 16-bit images; fake tensors have them in the images' type.
    images, rest = made[:2], made[2:]
    return *images, *(each.float() if isinstance(each, Tensor) else each for each in rest)


def _made(value: Any) -> Any:
    if isinstance(value, Metadata):
        return value.make("cpu").zero_()
    return tuple([_made(item) for item in value]) if isinstance(value, tuple) else value
