"""The learning rate follows the recipe's schedule, by whichever budget is used up first: epochs or time."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cifar_cli.core.training.callbacks.clock import Clock
from cifar_cli.core.training.recipe import Recipe
from cifar_cli.core.training.schedule import rate_share

SLACK = 0.02  # of the training, by which the time may run ahead of the steps before it sets the rate


class LearningRate(Callback):
    """Sets every parameter group's rate before each step.

    A schedule that only knew epochs would be cut off by the time cap on a slower machine, at a rate far too high
    for the end of a training.
    """

    def __init__(self, *, recipe: Recipe, clock: Clock) -> None:
        self.recipe = recipe
        self.clock = clock
        self._highest: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A resumed optimizer brings the rates of its last step along: what it began with is kept beside them.
        self._highest = [group.setdefault("highest_lr", group["lr"]) for group in trainer.optimizers[0].param_groups]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.recipe.schedule == "constant":
            return
        steps = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        progress = trainer.global_step / steps
        # Seconds are never the same twice, so they count only where they clearly decide.
        if self.clock.time_share > progress + SLACK:
            progress = self.clock.time_share
        share = rate_share(self.recipe.schedule, progress, warmup=self.recipe.warmup)
        for group, highest in zip(trainer.optimizers[0].param_groups, self._highest, strict=True):
            group["lr"] = highest * share
