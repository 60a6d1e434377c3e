"""Time: how fast the steps are, what a run's seconds went to, and when it has to stop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from cifar_cli.core.training.config import TimeSpent
from cifar_cli.core.training.machine import wait_for

WARM_UP_STEPS = 10
WINDOW_STEPS = 16
SAFETY = 1.25  # the last validation may be slower than those before
SAMPLED = 50  # on a GPU, every so many steps the device is waited for, to see how long its parts take


def steady_rate(steps: Sequence[tuple[int, float]]) -> float:
    """Images per second: the median over windows of WINDOW_STEPS after the first WARM_UP_STEPS; 0 for no step.

    steps: (images, seconds) of each. Single steps say too little, because batches are made several at a time and
    some steps wait for what others use. A run too short for a window is taken as a whole.
    """
    steady = steps[WARM_UP_STEPS:]
    windows = [steady[first : first + WINDOW_STEPS] for first in range(0, len(steady), WINDOW_STEPS)]
    whole = [window for window in windows if len(window) == WINDOW_STEPS] or [steady or steps]
    rates = [sum(n for n, _ in window) / sum(s for _, s in window) for window in whole if window]
    return statistics.median(rates) if rates else 0.0


class Clock(Callback):
    """Counts the seconds of a run over resumptions, the rate of its steps, and ends it before `max_seconds`.

    began: when the user's command began, in seconds of time.monotonic(); None for now. The end leaves time for what
    must still follow the last step: a validation, pictures and checkpoints, and the test, which takes as long as
    validating `test_images` images, guessed from the last validation.
    """

    def __init__(
        self,
        *,
        max_seconds: float,
        val_images: int,
        test_images: int,
        device: torch.device = torch.device("cpu"),
        began: float | None = None,
    ) -> None:
        self.max_seconds = max_seconds
        self.device = device
        self.val_images = val_images
        self.closing_share = (val_images + test_images) / max(val_images, 1)
        self.before = 0.0  # seconds before this run was resumed
        self.started = time.monotonic() if began is None else began
        self.validation_seconds = 0.0  # of the last one
        self.logging_seconds = 0.0  # after the last one: record, pictures, checkpoints
        self.stopped_by = "epochs"
        self._steps: list[tuple[int, float]] = []  # images and seconds of each
        self._steady_images, self._steady_seconds = 0, 0.0  # of all steps after the first WARM_UP_STEPS
        self._rate_before = 0.0
        self._epoch_seconds = 0.0
        self._epoch_images = 0
        self._step_started = 0.0
        self._validation_started = 0.0
        self._epoch_ended: float | None = None
        self._mark = 0.0
        self._spent = dict.fromkeys(("step", "optimizer", "sampled", "steps", "validation", "logging"), 0.0)

    @property
    def elapsed_seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    @property
    def time_share(self) -> float:
        """How much of the time for steps is used up, 0..1 and above."""
        return self.elapsed_seconds / max(self.max_seconds - self._closing_seconds(), 1e-9)

    @property
    def images_per_second(self) -> float:
        """The steady rate of the steps since the run was begun or resumed; before the first, of those until then."""
        return steady_rate(self._steps) or self._rate_before

    @property
    def epoch_images_per_second(self) -> float:
        return self._epoch_images / self._epoch_seconds if self._epoch_seconds else 0.0

    def spent(self, *, startup: float, train: float, data: float, metrics: float, test: float) -> TimeSpent:
        """Where the seconds of this run went. train: from the first step to the last epoch's end."""
        parts = self._spent
        scale = parts["steps"] / parts["sampled"] if parts["sampled"] else 0.0
        step, optimizer = parts["step"] * scale, parts["optimizer"] * scale
        known = data + step + optimizer + parts["validation"] + parts["logging"]
        return TimeSpent(
            startup_seconds=startup,
            data_seconds=data,
            step_seconds=max(step - metrics, 0.0),
            optimizer_seconds=optimizer,
            metrics_seconds=metrics,
            validation_seconds=parts["validation"],
            logging_seconds=parts["logging"],
            test_seconds=test,
            other_seconds=max(train - known, 0.0),
        )

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed_seconds": self.elapsed_seconds, "images_per_second": self.images_per_second}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = float(state_dict["elapsed_seconds"])
        self._rate_before = float(state_dict["images_per_second"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step_started = time.monotonic()  # a run resumed within an epoch starts none

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_logging()
        self._epoch_seconds, self._epoch_images = 0.0, 0
        self._step_started = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._mark = self._now(batch_idx)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        batch_idx = trainer.fit_loop.batch_idx
        now = self._now(batch_idx)
        if self._is_sampled(batch_idx):
            self._spent["step"] += now - self._mark
        self._mark = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = self._now(batch_idx)
        if self._is_sampled(batch_idx):
            self._spent["optimizer"] += now - self._mark
            self._spent["sampled"] += 1
        self._spent["steps"] += 1
        images, seconds = len(batch[1]), max(now - self._step_started, 1e-9)
        self._steps.append((images, seconds))
        if len(self._steps) > WARM_UP_STEPS:
            self._steady_images += images
            self._steady_seconds += seconds
        self._epoch_images += images
        self._epoch_seconds += seconds
        self._step_started = now
        if self.elapsed_seconds + self._closing_seconds() >= self.max_seconds:
            self.stopped_by = "time"
            trainer.should_stop = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wait_for(self.device)
        self.validation_seconds = time.monotonic() - self._validation_started
        self._spent["validation"] += self.validation_seconds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_ended = time.monotonic()  # the first of the callbacks: record, pictures and checkpoints follow

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_logging()

    def _end_logging(self) -> None:
        if self._epoch_ended is not None:
            self.logging_seconds = time.monotonic() - self._epoch_ended
            self._spent["logging"] += self.logging_seconds
            self._epoch_ended = None

    def _closing_seconds(self) -> float:
        """What must still follow the last step. Nothing is guessed from the first steps, which are slow."""
        seconds = self.validation_seconds
        if not seconds and len(self._steps) > WARM_UP_STEPS:
            # There was no validation yet: its forward pass takes about a third of a training step.
            seconds = self.val_images * self._steady_seconds / self._steady_images / 3
        return SAFETY * (seconds * self.closing_share + self.logging_seconds)

    def _is_sampled(self, batch_idx: int) -> bool:
        return self.device.type == "cpu" or batch_idx % SAMPLED == 0

    def _now(self, batch_idx: int) -> float:
        if self._is_sampled(batch_idx):
            wait_for(self.device)
        return time.monotonic()
