"""Predictions made up for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

from cifar_cli.core.evaluation.evaluate import scored
from cifar_cli.core.evaluation.predictions import Predictions
from cifar_cli.core.evaluation.results import EvaluateResult


def made_up(*, images: int = 300, classes: int = 7, seed: int = 0, loss: float = 1.0) -> Predictions:
    """Random labels, and logits that favour them a little, so that about half the images are right."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images,), generator=torch.Generator().manual_seed(99))
    logits = 2 * torch.randn(images, classes, generator=generator) + 2.0 * F.one_hot(labels, classes)
    pixels = torch.randint(0, 256, (images, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return predictions_of(logits, labels, images_NHWC=pixels, loss=loss)


def predictions_of(
    logits: torch.Tensor, labels: torch.Tensor, *, images_NHWC: torch.Tensor | None = None, loss: float = 1.0
) -> Predictions:
    """Predictions of these logits for images that are black unless given."""
    images, classes = logits.shape
    return Predictions(
        content="sha256:0",
        dataset="pets",
        split="test",
        classes=tuple(f"class{number}" for number in range(classes)),
        index_N=torch.arange(images),
        images_NHWC=torch.zeros(images, 8, 8, 3, dtype=torch.uint8) if images_NHWC is None else images_NHWC,
        labels_N=labels,
        logits_NK=logits.float(),
        loss=loss,
    )


def result_of(predictions: Predictions, *, checkpoint: Path = Path("runs/a/checkpoints/best.ckpt")) -> EvaluateResult:
    """Their scores, as those of a model named null."""
    return scored(predictions, checkpoint=checkpoint, model="null", synthetic=False)


def answers(matrix_KK: torch.Tensor) -> Predictions:
    """Predictions with this confusion matrix; each is 60 % sure, and the other classes share the rest."""
    true, answered = torch.cartesian_prod(*2 * [torch.arange(len(matrix_KK))]).T
    labels, predicted = (each.repeat_interleave(matrix_KK.flatten()) for each in (true, answered))
    share = 0.4 / (len(matrix_KK) - 1)
    probabilities = torch.full((len(labels), len(matrix_KK)), share).scatter(1, predicted[:, None], 0.6)
    return predictions_of(probabilities.log(), labels, loss=0.702)
