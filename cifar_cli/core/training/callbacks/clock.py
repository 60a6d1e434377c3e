"""Time: how fast the steps are, how long the run has taken, and when it has to stop."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

WARM_UP_STEPS = 10
SAFETY = 1.25  # the last validation may be slower than those before


class Clock(Callback):
    """Counts the seconds of a run over resumptions, the rate of its steps, and ends it before `max_seconds`.

    The end leaves time for what must still follow the last step: a validation, a checkpoint, and the test
    (`closing_images` images in all), guessed from the last validation.
    """

    def __init__(self, *, max_seconds: float, val_images: int, test_images: int) -> None:
        self.max_seconds = max_seconds
        self.val_images = val_images
        self.closing_share = (val_images + test_images) / max(val_images, 1)
        self.before = 0.0  # seconds before this run was resumed
        self.started = time.monotonic()
        self.validation_seconds = 0.0
        self.stopped_by = "epochs"
        self._rates: list[float] = []  # images per second of each step
        self._epoch_seconds = 0.0
        self._epoch_images = 0
        self._step_started = 0.0
        self._validation_started = 0.0

    @property
    def elapsed_seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    @property
    def images_per_second(self) -> float:
        """Median over the steps after the first ten (over all of them in a run of fewer)."""
        return statistics.median(self._rates[WARM_UP_STEPS:] or self._rates or [0.0])

    @property
    def epoch_images_per_second(self) -> float:
        return self._epoch_images / self._epoch_seconds if self._epoch_seconds else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed_seconds": self.elapsed_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = float(state_dict["elapsed_seconds"])
        self.started = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step_started = time.monotonic()  # a run resumed within an epoch starts none

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_seconds, self._epoch_images = 0.0, 0
        self._step_started = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        images, seconds = len(batch[1]), max(now - self._step_started, 1e-9)
        self._rates.append(images / seconds)
        self._epoch_images += images
        self._epoch_seconds += seconds
        self._step_started = now
        if self.elapsed_seconds + self._closing_seconds() >= self.max_seconds:
            self.stopped_by = "time"
            trainer.should_stop = True

    def _closing_seconds(self) -> float:
        """What must still follow the last step. Nothing is guessed from the first steps, which are slow."""
        seconds = self.validation_seconds
        if not seconds and len(self._rates) > WARM_UP_STEPS:
            # There was no validation yet: its forward pass takes about a third of a training step.
            seconds = self.val_images / max(self.images_per_second, 1.0) / 3
        return SAFETY * seconds * self.closing_share

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.validation_seconds = time.monotonic() - self._validation_started
