"""From a checkpoint to its scores on the test split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.store import Store
from cifar_cli.core.evaluation.config import EvaluateConfig, EvaluateResult
from cifar_cli.core.evaluation.metrics import class_scores
from cifar_cli.core.figures import confusion_figure
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.core.training.batches import loader_of_test
from cifar_cli.core.training.checkpoint import Checkpoint, load_checkpoint
from cifar_cli.core.training.machine import device_of
from cifar_cli.core.training.scores import score
from cifar_cli.errors import CheckpointError, ResourceError


def evaluate(config: EvaluateConfig, *, on_progress: OnProgress = silent) -> EvaluateResult:
    """Score a checkpoint on the test split and draw its confusion matrix.

    Raises CheckpointError when it can't be read or knows other classes than the dataset, DataError when the
    dataset isn't there, ResourceError when the picture can't be written.
    """
    device = device_of(config.device)
    checkpoint = load_checkpoint(config.checkpoint)
    told = checkpoint.config.data
    data = replace(told, dataset=config.dataset or told.dataset, data_dir=config.data_dir or told.data_dir)
    store = open_dataset(data, on_progress=on_progress)
    _require_same_classes(checkpoint, store)
    loader = loader_of_test(store, img_size=checkpoint.config.model.img_size, device=device, batch=config.batch)
    classes = len(store.classes)
    scores = score(checkpoint.model, loader, classes=classes, device=device, on_progress=on_progress).plain
    matrix_KK = scores.matrix_KK
    figure_path = config.out or _figure_path(checkpoint.path)
    kind = " (synthetic)" if store.synthetic else ""
    figure = confusion_figure(
        matrix_KK, store.classes, title=f"{checkpoint.config.model.label} on {store.name}{kind}, test"
    )
    try:
        figure.savefig(figure_path)
    except OSError as error:
        raise ResourceError(
            f"the picture {figure_path} can't be written ({error.strerror or error})",
            remedy="pass --out FILE.png in a folder you may write to",
        ) from error
    return EvaluateResult(
        checkpoint=checkpoint.path,
        model=checkpoint.config.model.label,
        dataset=store.name,
        synthetic=store.synthetic,
        images=int(matrix_KK.sum()),
        accuracy=scores.accuracy,
        loss=scores.loss,
        per_class=class_scores(matrix_KK, store.classes),
        confusion=tuple(tuple(row) for row in matrix_KK.tolist()),
        figure=figure_path,
    )


def _require_same_classes(checkpoint: Checkpoint, store: Store) -> None:
    if checkpoint.classes != store.classes:
        raise CheckpointError(
            f"{checkpoint.path} tells {len(checkpoint.classes)} classes apart ({checkpoint.classes[0]}, …), "
            f"but {store.name} has {len(store.classes)} ({store.classes[0]}, …)",
            remedy=f"pass the --dataset it was trained on: {checkpoint.config.data.dataset}",
        )


def _figure_path(checkpoint: Path) -> Path:
    """In the run directory, when the checkpoint lies in one; otherwise beside it."""
    folder = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return folder / f"confusion-{checkpoint.stem}.png"
