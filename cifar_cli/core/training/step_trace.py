"""`--profile`: a trace of some steps that TensorBoard and Perfetto open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

WAIT, WARM_UP, RECORDED = 10, 2, 10  # steps


class StepTrace(Callback):
    """Records RECORDED steps after the first WAIT + WARM_UP into `folder`, or all of a run that is shorter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._profile: profile | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        activities = [ProfilerActivity.CPU]
        if pl_module.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        steps = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        few = steps <= WAIT + WARM_UP + RECORDED
        self._profile = profile(
            activities=activities,
            schedule=None if few else schedule(wait=WAIT, warmup=WARM_UP, active=RECORDED, repeat=1),
            on_trace_ready=tensorboard_trace_handler(str(self.folder)),
            record_shapes=True,
        )
        self._profile.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._profile is not None:
            self._profile.step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
