"""Scores checkpoints on a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from cifar_cli.core.data.store import Store
from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.corruptions import accuracy_under_corruptions
from cifar_cli.core.evaluation.files import default_folder, write_files
from cifar_cli.core.evaluation.metrics import (
    calibration,
    chance_level,
    class_scores,
    confused_pairs,
    confusion_matrix,
    mcnemar,
    top_accuracy,
    wilson_interval,
)
from cifar_cli.core.evaluation.predictions import Predictions, predict_split, rows_of, same_images
from cifar_cli.core.evaluation.ranking import mistakes, suspects
from cifar_cli.core.evaluation.results import EvaluateResult, EvaluationReport
from cifar_cli.core.evaluation.runs import checkpoint_of, distinct_names, lacking
from cifar_cli.core.evaluation.views import score_views
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.core.training.batches import eval_loader, resident
from cifar_cli.core.training.checkpoint import Checkpoint, load_checkpoint
from cifar_cli.core.training.machine import device_of
from cifar_cli.core.training.trained_on import open_trained
from cifar_cli.errors import CheckpointError, ResourceError, shell_line

SHOWN = 24  # ranked images in a result and in its pictures; the CSV files have all


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Evaluated:
    """A checkpoint, its predictions and their scores."""

    checkpoint: Checkpoint
    store: Store
    predictions: Predictions
    result: EvaluateResult


def evaluate(config: EvaluateConfig, *, on_progress: OnProgress = silent) -> EvaluateResult:
    """Score a checkpoint on a split, and write the files.

    Files that can't be written are named in the result, so that the scores are not lost.
    Raises what `evaluate_only` raises.
    """
    return with_files(evaluate_only(config, on_progress=on_progress), config.out)


def evaluate_several(configs: Sequence[EvaluateConfig], *, on_progress: OnProgress = silent) -> EvaluationReport:
    """Score checkpoints, compare each pair, and write the files: with --out, into one folder below it for each."""
    names = distinct_names([config.checkpoint for config in configs])
    every = [evaluate_only(config, on_progress=on_progress) for config in configs]
    tests = [
        mcnemar(every[one].predictions, every[other].predictions, names=(names[one], names[other]))
        for one, other in combinations(range(len(every)), 2)
        if same_images(every[one].predictions, every[other].predictions)
    ]
    results = [
        with_files(each, config.out if config.out is None or len(every) == 1 else config.out / name)
        for name, config, each in zip(names, configs, every, strict=True)
    ]
    return EvaluationReport(names=names, evaluations=tuple(results), tests=tuple(tests))


def with_files(evaluated: Evaluated, out: Path | None) -> EvaluateResult:
    """Write the files of an evaluation, and say in its result where they are or why they are missing."""
    result = evaluated.result
    folder = out or default_folder(result.checkpoint, result.dataset, result.split)
    try:
        figure = write_files(result, evaluated.predictions, folder)
    except ResourceError as error:
        return replace(result, files_problem=error.what)
    return replace(result, folder=folder, figure=figure)


def evaluate_only(config: EvaluateConfig, *, on_progress: OnProgress = silent) -> Evaluated:
    """Score a checkpoint on a split. Writes nothing.

    Raises CheckpointError if the checkpoint can't be read or was trained on other classes than the dataset has,
    DataError if the dataset is missing, ResourceError if the device is missing.
    """
    device = device_of(config.device)
    found = checkpoint_of(config.checkpoint)
    checkpoint = load_checkpoint(found.path)
    trained = checkpoint.config.data
    asked = config.dataset is not None  # another dataset, knowingly
    store = open_trained(
        replace(trained, dataset=config.dataset or trained.dataset),
        at=config.checkpoint,
        content=None if asked else checkpoint.content,
        remedy=f"or score the other images knowingly: {shell_line('--dataset', trained.dataset)}",
        data_dir=config.data_dir,
        on_progress=on_progress,
    )
    _require_same_classes(checkpoint, store)
    predictions = predict_split(
        checkpoint.model,
        store,
        config.split,
        img_size=checkpoint.config.model.img_size,
        normalisation=checkpoint.config.normalised_by,
        device=device,
        batch=config.batch,
        on_progress=on_progress,
    )
    result = scored(
        predictions,
        checkpoint=checkpoint.path,
        model=checkpoint.config.model.label,
        synthetic=store.synthetic,
        unfinished=lacking(found, checkpoint.config),
    )
    if config.views:
        part, rows = rows_of(store, config.split)
        loader = eval_loader(
            resident(part, device),
            rows,
            img_size=checkpoint.config.model.img_size,
            normalisation=checkpoint.config.normalised_by,
            batch=config.batch,
        )
        result = replace(result, views=score_views(checkpoint.model, loader, device=device, on_progress=on_progress))
    if config.corruptions:
        scores = accuracy_under_corruptions(
            checkpoint.model,
            *rows_of(store, config.split),
            classes=len(store.classes),
            img_size=checkpoint.config.model.img_size,
            normalisation=checkpoint.config.normalised_by,
            device=device,
            batch=config.batch,
            on_progress=on_progress,
        )
        result = replace(result, corruptions=scores)
    return Evaluated(checkpoint=checkpoint, store=store, predictions=predictions, result=result)


def scored(
    predictions: Predictions, *, checkpoint: Path, model: str, synthetic: bool, unfinished: str | None = None
) -> EvaluateResult:
    """The scores of predictions. checkpoint, model and the rest are noted in the result."""
    matrix_KK = confusion_matrix(predictions)
    images, correct = int(matrix_KK.sum()), int(matrix_KK.diagonal().sum())
    return EvaluateResult(
        checkpoint=checkpoint,
        model=model,
        dataset=predictions.dataset,
        synthetic=synthetic,
        split=predictions.split,
        images=images,
        accuracy=correct / max(images, 1),
        accuracy_interval=wilson_interval(correct, images),
        top5_accuracy=top_accuracy(predictions),
        chance=chance_level(matrix_KK),
        loss=predictions.loss,
        per_class=class_scores(matrix_KK, predictions.classes),
        confusion=tuple(tuple(row) for row in matrix_KK.tolist()),
        confused_pairs=confused_pairs(matrix_KK, predictions.classes),
        calibration=calibration(predictions),
        mistakes=mistakes(predictions, most=SHOWN),
        suspects=suspects(predictions, most=SHOWN),
        unfinished=unfinished,
    )


def _require_same_classes(checkpoint: Checkpoint, store: Store) -> None:
    if checkpoint.classes != store.classes:
        wanted = checkpoint.config.data.dataset
        remedy = f"pass the one that it was trained on: {shell_line('--dataset', wanted)}"
        if store.name == wanted:  # replaced under its name
            remedy = f"put the dataset {wanted} back that it was trained on, or pass --data-dir for its folder"
        raise CheckpointError(
            f"{checkpoint.path} was trained on {len(checkpoint.classes)} classes ({checkpoint.classes[0]}, …), "
            f"but {store.name} has {len(store.classes)} ({store.classes[0]}, …)",
            remedy=remedy,
        )
