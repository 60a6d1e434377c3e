from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_precision, multiclass_recall

from tests.core.evaluation.made_up import predictions_of, result_of


def test_json_has_the_means_over_the_classes_and_the_shares_of_the_matrix() -> None:
    true = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 0, 1, 1, 0, 1])
    result = result_of(
        predictions_of(torch.nn.functional.one_hot(predicted, 3).float(), true), checkpoint=Path("best.ckpt")
    )
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    for key, metric in (
        ("mean_precision", multiclass_precision),
        ("mean_recall", multiclass_recall),
        ("mean_f1", multiclass_f1_score),
    ):
        assert document[key] == pytest.approx(float(metric(predicted, true, 3, average="macro")))
    assert document["checkpoint"] == "best.ckpt"
    assert [score["images"] for score in document["per_class"]] == [4, 2, 1]
    assert document["confusion"] == [[3, 1, 0], [1, 1, 0], [0, 1, 0]]
    assert document["confusion_shares"] == [[0.75, 0.25, 0], [0.5, 0.5, 0], [0, 1, 0]]
