"""What to train a dataset of photographs with, if nobody has said it, and what that costs."""

from __future__ import annotations

import math
from dataclasses import replace

from cifar_cli.core.data.config import MAX_PIXELS_SIDE, DataConfig
from cifar_cli.core.memory.config import GIB, MemoryConfig
from cifar_cli.core.memory.estimate import estimate
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.prepare import Prepared
from cifar_cli.core.training.recipe import MODEL_OF_RECIPE, recipe_of
from cifar_cli.errors import shell_line

FINETUNE = "finetune"


def finetune_suggested(prepared: Prepared) -> str | None:
    """A sentence with the command that fine-tunes, for a dataset of photographs; None for small images."""
    store, config = prepared.store, prepared.config
    if not store.encoded and store.img_size <= MAX_PIXELS_SIDE:
        return None
    name = MODEL_OF_RECIPE[FINETUNE]
    recipe = recipe_of(FINETUNE, model=name)
    model = ModelConfig(name=name, weights="none", classes=len(store.classes), img_size=config.model.img_size)
    rate = recipe.learning_rate or config.step_config().learning_rate
    step = StepConfig.of_recipe(recipe, learning_rate=rate, precision="32", memory_format="channels-last")
    frozen = replace(step, freeze="backbone", head_first=False)
    estimates = (estimate(MemoryConfig(model=model, step=each), recipe.batch) for each in (step, frozen))
    whole, head = (each.peak_allocated_bytes / GIB for each in estimates)
    images = len(prepared.loaders.train_indices)
    folder = config.data.data_dir
    elsewhere = () if folder == DataConfig().data_dir.absolute() else ("--data-dir", folder)
    command = shell_line("cifar train --dataset", config.data.dataset, *elsewhere, "--recipe", FINETUNE)
    return (
        f"{config.model.label} starts from random weights; for photographs, `{command}` starts from ImageNet weights "
        f"of {model.backbone}. An epoch is {math.ceil(images / recipe.batch):,} steps of "
        f"{recipe.batch} images at {model.img_size} pixels; a step needs {whole:.1f} GiB in float32 (estimated), or "
        f"{head:.1f} GiB with --freeze backbone, which trains the last layer only. Where no model hub answers, "
        "add --backbone tf_efficientnet_lite0 --weights bundled"
    )
