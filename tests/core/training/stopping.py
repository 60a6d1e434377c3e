"""Training steps during which the process gets signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import torch

from cifar_cli.core.training.loop import Seams
from cifar_cli.core.training.step import TrainingStep


def stopping_at(step: int, *, by: int | Sequence[int] = signal.SIGINT) -> Seams:
    """A training step after whose `step`-th call began, the process gets a signal, as from Ctrl-C, or several."""
    left = step

    class Stopping(TrainingStep):
        def __call__(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            nonlocal left
            left -= 1
            if left == 0:
                for number in [by] if isinstance(by, int) else by:
                    os.kill(os.getpid(), number)
            return super().__call__(images_BCHW, labels_B)

    return Seams(make_step=Stopping)
