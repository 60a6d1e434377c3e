"""Where the seconds of a run go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from cifar_cli.core.training.machine import wait_for
from cifar_cli.core.training.results import TimeSpent
from cifar_cli.core.training.step import Stage

SAMPLED = 50  # on a GPU the stages of every so many steps are timed, because timing waits for the device


class Accounting:
    """Adds up seconds by purpose, and those of a step by stage.

    A step calls `start_step`, then `enter` as each stage begins, then `end_step`.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self._device, self._clock = device, clock
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._stages: defaultdict[str, float] = defaultdict(float)
        self._steps = self._sampled = 0
        self._stage: Stage | None = None
        self._samples_this = False
        self._mark = 0.0

    def start_step(self) -> None:
        self._samples_this = self._device.type == "cpu" or self._steps % SAMPLED == 0
        self._stage = None

    def enter(self, stage: Stage) -> None:
        """Note that a stage of the step begins."""
        if not self._samples_this:
            return
        wait_for(self._device)
        now = self._clock()
        if self._stage is not None:
            self._stages[self._stage] += now - self._mark
        self._stage, self._mark = stage, now

    def end_step(self) -> float:
        """Close the last stage. Returns the time on the clock."""
        if self._samples_this:
            wait_for(self._device)
        now = self._clock()
        if self._stage is not None:
            self._stages[self._stage] += now - self._mark
            self._sampled += 1
        self._steps += 1
        return now

    @contextmanager
    def spending(self, purpose: str) -> Iterator[None]:
        """Add the seconds of a block to a purpose: fit (all epochs), metrics, validation, logging or test."""
        start = self._clock()
        try:
            yield
        finally:
            self._seconds[purpose] += self._clock() - start

    def add(self, purpose: str, seconds: float) -> None:
        self._seconds[purpose] += seconds

    def spent(self, *, data: float) -> TimeSpent:
        """Seconds by purpose. data: waiting for batches, which the loader counts."""
        scale = self._steps / self._sampled if self._sampled else 0.0
        stages, seconds = self._stages, self._seconds
        step = scale * (stages["forward"] + stages["backward"])
        optimizer = scale * (stages["optimizer"] + stages["average"])
        known = data + step + optimizer + seconds["metrics"] + seconds["validation"] + seconds["logging"]
        return TimeSpent(
            startup_seconds=seconds["startup"],
            data_seconds=data,
            step_seconds=step,
            optimizer_seconds=optimizer,
            metrics_seconds=seconds["metrics"],
            validation_seconds=seconds["validation"],
            logging_seconds=seconds["logging"],
            test_seconds=seconds["test"],
            other_seconds=max(seconds["fit"] - known, 0.0),
        )
