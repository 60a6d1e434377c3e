"""Scores that follow from a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cifar_cli.core.evaluation.config import ClassScore


def class_scores(matrix_KK: Tensor, classes: Sequence[str]) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of every class.

    matrix_KK: int64 [K, K], true class by row, predicted class by column.
    """
    right_K = matrix_KK.diagonal().double()
    called_K, true_K = matrix_KK.sum(dim=0), matrix_KK.sum(dim=1)
    precision_K = right_K / called_K.clamp(min=1)
    recall_K = right_K / true_K.clamp(min=1)
    # 2PR/(P+R) with P = right/called and R = right/true; one division, so no 0/0 for a class never hit.
    f1_K = 2 * right_K / (called_K + true_K).clamp(min=1)
    return tuple(
        ClassScore(name=name, images=int(images), precision=float(precision), recall=float(recall), f1=float(f1))
        for name, images, precision, recall, f1 in zip(classes, true_K, precision_K, recall_K, f1_K, strict=True)
    )
