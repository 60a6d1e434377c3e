"""The LightningModule: the step, the optimizer, and metrics that stay on the device until the epoch ends."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from cifar_cli.core.models.training_form import LAYOUTS, training_form
from cifar_cli.core.training.optimizers import clip_gradients, make_optimizer
from cifar_cli.core.training.recipe import Recipe

Batch = tuple[Tensor, Tensor]
COUNTED_TOGETHER = 1024  # images: counting takes a tenth of a millisecond a call, however few they are


class Scores(nn.Module):
    """Mean loss and confusion matrix of one pass over a split; accuracy follows from the matrix.

    Nothing is read from the device before `loss`, `accuracy` or `matrix_KK` is asked for.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        # Labels come from a verified store, so checking their range at every step would only cost time.
        self.confusion: Metric = MulticlassConfusionMatrix(max(classes, 2), validate_args=False)
        self._uncounted: list[tuple[Tensor, Tensor]] = []  # predicted and true classes of the last batches
        self._images_uncounted = 0
        self._losses: list[tuple[Tensor, int]] = []  # mean and images of the batches not yet in the sum
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

    @torch.inference_mode()  # what validation saw may not be changed outside of it
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
            # One after another, so that the sum doesn't depend on when it was asked for.
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


class Classifier(LightningModule):
    """Cross-entropy training of any module that maps images [B, 3, H, W] to logits [B, K].

    memory_format: what images and kernels lie in. The model is taken as its own and given its training form.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: int,
        recipe: Recipe,
        learning_rate: float,
        memory_format: str = "channels-last",
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.model = training_form(model, memory_format)
        self.recipe = recipe
        self.learning_rate = learning_rate
        self.layout = LAYOUTS[memory_format]
        self.fused = fused
        self.train_scores, self.val_scores = Scores(classes), Scores(classes)
        self.metrics_seconds = 0.0
        self.description: dict[str, Any] = {}

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.model(images_BCHW.to(memory_format=self.layout))
        return logits_BK

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images_BCHW, labels_B = batch
        logits_BK = self(images_BCHW)
        loss = F.cross_entropy(logits_BK, labels_B, label_smoothing=self.recipe.label_smoothing)
        start = time.perf_counter()
        self.train_scores.update(loss, logits_BK, labels_B)
        self.metrics_seconds += time.perf_counter() - start
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images_BCHW, labels_B = batch
        logits_BK = self(images_BCHW)
        self.val_scores.update(F.cross_entropy(logits_BK, labels_B), logits_BK, labels_B)

    def on_train_epoch_start(self) -> None:
        self.train_scores.reset()

    def on_validation_epoch_start(self) -> None:
        self.val_scores.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.model, self.recipe, learning_rate=self.learning_rate, fused=self.fused)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning's own refuses fused optimizers under any autocast, though bfloat16 scales no gradients.
        if self.recipe.clip_norm is not None:
            clip_gradients(self.model, self.recipe.clip_norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Plain values only: checkpoints are read with weights_only=True.
        checkpoint["cifar"] = self.description
