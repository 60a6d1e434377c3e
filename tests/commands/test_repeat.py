"""The command that repeats a run gives the equal config when it is parsed again."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from cifar_cli.command import Command, command
from cifar_cli.commands.recipe_options import RecipeOptions
from cifar_cli.commands.train import settings_of
from cifar_cli.commands.train_options import (
    AugmentationOptions,
    NumericsOptions,
    ProcessOptions,
    RunOptions,
    TrainedModel,
)
from cifar_cli.commands.train_settings import ConfigOptions
from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.recipe import RECIPES, recipe_of
from cifar_cli.core.training.repeat import repeat_command
from cifar_cli.options import DataOptions, DeviceOptions

NULL = TrainConfig(model=ModelConfig(name="null", weights="none"))
BEST = RECIPES["best"]


def parsed(words: list[str]) -> TrainConfig:
    """The config that `cifar train` makes of a command line."""
    seen: list[TrainConfig] = []

    @command(examples=())
    def train(
        ctx: typer.Context,
        model: TrainedModel,
        recipe: RecipeOptions,
        augmentation: AugmentationOptions,
        data: DataOptions,
        device: DeviceOptions,
        numerics: NumericsOptions,
        processes: ProcessOptions,
        run: RunOptions,
        config: ConfigOptions,
    ) -> None:
        settings = settings_of(ctx, model, recipe, augmentation, data, device, numerics, processes, run, config)
        seen.append(settings.config())

    app = typer.Typer()
    app.command(cls=Command)(train)
    app(words, standalone_mode=False)
    return seen[0]


CONFIGS: dict[str, TrainConfig] = {
    "the course's": NULL,
    "every part of a recipe": replace(
        NULL,
        recipe=replace(
            BEST, optimizer="adamw", learning_rate=3e-4, batch=96, policy="none", max_epochs=7, max_seconds=90061.0,
            schedule="triangular", warmup=0.05, weight_decay=0.01, clip_norm=0.5, label_smoothing=0.0, ema_decay=None,
        ),
    ),
    "parts that are switched off": replace(NULL, recipe=replace(RECIPES["course"], clip_norm=None)),
    "a patience that is switched off": replace(NULL, recipe=replace(RECIPES["finetune"], patience=None)),
    "paths that a shell would split": replace(
        NULL, data=DataConfig(dataset="my pets' $HOME/x.safetensors", data_dir=Path("a b/$(c)"))
    ),
    "image files": replace(NULL, encoded=True),
    "a recipe that the model changes, with the values that it has for others": replace(
        NULL,
        model=ModelConfig(name="airbench", weights="none"),
        recipe=replace(recipe_of("fast", model="airbench"), max_epochs=10, batch=256),
    ),
    "growing images that are switched off": replace(
        NULL,
        model=ModelConfig(name="airbench", weights="none"),
        recipe=replace(recipe_of("best", model="airbench"), initial_scale=1.0),
    ),
    "another optimizer at the recipe's rate": replace(NULL, recipe=replace(RECIPES["fast"], optimizer="adam")),
    "an optimizer that trains no head first": replace(
        NULL, recipe=replace(RECIPES["finetune"], optimizer="muon", head_first=0.0, learning_rate=0.01)
    ),
    "a policy file": replace(NULL, pipeline="albumentations", augment_file=Path("-my 'policy'.json"), workers=5),
    "a hybrid": replace(NULL, model=ModelConfig(name="hybrid", weights="none", trim_backbone=True, patch_size=4)),
    "a full hybrid": replace(NULL, model=ModelConfig(name="hybrid", weights="none", trim_backbone=False)),
    "a timm model": replace(NULL, model=ModelConfig(name="timm:resnet18", weights="none")),
    "a backbone": replace(NULL, model=ModelConfig(name="cnn", weights="none", backbone="resnet34")),
    "hardware": replace(
        NULL, device="cpu", devices=2, num_nodes=2, strategy="ddp", precision="bf16", memory_format="channels-last",
        compile=True, cuda_graph="on",
    ),
    "a run": replace(
        NULL, img_size=64, seed=7, pictures="every", profile=True, fast_dev_run=True, run_dir=Path("runs/x"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_that_repeats_a_run_gives_the_equal_config(name: str) -> None:
    config = CONFIGS[name]
    program, subcommand, *words = shlex.split(repeat_command(config))
    assert (program, subcommand) == ("cifar", "train")
    size: dict[str, Any] = {} if config.img_size is None else {"img_size": config.img_size}
    expected = replace(config, run_dir=None, encoded=False, model=replace(config.model, **size))
    assert parsed(words) == expected
