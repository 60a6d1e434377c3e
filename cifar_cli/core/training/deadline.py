"""The time cap of a run: how many steps fit into it, and when it ends a run that is slower than planned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

SAFETY = 1.25  # the last validation may be slower than the one before
FORWARD_SHARE = 1 / 3  # of the time of a training step, for a guess before the first validation
LOGGING_SECONDS = 1.0  # of an epoch, for a guess before the first one has ended
START_UP_SECONDS = 10.0  # of the cap are kept for the start-up, however long it takes …
START_UP_SHARE = 0.1  # … but no more than this share of it
PLANNED_SHARE = 0.95  # of the rest is planned, because the machine may become slower
WHOLE_EPOCHS = 8  # from so many on, a plan has whole epochs; a shorter one has eighths of an epoch


def hours(seconds: float) -> str:
    """Seconds as --max-time takes them, HH:MM:SS, rounded up."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"


class Deadline:
    """Elapsed time over all parts of a run, and what fits into `max_seconds`.

    What decides weights counts from the first step of each part of the run: training, validation and records. The time
    before it, from the command to the first step, varies with downloads and caches. It is counted as elapsed, and a
    fixed part of the cap is kept for it.
    began: when the user's command began, by `clock`. test_per_validation: time of the test as a multiple of a
    validation's. train_images, val_images: images of an epoch and of a validation.
    """

    def __init__(
        self,
        max_seconds: float,
        *,
        began: float,
        clock: Callable[[], float],
        train_images: int,
        val_images: int,
        test_per_validation: float,
    ) -> None:
        self.max_seconds = max_seconds
        self.planned_steps = 0
        """Steps of the whole run; 0 until that is decided. Kept by every resume."""
        self.seconds_per_image: float | None = None
        """Of the training steps, when it was last measured."""
        self.validation_seconds = 0.0
        """Of the last validation."""
        self.logging_seconds = 0.0
        """Record, pictures and checkpoints after the last validation."""
        self._began, self._clock = began, clock
        self._elapsed_before = self._used_before = 0.0
        self._first_step: float | None = None
        self._train_images, self._val_images = train_images, val_images
        self._test_per_validation = test_per_validation

    def start(self) -> float:
        """Note that the steps begin. Returns the seconds of the start-up."""
        self._first_step = self._clock()
        return self._first_step - self._began

    def begin_again(self) -> None:
        """Give up the time used so far, of steps that are taken back and will be measured anew."""
        self._used_before, self._first_step = 0.0, self._clock()

    @property
    def elapsed_seconds(self) -> float:
        """Of all parts of the run, start-up included."""
        return self._elapsed_before + self._clock() - self._began

    @property
    def used_seconds(self) -> float:
        """Of all parts of the run, start-up left out."""
        return self._used_before + (0.0 if self._first_step is None else self._clock() - self._first_step)

    @property
    def start_up_allowance(self) -> float:
        """Seconds of the cap that are kept for the start-up."""
        return min(START_UP_SECONDS, START_UP_SHARE * self.max_seconds)

    def is_reached(self, seconds_per_image: float | None) -> bool:
        """Whether the next step would leave too little time for validation, record and test.

        seconds_per_image: of a training step; None where that isn't known yet.
        """
        closing, logging = self._evaluation_seconds(seconds_per_image), self.logging_seconds
        available = self.max_seconds - self.start_up_allowance
        return self.used_seconds + SAFETY * (closing * (1 + self._test_per_validation) + logging) >= available

    def steps_that_fit(
        self, *, epochs: int, steps_per_epoch: int, seconds_per_image: float, used_seconds: float
    ) -> int:
        """How many steps of these epochs fit into the cap, at least 1: whole epochs, or eighths of them.

        A coarse answer, so that small differences of the measured speed don't change it.
        used_seconds: of the cap, for steps that are not among these.
        """
        training = self._train_images * seconds_per_image
        validation = self._evaluation_seconds(seconds_per_image)
        after_epoch = validation + (self.logging_seconds or LOGGING_SECONDS)
        left = PLANNED_SHARE * (self.max_seconds - self.start_up_allowance) - used_seconds
        left -= SAFETY * validation * self._test_per_validation + (SAFETY - 1) * after_epoch
        whole = min(epochs, int(max(left, 0.0) / (training + after_epoch)))
        if whole >= min(WHOLE_EPOCHS, epochs):
            return whole * steps_per_epoch
        for eighths in range(8 * min(WHOLE_EPOCHS, epochs), 0, -1):
            if eighths / 8 * training + math.ceil(eighths / 8) * after_epoch <= left:
                return max(1, eighths * steps_per_epoch // 8)
        return max(1, int((left - after_epoch) / training * steps_per_epoch))

    def _evaluation_seconds(self, seconds_per_image: float | None) -> float:
        """Of a validation: the last one's, or a guess."""
        return self.validation_seconds or self._val_images * (seconds_per_image or 0.0) * FORWARD_SHARE

    def state_dict(self) -> dict[str, Any]:
        return {
            "elapsed_seconds": self.elapsed_seconds,
            "used_seconds": self.used_seconds,
            "planned_steps": self.planned_steps,
            "seconds_per_image": self.seconds_per_image,
            "validation_seconds": self.validation_seconds,
            "logging_seconds": self.logging_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Runs of earlier versions know their elapsed time only."""
        self._elapsed_before = float(state["elapsed_seconds"])
        self._used_before = float(state.get("used_seconds", self._elapsed_before))
        self.planned_steps = int(state.get("planned_steps", 0))
        self.seconds_per_image = state.get("seconds_per_image")
        self.validation_seconds = float(state.get("validation_seconds", 0.0))
        self.logging_seconds = float(state.get("logging_seconds", 0.0))
