"""Scores of a model on a split."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_cli.core.data.loader import BatchLoader
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.core.training.machine import exact_kernels
from cifar_cli.core.training.ranks import ALONE, Ranks


class Scores(nn.Module):
    """Mean loss and confusion matrix of one pass over a split, and the accuracy from the matrix.

    Nothing is read from the device until `loss`, `accuracy` or `matrix_KK` is read.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._classes = classes
        self._counts_KK: Tensor
        self.register_buffer("_counts_KK", torch.zeros(classes, classes, dtype=torch.int64), persistent=False)
        # Mean cross-entropy, mean optimized loss and size of batches, not yet read from the device.
        self._losses: list[tuple[Tensor, Tensor, int]] = []
        self._batches: list[tuple[float, float, int]] = []  # the same, read
        self._joined_KK: Tensor | None = None
        self._earlier_KK: Tensor | None = None  # of the steps before an interruption

    def update(self, loss: Tensor, logits_BK: Tensor, labels_B: Tensor, *, optimized: Tensor | None = None) -> None:
        """Add a batch. loss: its mean cross-entropy, a scalar; optimized: the loss that was minimised, if another.

        labels_B: classes, or shares of them [B, K] of mixed images, for each of which the class with the largest share
        counts as the true one.
        """
        if labels_B.ndim == 2:
            labels_B = labels_B.argmax(dim=1)
        self._losses.append((loss.detach(), (loss if optimized is None else optimized).detach(), len(labels_B)))
        # Labels come from a verified store, so their range needs no check at every step. `bincount` would wait for it.
        places_B = labels_B * self._classes + logits_BK.detach().argmax(dim=1)
        self._counts_KK.view(-1).index_add_(0, places_B, torch.ones_like(places_B))

    def joined(self, ranks: Ranks) -> Scores:
        """The scores of all processes together; of one alone, itself. Called by all of them.

        Batches are added in the order in which one process would score them, so that the loss is the same to the bit.
        """
        if ranks.world_size == 1:
            return self
        self._read_losses()
        every = ranks.gather((self._batches, self.matrix_KK if self._batches else None))
        matrices = [matrix_KK for _, matrix_KK in every if matrix_KK is not None]
        joined = Scores(len(matrices[0]))
        for batches in zip_longest(*(batches for batches, _ in every)):
            joined._batches += [batch for batch in batches if batch is not None]
        joined._joined_KK = torch.stack(matrices).sum(dim=0)
        return joined

    def reset(self) -> None:
        self._losses.clear()
        self._batches.clear()
        self._earlier_KK = None
        self._counts_KK = torch.zeros_like(self._counts_KK)  # validation may have made it in inference mode

    def state(self) -> dict[str, Any]:
        """What `restore` continues with, for a checkpoint within an epoch."""
        self._read_losses()
        return {"batches": list(self._batches), "matrix": self.matrix_KK.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue after the batches of a state. Raises ValueError for one of another number of classes."""
        self.reset()
        matrix_KK = torch.tensor(state["matrix"], dtype=torch.int64)
        if matrix_KK.shape != (self._classes, self._classes):
            raise ValueError(f"scores of {len(matrix_KK)} classes")
        self._earlier_KK = matrix_KK
        self._batches = [(float(mean), float(optimized), int(size)) for mean, optimized, size in state["batches"]]

    @property
    def loss(self) -> float:
        """Mean cross-entropy over all images since the last reset; 0 before the first."""
        return self._mean(0)

    @property
    def optimized_loss(self) -> float:
        """Mean of the loss that was minimised: with label smoothing another one."""
        return self._mean(1)

    def _mean(self, which: int) -> float:
        self._read_losses()
        total = 0.0
        for batch in self._batches:  # one by one: `sum` rounds differently in Python 3.12 and later
            total += batch[which] * batch[2]
        return total / max(int(self.matrix_KK.sum()), 1)

    def _read_losses(self) -> None:
        if self._losses:
            means, optimized, sizes = zip(*self._losses, strict=True)
            read = (torch.stack(losses).tolist() for losses in (means, optimized))
            self._batches += zip(*read, sizes, strict=True)
            self._losses.clear()

    @property
    def matrix_KK(self) -> Tensor:
        """Counts, int64 [K, K] on the CPU: true class by row, predicted class by column."""
        if self._joined_KK is not None:
            return self._joined_KK
        counts_KK = self._counts_KK.to("cpu", copy=True)
        return counts_KK if self._earlier_KK is None else counts_KK + self._earlier_KK

    @property
    def accuracy(self) -> float:
        matrix = self.matrix_KK  # divided as whole numbers: torch would divide them in float32
        return int(matrix.diagonal().sum()) / max(int(matrix.sum()), 1)


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class SplitScores:
    """Scores of one pass over a split."""

    plain: Scores
    """Of each image alone."""
    accuracy_flip_averaged: float | None
    """A fraction, with the probabilities of each image and its mirror image averaged; None where not asked for."""
    logits_NK: Tensor
    """Of each image alone, float32 [N, K] on the CPU, in the loader's order."""


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
    ranks: Ranks = ALONE,
) -> SplitScores:
    """Score every batch in float32, whatever the training precision, so that all machines agree.

    Several processes share the batches, and get the same scores.
    """
    training = model.training
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    scores = Scores(classes).to(device)
    logits: list[Tensor] = []
    right = torch.zeros((), dtype=torch.long, device=device)
    with exact_kernels():
        for done, (images_BCHW, labels_B) in enumerate(ranks.own_batches(loader), start=1):
            logits_BK = evaluation_step(model, images_BCHW, labels_B, scores)
            logits.append(logits_BK.float())
            if flip_average:
                both_BK = logits_BK.softmax(dim=1) + model(images_BCHW.flip(3)).softmax(dim=1)
                right += (both_BK.argmax(dim=1) == labels_B).sum()
            total = len(loader)
            on_progress(Progress(task="scoring", done=min(done * ranks.world_size, total), total=total, unit="batches"))
    model.train(training)
    scores = scores.joined(ranks)
    flipped = float(ranks.sum_(right)) / max(int(scores.matrix_KK.sum()), 1) if flip_average else None
    every = ranks.gather([batch_BK.cpu() for batch_BK in logits])
    batches = [batch for taken in zip_longest(*every) for batch in taken if batch is not None]
    return SplitScores(plain=scores, accuracy_flip_averaged=flipped, logits_NK=torch.cat(batches))
