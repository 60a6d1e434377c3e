from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.optimizers import Muon, clip_gradients, make_optimizer, orthogonalised, parameter_groups
from cifar_cli.core.training.recipe import OPTIMIZERS, RECIPES

NULL = ModelConfig(name="null")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_a_batch_by_heart(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(NULL, seed=0).to(memory_format=torch.channels_last)
    rate = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.01, "muon": 0.02}[name]
    optimizer = make_optimizer(model, replace(RECIPES["course"], optimizer=name), learning_rate=rate)
    images, labels = torch.randn(32, 3, 32, 32), torch.arange(32) % 10
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_weight_decay_takes_matrices_and_kernels_only() -> None:
    decayed, others = parameter_groups(build_model(NULL, seed=0), 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2, 4}
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == 8


@pytest.mark.parametrize(("norm", "expected"), [(1.0, 1.0), (1000.0, None)])
def test_clipping_shortens_long_gradients_together_and_leaves_short_ones(norm: float, expected: float | None) -> None:
    model, generator = build_model(NULL, seed=0), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    before = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    clip_gradients(model, norm)
    after = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert after.norm().item() == pytest.approx(expected or before.norm().item(), rel=1e-3)
    torch.testing.assert_close(after / after.norm(), before / before.norm())


def test_frozen_parameters_are_left_alone() -> None:
    model = build_model(NULL, seed=0)
    model.features.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.0)) == 4


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
