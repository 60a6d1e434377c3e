"""Predictions made up for tests."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from cifar_cli.core.evaluation.predictions import Predictions


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
        dataset="pets",
        split="test",
        classes=tuple(f"class{number}" for number in range(classes)),
        index_N=torch.arange(images),
        images_NHWC=torch.zeros(images, 8, 8, 3, dtype=torch.uint8) if images_NHWC is None else images_NHWC,
        labels_N=labels,
        logits_NK=logits.float(),
        loss=loss,
    )
