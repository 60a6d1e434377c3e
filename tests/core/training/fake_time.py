"""A clock that only training steps move, so that tests decide how fast a machine is."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from typing import Any

from torch import Tensor

from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.loop import Seams
from cifar_cli.core.training.pictures import Pictures
from cifar_cli.core.training.step import TrainingStep


class Machine:
    """A machine on which a step takes `seconds`, with a clock of its own.

    seconds: of a step, given its number from 1. jitter: the clock is moved by up to so many seconds whenever it is
    read, as if data, validation and records took a time that differs. start_up: from the command to the first step.
    interrupted_at: numbers of the steps in which the user presses Ctrl-C.
    """

    def __init__(
        self,
        seconds: Callable[[int], float] | float = 1.0,
        *,
        jitter: float = 0.0,
        start_up: float = 0.0,
        seed: int = 0,
        interrupted_at: tuple[int, ...] = (),
    ) -> None:
        self.now = 0.0
        self.steps = 0
        self.notes: list[str] = []
        self._seconds, self._jitter, self._start_up = seconds, jitter, start_up
        self._random, self._interrupted_at = random.Random(seed), interrupted_at

    def clock(self) -> float:
        self.now += self._jitter * self._random.random()
        return self.now

    @property
    def listeners(self) -> Listeners:
        return Listeners(began=self.now - self._start_up, on_note=self.notes.append)

    @property
    def seams(self) -> Seams:
        machine = self

        class Timed(TrainingStep):
            def __call__(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
                machine.steps += 1
                seconds: Any = machine._seconds
                machine.now += seconds(machine.steps) if callable(seconds) else seconds
                if machine.steps in machine._interrupted_at:
                    os.kill(os.getpid(), signal.SIGINT)
                return super().__call__(images_BCHW, labels_B)

        return Seams(make_step=Timed, clock=self.clock, make_pictures=NoPictures)


class NoPictures(Pictures):
    """Draws nothing."""

    def add(self, *arguments: object, **options: object) -> None:
        return
