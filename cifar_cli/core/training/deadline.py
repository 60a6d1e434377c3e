"""The time cap of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SAFETY = 1.25  # the last validation may be slower than the one before
FORWARD_SHARE = 1 / 3  # of the time of a training step, for a guess before the first validation


class Deadline:
    """Elapsed time over all parts of a run, and when its steps must end so that the rest fits into `max_seconds`.

    began: when the user's command began, by `clock`. test_per_validation: time of the test as a multiple of a
    validation's. val_images: images of a validation.
    """

    def __init__(
        self,
        max_seconds: float,
        *,
        began: float,
        clock: Callable[[], float],
        val_images: int,
        test_per_validation: float,
    ) -> None:
        self.max_seconds = max_seconds
        self.validation_seconds = 0.0
        """Of the last validation."""
        self.logging_seconds = 0.0
        """Record, pictures and checkpoints after the last validation."""
        self._began, self._clock = began, clock
        self._seconds_before = 0.0
        self._val_images, self._test_per_validation = val_images, test_per_validation

    @property
    def elapsed_seconds(self) -> float:
        return self._seconds_before + self._clock() - self._began

    def share_used(self, seconds_per_image: float | None) -> float:
        """Share of the time for steps that is used up; may exceed 1."""
        return self.elapsed_seconds / max(self.max_seconds - self._closing_seconds(seconds_per_image), 1e-9)

    def is_reached(self, seconds_per_image: float | None) -> bool:
        """Whether the next step would leave too little time for validation, record and test.

        seconds_per_image: of a training step; None where that isn't known yet.
        """
        return self.elapsed_seconds + self._closing_seconds(seconds_per_image) >= self.max_seconds

    def _closing_seconds(self, seconds_per_image: float | None) -> float:
        validation = self.validation_seconds or self._val_images * (seconds_per_image or 0.0) * FORWARD_SHARE
        return SAFETY * (validation * (1 + self._test_per_validation) + self.logging_seconds)

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed_seconds": self.elapsed_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seconds_before = float(state["elapsed_seconds"])
