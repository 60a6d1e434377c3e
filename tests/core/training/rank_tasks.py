"""What tests let every process of a crew do. Functions of a module, so that they can be sent to a process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.store import open_store
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training import group, loop
from cifar_cli.core.training.batches import eval_loader
from cifar_cli.core.training.config import ResumeConfig, StepConfig, TrainConfig
from cifar_cli.core.training.group import joined
from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.loop import Seams
from cifar_cli.core.training.parallel import Parallel
from cifar_cli.core.training.results import EpochResult, TrainResult
from cifar_cli.core.training.scores import score
from cifar_cli.core.training.sharded import own_part
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.core.training.train import resume, train
from cifar_cli.errors import CifarError
from tests.core.training.fake_time import Machine


@dataclass
class Outcome:
    """What one process saw of a run."""

    losses: list[tuple[float, int]] = field(default_factory=list)
    """Of every step: the mean loss of this process's images, and their number."""
    epochs: list[EpochResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    result: TrainResult | None = None
    error: str | None = None
    exit_code: int = 0


def run(
    asked: TrainConfig | ResumeConfig,
    *,
    double: bool = False,
    before_step: Callable[[TrainingStep, int], None] = lambda step, number: None,
) -> Outcome:
    """Train or resume, and record it. double: in float64. before_step: called with the number of each step, from 1."""
    outcome = Outcome()

    class Recording(TrainingStep):
        def __init__(self, model: nn.Module, config: StepConfig, **options: Any) -> None:
            super().__init__(model.double() if double else model, config, **options)

        def __call__(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
            before_step(self, len(outcome.losses) + 1)
            loss, logits_BK = super().__call__(images_BCHW.double() if double else images_BCHW, labels_B)
            outcome.losses.append((float(loss), len(labels_B) if self.weight else 0))
            return loss, logits_BK

    listeners = Listeners(on_note=outcome.notes.append, on_epoch=outcome.epochs.append)
    start: Callable[..., TrainResult] = train if isinstance(asked, TrainConfig) else resume
    converted = nn.modules.module.register_module_forward_pre_hook(_as_the_weights)  # type: ignore[no-untyped-call]
    try:
        outcome.result = start(asked, listeners, seams=Seams(make_step=Recording))
    except CifarError as error:
        outcome.error, outcome.exit_code = str(error), error.exit_code
    except ZeroDivisionError as error:  # a bug that a test has planted
        outcome.error = str(error)
    finally:
        converted.remove()
    return outcome


def _as_the_weights(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Convert images to the floating-point type of a layer's own weights."""
    weights = next(module.parameters(recurse=False), None)
    if weights is None or not inputs or weights.dtype == inputs[0].dtype:
        return None
    return inputs[0].to(weights.dtype), *inputs[1:]


def run_with_signal(asked: Any, *, number: int, rank: int, step: int, double: bool = False) -> Outcome:
    """One process gets a signal as it begins a step."""

    def before_step(training: TrainingStep, count: int) -> None:
        if count == step and int(os.environ.get("RANK", "0")) == rank:
            os.kill(os.getpid(), number)

    return run(asked, double=double, before_step=before_step)


def run_spoiled(asked: Any, *, how: str, rank: int, step: int) -> Outcome:
    """One process fails in a step."""

    def before_step(training: TrainingStep, count: int) -> None:
        if count != step or int(os.environ["RANK"]) != rank:
            return
        if how == "nan":
            training.weight = float("nan")
        elif how == "weight":
            next(training.model.parameters()).data[0] = float("nan")
        elif how == "bug":
            raise ZeroDivisionError("a bug")
        else:
            raise CifarError("this image is upside down", remedy="turn it")

    return run(asked, before_step=before_step)


def run_on_a_full_disk(asked: Any) -> Outcome:
    """There is no space for checkpoints from the second epoch on."""
    original = torch.save

    def save(content: Any, path: Any, **options: Any) -> None:
        if isinstance(content, dict) and content["epoch"] >= 1:
            raise OSError(28, "No space left on device")
        original(content, path, **options)

    torch.save = save  # type: ignore[assignment]
    try:
        return run(asked)
    finally:
        torch.save = original


def run_on_a_slow_disk(asked: Any) -> Outcome:
    """Two checkpoints take longer than a process may take to answer within a step."""
    original, limit, slow = torch.save, group.STEP_SECONDS, [True, True]
    group.STEP_SECONDS = 5.0

    def save(content: Any, path: Any, **options: Any) -> None:
        if slow and isinstance(content, dict):  # a checkpoint: weights on their way to others are pickled by it too
            slow.pop()
            time.sleep(1.5 * group.STEP_SECONDS)
        original(content, path, **options)

    torch.save = save  # type: ignore[assignment]
    try:
        return run(asked)
    finally:
        torch.save, group.STEP_SECONDS = original, limit


def run_stopped_in_its_validation(asked: Any, *, rank: int) -> tuple[Outcome, float]:
    """One process is stopped for 40 seconds in the validation, so that it gives no sign of life.

    Returns what a process saw, and for how many seconds it waited.
    """
    original, began = loop.validate, [time.monotonic()]

    def scored_late(*args: Any, **options: Any) -> Any:
        began[0] = time.monotonic()
        if int(os.environ["RANK"]) == rank:
            subprocess.Popen(["sh", "-c", f"sleep 40; kill -CONT {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)
        return original(*args, **options)

    loop.validate = scored_late  # type: ignore[assignment]
    try:
        return run(asked), time.monotonic() - began[0]
    finally:
        loop.validate = original


def run_slow_in_its_validation(asked: Any, *, rank: int, seconds: float) -> Outcome:
    """One process takes longer than the others for its part of a validation."""
    original = loop.validate

    def scored_late(*args: Any, **options: Any) -> Any:
        if int(os.environ["RANK"]) == rank:
            time.sleep(seconds)
        return original(*args, **options)

    loop.validate = scored_late  # type: ignore[assignment]
    try:
        return run(asked)
    finally:
        loop.validate = original


def run_at_speeds(asked: TrainConfig, *, seconds: tuple[float, ...]) -> tuple[int, int, float]:
    """Epochs, steps taken and test loss of a run whose processes have clocks that run at different speeds."""
    machine = Machine(seconds[int(os.environ.get("RANK", "0")) % len(seconds)])
    result = train(asked, machine.listeners, seams=machine.seams)
    return result.epochs, machine.steps, result.test_loss


def scored(store_path: str, *, batch: int, model: ModelConfig) -> tuple[float, float, float | None]:
    """Loss, accuracy and flip-averaged accuracy of a model on the test images."""
    store = open_store(store_path)  # type: ignore[arg-type]
    loader = eval_loader(
        store.test, torch.arange(len(store.test)), img_size=32, normalisation=Normalisation(), batch=batch
    )
    with joined(device="cpu") as ranks:
        found = score(
            build_model(model, seed=3), loader, classes=10, device=torch.device("cpu"), flip_average=True, ranks=ranks
        )
    return found.plain.loss, found.plain.accuracy, found.accuracy_flip_averaged


@dataclass
class Normalised:
    """Batch norm over random features: what it returns, and what it leaves behind."""

    features: Tensor
    features_gradient: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor
    running_mean: Tensor
    running_var: Tensor


def normalised(*, sizes: tuple[int, ...], alone: bool) -> Normalised:
    """Two batch norm layers and a curved loss, over all images or over this process's part of them."""
    generator = torch.Generator().manual_seed(1)
    parts = torch.randn(sum(sizes), 3, 5, 5, dtype=torch.float64, generator=generator).split(sizes)
    with joined(device="cpu") as ranks:
        features = (torch.cat(parts) if alone else parts[ranks.rank]).clone().requires_grad_()
        torch.manual_seed(0)
        layers = nn.Sequential(nn.BatchNorm2d(3), nn.Tanh(), nn.BatchNorm2d(3)).double()
        called = layers if alone else ranks.parallel(layers)
        assert alone or isinstance(called, Parallel)
        weight = 1.0 if alone else ranks.world_size * len(features) / sum(sizes)
        answer = called(features)
        (F.softplus(answer).mean() * weight).backward()
    last = layers[2]
    assert features.grad is not None
    return Normalised(
        features=answer.detach(),
        features_gradient=features.grad,
        weight_gradient=last.weight.grad,
        bias_gradient=last.bias.grad,
        running_mean=last.running_mean,
        running_var=last.running_var,
    )


def run_twice_in_a_group(first: TrainConfig, second: TrainConfig) -> tuple[list[Outcome], bool]:
    """Train two runs in a process group of the program, as under Ray Train. Returns whether it is there afterwards."""
    dist.init_process_group("gloo")
    try:
        outcomes = [run(first), run(second)]
        value = torch.ones(1)
        dist.all_reduce(value)
        return outcomes, value.item() == dist.get_world_size()
    finally:
        dist.destroy_process_group()


def order_read_late() -> Any:
    """The last order, which every process but the first reads a second after the first has left."""
    with joined(device="cpu") as ranks:
        if ranks.is_first:
            return None
        time.sleep(1)
        return ranks.next_order()


def kept_shares() -> float:
    """The share of the numbers in weights, averaged weights and optimizer states that this process keeps."""
    config = StepConfig(optimizer="adam", learning_rate=1e-3, ema_decay=0.9)
    with joined(device="cpu") as ranks:
        step = TrainingStep(
            build_model(ModelConfig(name="null"), seed=3),
            config,
            device_type="cpu",
            parallel=partial(ranks.parallel, shards=True),
        )
        step(torch.randn(4, 3, 32, 32), torch.arange(4))
        states = [value for state in step.optimizer.state.values() for value in state.values() if value.ndim]
        tensors = [*step.model.parameters(), *step.evaluated.parameters(), *states]
        return sum(own_part(each).numel() for each in tensors) / sum(each.numel() for each in tensors)
