"""A training step on tensors without data: every allocation and release, in order.

For a GPU the operators run on torch's meta device, with the casts and the kernels that CUDA chooses (`autocast`,
`cuda_operators`). For the CPU they run on torch's fake CPU tensors, for which torch itself casts and chooses. Shapes,
types and reference counts are real, arithmetic and memory are not.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import warnings
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cifar_cli.core.choices import require_at_least
from cifar_cli.core.memory.autocast import cuda_autocast_on_meta
from cifar_cli.core.memory.config import Backend, MemoryConfig
from cifar_cli.core.memory.cuda_operators import cuda_operators_on_meta, kernel_scratch_bytes
from cifar_cli.core.memory.host import Call, call_of, scratch_bytes, with_workspace
from cifar_cli.core.memory.meta_ops import MetaOperators, TorchOperators
from cifar_cli.core.memory.several_gpus import several_gpus, shared_between_gpus
from cifar_cli.core.memory.variants import run_step, with_checkpoints
from cifar_cli.core.models.training_form import training_form
from cifar_cli.core.training.sharded import own_part
from cifar_cli.core.training.step import AUTOCAST_DTYPES, Stage, TrainingStep, make_optimizer
from cifar_cli.errors import ModelError

STEPS = 2  # the second one runs with the optimizer's state in place


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


def copy_without_data(model: nn.Module, fake: FakeTensorMode | None = None) -> nn.Module:
    """A copy of the modules with tensors like theirs on the meta device; shared parameters stay shared.

    fake: makes fake CPU tensors instead.
    """
    with fake or contextlib.nullcontext():
        return _with_empty_tensors(model, "meta" if fake is None else "cpu")


def _with_empty_tensors(model: nn.Module, device: str) -> nn.Module:
    def like(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)

    memo: dict[int, Any] = {id(buffer): like(buffer) for buffer in model.buffers()}
    for module in model.modules():  # tensors that are neither, such as the positions of hybrid
        memo |= {id(value): like(value) for value in vars(module).values() if isinstance(value, Tensor)}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(like(parameter), requires_grad=parameter.requires_grad)
    return copy.deepcopy(model, memo)


class TracedStep(TrainingStep):
    """The training step on meta tensors, with the allocations of the config's backend."""

    form = staticmethod(training_form)
    """Brings the model into the form that is trained."""

    def __init__(self, model: nn.Module, config: MemoryConfig, recorder: Recorder) -> None:
        self.recorder = recorder
        self.backend = config.backend
        super().__init__(
            model,
            config.step,
            device_type=config.backend,
            on_stage=recorder.begin,
            parallel=lambda model: shared_between_gpus(model, config, recorder.mark),
        )
        self.optimizer = _without_gpu(self.optimizer_of(model, config))
        # The scaler of float16 reads gradients, and those on the meta device have no values.
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        if self.average is not None:
            if config.backend == "cpu":
                # A deep copy of a fake tensor and its views have storages of their own, so that they count twice.
                self.average.module = _with_empty_tensors(model, "cpu")
            recorder.mark([*self.average.parameters(), *self.average.buffers()], Category.AVERAGED_WEIGHTS)

    def optimizer_of(self, model: nn.Module, config: MemoryConfig) -> Optimizer:
        """The optimizer, with the implementation that torch chooses on the backend."""
        # An optimizer that isn't fused updates lists of tensors by default on CUDA, and single ones on meta tensors.
        unfused = config.backend == "cuda" and config.step.precision == "16"
        return make_optimizer(model, config.step, **({"foreach": True} if unfused else {}))

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = AUTOCAST_DTYPES[self.config.precision]
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast("cpu" if self.backend == "cpu" else "meta", dtype=dtype)

    def backward(self, loss: Tensor) -> None:
        super().backward(loss)
        self.recorder.mark((parameter.grad for parameter in self.model.parameters()), Category.GRADIENTS)

    def clip(self, norm: float) -> None:
        """`clip_gradients`; its form for CUDA refuses meta tensors, so its operators are repeated here."""
        if self.backend == "cpu":
            super().clip(norm)
            return
        gradients = [own_part(p.grad) for p in self.model.parameters() if p.grad is not None]
        total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0)))
        torch._foreach_mul_(gradients, torch.clamp(norm / (total + 1e-6), max=1.0))

    def update(self) -> None:
        super().update()
        for state in self.optimizer.state.values():
            self.recorder.mark(filter(torch.is_tensor, state.values()), Category.OPTIMIZER)


def trace_steps(
    model: nn.Module,
    batch: int,
    config: MemoryConfig,
    *,
    step_type: type[TracedStep] = TracedStep,
    operators: TorchOperators | None = None,
) -> Trace:
    """Record two steps.

    batch: images [B, 3, H, W] that one GPU computes with at the same time, float32. The model is copied, not changed.
    step_type: the step to record. operators: runs the operators; None makes a new cache of them.
    Raises ConfigError for a batch below 1 and ModelError for a model that can't run without data.
    """
    require_at_least("--batch", batch, 1, example=128)
    (height, width), on_host = config.model.sides, config.backend == "cpu"
    # oneDNN's own layout is no property of a tensor without data.
    layout = "contiguous" if config.step.memory_format == "onednn" else config.step.memory_format
    traced = step_type.form(with_checkpoints(copy_without_data(model), config), layout).train()
    recorder = Recorder(batch, operators or (TorchOperators() if on_host else MetaOperators()), on_host=on_host)
    device = "cpu" if on_host else "meta"
    try:
        with warnings.catch_warnings(), tensors_of(config.backend) as fake, several_gpus(config, recorder.resized):
            warnings.simplefilter("ignore")
            traced = traced if fake is None else copy_without_data(traced, fake)
            with fake or contextlib.nullcontext(), recorder:
                recorder.mark((*traced.parameters(), *traced.buffers()), Category.WEIGHTS)
                step = step_type(traced, config, recorder)
                step.train()
                recorder.phase = Category.INPUT
                images_BCHW = torch.empty(batch, height, width, 3, device=device).permute(0, 3, 1, 2)  # as the loader's
                labels_B = torch.empty(batch, dtype=torch.long, device=device)
                with _modules_named(traced, recorder):
                    recorder.phase = Category.TEMPORARIES  # of a forward pass alone
                    for _ in range(STEPS):
                        run_step(step, config, images_BCHW, labels_B)
    except _UNTRACEABLE as error:
        where = recorder.module_path[-1] if recorder.module_path else ""
        raise _untraceable(model, batch, config, error, step_type, where) from error
    recorder.measure_scratch()
    return recorder.trace


_UNTRACEABLE = (
    ArithmeticError, AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError
)  # fmt: skip


def _untraceable(
    model: nn.Module, batch: int, config: MemoryConfig, error: Exception, step_type: type[TracedStep], where: str
) -> ModelError:
    """The error for a model that can't be traced, with a remedy that works. where: the module that failed, or ""."""
    *_, made_for = getattr(model, "pretrained_cfg", {}).get("input_size") or (0,)
    if made_for and made_for not in config.model.sides:
        remedy = f"pass --img-size {made_for}, for which the model was made"
    else:
        remedy = "pass another --img-size (`cifar summarize` names the smallest that the model reads), or --measure"
    if batch == 1:
        with contextlib.suppress(ModelError):
            trace_steps(model, 2, config, step_type=step_type)
            remedy = "pass --batch 2 or more"
    why = next(iter(str(error).splitlines()), f"{type(error).__name__} in {where}" if where else type(error).__name__)
    return ModelError(
        f"a training step of {config.model.label} with {batch} images at {config.model.pixels} pixels can't be traced "
        f"({why})",
        remedy=remedy,
    )


@contextlib.contextmanager
def tensors_of(backend: Backend) -> Iterator[FakeTensorMode | None]:
    """Make tensors without data behave as the backend's; for the CPU, yields the mode in which tensors are fake."""
    if backend == "cpu":
        yield FakeTensorMode(allow_non_fake_inputs=True)
        return
    with _fused_on_meta(), cuda_operators_on_meta(), cuda_autocast_on_meta():
        yield None


def _without_gpu(optimizer: Optimizer) -> Optimizer:
    """Disable an optimizer's check for CUDA graphs.

    The check creates a CUDA context in this process, whose memory would be missing in later trials.
    """
    for check in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
        setattr(optimizer, check, lambda: None)
    return optimizer


@contextlib.contextmanager
def _fused_on_meta() -> Iterator[None]:
    """Let torch's fused optimizers accept meta tensors. `MetaOperators` replaces their kernels, which only real tensors
    have.
    """
    modules: list[Any] = [sys.modules[kind.__module__] for kind in (torch.optim.Adam, torch.optim.SGD)]
    checks = [module._device_dtype_check_for_fused for module in modules]
    for module in modules:
        module._device_dtype_check_for_fused = lambda *_, **__: None
    try:
        yield
    finally:
        for module, check in zip(modules, checks, strict=True):
            module._device_dtype_check_for_fused = check


@contextlib.contextmanager
def _modules_named(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Tell the recorder which module's forward pass runs."""
    path = recorder.module_path

    def leave(*_: Any) -> None:  # a value would replace the module's output
        path.pop()

    with contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                hooks.enter_context(module.register_forward_pre_hook(lambda *_, name=name: path.append(name)))
                hooks.enter_context(module.register_forward_hook(leave))
        yield
