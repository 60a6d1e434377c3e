"""How many steps a run takes, decided once before a step counts.

The learning rate is a function of the step and of this number. If the epochs of the recipe don't fit into the time cap,
the first steps are measured and taken back, and the run begins again with as many epochs as fit. So a run with a cap
equals, to the bit, a run that was asked for so many epochs.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.deadline import Deadline, hours
from cifar_cli.core.training.numerics import speed_key
from cifar_cli.core.training.pace import WARM_UP_STEPS, WINDOW_STEPS, Pace
from cifar_cli.core.training.prepare import Prepared
from cifar_cli.core.training.remembered import cache_file, remember, remembered
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.run_state import Position
from cifar_cli.core.training.schedule import LearningRate
from cifar_cli.core.training.step import TrainingStep

CACHE = "plans"
MEASURED_STEPS = WARM_UP_STEPS + WINDOW_STEPS  # at least, unless they take too long
MEASURED_SHARE = 0.01  # of the cap, at least; twice as much ends the measurement after FEW_STEPS
FEW_STEPS = 3
CLEARLY = 2.0  # a run fits without a measurement if it fits at this many times the seconds of its first steps


class Planner:
    """Decides the number of steps, on rank 0, and lets the run begin again where it has to.

    say: tells the user a sentence; rank 0 has one that does.
    """

    def __init__(
        self,
        prepared: Prepared,
        run: RunDir,
        step: TrainingStep,
        rate: LearningRate,
        deadline: Deadline,
        pace: Pace,
        *,
        say: Callable[[str], None],
    ) -> None:
        config, loaders = prepared.config, prepared.loaders
        self._epochs = 1 if config.fast_dev_run else config.recipe.max_epochs
        self._steps_per_epoch = len(loaders.train)
        self.all_steps = self._epochs * self._steps_per_epoch
        """Of the recipe's epochs."""
        self._run, self._step, self._rate, self._deadline, self._pace = run, step, rate, deadline, pace
        self._recipe, self._reports, self._say = config.recipe, prepared.ranks.is_first, say
        self._key = plan_key(
            config,
            images=(len(loaders.train_indices), len(loaders.val_indices), len(prepared.store.test)),
            processes=prepared.ranks.world_size,
            device=prepared.device,
        )
        self._grows = config.recipe.initial_scale < 1
        self._held: Any = None  # the remembered plan, used where it makes sense
        self._measured: float | None = None  # seconds per image that the plan was made from
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
        deadline, pace = self._deadline, self._pace
        if not pace.steps:
            self._held = remembered(CACHE, self._key)
            return self._held if type(self._held) is int and 0 < self._held <= self.all_steps else 0
        deadline.seconds_per_image = pace.slowest_seconds_per_image
        if self._fitting(CLEARLY * deadline.seconds_per_image) == self.all_steps:
            return self.all_steps
        used, share = deadline.used_seconds, MEASURED_SHARE * deadline.max_seconds
        measured = pace.steps >= MEASURED_STEPS and used >= share
        if not (epoch_is_over or measured or (pace.steps >= FEW_STEPS and used >= 2 * share)):
            return 0
        self._measured = deadline.seconds_per_image = pace.settled_seconds_per_image
        stands = remember(CACHE, self._key, self._fitting(self._measured), replace=self._held is not None)
        return int(stands)

    def adopt(self, steps: int) -> bool:
        """Fix the number of steps. Returns whether the run begins again, because its first steps had other rates."""
        again = self._start is not None and (steps != self.all_steps or self._grows)
        if again:
            self.begin_again()
        self._deadline.planned_steps = self._rate.steps = steps
        self._start = None
        if self._reports:
            self._run.write_config({"plan": self._facts()})
            if steps < self.all_steps:
                self._say(self._shortened(again=again))
        return again

    def keep_start(self) -> None:
        """Keep the initial weights until the plan is decided, if it decides the rates or sides of the first steps."""
        if not self._rate.is_constant or self._grows:
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
            self._step.average.restart()
        return True

    def restore(self, checkpoint: dict[str, Any], at: Position) -> None:
        """Keep the plan of a resumed run, or extend it where the run has got other epochs or more time since."""
        began_with, recipe = checkpoint["cifar"]["config"]["recipe"], self._recipe
        if (recipe.max_epochs, recipe.max_seconds) != (began_with["max_epochs"], began_with["max_seconds"]):
            self._extend(at)
            self._say(self._extended(at.global_step))
            if self._reports:
                self._run.write_config({"plan": self._facts()})
        elif at.epoch and not self.is_decided:  # of an earlier version
            self._deadline.planned_steps = self.all_steps
        self._rate.steps = self.steps

    def _extend(self, at: Position) -> None:
        """Plan anew. The speed is the one that the checkpoint holds, so that every resume makes the same plan."""
        deadline, epochs = self._deadline, self._epochs - at.epoch
        if deadline.seconds_per_image is None and self._pace.images_per_second:  # the plan was remembered
            deadline.seconds_per_image = 1 / self._pace.images_per_second
        if deadline.seconds_per_image is None:  # stopped before its first step
            deadline.planned_steps = 0
        elif epochs:
            begun = at.epoch_step * self._recipe.batch * deadline.seconds_per_image  # of the epoch, counted in both
            fitting = deadline.steps_that_fit(
                epochs=epochs,
                steps_per_epoch=self._steps_per_epoch,
                seconds_per_image=deadline.seconds_per_image,
                used_seconds=deadline.used_seconds - begun,
            )
            fitting = max(fitting, min(at.epoch_step + 1, self._steps_per_epoch))
            deadline.planned_steps = at.global_step - at.epoch_step + fitting
        self._rate.steps = self.steps

    def cut_short(self, step: int) -> None:
        """Say that the time cap ends the run before its planned end, and forget the plan: the machine is too slow."""
        if self._reports:
            remember(CACHE, self._key, None, replace=True)
            told = f"--max-time {hours(self._recipe.max_seconds)} ended the run after {step:,} of {self.steps:,} steps"
            if not self._rate.is_constant:
                told += f", at a learning rate of {self._rate.current:.2g}"
            if self.is_decided:
                told += ": the machine became slower than when these were planned"
            self._say(told)

    def _fitting(self, seconds_per_image: float) -> int:
        return self._deadline.steps_that_fit(
            epochs=self._epochs,
            steps_per_epoch=self._steps_per_epoch,
            seconds_per_image=seconds_per_image,
            # Steps at other rates or sides are taken back.
            used_seconds=0.0 if self._rate.is_constant and not self._grows else self._deadline.used_seconds,
        )

    def _facts(self) -> dict[str, Any]:
        """The plan as config.yaml holds it."""
        return {
            "steps": self.steps,
            "epochs": self.steps / self._steps_per_epoch,
            "max_epochs": self._epochs,
            "seconds_per_image": self._measured,
        }

    def _shortened(self, *, again: bool) -> str:
        """What the time cap changes. again: the run begins again after a measurement."""
        epochs, recipe = self.steps / self._steps_per_epoch, self._recipe
        told = f"{epochs:.4g} of {recipe.max_epochs} epochs fit into --max-time {hours(recipe.max_seconds)}"
        if not self._rate.is_constant:
            told += ", and the learning rate falls to 0 over them"
        if again:
            told += "; beginning again with this schedule"
        if self._measured is None:
            told += f"; remembered from an earlier run, delete {cache_file(CACHE)} to measure again"
        if epochs.is_integer():
            told += f"; --max-epochs {epochs:.0f} with a longer --max-time trains the same on any machine"
        return told

    def _extended(self, step: int) -> str:
        """What more epochs or more time mean for a run that continues at `step`, its rate still as it was before."""
        told, rate = f"now {self.steps / self._steps_per_epoch:.4g} epochs are planned", self._rate
        if rate.is_constant:
            return f"{told}; the learning rate stays the same"
        following = rate.highest * rate.share_at(step)
        return (
            f"{told}: the learning rate is now that of a run of this length and goes from {rate.current:.2g} to "
            f"{following:.2g}. A run of this length from the start had other rates so far, and ends with other weights"
        )


def plan_key(config: TrainConfig, *, images: tuple[int, ...], processes: int, device: torch.device) -> str:
    """The machine and the command. images: of the splits. Precision and memory format must be chosen."""
    assert config.precision != "auto"
    assert config.memory_format != "auto"
    command = repr((replace(config, run_dir=None, seed=0), images, processes))
    machine = speed_key(config, (config.precision,), (config.memory_format,), device)
    return f"{machine}; command {hashlib.sha256(command.encode()).hexdigest()[:16]}"


def late_start(seconds: float, deadline: Deadline) -> str | None:
    """How a long start-up changes the end of the run; None where it doesn't."""
    late = seconds - deadline.start_up_allowance
    if late < 1:
        return None
    return (
        f"the start-up took {seconds:,.0f} s, for which {deadline.start_up_allowance:,.0f} s of --max-time are kept: "
        f"if the run needs all of its time, it ends {late:,.0f} s later"
    )
