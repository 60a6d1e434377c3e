"""Scores a checkpoint on the test split and draws its confusion matrix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.store import Store
from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.metrics import class_scores
from cifar_cli.core.evaluation.results import EvaluateResult
from cifar_cli.core.figures import confusion_figure, save_figure
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.core.training.batches import loader_of_test
from cifar_cli.core.training.checkpoint import Checkpoint, load_checkpoint
from cifar_cli.core.training.machine import device_of
from cifar_cli.core.training.scores import score
from cifar_cli.errors import CheckpointError, ResourceError, shell_line


def evaluate(config: EvaluateConfig, *, on_progress: OnProgress = silent) -> EvaluateResult:
    """Score a checkpoint on the test split and draw its confusion matrix.

    Raises CheckpointError if the checkpoint can't be read or was trained on other classes than the dataset has,
    DataError if the dataset is missing, ResourceError if the device is missing.
    """
    device = device_of(config.device)
    checkpoint = load_checkpoint(config.checkpoint)
    trained = checkpoint.config.data
    data = replace(trained, dataset=config.dataset or trained.dataset, data_dir=config.data_dir or trained.data_dir)
    store = open_dataset(data, on_progress=on_progress)
    _require_same_classes(checkpoint, store)
    model = checkpoint.config.model
    loader = loader_of_test(store, img_size=model.img_size, device=device, batch=config.batch)
    scores = score(checkpoint.model, loader, classes=len(store.classes), device=device, on_progress=on_progress).plain
    matrix_KK = scores.matrix_KK
    path = config.out or _figure_path(checkpoint.path)
    kind = " (synthetic)" if store.synthetic else ""
    title, problem = f"{model.label} on {store.name}{kind}, test", None
    try:
        save_figure(confusion_figure(matrix_KK, store.classes, title=title), path)
    except ResourceError as error:  # a full disk or a read-only run must not cost the scores
        problem = error.what
    return EvaluateResult(
        checkpoint=checkpoint.path,
        model=model.label,
        dataset=store.name,
        synthetic=store.synthetic,
        images=int(matrix_KK.sum()),
        accuracy=scores.accuracy,
        loss=scores.loss,
        per_class=class_scores(matrix_KK, store.classes),
        confusion=tuple(tuple(row) for row in matrix_KK.tolist()),
        figure=path if problem is None else None,
        figure_problem=problem,
    )


def _require_same_classes(checkpoint: Checkpoint, store: Store) -> None:
    if checkpoint.classes != store.classes:
        raise CheckpointError(
            f"{checkpoint.path} was trained on {len(checkpoint.classes)} classes ({checkpoint.classes[0]}, …), "
            f"but {store.name} has {len(store.classes)} ({store.classes[0]}, …)",
            remedy=f"pass the one that it was trained on: {shell_line('--dataset', checkpoint.config.data.dataset)}",
        )


def _figure_path(checkpoint: Path) -> Path:
    """In the run directory if the checkpoint is in one, else beside the checkpoint."""
    folder = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return folder / f"confusion-{checkpoint.stem}.png"
