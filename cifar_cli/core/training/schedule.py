"""The learning rate over a run: a function of the step alone."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from cifar_cli.core.choices import ScheduleName
from cifar_cli.core.training.recipe import Recipe

FIRST_SHARE = 0.04  # of the highest rate, where a rising schedule begins


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


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set the learning rate of a parameter group; a tensor, which a CUDA graph reads, is filled."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


class LearningRate:
    """Sets the rate of every parameter group before each step.

    steps: of the whole run. It may be changed before the first step that counts, or when a run is extended.
    """

    def __init__(self, optimizer: Optimizer, recipe: Recipe, *, steps: int) -> None:
        self.steps = steps
        self._optimizer, self._recipe = optimizer, recipe
        # A restored optimizer has the rate of its last step; the highest rate is stored beside it.
        for group in optimizer.param_groups:
            group.setdefault("highest_lr", float(group["lr"]))
        self._current: float | None = None

    @property
    def is_constant(self) -> bool:
        return self._recipe.schedule == "constant" and not self._recipe.head_first

    @property
    def highest(self) -> float:
        return float(self._optimizer.param_groups[0]["highest_lr"])

    @property
    def current(self) -> float:
        """Of the first parameter group, as set last."""
        return float(self._optimizer.param_groups[0]["lr"]) if self._current is None else self._current

    def share_at(self, step: int) -> float:
        """Share of the highest rate at a step, counted from 0."""
        return rate_share(self._recipe.schedule, step / self.steps, warmup=self._recipe.warmup)

    def set_for(self, step: int) -> None:
        """Set the rates for a step. Groups that wait for the head begin their schedule after its share of the run."""
        share, waiting = self.share_at(step), self._waiting_share_at(step)
        rates = [
            group["highest_lr"] * (waiting if group.get("waits") else share) for group in self._optimizer.param_groups
        ]
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            set_rate(group, rate)
        self._current = float(rates[0])

    def _waiting_share_at(self, step: int) -> float:
        first, warmup = self._recipe.head_first, self._recipe.warmup
        progress = (step / self.steps - first) / (1 - first)
        return 0.0 if progress < 0 else rate_share(self._recipe.schedule, progress, warmup=warmup)
