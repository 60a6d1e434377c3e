"""How many steps a run takes, decided once before a step counts.

The learning rate is a function of the step and of this number. If the epochs of the recipe don't fit into the time cap,
the first steps are measured and taken back, and the run begins again with as many epochs as fit. So a run with a cap
equals, to the bit, a run that was asked for so many epochs.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.deadline import Deadline, hours
from cifar_cli.core.training.numerics import speed_key
from cifar_cli.core.training.pace import WARM_UP_STEPS, WINDOW_STEPS, Pace
from cifar_cli.core.training.recipe import Recipe
from cifar_cli.core.training.remembered import cache_file, remember, remembered
from cifar_cli.core.training.schedule import LearningRate
from cifar_cli.core.training.step import TrainingStep

CACHE = "plans"
MEASURED_STEPS = WARM_UP_STEPS + WINDOW_STEPS  # at least, unless they take too long
MEASURED_SHARE = 0.01  # of the cap, at least; twice as much ends the measurement after FEW_STEPS
FEW_STEPS = 3
CLEARLY = 2.0  # a run fits without a measurement if it fits at this many times the seconds of its first steps


class Planner:
    """Decides the number of steps, on rank 0, and lets the run begin again where it has to.

    key: what the plan depends on; see `plan_key`.
    """

    def __init__(
        self,
        step: TrainingStep,
        rate: LearningRate,
        deadline: Deadline,
        pace: Pace,
        *,
        epochs: int,
        steps_per_epoch: int,
        key: str,
    ) -> None:
        self.all_steps = epochs * steps_per_epoch
        """Of the recipe's epochs."""
        self.seconds_per_image: float | None = None
        """That the plan was made from; None where it was remembered, or where nothing had to be measured."""
        self._step, self._rate, self._deadline, self._pace = step, rate, deadline, pace
        self._epochs, self._steps_per_epoch, self._key = epochs, steps_per_epoch, key
        self._start: dict[str, Any] | None = None

    @property
    def is_decided(self) -> bool:
        return self._deadline.planned_steps > 0

    @property
    def steps(self) -> int:
        """Of the whole run: planned, or all while that isn't decided."""
        return self._deadline.planned_steps or self.all_steps

    def proposed(self, *, epoch_is_over: bool) -> int:
        """What rank 0 proposes after a step, or before the first one: the number of steps, 0 to go on measuring."""
        if self.is_decided:
            return self.steps
        known = remembered(CACHE, self._key)
        if type(known) is int and 0 < known <= self.all_steps:
            return known
        deadline, pace = self._deadline, self._pace
        if not pace.steps:
            return 0
        deadline.seconds_per_image = pace.slowest_seconds_per_image
        if self._fitting(CLEARLY * deadline.seconds_per_image) == self.all_steps:
            return self.all_steps
        used, share = deadline.used_seconds, MEASURED_SHARE * deadline.max_seconds
        measured = pace.steps >= MEASURED_STEPS and used >= share
        if not (epoch_is_over or measured or (pace.steps >= FEW_STEPS and used >= 2 * share)):
            return 0
        self.seconds_per_image = deadline.seconds_per_image = pace.settled_seconds_per_image
        stands = remember(CACHE, self._key, self._fitting(self.seconds_per_image), replace=known is not None)
        return int(stands)

    def adopt(self, steps: int) -> bool:
        """Fix the number of steps. Returns whether the run begins again, because its first steps had other rates."""
        again = self._start is not None and steps != self.all_steps
        if again:
            self.begin_again()
        self._deadline.planned_steps = self._rate.steps = steps
        self._start = None
        return again

    def keep_start(self) -> None:
        """Keep the initial weights while the plan isn't decided, if it decides the rates of the first steps."""
        if not self._rate.is_constant:
            step = self._step
            self._start = copy.deepcopy(
                {
                    "model": step.model.state_dict(),
                    "optimizer": step.optimizer.state_dict(),
                    "scaler": step.scaler.state_dict(),
                }
            )

    def begin_again(self) -> bool:
        """Take back the steps of the measurement. Returns whether there were any to take back."""
        if self._start is None:
            return False
        self._step.model.load_state_dict(self._start["model"])
        self._step.optimizer.load_state_dict(self._start["optimizer"])
        self._step.scaler.load_state_dict(self._start["scaler"])
        if self._step.average is not None:
            self._step.average.module.load_state_dict(self._start["model"])
            self._step.average.n_averaged.zero_()
        return True

    def extend(self, *, epoch: int, epoch_step: int, global_step: int) -> None:
        """Plan a resumed run anew, because it got other epochs or more time. It continues at the given step.

        The speed is the one that its checkpoint holds, so that every resume makes the same plan.
        """
        deadline, epochs = self._deadline, self._epochs - epoch
        if deadline.seconds_per_image is None:  # stopped before it was measured
            deadline.planned_steps = 0
        elif epochs:
            fitting = deadline.steps_that_fit(
                epochs=epochs,
                steps_per_epoch=self._steps_per_epoch,
                seconds_per_image=deadline.seconds_per_image,
                used_seconds=deadline.used_seconds,
            )
            deadline.planned_steps = global_step - epoch_step + fitting
        self._rate.steps = self.steps

    def forget(self) -> None:
        """Give up the remembered plan: the machine was too slow for it."""
        remember(CACHE, self._key, None, replace=True)

    def _fitting(self, seconds_per_image: float) -> int:
        return self._deadline.steps_that_fit(
            epochs=self._epochs,
            steps_per_epoch=self._steps_per_epoch,
            seconds_per_image=seconds_per_image,
            used_seconds=0.0 if self._rate.is_constant else self._deadline.used_seconds,  # else they are taken back
        )


def plan_key(config: TrainConfig, *, images: tuple[int, ...], processes: int, device: torch.device) -> str:
    """Everything that a plan depends on. images: of the splits. Precision and memory format must be chosen."""
    recipe = config.recipe
    assert config.precision != "auto"
    assert config.memory_format != "auto"
    parts = (
        speed_key(config, (config.precision,), (config.memory_format,), device),
        f"{config.data.dataset}, images {images}, {config.pipeline} {config.augment_file or recipe.policy}, "
        f"{config.workers} workers, {processes} processes",
        f"{'compiled, ' * config.compile}{'deterministic, ' * config.deterministic}"
        f"{recipe.max_epochs} epochs in {recipe.max_seconds:g} s",
    )
    return "; ".join(parts)


def plan_facts(planner: Planner, steps_per_epoch: int, recipe: Recipe) -> dict[str, Any]:
    """The plan as config.yaml holds it."""
    return {
        "steps": planner.steps,
        "epochs": planner.steps / steps_per_epoch,
        "max_epochs": recipe.max_epochs,
        "seconds_per_image": planner.seconds_per_image,
    }


def plan_sentence(planner: Planner, steps_per_epoch: int, recipe: Recipe, *, again: bool) -> str | None:
    """What the time cap changes; None where it changes nothing. again: the run begins again after a measurement."""
    epochs = planner.steps / steps_per_epoch
    if planner.steps == planner.all_steps:
        return None
    told = f"{epochs:.4g} of {recipe.max_epochs} epochs fit into --max-time {hours(recipe.max_seconds)}"
    if recipe.schedule != "constant":
        told += ", and the learning rate falls to 0 over them"
    if again:
        told += "; beginning again with this schedule"
    if planner.seconds_per_image is None:
        told += f"; remembered from an earlier run, delete {cache_file(CACHE)} to measure again"
    if epochs.is_integer():
        told += f"; --max-epochs {epochs:.0f} with a longer --max-time trains the same on any machine"
    return told


def extended_sentence(planner: Planner, rate: LearningRate, *, step: int, steps_per_epoch: int) -> str:
    """What more epochs or more time mean for a run that continues at `step`. rate: still as it was before."""
    told = f"extended to {planner.steps / steps_per_epoch:.4g} epochs"
    if rate.is_constant:
        return f"{told}; the learning rate stays the same"
    following = rate.highest * rate.share_at(step)
    return (
        f"{told}: the learning rate is now that of a run of this length and goes from {rate.current:.2g} to "
        f"{following:.2g}. A run of this length from the start had other rates so far, and ends with other weights"
    )


def late_start(seconds: float, deadline: Deadline) -> str | None:
    """How a long start-up changes the end of the run; None where it doesn't."""
    late = seconds - deadline.start_up_allowance
    if late < 1:
        return None
    return (
        f"the start-up took {seconds:,.0f} s, for which {deadline.start_up_allowance:,.0f} s of --max-time are kept: "
        f"if the run needs all of its time, it ends {late:,.0f} s later"
    )


def cut_short(step: int, planned: int, recipe: Recipe, *, rate: float) -> str:
    """That the time cap ended a run before its planned end."""
    what = f"--max-time {hours(recipe.max_seconds)} ended the run after {step:,} of {planned:,} planned steps"
    if recipe.schedule == "constant":
        return what
    return f"{what}, at a learning rate of {rate:.2g}: the machine became slower than when the plan was made"
