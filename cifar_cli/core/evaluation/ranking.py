"""Images worth looking at: confident mistakes, and images whose given label is doubtful."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cifar_cli.core.evaluation.predictions import Predictions
from cifar_cli.core.evaluation.results import RankedImage


def label_quality(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """How much the model supports each given label, 0 (not at all) to 1.

    The normalised margin of confident learning: the probability of the given label minus that of the most probable
    other class, scaled to 0..1 (Northcutt, Jiang & Chuang 2021, Confident learning, JAIR 70; Kuan & Mueller 2022,
    Model-agnostic label quality scoring to detect real-world label errors). It ranks by label errors only where the
    model was not trained on the images. probabilities_NK: float64 [N, K].
    """
    given_N = probabilities_NK.gather(1, labels_N[:, None]).squeeze(1)
    others_NK = probabilities_NK.scatter(1, labels_N[:, None], 0.0)
    return (given_N - others_NK.amax(dim=1) + 1) / 2


def mistakes(predictions: Predictions, *, most: int | None = None) -> tuple[RankedImage, ...]:
    """The wrong predictions, the most confident first."""
    order = predictions.confidence_N.argsort(descending=True, stable=True)
    return _ranked(predictions, order[~predictions.correct_N[order]].tolist()[:most])


def suspects(predictions: Predictions, *, most: int | None = None) -> tuple[RankedImage, ...]:
    """The images by `label_quality`, the most doubtful label first, all of them or the first `most`."""
    quality_N = label_quality(predictions.probabilities_NK, predictions.labels_N)
    return _ranked(predictions, quality_N.argsort(stable=True).tolist()[:most])


def _ranked(predictions: Predictions, rows: Sequence[int]) -> tuple[RankedImage, ...]:
    chosen = list(rows)
    quality = label_quality(predictions.probabilities_NK[chosen], predictions.labels_N[chosen]).tolist()
    given = predictions.probabilities_NK[chosen, predictions.labels_N[chosen]].tolist()
    return tuple(
        RankedImage(
            index=int(predictions.index_N[row]),
            file=predictions.file_of(row),
            true=predictions.classes[int(predictions.labels_N[row])],
            predicted=predictions.classes[int(predictions.predicted_N[row])],
            confidence=float(predictions.confidence_N[row]),
            true_probability=given[place],
            label_quality=quality[place],
        )
        for place, row in enumerate(chosen)
    )
