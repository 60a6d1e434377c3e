"""Throughput of training steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

WARM_UP_STEPS = 10
WINDOW_STEPS = 16


def steady_rate(steps: Sequence[tuple[float, float]]) -> float:
    """Images per second: the median over windows of WINDOW_STEPS after the first WARM_UP_STEPS; 0 for no step.

    steps: (images, seconds) of each. Windows, because batches are made several at a time, so that single steps differ.
    A run shorter than a window is taken as one.
    """
    steady = steps[WARM_UP_STEPS:]
    windows = [steady[first : first + WINDOW_STEPS] for first in range(0, len(steady), WINDOW_STEPS)]
    complete = [window for window in windows if len(window) == WINDOW_STEPS] or [steady or steps]
    rates = [sum(n for n, _ in window) / sum(s for _, s in window) for window in complete if window]
    return statistics.median(rates) if rates else 0.0


class Pace:
    """Images per second of a run and of its current epoch, waiting for batches included.

    Where images grow during a run, `counted` makes them comparable: a small one counts less, so that the rate and the
    seconds per image are those of the run's mean image.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[float, float]] = []
        self._rate_before = 0.0  # of the part of the run before it was resumed
        self._steady_images, self._steady_seconds = 0.0, 0.0
        self._epoch_images, self._epoch_seconds = 0, 0.0

    def start_epoch(self) -> None:
        self._epoch_images, self._epoch_seconds = 0, 0.0

    def add(self, images: int, seconds: float, *, counted: float | None = None) -> None:
        """Count a step. counted: how many mean images of the run its images are; None for as many."""
        seconds, counted = max(seconds, 1e-9), images if counted is None else counted
        self._steps.append((counted, seconds))
        if len(self._steps) > WARM_UP_STEPS:
            self._steady_images += counted
            self._steady_seconds += seconds
        self._epoch_images += images
        self._epoch_seconds += seconds

    @property
    def images_per_second(self) -> float:
        """The steady rate since the run was started or resumed; before the first step, that of the part before."""
        return steady_rate(self._steps) or self._rate_before

    @property
    def epoch_images_per_second(self) -> float:
        return self._epoch_images / self._epoch_seconds if self._epoch_seconds else 0.0

    @property
    def seconds_per_image(self) -> float | None:
        """Mean after the first WARM_UP_STEPS, which are slow; None until then."""
        return self._steady_seconds / self._steady_images if self._steady_images else None

    @property
    def steps(self) -> int:
        """Steps since the run was started or resumed."""
        return len(self._steps)

    @property
    def settled_seconds_per_image(self) -> float:
        """The steady rate as seconds; of a few steps, their mean without the first third. Needs a step."""
        if len(self._steps) >= WARM_UP_STEPS + WINDOW_STEPS:
            return 1 / steady_rate(self._steps)
        settled = self._steps[len(self._steps) // 3 :]
        return sum(seconds for _, seconds in settled) / sum(images for images, _ in settled)

    @property
    def slowest_seconds_per_image(self) -> float:
        """The mean of all steps, the slow first ones included. Needs a step."""
        return sum(seconds for _, seconds in self._steps) / sum(images for images, _ in self._steps)

    def state_dict(self) -> dict[str, Any]:
        return {"images_per_second": self.images_per_second}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rate_before = float(state["images_per_second"])
