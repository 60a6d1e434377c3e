"""The course's program, rebuilt from its published description. The training benchmarks compare with it.

The course is a university exercise: train three classifiers of CIFAR-10 within 20 minutes each and compare them. Its
program uses albumentations image by image in eight DataLoader workers, float32, contiguous tensors, batch 128, Adam at
a constant learning rate, gradient clipping at L2 norm 1.0, and Lightning's Trainer with its defaults (progress bar,
checkpoints, TensorBoard).
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # albumentations would look for a newer version on the network

import albumentations as A
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
WORKERS = 8
NORMALISE = (A.Normalize(mean=MEAN, std=STD), ToTensorV2())
TRAIN = A.Compose(
    [
        A.PadIfNeeded(min_height=36, min_width=36, border_mode=0, fill=0),
        A.RandomCrop(height=32, width=32),
        A.HorizontalFlip(p=0.5),
        A.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, p=0.5),
        A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(4, 8), hole_width_range=(4, 8), fill=0, p=0.3),
        *NORMALISE,
    ]
)
EVAL = A.Compose(list(NORMALISE))


class Images(Dataset[tuple[Tensor, int]]):
    """uint8 images [N, 32, 32, 3] with labels; a transform is applied to one image at a time."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: A.Compose) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(image=self.images[index])["image"], int(self.labels[index])


class Program(LightningModule):
    """Logs loss and accuracy of every step with `self.log`, as most Lightning programs do."""

    def __init__(self, model: nn.Module, *, rate: float, classes: int = 10) -> None:
        super().__init__()
        self.model, self.rate = model, rate
        self.train_accuracy = MulticlassAccuracy(classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(classes, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.model(images)
        loss = nn.functional.cross_entropy(logits, labels)
        self.train_accuracy(logits, labels)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self.model(images)
        self.val_accuracy(logits, labels)
        self.log("val_loss", nn.functional.cross_entropy(logits, labels), prog_bar=True)
        self.log("val_accuracy", self.val_accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.rate)


def loader(images: Tensor, labels: Tensor, *, train: bool, batch: int = 128) -> DataLoader[tuple[Tensor, int]]:
    """The program's DataLoader of uint8 images [N, 32, 32, 3]."""
    dataset = Images(images.numpy(), labels.numpy(), TRAIN if train else EVAL)
    return DataLoader(dataset, batch_size=batch, shuffle=train, num_workers=WORKERS, persistent_workers=True)


class StepTimes(Callback):
    """Records when each training step ended, in seconds of time.perf_counter()."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.ended.append(time.perf_counter())


def trainer(folder: Path, *, callbacks: list[Callback], **options: Any) -> Trainer:
    """Lightning's Trainer with gradient clipping, otherwise with its defaults."""
    return Trainer(default_root_dir=folder, gradient_clip_val=1.0, callbacks=callbacks, **options)


@contextmanager
def silenced() -> Iterator[None]:
    """Discard what the program prints. It still does the work of printing."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with Path(os.devnull).open("w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    for logger in loggers:
        logger.setLevel(logging.INFO)
