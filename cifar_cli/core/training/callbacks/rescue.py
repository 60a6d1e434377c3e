"""Ctrl-C loses nothing: the step under way is finished and the place within the epoch saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import Interrupted


class Rescue(Callback):
    """Ends a run after the step in which the user pressed Ctrl-C, with `last.ckpt` at that very step.

    In the middle of a step there is nothing to save: its batch is drawn, but the weights don't know it yet.
    A run with nothing left but its closing is finished instead.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C while the block runs; only the main thread can, others leave it as it is."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt  # asked again: the user doesn't want to wait
        self.asked = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # After an epoch's last step its validation and record are still due, so the next step is waited for.
        if self.asked and batch_idx + 1 < trainer.num_training_batches:
            trainer.save_checkpoint(self.run.last)
            raise self.interrupted(f"interrupted in epoch {trainer.current_epoch + 1}; everything so far is saved")

    def interrupted(self, what: str) -> Interrupted:
        """The error that ends the run, with the way to go on."""
        return Interrupted(f"{what} in {self.run.path}", remedy=f"continue with `cifar train --resume {self.run.path}`")
