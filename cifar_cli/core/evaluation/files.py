"""The files that an evaluation leaves: predictions, suspects and pictures."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from cifar_cli.core.evaluation.figures import corruptions_figure, ranked_figure, reliability_figure
from cifar_cli.core.evaluation.predictions import Predictions
from cifar_cli.core.evaluation.ranking import suspects
from cifar_cli.core.evaluation.results import EvaluateResult, RankedImage
from cifar_cli.core.figures import confusion_figure, save_figure
from cifar_cli.core.write import replacing
from cifar_cli.errors import ResourceError


def default_folder(checkpoint: Path, dataset: str, split: str) -> Path:
    """In the run directory if the checkpoint is in one, else beside the checkpoint.

    The name carries checkpoint, dataset and split, so that no evaluation overwrites another.
    """
    folder = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return folder / "evaluation" / f"{checkpoint.stem}-{_in_a_name(dataset)}-{split}"


def _in_a_name(dataset: str) -> str:
    """A dataset's name for a file: a store file may hold any name, even one with slashes."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", dataset)


def write_files(result: EvaluateResult, predictions: Predictions, folder: Path) -> Path:
    """Write all files of an evaluation; returns the picture of the confusion matrix.

    Raises ResourceError when one can't be written.
    """
    kind = " (synthetic)" if result.synthetic else ""
    title = f"{result.model} on {result.dataset}{kind}, {result.split}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_csv(folder / "predictions.csv", *_prediction_rows(predictions))
        _write_csv(folder / "suspects.csv", *_suspect_rows(predictions))
    except OSError as error:
        raise ResourceError(
            f"the results can't be written to {folder} ({error.strerror or error})",
            remedy="pass --out DIR for a folder you may write to",
        ) from error
    matrix = folder / f"confusion-{_in_a_name(result.dataset)}-{result.split}.png"
    counts = torch.tensor(result.confusion)
    save_figure(confusion_figure(counts, predictions.classes, title=title, with_shares=True), matrix)
    save_figure(reliability_figure(result.calibration, title=title), folder / "reliability.png")
    for name, ranked, what in (
        ("mistakes", result.mistakes, "the most confident mistakes"),
        ("suspects", result.suspects, "the most doubtful labels"),
    ):
        images = predictions.images_NHWC[[image.index for image in ranked]]
        save_figure(ranked_figure(images, ranked, title=f"{title}: {what}"), folder / f"{name}.png")
    if result.corruptions:
        figure = corruptions_figure(result.corruptions, clean=result.accuracy, title=title)
        save_figure(figure, folder / "corruptions.png")
    return matrix


def _prediction_rows(predictions: Predictions) -> tuple[list[str], Iterable[list[Any]]]:
    header = ["index", "file", "true", "predicted", *(f"p({name})" for name in predictions.classes)]
    classes = predictions.classes
    facts = zip(
        predictions.index_N.tolist(),
        predictions.labels_N.tolist(),
        predictions.predicted_N.tolist(),
        predictions.probabilities_NK.tolist(),
        strict=True,
    )
    return header, (
        [index, predictions.file_of(row) or "", classes[true], classes[predicted], *(f"{p:.8g}" for p in shares)]
        for row, (index, true, predicted, shares) in enumerate(facts)
    )


def _suspect_rows(predictions: Predictions) -> tuple[list[str], Iterable[list[Any]]]:
    header = ["rank", "index", "file", "label", "predicted", "confidence", "p(label)"]
    ranked: Sequence[RankedImage] = suspects(predictions)
    return header, (
        [rank, each.index, each.file or "", each.true, each.predicted, f"{each.confidence:.8g}",
         f"{each.true_probability:.8g}"]
        for rank, each in enumerate(ranked, start=1)
    )  # fmt: skip


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
