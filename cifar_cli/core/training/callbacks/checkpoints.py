"""What a run keeps on disk: its best and its last weights after every epoch, and after Ctrl-C the very step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cifar_cli.core.training.callbacks.log import EpochLog
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import Interrupted


class Checkpoints(Callback):
    """Writes `last.ckpt` after every epoch, `best.ckpt` after those that validated better than all before them.

    Ends a run after the step in which the user pressed Ctrl-C, with `last.ckpt` at that very step. In the middle of
    a step there is nothing to save: its batch is drawn, but the weights don't know it yet. A run with nothing left
    but its closing is finished instead.
    """

    def __init__(self, run: RunDir, epoch_log: EpochLog) -> None:
        self.run = run
        self.epoch_log = epoch_log
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
            _save(trainer, self.run.last)
            raise self.interrupted(f"interrupted in epoch {trainer.current_epoch + 1}; everything so far is saved")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # After validation and the log, so that a resumed run begins with a new epoch.
        if self.epoch_log.last_is_best:
            _save(trainer, self.run.best)
        _save(trainer, self.run.last)

    def interrupted(self, what: str) -> Interrupted:
        """The error that ends the run, with the way to go on."""
        return Interrupted(f"{what} in {self.run.path}", remedy=f"continue with `cifar train --resume {self.run.path}`")


def _save(trainer: Trainer, path: Path) -> None:
    """Replace a checkpoint as a whole: on a full disk the one before stays."""
    part = path.with_name(f"{path.name}.part")
    try:
        trainer.save_checkpoint(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
