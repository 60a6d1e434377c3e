from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cifar_cli.core.evaluation.metrics import class_scores
from cifar_cli.core.evaluation.results import EvaluateResult
from cifar_cli.render.tables import evaluation
from tests.golden import Golden, rendered

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def result_of(matrix: torch.Tensor, classes: tuple[str, ...], *, figure: Path, synthetic: bool) -> EvaluateResult:
    return EvaluateResult(
        checkpoint=Path("checkpoints/best.ckpt"),
        model="null",
        dataset="shapes" if synthetic else "cifar10",
        synthetic=synthetic,
        images=int(matrix.sum()),
        accuracy=float(matrix.trace() / matrix.sum()),
        loss=0.702,
        per_class=class_scores(matrix, classes),
        confusion=tuple(map(tuple, matrix.tolist())),
        figure=figure,
    )


@pytest.fixture(scope="module")
def result() -> EvaluateResult:
    """1,000 images of each class; class n is predicted correctly 600 + 20 n times, else as the next class."""
    correct = 600 + 20 * torch.arange(10)
    matrix = torch.diag(correct) + torch.diag(1000 - correct).roll(1, dims=1)
    return result_of(matrix, CLASSES, figure=Path("runs/20261125-082912-null/confusion-best.png"), synthetic=False)


def test_the_evaluation_table_shows_each_class_and_the_mean(golden: Golden, result: EvaluateResult) -> None:
    golden.tables("evaluation/table", evaluation(result))


def test_a_synthetic_dataset_and_a_class_that_is_never_predicted(golden: Golden) -> None:
    matrix = torch.tensor([[8, 2, 0], [1, 9, 0], [3, 2, 0]])
    figure = Path("runs/a-folder-with-a-long-name/20261125-null/confusion-best.png")
    golden.tables(
        "evaluation/synthetic", evaluation(result_of(matrix, ("circle", "ring", "star"), figure=figure, synthetic=True))
    )


def test_the_last_row_is_the_mean_and_the_sum_of_the_rows_above(result: EvaluateResult) -> None:
    rows = [line.split("│") for line in rendered(evaluation(result), width=80).splitlines() if line.startswith("│")]
    *classes, last = [[cell.strip() for cell in row[1:-1]] for row in rows]
    assert len(classes) == 10
    for column in (1, 2, 3):
        shown = [float(row[column].rstrip("%")) for row in classes]
        assert float(last[column].rstrip("%")) == pytest.approx(sum(shown) / 10, abs=0.01)
    assert int(last[4].replace(",", "")) == sum(int(row[4].replace(",", "")) for row in classes) == 10_000
