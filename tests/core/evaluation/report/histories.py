"""Run directories with made-up histories, for the report's rules."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.evaluation.report.recorded import Epoch
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.core.training.run_dir import RunDir

CLASSES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "heart", "arrow", "hourglass")
EPOCHS = 10


def epoch_of(number: int, *, train: float, val: float, train_accuracy: float, val_accuracy: float) -> Epoch:
    """train, val: losses."""
    return Epoch(
        epoch=number,
        train_loss=train,
        train_accuracy=train_accuracy,
        val_loss=val,
        val_accuracy=val_accuracy,
        learning_rate=1e-3,
        elapsed_seconds=60.0 * number,
        images_per_second=1000.0,
    )


def healthy() -> list[Epoch]:
    """Both losses fall and flatten; accuracies stay close."""
    return [
        epoch_of(n, train=0.6 + 1.5 * 0.5**n, val=0.65 + 1.5 * 0.5**n, train_accuracy=0.8 - 0.5 * 0.6**n,
                 val_accuracy=0.8 - 0.5 * 0.55**n)
        for n in range(1, EPOCHS + 1)
    ]  # fmt: skip


def overfitting() -> list[Epoch]:
    """The training loss falls to almost nothing, the validation loss rises from epoch 4."""
    return [
        epoch_of(n, train=2.2 * 0.6**n, val=1.0 + 0.1 * abs(n - 4), train_accuracy=1 - 0.5 * 0.6**n,
                 val_accuracy=0.66 - 0.01 * abs(n - 4))
        for n in range(1, EPOCHS + 1)
    ]  # fmt: skip


def underfitting() -> list[Epoch]:
    """Little is learned, and the losses are still falling."""
    return [
        epoch_of(n, train=2.3 - 0.06 * n, val=2.31 - 0.06 * n, train_accuracy=0.12 + 0.02 * n,
                 val_accuracy=0.12 + 0.02 * n)
        for n in range(1, EPOCHS + 1)
    ]  # fmt: skip


def diverging() -> list[Epoch]:
    """The training loss falls, then grows far above that of guessing."""
    losses = [2.0, 1.6, 1.4, 1.5, 3.0, 8.0, 20.0, 60.0, 150.0, 400.0]
    return [
        epoch_of(
            n, train=loss, val=loss, train_accuracy=0.4 if loss < 2 else 0.1, val_accuracy=0.4 if loss < 2 else 0.1
        )
        for n, loss in enumerate(losses, start=1)
    ]


def broken() -> list[Epoch]:
    """The loss becomes NaN."""
    last = epoch_of(4, train=math.nan, val=math.nan, train_accuracy=0.1, val_accuracy=0.1)
    return [*healthy()[:3], last]


def guessing() -> list[Epoch]:
    """Nothing is learned."""
    return [
        epoch_of(n, train=2.303, val=2.3 + 0.01 * (n % 2), train_accuracy=0.1, val_accuracy=0.1 + 0.005 * (n % 2))
        for n in range(1, EPOCHS + 1)
    ]


def confusion_with(accuracy: float, *, images: int = 500) -> list[list[int]]:
    """A matrix with this accuracy; the mistakes of a class go to the next one."""
    per_class = images // len(CLASSES)
    right = round(per_class * accuracy)
    matrix = [[0] * len(CLASSES) for _ in CLASSES]
    for row in range(len(CLASSES)):
        matrix[row][row] = right
        matrix[row][(row + 1) % len(CLASSES)] = per_class - right
    return matrix


def write_run(
    path: Path,
    epochs: list[Epoch],
    *,
    data_dir: Path,
    finished: bool = True,
    plain: float | None = None,
    rates: list[tuple[int, float]] | None = None,
    **changes: Any,
) -> Path:
    """A run directory with this history on the drawn shapes.

    plain: accuracy on plain training images; None for that of the best epoch. changes: fields of the config.
    """
    run = RunDir(path)
    run.path.mkdir(parents=True)
    model = ModelConfig(name="null", weights="none")
    config = TrainConfig(
        model=model,
        data=DataConfig(dataset="shapes", data_dir=data_dir),
        recipe=replace(RECIPES["course"], batch=64, max_epochs=EPOCHS),
        precision="32",
        memory_format="contiguous",
        device="cpu",
        run_dir=path,
    )
    config = replace(config, **changes)
    told = {"config": config.to_dict(), "classes": list(CLASSES), "synthetic": True, "version": "0.1.0",
            "command": "cifar train --model null", "torch": "2.15.0"}  # fmt: skip
    run.config.write_text(yaml.safe_dump(told, sort_keys=False))
    if not epochs:
        return path
    with run.metrics.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(epochs[0])))
        writer.writeheader()
        writer.writerows(asdict(epoch) for epoch in epochs)
    run.append_rates(rates or [(1, 1e-3), (60, 1e-3)])
    best = max(epochs, key=lambda epoch: epoch.val_accuracy)
    matrices = {"train": confusion_with(best.train_accuracy), "val": confusion_with(best.val_accuracy)}
    run.write_confusion({"epoch": best.epoch, **matrices})
    if finished:
        time = {f"{part}_seconds": 1.0 for part in ("startup", "data", "step", "optimizer", "metrics", "validation",
                                                    "logging", "test", "other")}  # fmt: skip
        summary = {
            "test_accuracy": best.val_accuracy,
            "test_accuracy_flip_averaged": best.val_accuracy,
            "test_loss": best.val_loss,
            "train_accuracy_plain": plain or best.train_accuracy,
            "train_seconds": epochs[-1].elapsed_seconds,
            "epochs": len(epochs),
            "stopped_by": "epochs",
            "time": time,
        }
        run.write_summary(summary)
        run.write_predictions(logits(best.val_accuracy))
    return path


def logits(accuracy: float, *, images: int = 100) -> torch.Tensor:
    """Predictions of the 100 drawn test images, whose labels are sorted: this share right, the others confident."""
    labels = torch.arange(images) % len(CLASSES)
    right = torch.arange(images) // len(CLASSES) < round(accuracy * images / len(CLASSES))
    guessed = torch.where(right, labels, (labels + 1) % len(CLASSES))
    return (torch.nn.functional.one_hot(guessed, len(CLASSES)) * 0.95 + 0.005).log()
