"""The record of a run: a row per epoch to metrics.csv, TensorBoard and the listener; progress in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.tensorboard import SummaryWriter

from cifar_cli.core.training.callbacks.clock import Clock
from cifar_cli.core.training.config import EpochResult, TrainProgress
from cifar_cli.core.training.module import Classifier
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import CifarError

OnEpoch = Callable[[EpochResult], None]
OnStep = Callable[[TrainProgress], None]
PROGRESS_SECONDS = 0.5  # reading the loss makes the device wait, so it is done seldom


class EpochLog(Callback):
    """Writes what an epoch gave, once it is over."""

    def __init__(self, *, run: RunDir, writer: SummaryWriter, clock: Clock, on_step: OnStep, on_epoch: OnEpoch) -> None:
        self.run = run
        self.writer = writer
        self.clock = clock
        self.on_step = on_step
        self.on_epoch = on_epoch
        self.val_accuracies: list[float] = []
        self.last_is_best = False  # whether the last epoch validated better than all before it
        self._last_progress = 0.0

    @property
    def best_val_accuracy(self) -> float:
        """The highest so far; below 0 before the first validation."""
        return max(self.val_accuracies, default=-1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"val_accuracies": self.val_accuracies}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.val_accuracies = [float(accuracy) for accuracy in state_dict["val_accuracies"]]
        self.run.keep_metrics(len(self.val_accuracies))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        total = int(trainer.num_training_batches)
        if now - self._last_progress < PROGRESS_SECONDS and batch_idx + 1 < total:
            return
        self._last_progress = now
        assert isinstance(pl_module, Classifier)
        self.on_step(
            TrainProgress(
                epoch=trainer.current_epoch + 1,
                epochs=trainer.max_epochs or 1,
                step=batch_idx + 1,
                steps=total,
                loss=pl_module.train_scores.loss,
                accuracy=pl_module.train_scores.accuracy,
                val_accuracies=tuple(self.val_accuracies),
                images_per_second=self.clock.epoch_images_per_second,
                elapsed_seconds=self.clock.elapsed_seconds,
                max_seconds=self.clock.max_seconds,
            )
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        train, val = pl_module.train_scores, pl_module.val_scores
        val_accuracy = val.accuracy
        result = EpochResult(
            epoch=trainer.current_epoch + 1,
            train_loss=train.loss,
            train_accuracy=train.accuracy,
            val_loss=val.loss,
            val_accuracy=val_accuracy,
            learning_rate=float(trainer.optimizers[0].param_groups[0]["lr"]),
            elapsed_seconds=self.clock.elapsed_seconds,
            images_per_second=self.clock.epoch_images_per_second,
            best=val_accuracy > self.best_val_accuracy,
        )
        self.last_is_best = result.best
        self.val_accuracies.append(result.val_accuracy)
        self.run.append_metrics(result)
        for name, value in asdict(result).items():
            if name != "best":
                self.writer.add_scalar(name.replace("train_", "train/").replace("val_", "val/"), value, result.epoch)
        self.writer.flush()
        self.on_epoch(result)
        lost = None if math.isfinite(result.train_loss) else f"the training loss became {result.train_loss}"
        # In oneDNN's layout poolings and ReLUs lose what is no number, so such a weight need not show in the loss.
        moved = trainer.optimizers[0].state  # by weight; what is never moved may hold anything
        if lost is None and not all(bool(weight.isfinite().all()) for weight in moved):
            lost = "a weight became infinite or no number"
        if lost is not None:
            kept = f"; the best weights so far are in {self.run.path}" if self.run.best.exists() else ""
            raise CifarError(
                f"{lost} in epoch {result.epoch}",
                remedy=f"lower --lr (it was {result.learning_rate:g}){kept}",
            )
