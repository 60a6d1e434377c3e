"""Scores of a model on a split."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from cifar_cli.core.data.loader import BatchLoader
from cifar_cli.core.progress import OnProgress, Progress, silent

COUNTED_TOGETHER = 1024  # images: a call of the confusion matrix takes 0.1 ms, however few they are


class Scores(nn.Module):
    """Mean loss and confusion matrix of one pass over a split, and the accuracy from the matrix.

    Nothing is read from the device until `loss`, `accuracy` or `matrix_KK` is read.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        # Labels come from a verified store, so their range needs no check at every step.
        self.confusion: Metric = MulticlassConfusionMatrix(max(classes, 2), validate_args=False)
        self._uncounted: list[tuple[Tensor, Tensor]] = []  # predicted and true classes of recent batches
        self._images_uncounted = 0
        self._losses: list[tuple[Tensor, int]] = []  # mean and size of the batches not yet in the sum
        self._loss_sum = 0.0

    def update(self, loss: Tensor, logits_BK: Tensor, labels_B: Tensor) -> None:
        """Add a batch. loss: its mean, a scalar."""
        self._losses.append((loss.detach(), len(labels_B)))
        self._uncounted.append((logits_BK.detach().argmax(dim=1), labels_B))
        self._images_uncounted += len(labels_B)
        if self._images_uncounted >= COUNTED_TOGETHER:
            self._count()

    def reset(self) -> None:
        self._uncounted.clear()
        self._losses.clear()
        self._images_uncounted, self._loss_sum = 0, 0.0
        self.confusion.reset()

    @torch.inference_mode()  # validation runs in inference mode, and its tensors can't be changed outside of it
    def _count(self) -> None:
        if self._uncounted:
            predicted, labels = zip(*self._uncounted, strict=True)
            self.confusion.update(torch.cat(predicted), torch.cat(labels))
            self._uncounted.clear()
            self._images_uncounted = 0

    @property
    def loss(self) -> float:
        """Mean over all images since the last reset; 0 before the first."""
        if self._losses:
            means, sizes = zip(*self._losses, strict=True)
            # Added one by one, so that the sum doesn't depend on when it is read.
            for mean, size in zip(torch.stack(means).tolist(), sizes, strict=True):
                self._loss_sum += mean * size
            self._losses.clear()
        return self._loss_sum / max(int(self.matrix_KK.sum()), 1)

    @property
    def matrix_KK(self) -> Tensor:
        """Counts, int64 [K, K] on the CPU: true class by row, predicted class by column."""
        self._count()
        matrix: Tensor = self.confusion.compute().cpu()
        return matrix

    @property
    def accuracy(self) -> float:
        matrix = self.matrix_KK
        return float(matrix.diagonal().sum() / matrix.sum().clamp(min=1))


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class SplitScores:
    """Scores of one pass over a split."""

    plain: Scores
    """Of each image alone."""
    accuracy_flip_averaged: float | None
    """A fraction, with the probabilities of each image and its mirror image averaged; None where not asked for."""


@torch.inference_mode()
def validate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    scores: Scores,
    *,
    layout: torch.memory_format,
    autocast: AbstractContextManager[Any],
) -> None:
    """Add the scores of every batch, computed in the precision of training. The model is left in evaluation mode."""
    model.eval()
    for images_BCHW, labels_B in batches:
        with autocast:
            evaluation_step(model, images_BCHW.to(memory_format=layout), labels_B, scores)


def evaluation_step(model: nn.Module, images_BCHW: Tensor, labels_B: Tensor, scores: Scores) -> Tensor:
    """Add the scores of a batch. Returns the logits [B, K]."""
    logits_BK: Tensor = model(images_BCHW)
    scores.update(F.cross_entropy(logits_BK, labels_B), logits_BK, labels_B)
    return logits_BK


@torch.inference_mode()
def score(
    model: nn.Module,
    loader: BatchLoader,
    *,
    classes: int,
    device: torch.device,
    flip_average: bool = False,
    on_progress: OnProgress = silent,
) -> SplitScores:
    """Score every batch in float32, whatever the training precision, so that all machines agree."""
    training = model.training
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    scores = Scores(classes).to(device)
    right = torch.zeros((), dtype=torch.long, device=device)
    for done, (images_BCHW, labels_B) in enumerate(loader, start=1):
        logits_BK = evaluation_step(model, images_BCHW, labels_B, scores)
        if flip_average:
            both_BK = logits_BK.softmax(dim=1) + model(images_BCHW.flip(3)).softmax(dim=1)
            right += (both_BK.argmax(dim=1) == labels_B).sum()
        on_progress(Progress(task="scoring", done=done, total=len(loader), unit="batches"))
    model.train(training)
    flipped = float(right) / max(int(scores.matrix_KK.sum()), 1) if flip_average else None
    return SplitScores(plain=scores, accuracy_flip_averaged=flipped)
