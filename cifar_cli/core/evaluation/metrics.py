"""Scores computed from predictions. torchmetrics computes what it has; the rest names its source."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_stat_scores

from cifar_cli.core.evaluation.predictions import Predictions, same_images
from cifar_cli.core.evaluation.results import (
    Calibration,
    CalibrationBin,
    ClassScore,
    ConfusedPair,
    Interval,
    McNemar,
)

BINS = 15  # of the calibration, as Guo et al. 2017
TOP = 5
_Z95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def confusion_matrix(predictions: Predictions) -> Tensor:
    """Counts, int64 [K, K]: true class by row, predicted class by column."""
    classes = len(predictions.classes)
    matrix: Tensor = multiclass_confusion_matrix(predictions.predicted_N, predictions.labels_N, max(classes, 2))
    return matrix[:classes, :classes]


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


def wilson_interval(correct: int, images: int) -> Interval:
    """The 95 % interval of a share (Wilson 1927, Probable inference, the law of succession, and statistical inference).

    Unlike the normal approximation it stays within 0..1, also for 0 or all correct.
    """
    if images == 0:
        return Interval(low=0.0, high=1.0)
    share, square = correct / images, _Z95**2 / images
    centre = (share + square / 2) / (1 + square)
    half = _Z95 * math.sqrt(share * (1 - share) / images + square / (4 * images)) / (1 + square)
    # At the ends rounding would miss 0 and 1 by 1e-17.
    return Interval(
        low=0.0 if correct == 0 else centre - half, high=1.0 if correct == images else min(centre + half, 1.0)
    )


def top_accuracy(predictions: Predictions, k: int = TOP) -> float | None:
    """The share of images whose label is among the `k` most probable classes; None for k classes or fewer."""
    classes = len(predictions.classes)
    if classes <= k or not len(predictions):
        return None
    counted = multiclass_stat_scores(predictions.logits_NK, predictions.labels_N, classes, average="micro", top_k=k)
    return int(counted[0]) / len(predictions)  # divided as whole numbers: torch would divide them in float32


def chance_level(matrix_KK: Tensor) -> float:
    """The accuracy of always answering with the most frequent class; 1/K where all classes are equally frequent."""
    return int(matrix_KK.sum(dim=1).max()) / max(int(matrix_KK.sum()), 1)


def confused_pairs(matrix_KK: Tensor, classes: Sequence[str], *, most: int = 10) -> tuple[ConfusedPair, ...]:
    """The most frequent mistakes by true and predicted class, the most frequent first."""
    wrong = matrix_KK.clone().fill_diagonal_(0)
    totals = matrix_KK.sum(dim=1)
    order = wrong.flatten().argsort(descending=True, stable=True)[:most].tolist()
    pairs = [divmod(position, len(classes)) for position in order]
    return tuple(
        ConfusedPair(
            true=classes[row],
            predicted=classes[column],
            images=int(wrong[row, column]),
            share=int(wrong[row, column]) / int(totals[row]),
        )
        for row, column in pairs
        if wrong[row, column]
    )


def calibration(predictions: Predictions, *, bins: int = BINS) -> Calibration:
    """How far confidence and accuracy are apart.

    The expected calibration error of Naeini et al. 2015 over equal bins of confidence, and the bins themselves for the
    reliability diagram (Guo et al. 2017, On calibration of modern neural networks).
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    confidence_N, correct_N = predictions.confidence_N, predictions.correct_N.double()
    bin_N = torch.bucketize(confidence_N, edges, right=True).sub(1).clamp(0, bins - 1)  # as torchmetrics
    counts = bin_N.bincount(minlength=bins)
    confidence, accuracy = (
        torch.bincount(bin_N, weights=each, minlength=bins) / counts.clamp(min=1) for each in (confidence_N, correct_N)
    )
    shares = counts.double() / max(len(predictions), 1)
    return Calibration(
        error=float((shares * (confidence - accuracy).abs()).sum()),
        bins=tuple(
            CalibrationBin(low=low, high=high, images=images, confidence=mean, accuracy=share)
            for low, high, images, mean, share in zip(
                edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), confidence.tolist(), accuracy.tolist(),
                strict=True,
            )
        ),
    )  # fmt: skip


def mcnemar(first: Predictions, second: Predictions, *, names: tuple[str, str]) -> McNemar:
    """Test whether two models that saw the same images are equally accurate.

    The exact test of McNemar 1947 on the images that only one of them gets right: under the hypothesis each of the two
    is the right one with probability 1/2.
    """
    assert same_images(first, second)
    only_first = int((first.correct_N & ~second.correct_N).sum())
    only_second = int((~first.correct_N & second.correct_N).sum())
    differing = only_first + only_second
    term, total = 1, 1  # binomial coefficients as integers: exact for any number of images
    for successes in range(min(only_first, only_second)):
        term = term * (differing - successes) // (successes + 1)
        total += term
    return McNemar(
        first=names[0],
        second=names[1],
        only_first=only_first,
        only_second=only_second,
        p_value=min(1.0, (2 * total) / (1 << differing)),
    )
