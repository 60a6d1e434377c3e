"""Scores computed from a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cifar_cli.core.evaluation.results import ClassScore


def class_scores(matrix_KK: Tensor, classes: Sequence[str]) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of every class.

    matrix_KK: int64 [K, K], true class by row, predicted class by column.
    """
    correct_K = matrix_KK.diagonal().double()
    predicted_K, true_K = matrix_KK.sum(dim=0), matrix_KK.sum(dim=1)
    precision_K = correct_K / predicted_K.clamp(min=1)
    recall_K = correct_K / true_K.clamp(min=1)
    # 2PR/(P+R) with P = correct/predicted and R = correct/true, as one division: no 0/0 for a class never predicted.
    f1_K = 2 * correct_K / (predicted_K + true_K).clamp(min=1)
    return tuple(
        ClassScore(name=name, images=int(images), precision=float(precision), recall=float(recall), f1=float(f1))
        for name, images, precision, recall, f1 in zip(classes, true_K, precision_K, recall_K, f1_K, strict=True)
    )
