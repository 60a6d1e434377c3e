"""A training step on tensors without data: every allocation and release, in order.

For a GPU the operators run on torch's meta device, with the casts and the kernels that CUDA chooses (`autocast`,
`cuda_operators`). For the CPU they run on torch's fake CPU tensors, for which torch itself casts and chooses. Shapes,
types and reference counts are real, arithmetic and memory are not.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from cifar_cli.core.choices import require_at_least
from cifar_cli.core.memory.autocast import cuda_autocast_on_meta
from cifar_cli.core.memory.config import Backend, MemoryConfig
from cifar_cli.core.memory.cuda_operators import cuda_operators_on_meta
from cifar_cli.core.memory.meta_ops import MetaOperators, TorchOperators
from cifar_cli.core.memory.recorder import Category, Recorder, Trace
from cifar_cli.core.memory.several_gpus import several_gpus, shared_between_gpus
from cifar_cli.core.memory.variants import run_step, with_checkpoints
from cifar_cli.core.models.training_form import training_form
from cifar_cli.core.out_of_memory import is_out_of_memory
from cifar_cli.core.training.sharded import own_part
from cifar_cli.core.training.step import AUTOCAST_DTYPES, TrainingStep, make_optimizer
from cifar_cli.errors import CifarError, ModelError

STEPS = 2  # the second one runs with the optimizer's state in place


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
        unfused = config.step.precision == "16" or (config.step.optimizer == "sgd" and config.shards)
        unfused = unfused and config.backend == "cuda"
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
    except CifarError:
        raise
    except Exception as error:  # a model may raise anything on tensors without data
        raise _untraceable(model, batch, config, error, step_type, recorder.failed_in) from error
    try:
        recorder.measure_scratch()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"an operator of {config.model.label} with {batch:,} images at {config.model.pixels} pixels takes more "
            "memory than this machine has free",
            remedy="pass a smaller --img-size, or --measure with a smaller --batch",
        ) from error
    return recorder.trace


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
            remedy = f"pass --batch {2 * config.devices * config.accumulate} or more"
    return ModelError(
        f"a training step of {config.model.label} with {batch:,} images at {config.model.pixels} pixels can't be "
        f"traced ({_why(error, where)})",
        remedy=remedy,
    )


def _why(error: Exception, where: str) -> str:
    """The first line of an error's message; of one without a message, as bare assertions are, the model's own line."""
    if said := str(error).splitlines():
        return said[0]
    of_torch = str(Path(torch.__file__).parent)
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if of_torch not in frame.filename]
    failed = f"`{lines[-1]}`" if lines[-1] else type(error).__name__
    return f"{failed} fails in {where}" if where else f"{failed} fails"


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

    def leave(*called: Any) -> None:  # a value would replace the module's output
        name = path.pop()
        if called[-1] is None and not recorder.failed_in:
            recorder.failed_in = name

    with contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                hooks.enter_context(module.register_forward_pre_hook(lambda *_, name=name: path.append(name)))
                # After a failure too: a checkpointed block stops in the middle when it computes activations again.
                hooks.enter_context(module.register_forward_hook(leave, always_call=True))
        yield
