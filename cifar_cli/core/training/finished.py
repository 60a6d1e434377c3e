"""What makes a run finished, and what lets a finished one go on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.core.training.deadline import hours
from cifar_cli.core.training.results import TrainResult
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import ConfigError, shell_line


def changed(config: TrainConfig, asked: ResumeConfig, loop: dict[str, Any]) -> TrainConfig:
    """The config with what may change when a run is continued. loop: the state of its loop. Raises ConfigError."""
    recipe, epochs_done = config.recipe, int(loop["epoch"])
    deadline = loop["deadline"]
    used = float(deadline.get("used_seconds", deadline["elapsed_seconds"]))
    if asked.max_seconds is not None and asked.max_seconds <= used:
        raise ConfigError(
            f"--max-time is not longer than the {used:,.0f} s that the run has trained",
            remedy="pass a longer one; it counts from the start of the run",
        )
    if asked.max_epochs is not None and asked.max_seconds is None and loop["stopped_by"] == "time":
        raise ConfigError(
            f"the run has used up its --max-time of {recipe.max_seconds:,.0f} s, so more epochs alone change nothing",
            remedy="pass a longer --max-time too",
        )
    if asked.max_epochs is not None:
        if asked.max_epochs < epochs_done:
            raise ConfigError(
                f"--max-epochs {asked.max_epochs} is less than the {epochs_done} epochs that are done",
                remedy=f"pass more than {epochs_done}, or leave it out",
            )
        recipe = replace(recipe, max_epochs=asked.max_epochs)
    if asked.patience is not None:
        recipe = replace(recipe, patience=asked.patience or None)
    if asked.max_seconds is not None:
        recipe = replace(recipe, max_seconds=asked.max_seconds)
    longer = recipe.max_epochs > config.recipe.max_epochs or recipe.max_seconds > config.recipe.max_seconds
    if longer and recipe.has_lost_patience(loop["record"]["val_accuracies"]):
        raise ConfigError(
            f"the validation accuracy hasn't risen for the {recipe.patience} epochs of --patience, so more epochs or "
            "time alone change nothing",
            remedy="pass a larger --patience too, or --patience 0",
        )
    return replace(config, recipe=recipe)


def finished(run: RunDir, config: TrainConfig, content: dict[str, Any]) -> TrainResult | None:
    """The result of a run that is over and tested; None where something is left to do.

    config: with what was asked for now. content: of the last checkpoint.
    """
    loop, began_with = content["loop"], content["cifar"]["config"]["recipe"]
    epochs_done, more_time = int(loop["epoch"]), config.recipe.max_seconds > began_with["max_seconds"]
    all_epochs = epochs_done >= (1 if config.fast_dev_run else config.recipe.max_epochs)
    over = all_epochs or config.recipe.has_lost_patience(loop["record"]["val_accuracies"])
    if not over and (loop["stopped_by"] != "time" or more_time):
        return None
    result = run.read_result(config)
    # The summary is older where a run was extended, and killed before it was tested again.
    return result if result is not None and result.epochs == epochs_done else None


def finished_sentence(result: TrainResult, config: TrainConfig) -> str:
    """That a run is over, and the command that trains it longer."""
    recipe = config.recipe
    option, longer = {
        "epochs": ("--max-epochs", recipe.max_epochs + math.ceil(recipe.max_epochs / 2)),
        "time": ("--max-time", hours(2 * recipe.max_seconds)),
        "patience": ("--patience", 2 * (recipe.patience or 1)),
    }[result.stopped_by]
    resume = shell_line("cifar train --resume", result.run_dir)
    if result.stopped_by == "time" and result.epochs >= recipe.max_epochs:  # within the last epoch
        longer = f"{longer} --max-epochs {recipe.max_epochs + math.ceil(recipe.max_epochs / 2)}"
    return (
        f"{result.run_dir} is already finished ({result.epochs} epochs, stopped by {option}); nothing was changed. "
        f"`{resume} {option} {longer}` trains it longer"
    )
