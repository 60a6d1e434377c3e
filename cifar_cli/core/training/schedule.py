"""The learning rate over a run."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from cifar_cli.core.choices import ScheduleName
from cifar_cli.core.training.recipe import Recipe

FIRST_SHARE = 0.04  # of the highest rate, where a rising schedule begins
SLACK = 0.02  # of the run, by which elapsed time may be ahead of the steps before it sets the rate


def rate_share(schedule: ScheduleName, progress: float, *, warmup: float) -> float:
    """The learning rate at `progress` (0 to 1) of the run, as a share (0 to 1) of the highest.

    "constant" stays at 1. "triangular" rises and falls linearly, "one-cycle" along half a cosine each; both end at 0.
    warmup: share of the run in which the rate rises.
    Source: Smith & Topin 2018, Super-convergence (one-cycle).
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule == "constant":
        return 1.0
    rising = progress < warmup
    way = progress / warmup if rising else (progress - warmup) / (1 - warmup)
    if schedule == "one-cycle":
        way = (1 - math.cos(math.pi * way)) / 2
    return FIRST_SHARE + (1 - FIRST_SHARE) * way if rising else 1 - way


class LearningRate:
    """Sets the rate of every parameter group before each step.

    The schedule follows the steps, or the elapsed time where the time cap would cut it short: a slower machine also
    ends at a low rate. steps: of the whole run.
    """

    def __init__(self, optimizer: Optimizer, recipe: Recipe, *, steps: int) -> None:
        self._optimizer, self._recipe, self._steps = optimizer, recipe, steps
        # A restored optimizer has the rate of its last step; the highest rate is stored beside it.
        for group in optimizer.param_groups:
            group.setdefault("highest_lr", group["lr"])

    @property
    def follows_time(self) -> bool:
        return self._recipe.schedule != "constant"

    @property
    def current(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def set_for(self, step: int, *, time_share: float) -> None:
        """Set the rates for a step, counted from 0. time_share: share of the time for steps that is used up."""
        progress = step / self._steps
        # Elapsed time varies between runs, so it is used only if it leads by SLACK.
        if time_share > progress + SLACK:
            progress = time_share
        share = rate_share(self._recipe.schedule, progress, warmup=self._recipe.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = group["highest_lr"] * share
