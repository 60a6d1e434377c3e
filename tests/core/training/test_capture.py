"""The training step as a graph, with a function in the place of a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cifar_cli.core.choices import OptimizerName
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.capture import CAPTURABLE, Capture, CapturedStep, choose_capture, it_pays
from cifar_cli.core.training.checkpoint import read_checkpoint, restore_step, save_checkpoint
from cifar_cli.core.training.config import StepConfig, TrainConfig
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.core.training.schedule import LearningRate
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.errors import ConfigError

ConfigOf = Callable[..., TrainConfig]
CPU = torch.device("cpu")
STEPS, BATCH, REST = 7, 8, 5


class Recorded:
    """A `Capture` that counts: recording does nothing, replaying runs the function."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            function()

        return replay


def make_step(optimizer: OptimizerName, *, captured: bool) -> TrainingStep:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)).double()
    config = StepConfig(optimizer=optimizer, learning_rate=0.01, ema_decay=0.9, captured=captured)
    return TrainingStep(model, config, device_type="cpu")


def batches() -> list[tuple[Tensor, Tensor]]:
    """Two epochs: full batches, of which the last one is a rest."""
    generator = torch.Generator().manual_seed(5)
    sizes = [*[BATCH] * (STEPS - 1), REST] * 2
    return [
        (
            torch.randn(n, 3, 8, 8, dtype=torch.float64, generator=generator),
            torch.randint(10, (n,), generator=generator),
        )
        for n in sizes
    ]


def losses_of(step: TrainingStep, take: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Of two epochs with a changing rate; read at the end, when a graph has overwritten what it returns."""
    rate = LearningRate(step.optimizer, replace(RECIPES["course"], schedule="one-cycle", warmup=0.3), steps=2 * STEPS)
    losses = []
    for number, batch in enumerate(batches()):
        rate.set_for(number)
        losses.append(take(*batch)[0])
    return losses


@pytest.mark.parametrize("optimizer", CAPTURABLE)
def test_captured_steps_are_the_plain_ones(optimizer: OptimizerName) -> None:
    plain, step, recorded = make_step(optimizer, captured=False), make_step(optimizer, captured=True), Recorded()
    expected, found = losses_of(plain, plain), losses_of(step, CapturedStep(step, recorded))
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)  # a rate on the device is a float32
    assert recorded.captured == 2, "a graph for whole batches, and one for the rests"
    assert recorded.replayed == 2 * STEPS - 2, "all but the first of each"
    assert plain.average is not None
    assert step.average is not None
    assert int(step.average.n_averaged) == int(plain.average.n_averaged) == 2 * STEPS
    torch.testing.assert_close(step.average.state_dict(), plain.average.state_dict(), atol=1e-6, rtol=0)


def test_the_stages_of_a_replayed_step_are_one() -> None:
    step, stages = make_step("sgd", captured=True), list[str]()
    step.on_stage = stages.append
    take = CapturedStep(step, lambda function: function)
    (first, second, third, *_) = batches()
    take(*first)
    assert stages == ["forward", "backward", "optimizer", "average"]
    stages.clear()
    step.run = lambda images, labels: (torch.zeros(()), torch.zeros(BATCH, 10))  # type: ignore[method-assign]
    take(*second)
    take(*third)
    assert stages == ["forward"] * 2


@pytest.mark.parametrize("optimizer", CAPTURABLE)
@pytest.mark.parametrize("captured", [True, False])
def test_a_checkpoint_of_captured_steps_continues_with_either_kind(
    optimizer: OptimizerName, captured: bool, tmp_path: Path
) -> None:
    step = make_step(optimizer, captured=True)
    losses_of(step, step)
    normalisation = {"config": {"normalisation": None, "model": {}}, "classes": []}
    save_checkpoint(tmp_path / "a.ckpt", step, normalisation, epoch=0, global_step=1, loop={})
    content = read_checkpoint(tmp_path / "a.ckpt")
    assert all(type(group["lr"]) is float for group in content["optimizer"]["param_groups"])
    other = make_step(optimizer, captured=captured)
    LearningRate(other.optimizer, RECIPES["course"], steps=1)  # which keeps the highest rate beside each
    restore_step(other, content)
    for group in other.optimizer.param_groups:
        assert isinstance(group["lr"], Tensor) == captured
        assert group.get("capturable", captured) == captured
    batch = batches()[0]
    torch.testing.assert_close(other(*batch)[0], step(*batch)[0], atol=1e-7, rtol=0)


@pytest.fixture
def config(config_of: ConfigOf) -> TrainConfig:
    made = replace(config_of(), precision="32", memory_format="channels-last")
    return replace(made, recipe=replace(made.recipe, batch=4))


def pays(config: TrainConfig, capture: Capture, *, plain_seconds: float, captured_seconds: float) -> bool:
    """The trial with a clock that is read before and after the timed steps of each kind."""
    times = iter((0.0, plain_seconds, 0.0, captured_seconds))
    model = build_model(ModelConfig(name="null"), seed=1)
    return it_pays(config, model, classes=10, device=CPU, capture=capture, clock=lambda: next(times))


def test_a_graph_is_taken_where_it_is_clearly_faster(config: TrainConfig) -> None:
    assert pays(config, Recorded(), plain_seconds=2.0, captured_seconds=1.0)
    assert not pays(config, Recorded(), plain_seconds=2.0, captured_seconds=1.99)


def stale(function: Callable[[], None]) -> Callable[[], None]:
    """A graph that does its work once, and nothing when it is replayed."""
    calls: list[None] = []

    def replay() -> None:
        if not calls:
            function()
        calls.append(None)

    return replay


def test_a_graph_with_other_losses_is_refused_however_fast_it_is(config: TrainConfig) -> None:
    assert not pays(config, stale, plain_seconds=2.0, captured_seconds=0.1)


def test_a_model_that_can_t_be_captured_is_trained_plainly(config: TrainConfig) -> None:
    def impossible(function: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    assert not pays(config, impossible, plain_seconds=2.0, captured_seconds=0.1)


def test_memory_that_runs_out_in_the_trial_is_no_reason_to_go_on(config: TrainConfig) -> None:
    def short(function: Callable[[], None]) -> Callable[[], None]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        pays(config, short, plain_seconds=2.0, captured_seconds=0.1)


@pytest.mark.parametrize(
    ("device", "processes", "changes", "why"),
    [
        ("cpu", 1, {}, "needs a CUDA GPU"),
        ("cuda", 2, {}, "isn't possible on several devices"),
        ("cuda", 1, {"compile": True}, "isn't possible with --compile"),
        ("cuda", 1, {"precision": "16"}, "isn't possible with --precision 16"),
        ("cuda", 1, {"recipe": {"optimizer": "muon"}}, "isn't possible with --optimizer muon"),
    ],
)
def test_where_a_graph_is_impossible_auto_leaves_it_out_and_on_says_why(
    config: TrainConfig, device: str, processes: int, changes: dict[str, object], why: str
) -> None:
    recipe = replace(config.recipe, **changes.pop("recipe", {}))  # type: ignore[arg-type]
    changed = replace(config, recipe=recipe, **changes)  # type: ignore[arg-type]
    asked = {"classes": 10, "device": torch.device(device), "processes": processes}
    assert not choose_capture(changed, nn.Identity(), **asked)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"--cuda-graph on {why}"):
        choose_capture(replace(changed, cuda_graph="on"), nn.Identity(), **asked)  # type: ignore[arg-type]


def test_what_is_asked_for_needs_no_trial(config: TrainConfig) -> None:
    asked = {"classes": 10, "device": torch.device("cuda"), "processes": 1}
    for choice, expected in (("on", True), ("off", False)):
        assert choose_capture(replace(config, cuda_graph=choice), nn.Identity(), **asked) is expected  # type: ignore[arg-type]
    for quiet in ({"deterministic": True}, {"fast_dev_run": True}):
        assert not choose_capture(replace(config, **quiet), nn.Identity(), **asked)  # type: ignore[arg-type]
