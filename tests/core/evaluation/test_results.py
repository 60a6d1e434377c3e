from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_precision, multiclass_recall

from cifar_cli.core.evaluation.metrics import class_scores
from cifar_cli.core.evaluation.results import EvaluateResult


def test_json_has_the_means_over_the_classes() -> None:
    true = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 0, 1, 1, 0, 1])
    matrix = torch.tensor([[3, 1, 0], [1, 1, 0], [0, 1, 0]])
    result = EvaluateResult(
        checkpoint=Path("best.ckpt"),
        model="null",
        dataset="pets",
        synthetic=False,
        images=7,
        accuracy=4 / 7,
        loss=1.0,
        per_class=class_scores(matrix, ("cat", "dog", "fox")),
        confusion=((3, 1, 0), (1, 1, 0), (0, 1, 0)),
        figure=Path("confusion-best.png"),
    )
    document = json.loads(json.dumps(result.to_dict()))
    for key, metric in (
        ("mean_precision", multiclass_precision),
        ("mean_recall", multiclass_recall),
        ("mean_f1", multiclass_f1_score),
    ):
        assert document[key] == pytest.approx(float(metric(predicted, true, 3, average="macro")))
    assert document["checkpoint"] == "best.ckpt"
    assert [score["images"] for score in document["per_class"]] == [4, 2, 1]
