"""The command line that repeats a run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import spec_of
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.recipe import RECIPES, ZERO_IS_OFF, Recipe, recipe_of

# Fields whose flag is not their name with hyphens.
FLAGS = {
    "learning_rate": "--lr",
    "max_seconds": "--max-time",
    "augment_file": "--augment",
    "checkpoint_seconds": "--checkpoint-every",
}
DURATIONS, LONGEST_SECONDS = ("max_seconds", "checkpoint_seconds"), 999_999_999
# `classes`, `encoded`, normalisation and the model's `img_size` follow from dataset, weights and --img-size; a new run
# gets a directory of its own.
LEFT_OUT = ("classes", "source", "run_dir", "normalisation", "encoded")


def repeat_command(config: TrainConfig) -> str:
    """The `cifar train` command whose config equals this one, the run directory excepted, quoted for a POSIX shell.

    Paths are those of the config, so relative ones hold in the folder where the run was started.
    """
    return shlex.join(["cifar", "train", *_words(config)])


def _words(config: TrainConfig) -> Iterator[str]:
    recipe, model = config.recipe, config.model
    yield from ("--model", model.name)
    yield from _flags(
        model, skip=("name", "img_size", "trim_backbone", "residual"), defaults=ModelConfig(name=model.name)
    )
    if not model.trim_backbone:
        yield "--full-backbone"
    if model.residual != spec_of(model.name).parts.get(recipe.name, {}).get("residual", False):
        yield "--residual" if model.residual else "--no-residual"
    yield from ("--recipe", recipe.name if recipe.name in RECIPES else next(iter(RECIPES)))
    yield from _flags(recipe, skip=("name",), defaults=_given_by_name(recipe, model))
    yield from _flags(config.data)
    unused = ("workers",) if config.pipeline == "batched" else ()
    yield from _flags(config, skip=("model", "recipe", "data", *unused))


def _given_by_name(recipe: Recipe, model: ModelConfig) -> Recipe | None:
    """What the recipe's name alone gives this model. None where no recipe has the name.

    Rates are those that stay when the optimizer is another one, as when `cifar train` reads its options.
    """
    if recipe.name not in RECIPES:
        return None
    named = recipe_of(recipe.name, model=model.name)
    with_optimizer = named.changed({"optimizer": recipe.optimizer, "head_first": recipe.head_first})
    return replace(with_optimizer, optimizer=named.optimizer, head_first=named.head_first)


def _flags(values: Any, *, skip: tuple[str, ...] = (), defaults: Any = None) -> Iterator[str]:
    """The options for the fields of a config. defaults: a config whose equal fields are left out."""
    for field in fields(values):
        name, value = field.name, getattr(values, field.name)
        if name in skip or name in LEFT_OUT or (defaults is not None and value == getattr(defaults, name)):
            continue
        flag = FLAGS.get(name, "--" + name.replace("_", "-"))
        if name in ZERO_IS_OFF and value is None:
            value = 0
        if name in DURATIONS and value is not None:
            value = math.ceil(min(value, LONGEST_SECONDS))
        if value is True:
            yield flag
        elif value is not None and value is not False:
            yield from (f"{flag}={value}",) if str(value).startswith("-") else (flag, str(value))
