"""A training step on a pretended device: torch's meta tensors, of which nothing can be read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.average import Average
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.core.training.schedule import LearningRate
from cifar_cli.core.training.scores import Scores
from cifar_cli.core.training.step import OPTIMIZERS, TrainingStep, groups_of
from tests.transfers import Transfers

DEVICE = torch.device("meta")


@pytest.mark.parametrize("name", ["null", "hybrid"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_reads_nothing_from_the_device_and_sends_nothing_there(name: str, optimizer: str) -> None:
    model = build_model(ModelConfig(name=name, weights="none"), seed=1).to(DEVICE).train()
    recipe = replace(RECIPES["course"], schedule="one-cycle")
    config = StepConfig(optimizer=optimizer, ema_decay=0.9, label_smoothing=0.1)  # type: ignore[arg-type]
    plain = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}.get(optimizer)
    # torch's fused kernels refuse the pretended device.
    made = None if plain is None else plain(groups_of(model, config), lr=0.01, foreach=True)
    step = TrainingStep(model, config, device_type="meta", optimizer=made)
    rate, scores = LearningRate(step.optimizer, recipe, steps=10), Scores(10).to(DEVICE)
    images, labels = torch.empty(8, 3, 32, 32, device=DEVICE), torch.zeros(8, dtype=torch.long, device=DEVICE)

    def train() -> None:
        rate.set_for(0)
        loss, logits = step(images, labels)
        scores.update(step.cross_entropy(loss, logits, labels), logits, labels, optimized=loss)

    train()
    with Transfers() as transfers:
        train()
    assert transfers.uploads == []


def test_class_weights_are_uploaded_once() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).to(DEVICE)
    config = StepConfig(class_weights=(1.0, 2.0, 3.0))
    step = TrainingStep(model, config, device_type="meta", optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    images, labels = torch.empty(2, 3, 2, 2, device=DEVICE), torch.zeros(2, dtype=torch.long, device=DEVICE)
    with Transfers() as transfers:
        for _ in range(3):
            step(images, labels)
    assert len(transfers.uploads) == 1


def test_averaged_weights_are_torch_s_to_the_bit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5))  # which counts its batches in whole numbers
    ours = Average(model, 0.2)

    def mixed(average: torch.Tensor, value: torch.Tensor, averaged: int | torch.Tensor) -> torch.Tensor:
        stays = min(0.2, int(averaged) / (int(averaged) + 10))
        return stays * average + (1 - stays) * value

    theirs = AveragedModel(model, avg_fn=mixed, use_buffers=True)  # type: ignore[no-untyped-call]
    for _ in range(5):
        model(torch.randn(4, 7))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update(model)
        ours.count()
        theirs.update_parameters(model)
    assert ours.state_dict().keys() == set(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        counts = name.endswith("num_batches_tracked")  # which torch averages, and rounds down
        assert torch.equal(ours.state_dict()[name], model[1].num_batches_tracked if counts else value), name


@pytest.mark.parametrize("capturable", [False, True])
def test_tables_of_a_model_stay_what_they_are(capturable: bool) -> None:
    class WithTables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("index", torch.arange(50))  # as swin has for its relative positions
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    model = WithTables()
    average = Average(model, 0.999)
    average.update(model)
    average.count()
    if capturable:
        average.make_capturable()
    for _ in range(400):
        average.update(model)
        average.count()
    assert torch.equal(average.module.index, model.index)
    assert torch.equal(average.module.mask, model.mask)


def test_the_shares_that_a_graph_reads_give_the_same_average() -> None:
    model = nn.Linear(3, 2)
    plain, captured = Average(model, 0.9), Average(model, 0.9)
    for number in range(20):
        nn.init.constant_(model.weight, number)
        for average in (plain, captured):
            average.update(model)
            average.count()
        if not number:  # the first step is never captured
            captured.make_capturable()
    torch.testing.assert_close(captured.module.weight, plain.module.weight)
    assert 15 < float(plain.module.weight[0, 0]) < 19


def test_the_first_weights_leave_the_average_of_a_short_run() -> None:
    model = nn.Linear(1, 1)
    average = Average(model, 0.999)
    for number in range(1, 31):
        nn.init.constant_(model.weight, number)
        average.update(model)
        average.count()
    assert float(average.module.weight) > 25  # of 30; with 0.999 from the start it would be 1.4


@pytest.mark.parametrize("capturable", [False, True])
def test_averaged_weights_of_a_device_stay_there(capturable: bool) -> None:
    model = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5)).to(DEVICE)
    average = Average(model, 0.9)
    if capturable:
        average.make_capturable()
    with Transfers() as transfers:
        for _ in range(2):
            average.update(model)
            average.count()
    assert transfers.uploads == []
    assert {value.device.type for value in average.module.state_dict().values()} == {"meta"}
