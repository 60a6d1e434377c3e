"""The training step as a CUDA graph: one launch in place of a hundred, which pays for small models.

Not run on a GPU yet. Tests replace the graph by a function that runs the step.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from cifar_cli.core.choices import OptimizerName
from cifar_cli.core.models.training_form import training_form
from cifar_cli.core.out_of_memory import is_out_of_memory
from cifar_cli.core.training.config import StepConfig, TrainConfig
from cifar_cli.core.training.numerics import TRIAL_RATES, speed_key
from cifar_cli.core.training.remembered import remember, remembered
from cifar_cli.core.training.schedule import set_rate
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.errors import ConfigError

CACHE = "graphs"
PAYS = 1.05  # a captured step must be so many times as fast
TRIED_STEPS = 20
AGREES = 1e-3  # relative: of the losses after TRIED_STEPS of both kinds
CAPTURABLE: tuple[OptimizerName, ...] = ("adam", "adamw", "sgd", "muon-sgd")  # the others count steps on the host

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Records what a function gives to the device, without doing it. Returns what does it."""


def cuda_graph(function: Callable[[], None]) -> Callable[[], None]:
    """A `Capture`. Source: PyTorch's notes on CUDA graphs, whole-network capture."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class CapturedStep:
    """Calls a training step, and from the second batch of each shape on replays it.

    Images and labels are copied to where the graph of their shape reads them. The optimizer must be made for it
    (`StepConfig.captured`), and neither it nor the model may be loaded anew afterwards.
    """

    def __init__(self, step: TrainingStep, capture: Capture = cuda_graph) -> None:
        self._step, self._capture = step, capture
        self._graphs: dict[torch.Size, _Graph] = {}

    def __call__(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """As the step. The logits hold until the next call with images of this shape."""
        graph = self._graphs.get(images_BCHW.shape)
        if graph is None:  # the first step makes the optimizer's state and chooses kernels
            self._graphs[images_BCHW.shape] = _Graph(torch.empty_like(images_BCHW), torch.empty_like(labels_B))
            return self._step(images_BCHW, labels_B)
        graph.images_BCHW.copy_(images_BCHW)
        graph.labels_B.copy_(labels_B)
        if graph.replay is None:
            on_stage, self._step.on_stage = self._step.on_stage, lambda stage: None
            graph.replay = self._capture(partial(self._run, graph))
            self._step.on_stage = on_stage
        self._step.on_stage("forward")  # all of the step: nothing tells its stages apart
        graph.replay()
        self._step.count()
        assert graph.made is not None
        loss, logits_BK = graph.made
        return loss.clone(), logits_BK

    def _run(self, graph: _Graph) -> None:
        graph.made = self._step.run(graph.images_BCHW, graph.labels_B)


@dataclass(eq=False, slots=True)
class _Graph:
    """The graph for batches of one shape: what it reads and what it makes."""

    images_BCHW: Tensor
    labels_B: Tensor
    made: tuple[Tensor, Tensor] | None = None
    replay: Callable[[], None] | None = None


def choose_capture(
    config: TrainConfig,
    model: nn.Module,
    *,
    classes: int,
    device: torch.device,
    processes: int,
    capture: Capture = cuda_graph,
    clock: Callable[[], float] = time.perf_counter,
) -> bool:
    """Whether the steps of a run are captured: where that is possible, gives the same losses, and is faster.

    Tried once and remembered per machine and model, because captured steps round differently than others.
    Raises ConfigError where it was asked for and isn't possible.
    """
    why_not = _why_not(config, device, processes)
    if config.cuda_graph == "on" and why_not is not None:
        raise ConfigError(f"--cuda-graph on {why_not}", remedy="pass --cuda-graph off, or auto")
    if config.cuda_graph != "auto" or why_not is not None or config.fast_dev_run or config.deterministic:
        return config.cuda_graph == "on"
    assert config.precision != "auto"
    assert config.memory_format != "auto"
    key = speed_key(config, (config.precision,), (config.memory_format,), device)
    known = remembered(CACHE, key)
    if not isinstance(known, bool):
        pays = it_pays(config, model, classes=classes, device=device, capture=capture, clock=clock)
        known = bool(remember(CACHE, key, pays, replace=known is not None))
    return known


def it_pays(
    config: TrainConfig,
    model: nn.Module,
    *,
    classes: int,
    device: torch.device,
    capture: Capture,
    clock: Callable[[], float],
) -> bool:
    """Whether captured steps give the losses of plain ones, and are PAYS times as fast. Raises when memory runs out."""
    plain = _tried(config, model, classes=classes, device=device, capture=None, clock=clock)
    try:
        captured = _tried(config, model, classes=classes, device=device, capture=capture, clock=clock)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return False  # the model does something that a graph can't hold
    agrees = math.isfinite(plain[1]) and math.isclose(plain[1], captured[1], rel_tol=AGREES)
    return agrees and captured[0] * PAYS <= plain[0]


def _why_not(config: TrainConfig, device: torch.device, processes: int) -> str | None:
    if device.type != "cuda":
        return "needs a CUDA GPU"
    if config.recipe.optimizer not in CAPTURABLE:
        return f"isn't possible with --optimizer {config.recipe.optimizer}"
    if config.precision == "16":
        return "isn't possible with --precision 16, which decides on the host whether a step counts"
    if config.compile:
        return "isn't possible with --compile"
    if processes > 1:
        return "isn't possible on several devices"
    return None


def _tried(
    config: TrainConfig,
    model: nn.Module,
    *,
    classes: int,
    device: torch.device,
    capture: Capture | None,
    clock: Callable[[], float],
) -> tuple[float, float]:
    """Seconds of TRIED_STEPS steps on a copy of the model, and the loss of the last one.

    The batches and the learning rates differ, so that a graph that replays old ones is noticed.
    """
    # Small rates, as in the trials of precisions: with a recipe's, random labels tell rounding from faults no more.
    rate = TRIAL_RATES[config.recipe.optimizer]
    asked: StepConfig = replace(config.step_config(), captured=True, learning_rate=rate, bias_lr=None, head_lr=None)
    copied = training_form(copy.deepcopy(model), asked.memory_format).to(device).train()
    step = TrainingStep(copied, asked, device_type=device.type)
    step.train()
    take: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = step if capture is None else CapturedStep(step, capture)
    generator, side = torch.Generator().manual_seed(0), config.model.img_size
    shape = (4, config.recipe.batch, 3, side, side)
    images = torch.randn(shape, generator=generator).to(device)
    labels = torch.randint(classes, shape[:2], generator=generator).to(device)
    highest = [float(group["lr"]) for group in step.optimizer.param_groups]

    def steps(count: int) -> float:
        for number in range(count):
            for group, rate in zip(step.optimizer.param_groups, highest, strict=True):
                set_rate(group, rate * (number + 1) / TRIED_STEPS)
            loss, _ = take(images[number % 4], labels[number % 4])
        return float(loss)  # waits for the device

    steps(3)  # loads kernels, and captures
    start = clock()
    loss = steps(TRIED_STEPS)
    return clock() - start, loss
