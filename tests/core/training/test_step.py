from __future__ import annotations

import random
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch

from cifar_cli.core.choices import OptimizerName, Precision, ScheduleName
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.training_form import training_form
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.muon import SGD_MOMENTUM, Muon, MuonSGD, orthogonalised
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.core.training.schedule import rate_share
from cifar_cli.core.training.step import (
    AUTOCAST_DTYPES,
    OPTIMIZERS,
    Stage,
    TrainingStep,
    autocast,
    clip_gradients,
    groups_of,
    make_optimizer,
    seed_draws,
)
from cifar_cli.errors import ConfigError

NULL = ModelConfig(name="null")
IMAGES, LABELS = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 10


def step_of(config: StepConfig, on_stage=lambda stage: None) -> TrainingStep:  # type: ignore[no-untyped-def]
    model = training_form(build_model(NULL, seed=0), config.memory_format)
    return TrainingStep(model, config, device_type="cpu", on_stage=on_stage)


def test_every_name_a_user_may_pass_is_in_its_table() -> None:
    assert set(OPTIMIZERS) == set(get_args(OptimizerName))
    assert set(AUTOCAST_DTYPES) == set(get_args(Precision))
    assert all(0 <= rate_share(name, 0.5, warmup=0.2) <= 1 for name in get_args(ScheduleName))


def test_an_unknown_optimizer_or_precision_is_an_error_and_never_another_one() -> None:
    with pytest.raises(ConfigError, match="there is no optimizer named 'adan'") as caught:
        make_optimizer(build_model(NULL), StepConfig(optimizer="adan"))  # type: ignore[arg-type]
    assert "adam" in str(caught.value)
    with pytest.raises(ConfigError, match="there is no precision '8'"):
        autocast("8", "cpu")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_every_optimizer_overfits_one_batch(name: OptimizerName, precision: Precision) -> None:
    rate = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.01, "muon": 0.02, "muon-sgd": 0.02}[name]
    step = step_of(StepConfig(optimizer=name, learning_rate=rate, precision=precision, memory_format="channels-last"))
    losses = [float(step(IMAGES, LABELS)[0]) for _ in range(50)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_step_of_a_recipe_has_everything_the_recipe_says(recipe) -> None:  # type: ignore[no-untyped-def]
    config = StepConfig.of_recipe(recipe, learning_rate=0.1, precision="bf16", memory_format="onednn")
    for name in ("optimizer", "weight_decay", "clip_norm", "label_smoothing", "ema_decay"):
        assert getattr(config, name) == getattr(recipe, name), name
    assert (config.learning_rate, config.precision, config.memory_format) == (0.1, "bf16", "onednn")


def test_a_step_tells_its_stages_in_order() -> None:
    seen: list[Stage] = []
    step_of(StepConfig(ema_decay=0.9), seen.append)(IMAGES, LABELS)
    assert seen == ["forward", "backward", "optimizer", "average"]


def test_averaged_weights_follow_the_trained_ones_by_the_decay() -> None:
    step = step_of(StepConfig(optimizer="sgd", learning_rate=0.1, ema_decay=0.05))
    step(IMAGES, LABELS)  # the first step copies
    first = step.model.get_parameter("head.1.weight").detach().clone()
    step(IMAGES, LABELS)
    second = step.model.get_parameter("head.1.weight").detach()
    torch.testing.assert_close(step.evaluated.get_parameter("head.1.weight"), 0.05 * first + 0.95 * second)
    assert step_of(StepConfig()).evaluated is not step.evaluated


def test_weight_decay_applies_to_matrices_and_kernels_only() -> None:
    decayed, others = groups_of(build_model(NULL, seed=0), StepConfig(weight_decay=0.1))
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2, 4}
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == 8


@pytest.mark.parametrize(("norm", "expected"), [(1.0, 1.0), (1000.0, None)])
def test_clipping_scales_long_gradients_together_and_leaves_short_ones(norm: float, expected: float | None) -> None:
    model, generator = build_model(NULL, seed=0), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    before = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    clip_gradients(model, norm)
    after = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert after.norm().item() == pytest.approx(expected or before.norm().item(), rel=1e-3)
    torch.testing.assert_close(after / after.norm(), before / before.norm())


def test_what_a_model_draws_is_a_function_of_seed_step_and_rank() -> None:
    def drawn(seed: int, step: int, rank: int) -> tuple[float, float, float]:
        seed_draws(seed, step, rank, device=torch.device("cpu"))
        return random.random(), float(np.random.random()), float(torch.rand(()))

    first = drawn(1, 2, 3)
    torch.rand(7)
    assert drawn(1, 2, 3) == first
    others = [first, drawn(2, 2, 3), drawn(1, 3, 3), drawn(1, 2, 4), drawn(2, 1, 3), drawn(1, 3, 2)]
    assert all(len(set(column)) == 6 for column in zip(*others, strict=True))


def test_frozen_parameters_are_not_optimized() -> None:
    model = build_model(NULL, seed=0)
    model.features.requires_grad_(False)
    assert sum(len(group["params"]) for group in groups_of(model, StepConfig())) == 4


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (20, 20)])
def test_orthogonalising_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.max() < 1.35
    assert values.median() > 0.6


def test_muon_orthogonalises_all_but_the_last_matrix_and_its_state_survives_saving() -> None:
    model = build_model(NULL, seed=0)
    optimizer = Muon(model, lr=0.02, weight_decay=0.0)
    hidden, rest = optimizer.param_groups
    assert [tuple(parameter.shape) for parameter in hidden["params"]] == [(32, 3, 3, 3), (64, 32, 3, 3), (128, 4096)]
    assert (10, 128) in [tuple(parameter.shape) for parameter in rest["params"]]
    assert rest["lr"] == pytest.approx(0.002)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    again = Muon(model, lr=0.5, weight_decay=0.0)
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["lr"] == 0.02
    key = hidden["params"][0]
    assert torch.equal(again.state[key]["momentum"], optimizer.state[key]["momentum"])


class Small(torch.nn.Module):
    """A hidden matrix and a last layer, with a bias each."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = torch.nn.Linear(24, 16), torch.nn.Linear(16, 5)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.last(self.hidden(values).relu())
        return scores


def after_steps(make: Callable[[Small], list[torch.optim.Optimizer]]) -> Small:
    """The model after three steps, each on its own gradients."""
    torch.manual_seed(0)
    model, values = Small(), torch.randn(3, 64, 24)  # gradients of full rank: rounding is blown up where there is none
    optimizers = make(model)
    for batch in values:
        model.zero_grad()
        model(batch).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    return model


def test_muon_updates_matrices_as_torch_s_muon_does() -> None:
    ours = after_steps(lambda model: [Muon(model, lr=0.02, weight_decay=0.1)])
    theirs = after_steps(
        lambda model: [
            torch.optim.Muon([model.hidden.weight], lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True),
            torch.optim.Adam([model.last.weight, model.last.bias, model.hidden.bias], lr=0.002),
        ]
    )
    moved = (theirs.hidden.weight - after_steps(lambda model: []).hidden.weight).detach().abs().mean()
    # Both iterate in bfloat16, and round in another order.
    torch.testing.assert_close(ours.hidden.weight, theirs.hidden.weight, atol=0.15 * float(moved), rtol=0)
    for name in ("last.weight", "last.bias", "hidden.bias"):
        torch.testing.assert_close(ours.get_parameter(name), theirs.get_parameter(name), atol=5e-5, rtol=1e-4)


def test_muon_sgd_updates_the_rest_as_torch_s_sgd_does_and_keeps_the_norm_of_kernels() -> None:
    def scaled(model: Small) -> Small:
        with torch.no_grad():  # to the norm that is kept, so that both see the same gradients
            model.hidden.weight.mul_(16**0.5 / model.hidden.weight.norm())
        return model

    options = {"momentum": SGD_MOMENTUM, "nesterov": True}
    ours = after_steps(lambda model: [MuonSGD(scaled(model), lr=1e-9, weight_decay=0.0, bias_lr=0.003, head_lr=0.002)])
    theirs = after_steps(
        lambda model: [
            torch.optim.SGD([scaled(model).hidden.bias, model.last.bias], lr=0.003, **options),
            torch.optim.SGD([model.last.weight], lr=0.002, **options),
        ]
    )
    assert float(ours.hidden.weight.norm()) == pytest.approx(16**0.5, rel=1e-5)
    for name in ("last.weight", "last.bias", "hidden.bias"):
        torch.testing.assert_close(ours.get_parameter(name), theirs.get_parameter(name), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_float16_leaves_the_choice_of_kernels_to_torch(name: str) -> None:
    model = torch.nn.Linear(4, 2)
    in_16 = make_optimizer(model, StepConfig(optimizer=name, precision="16"))
    assert (in_16.defaults.get("fused"), in_16.defaults["foreach"]) == (None, None)
    assert make_optimizer(model, StepConfig(optimizer=name, precision="bf16")).defaults["fused"] is True
