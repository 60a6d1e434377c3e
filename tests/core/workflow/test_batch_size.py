"""`--batch auto` sizes the step that is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.memory.results import BatchChoice
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig, TrainConfig
from cifar_cli.core.training.listeners import SILENT
from cifar_cli.core.training.loop import Seams, fit
from cifar_cli.core.training.prepare import prepare
from cifar_cli.core.training.recipe import RECIPES, Recipe
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.core.workflow.batch_size import with_batch_found

LITE = ModelConfig(name="cnn", backbone="tf_efficientnet_lite0", weights="bundled")  # with pretrained weights


class Trained(Exception):
    """Ends a training before its first step."""


@pytest.mark.parametrize(
    "recipe", [*RECIPES.values(), replace(RECIPES["best"], name="muon", optimizer="muon")], ids=[*RECIPES, "muon"]
)
def test_the_step_that_is_sized_is_the_step_that_is_trained(recipe: Recipe, data_dir: Path, tmp_path: Path) -> None:
    steps: dict[str, Any] = {}

    def choose(model: ModelConfig, step: StepConfig, **options: object) -> BatchChoice:
        steps["sized"] = step
        return BatchChoice(batch=64, reason="batch 64: for this test")

    def make_step(model: nn.Module, step: StepConfig, **options: object) -> TrainingStep:
        steps["trained"] = step
        raise Trained

    config = TrainConfig(
        model=LITE if recipe.head_first else ModelConfig(name="null"),
        data=DataConfig(dataset="shapes", data_dir=data_dir),
        recipe=recipe,
        precision="bf16",
        memory_format="channels-last",
        run_dir=tmp_path / "run",
    )
    found = with_batch_found(prepare(config, SILENT), keep_steps=True, listeners=SILENT, choose=choose)
    with pytest.raises(Trained):
        fit(found, seams=Seams(make_step=make_step))
    assert steps["sized"] == steps["trained"]
