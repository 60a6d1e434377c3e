"""A training step on tensors without data: every allocation and release, in order.

The operators run on torch's meta device: shapes, types and reference counts are real, arithmetic and memory are not.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from cifar_cli.core.memory.autocast import Autocast
from cifar_cli.core.memory.config import StepConfig
from cifar_cli.core.memory.host import Call, call_of, scratch_bytes
from cifar_cli.core.memory.meta_ops import Shapes
from cifar_cli.errors import ConfigError, ModelError

STEPS = 2  # the second one runs with the optimizer's state in place
_DTYPES = {"32": None, "16": torch.float16, "bf16": torch.bfloat16}


class Category(StrEnum):
    """What a tensor is for."""

    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"
    ACTIVATIONS = "activations"
    INPUT = "input"
    TEMPORARIES = "temporaries"


@dataclass(kw_only=True, slots=True)
class Trace:
    """The steps as a list of events.

    events: i >= 0 allocates tensor i, ~i releases it. sizes_bytes, categories, modules: by tensor; a module is
    the one whose forward pass made the tensor, "" outside of any.
    """

    batch: int
    events: list[int] = field(default_factory=list)
    sizes_bytes: list[int] = field(default_factory=list)
    categories: list[Category] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Registers every new storage, and a finalizer for it."""

    def __init__(self, batch: int, *, on_host: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on_host = on_host
        self.trace = Trace(batch=batch)
        self.phase = Category.WEIGHTS
        self.module_path: list[str] = []
        self._ids: dict[int, int] = {}
        self._calls: dict[Call, list[int]] = {}
        self._shapes = Shapes()
        self._operations = 0
        self._sum: tuple[int, int, int] | None = None  # output, first operand, time of a sum in backward
        self._in_place: dict[int, int] = {}  # operand's id -> id of the sum that takes its memory over

    def track(self, tensor: Tensor) -> int:
        """The id of a tensor's storage; -1 for an empty one, and for Adam's step counts, which stay on the host."""
        if tensor.device.type != "meta" and not self.on_host:
            return -1
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._ids:
            return self._ids[key]
        size = storage.nbytes()
        if not size:
            return -1
        new = self._ids[key] = self._new(size, self.phase)
        weakref.finalize(storage, self._release, key, new)
        return new

    def mark(self, tensor: Tensor | None, category: Category) -> None:
        """Say afterwards what a tensor turned out to be."""
        if tensor is not None and (known := self.track(tensor)) >= 0:
            self.trace.categories[known] = category

    def _release(self, key: int, released: int) -> None:
        del self._ids[key]
        events = self.trace.events
        # Autograd adds gradients in place when nobody else holds the first one, but not in sight of a dispatch
        # mode. A sum whose first operand dies at once is such a case: it takes over the operand's memory.
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
        out = self._shapes.run(func, args, kwargs or {})
        self._operations += 1
        if isinstance(out, Tensor):
            made = self.track(out)
            if func is torch.ops.aten.add.Tensor and self.phase is Category.TEMPORARIES:
                operand = self._ids.get(args[0].untyped_storage()._cdata, -1)
                self._sum = (made, operand, self._operations)
        elif isinstance(out, (tuple, list)):
            for item in out:
                if isinstance(item, Tensor):
                    self.track(item)
        if self.on_host:
            self._pass_by(call_of(func, args))
        return out

    def _pass_by(self, call: Call | None) -> None:
        """Record memory that is released before the operator returns; how much is asked when the trace is done."""
        if call is not None:
            passing = self._new(0, Category.TEMPORARIES)
            self.trace.events.append(~passing)
            self._calls.setdefault(call, []).append(passing)

    def ask_host(self) -> None:
        """Fill in what the operators themselves took."""
        for size, passing in zip(scratch_bytes(list(self._calls)), self._calls.values(), strict=True):
            for tensor in passing:
                self.trace.sizes_bytes[tensor] = size

    def _new(self, size: int, category: Category) -> int:
        trace = self.trace
        new = len(trace.sizes_bytes)
        trace.sizes_bytes.append(size)
        trace.categories.append(category)
        trace.modules.append(self.module_path[-1] if self.module_path else "")
        trace.events.append(new)
        return new


def copy_without_data(model: nn.Module) -> nn.Module:
    """The same modules over meta tensors, shared parameters still shared. The original stays as it is."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(
            torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
        )
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def trace_steps(model: nn.Module, batch: int, *, img_size: int, classes: int, step: StepConfig) -> Trace:
    """Record two training steps: forward, cross-entropy, backward, clipping, optimizer.

    batch: images [B, 3, img_size, img_size], float32. The model is copied, not touched.
    Raises ConfigError for a batch below 1 and ModelError for a model that can't run without data.
    """
    if batch < 1:
        raise ConfigError(f"--batch {batch} holds no image", remedy="pass 1 or more, for example --batch 128")
    twin = copy_without_data(model).train()
    layout = torch.channels_last if step.channels_last else torch.contiguous_format
    if step.channels_last:
        twin = twin.to(memory_format=torch.channels_last)
    recorder = _Recorder(batch, on_host=step.physics == "cpu")
    try:
        with warnings.catch_warnings(), recorder, _modules_named(twin, recorder):
            warnings.simplefilter("ignore")
            for tensor in (*twin.parameters(), *twin.buffers()):
                recorder.track(tensor)
            optimizer = _without_gpu(make_optimizer(twin, step))
            recorder.phase = Category.INPUT
            images = torch.empty(batch, 3, img_size, img_size, device="meta", memory_format=layout)
            labels = torch.empty(batch, dtype=torch.long, device="meta")
            for _ in range(STEPS):
                _step(twin, images, labels, optimizer, recorder, step)
    except (NotImplementedError, RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"a training step of {batch} images at {img_size} pixels can't be traced ({str(error).splitlines()[0]})",
            remedy="try --batch 2 or more, or a larger --img-size",
        ) from error
    recorder.ask_host()
    return recorder.trace


def make_optimizer(model: nn.Module, step: StepConfig) -> torch.optim.Optimizer:
    """The optimizer of the step, over every parameter."""
    common: dict[str, Any] = {"lr": 1e-3, "weight_decay": step.weight_decay, "foreach": step.uses_foreach}
    if step.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=step.momentum, nesterov=step.nesterov, **common)
    kind = torch.optim.Adam if step.optimizer == "adam" else torch.optim.AdamW
    return kind(model.parameters(), **common)


def _without_gpu(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Keep an optimizer from asking the GPU whether it records a graph.

    The question makes a CUDA context in this process, and its memory would be missing in the trials that follow.
    """
    for check in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
        setattr(optimizer, check, lambda: None)
    return optimizer


def _step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    recorder: _Recorder,
    step: StepConfig,
) -> None:
    optimizer.zero_grad(set_to_none=not step.keep_gradients)
    autocast = _autocast(step)
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() if step.backward_in_autocast else stack:
            stack.enter_context(autocast)
            recorder.phase = Category.ACTIVATIONS
            loss = nn.functional.cross_entropy(model(images), labels)
        recorder.phase = Category.TEMPORARIES
        loss.backward()  # type: ignore[no-untyped-call]
        del loss
    for parameter in model.parameters():
        recorder.mark(parameter.grad, Category.GRADIENTS)
    if step.clip_norm is not None:
        _clip(model, step.clip_norm, foreach=step.uses_foreach)
    optimizer.step()
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                recorder.mark(value, Category.OPTIMIZER)


def _clip(model: nn.Module, norm: float, *, foreach: bool) -> None:
    """`clip_grad_norm_`, whose own list-wise form refuses tensors without data."""
    if not foreach:
        nn.utils.clip_grad_norm_(model.parameters(), norm, foreach=False)
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0)))
    torch._foreach_mul_(gradients, torch.clamp(norm / (total + 1e-6), max=1.0))


def _autocast(step: StepConfig) -> contextlib.AbstractContextManager[Any]:
    return Autocast(_DTYPES[step.precision], physics=step.physics)


@contextlib.contextmanager
def _modules_named(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Keep the recorder's idea of the module whose forward pass runs."""
    handles: list[RemovableHandle] = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: recorder.module_path.append(name)))
            handles.append(module.register_forward_hook(lambda *_: _pop(recorder.module_path)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pop(path: list[str]) -> None:
    path.pop()
