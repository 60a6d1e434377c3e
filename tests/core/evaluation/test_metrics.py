from __future__ import annotations

import torch
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from cifar_cli.core.evaluation.metrics import class_scores


def test_class_scores_are_those_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    true, predicted = torch.randint(0, 5, (2, 300), generator=generator)
    predicted[predicted == 4] = 0  # a class that is never predicted: its precision is 0, not an error
    scores = class_scores(multiclass_confusion_matrix(predicted, true, 5), "abcde")
    for name, function in (
        ("precision", multiclass_precision),
        ("recall", multiclass_recall),
        ("f1", multiclass_f1_score),
    ):
        expected = function(predicted, true, 5, average="none")
        torch.testing.assert_close(torch.tensor([getattr(score, name) for score in scores]), expected)
    assert sum(score.images for score in scores) == 300
