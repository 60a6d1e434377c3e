"""`--batch auto`: the batch size, found before training."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace

from cifar_cli.core.memory.choose import choose_batch
from cifar_cli.core.memory.results import BatchChoice
from cifar_cli.core.training.launch import place_of
from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.machine import release_cached_memory
from cifar_cli.core.training.prepare import Prepared
from cifar_cli.errors import ConfigError


def with_batch_found(
    prepared: Prepared, *, keep_steps: bool, listeners: Listeners, choose: Callable[..., BatchChoice] = choose_batch
) -> Prepared:
    """The run with the batch size that this machine trains best with, at the same learning rate.

    keep_steps: change the number of epochs so that the number of steps stays.
    Raises ResourceError when no batch size fits, ConfigError on a device whose memory can't be queried.
    """
    config, device = prepared.config, prepared.device
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"--batch auto can't query the memory of {device.type}", remedy="pass a number, or --device cpu"
        )
    release_cached_memory(device)  # of the trials of the precisions: other processes measure now
    images, recipe = len(prepared.loaders.train_indices), config.recipe
    processes = prepared.ranks.world_size
    found = choose(
        config.model,
        config.step_config(),
        device=device.type,
        most=images,
        sharing=place_of(os.environ).local_size if place_of(os.environ).world_size > 1 else processes,
        on_progress=listeners.on_progress,
    )
    message = f"--batch auto: {found.reason}"
    batch = min(found.batch * processes, images)
    if processes > 1:
        message += f"; {processes} processes take {batch} together"
    chosen = replace(recipe, batch=batch)
    if keep_steps:
        steps = recipe.max_epochs * math.ceil(images / recipe.batch)
        chosen = replace(chosen, max_epochs=max(1, round(steps / math.ceil(images / batch))))
        message += (
            f"; learning rate and number of steps stay, so {recipe.max_epochs} epochs at batch "
            f"{recipe.batch} become {chosen.max_epochs}"
        )
    listeners.on_note(message)
    return prepared.with_recipe(chosen)
