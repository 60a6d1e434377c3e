"""Writes down every allocation and release of the operators that run under it, with the purpose of each tensor."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cifar_cli.core.memory.cuda_operators import kernel_scratch_bytes
from cifar_cli.core.memory.host import Call, call_of, scratch_bytes, with_workspace
from cifar_cli.core.memory.meta_ops import TorchOperators
from cifar_cli.core.training.sharded import own_part
from cifar_cli.core.training.step import Stage


class Category(StrEnum):
    """The purpose of a tensor."""

    WEIGHTS = "weights"
    AVERAGED_WEIGHTS = "averaged weights"
    GATHERED_WEIGHTS = "gathered weights"
    GRADIENTS = "gradients"
    GRADIENT_BUCKETS = "gradient buckets"
    OPTIMIZER = "optimizer"
    ACTIVATIONS = "activations"
    RECOMPUTED_ACTIVATIONS = "recomputed activations"
    INPUT = "input"
    TEMPORARIES = "temporaries"


@dataclass(kw_only=True, slots=True)
class Trace:
    """The allocations and releases of training steps."""

    batch: int
    events: list[int] = field(default_factory=list)
    """In order: i >= 0 allocates tensor i, ~i releases it."""
    sizes_bytes: list[int] = field(default_factory=list)
    """By tensor."""
    categories: list[Category] = field(default_factory=list)
    """By tensor."""
    modules: list[str] = field(default_factory=list)
    """By tensor: the module whose forward pass made it, "" outside of any."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes a trace: registers every new storage, and a finalizer for it.

    on_host: record fake tensors on the CPU, and what the CPU's kernels allocate inside an operator.
    """

    def __init__(self, batch: int, operators: TorchOperators, *, on_host: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on_host = on_host
        self.trace = Trace(batch=batch)
        self.phase = Category.WEIGHTS
        self._in_backward = False
        self.module_path: list[str] = []
        self.failed_in = ""
        """The innermost module whose forward pass failed in this stage."""
        self._ids: dict[int, int] = {}
        self._calls: dict[Call, list[int]] = {}
        self._operators = operators
        self._operations = 0
        self._sum: tuple[int, int, int] | None = None  # output, first operand and time of a sum in the backward pass
        self._emptied: set[int] = set()  # tensors whose storage was resized to nothing
        self._in_place: dict[int, int] = {}  # id of a sum -> id of the operand whose memory it takes over

    def begin(self, stage: Stage) -> None:
        """Tensors made from here on are activations in the forward pass, temporaries in every other stage."""
        self.phase = Category.ACTIVATIONS if stage == "forward" else Category.TEMPORARIES
        self._in_backward = stage == "backward"
        self.failed_in = ""

    def track(self, tensor: Tensor) -> int:
        """The id of a tensor's storage; -1 for an empty one, and for a tensor on the CPU in a trace of a GPU."""
        if tensor.device.type != "meta" and not self.on_host:
            return -1
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._ids:
            return self._ids[key]
        size = storage.nbytes()
        if not size:
            return -1
        # A module runs outside of the forward pass where activations are computed again.
        again = self._in_backward and self.module_path
        new = self._ids[key] = self._new(size, Category.RECOMPUTED_ACTIVATIONS if again else self.phase)
        weakref.finalize(storage, self._release, key)
        return new

    def resized(self, storage: torch.UntypedStorage, size: int) -> None:
        """A storage gives its memory back, or takes it again, as FSDP's do."""
        key = storage._cdata
        if (known := self._ids.get(key)) is None:
            return
        if not size:
            self.trace.events.append(~known)
            self._emptied.add(known)
        elif known in self._emptied:
            self._ids[key] = self._new(size, self.trace.categories[known])

    def mark(self, tensors: Iterable[Tensor | None], category: Category) -> None:
        """Set the category of tensors, which is often known only after they were made."""
        for tensor in tensors:
            if tensor is not None and (known := self.track(own_part(tensor))) >= 0:
                self.trace.categories[known] = category

    def _release(self, key: int) -> None:
        released = self._ids.pop(key)
        if released in self._emptied:
            return
        events = self.trace.events
        # Autograd adds gradients in place when nothing else refers to the first one, but never under a dispatch mode.
        # A sum whose first operand is released at once is such a case: it takes over the operand's memory.
        if (
            self._sum is not None
            and self._sum[1:] == (released, self._operations)
            and events[-1] == self._sum[0]
            and self.trace.sizes_bytes[released] == self.trace.sizes_bytes[self._sum[0]]
        ):
            events.pop()
            self._in_place[self._sum[0]] = self._in_place.pop(released, released)
            self._sum = None
            return
        events.append(~self._in_place.pop(released, released))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its operators on this GPU's part come here again
        out = self._operators.run(func, args, kwargs or {})
        if func.namespace == "fsdp":
            self._mark_collective(func, kwargs or {}, out)
        if self.on_host:
            out = with_workspace(func, args, out)
        self._operations += 1
        if isinstance(out, Tensor):
            made = self.track(out)
            if func is torch.ops.aten.add.Tensor and self._in_backward:
                operand = self._ids.get(args[0].untyped_storage()._cdata, -1)
                self._sum = (made, operand, self._operations)
        elif isinstance(out, (tuple, list)):
            for item in filter(torch.is_tensor, out):
                self.track(item)
        if self.on_host:
            if call := call_of(func, args):
                self._calls.setdefault(call, []).append(self._released_at_once(0))
        elif scratch := kernel_scratch_bytes(func, args):
            self._released_at_once(scratch)
        return out

    def _mark_collective(self, func: Any, kwargs: dict[str, Any], out: Any) -> None:
        gathers = func._schema.name in ("fsdp::all_gather_copy_in", "fsdp::split_with_sizes_copy")
        tensors = filter(torch.is_tensor, tree_leaves([kwargs.get("out"), out]))
        self.mark(tensors, Category.GATHERED_WEIGHTS if gathers else Category.GRADIENT_BUCKETS)

    def _released_at_once(self, size: int) -> int:
        """Memory that an operator releases before it returns."""
        scratch = self._new(size, Category.TEMPORARIES)
        self.trace.events.append(~scratch)
        return scratch

    def measure_scratch(self) -> None:
        """Run each distinct operator once on the host, for the size of its scratch memory."""
        for size, scratch in zip(scratch_bytes(list(self._calls)), self._calls.values(), strict=True):
            for tensor in scratch:
                self.trace.sizes_bytes[tensor] = size

    def _new(self, size: int, category: Category) -> int:
        trace = self.trace
        new = len(trace.sizes_bytes)
        trace.sizes_bytes.append(size)
        trace.categories.append(category)
        trace.modules.append(self.module_path[-1] if self.module_path else "")
        trace.events.append(new)
        return new
