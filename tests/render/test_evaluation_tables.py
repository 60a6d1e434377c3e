from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifar_cli.core.evaluation.metrics import mcnemar
from cifar_cli.core.evaluation.predictions import Predictions
from cifar_cli.core.evaluation.results import (
    CorruptionScore,
    EvaluateResult,
    EvaluationReport,
    ExportResult,
    FilePrediction,
    PredictResult,
    ViewScores,
)
from cifar_cli.render.evaluation_predictions import as_pictures, as_table
from cifar_cli.render.evaluation_tables import comparison, evaluation, exported
from tests.core.evaluation.made_up import answers, result_of
from tests.golden import Golden, rendered

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = Path("runs/20261125-082912-null/evaluation/best-cifar10-test")


def cifar10(correct_K: torch.Tensor) -> Predictions:
    """1,000 images of each class, of which so many are predicted correctly, else as the next class."""
    matrix = torch.diag(correct_K) + torch.diag(1000 - correct_K).roll(1, dims=1)
    return replace(answers(matrix), dataset="cifar10", classes=CLASSES)


@pytest.fixture(scope="module")
def result() -> EvaluateResult:
    """Class n is predicted correctly 600 + 20 n times."""
    return replace(result_of(cifar10(600 + 20 * torch.arange(10))), folder=FOLDER)


def test_the_evaluation_table_shows_each_class_and_the_mean(golden: Golden, result: EvaluateResult) -> None:
    golden.tables("evaluation/table", evaluation(result))


def test_a_synthetic_dataset_an_unfinished_run_and_a_class_that_is_never_predicted(golden: Golden) -> None:
    made = replace(answers(torch.tensor([[8, 2, 0], [1, 9, 0], [3, 2, 0]])), classes=("circle", "ring", "star"))
    result = replace(
        result_of(replace(made, dataset="shapes", split="val")),
        synthetic=True,
        unfinished="runs/a is not finished; these are the weights of last.ckpt as they are now",
        files_problem="the results can't be written to runs/a/evaluation (No space left on device)",
    )
    golden.tables("evaluation/synthetic", evaluation(result))


def test_views_stand_after_the_interval(golden: Golden, result: EvaluateResult) -> None:
    views = ViewScores(mirror_averaged=0.7012, views_averaged=0.7105)
    golden.tables("evaluation/views", evaluation(replace(result, views=views)))


def test_corruptions_are_shown_by_kind_and_severity(golden: Golden, result: EvaluateResult) -> None:
    scores = (
        CorruptionScore(kind="Gaussian noise", accuracies=(0.6, 0.5, 0.4, 0.35, 0.3)),
        CorruptionScore(kind="JPEG", accuracies=(0.66, 0.6, 0.55, 0.5, 0.45)),
    )
    golden.tables("evaluation/corruptions", evaluation(replace(result, corruptions=scores)))


def test_several_runs_stand_side_by_side_with_a_test_for_each_pair(golden: Golden) -> None:
    made = {
        "20261125-082912-null": cifar10(600 + 20 * torch.arange(10)),
        "20261125-090100-cnn": cifar10(605 + 20 * torch.arange(10)),
        "20261126-101500-hybrid": cifar10(900 + 5 * torch.arange(10)),
    }
    evaluations = tuple(
        replace(result_of(each), model=name.split("-")[-1], folder=Path("runs") / name) for name, each in made.items()
    )
    names = tuple(made)
    pairs = ((0, 1), (0, 2))
    tests = tuple(mcnemar(made[names[a]], made[names[b]], names=(names[a], names[b])) for a, b in pairs)
    golden.tables(
        "evaluation/comparison", comparison(EvaluationReport(names=names, evaluations=evaluations, tests=tests))
    )
    views = ViewScores(mirror_averaged=0.7012, views_averaged=0.7105)
    viewed = (replace(evaluations[0], views=views), *evaluations[1:])
    golden.tables(
        "evaluation/comparison-views", comparison(EvaluationReport(names=names, evaluations=viewed, tests=()))
    )


def test_predictions_are_a_table_or_pictures_with_bars(golden: Golden) -> None:
    shares = ((0.05, 0.25, 0.7), (0.98, 0.01, 0.01))
    files = ("photos/a.png", "photos/a folder with a long name/another picture.jpg")
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    result = PredictResult(
        checkpoint=Path("best.ckpt"),
        model="null",
        classes=("cat", "dog", "hourglass"),
        predictions=tuple(
            FilePrediction(file=file, probabilities=each, remarks=()) for file, each in zip(files, shares, strict=True)
        ),
        images_NHWC=images,
        problems=(),
        unfinished=None,
    )
    golden.tables("evaluation/predictions", as_table(result, 3), as_pictures(result, 2))


def test_the_last_row_is_the_mean_and_the_sum_of_the_rows_above(result: EvaluateResult) -> None:
    rows = [line.split("│") for line in rendered(evaluation(result), width=80).splitlines() if line.startswith("│")]
    *classes, last = [[cell.strip() for cell in row[1:-1]] for row in rows]
    assert len(classes) == 10
    for column in (1, 2, 3):
        shown = [float(row[column].rstrip("%")) for row in classes]
        assert float(last[column].rstrip("%")) == pytest.approx(sum(shown) / 10, abs=0.01)
    assert int(last[4].replace(",", "")) == sum(int(row[4].replace(",", "")) for row in classes) == 10_000


@pytest.mark.parametrize("verified", [True, False], ids=["compared", "not-compared"])
def test_an_export_says_where_the_file_is_what_it_takes_and_how_close_it_is(golden: Golden, verified: bool) -> None:
    result = ExportResult(
        checkpoint=Path("runs/20261125-082912-null/checkpoints/best.ckpt"),
        path=Path("runs/20261125-082912-null/checkpoints/best-export.onnx"),
        format="onnx",
        size_bytes=2_191_404,
        input="float32 RGB, divided by 255, minus mean, divided by std, [batch, 3, 32, 32]",
        metadata={},
        greatest_difference=1.9e-06 if verified else None,
        tolerance=1e-4,
    )
    golden.tables(f"evaluation/export-{'compared' if verified else 'not-compared'}", exported(result))
