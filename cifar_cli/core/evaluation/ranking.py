"""Images worth looking at: confident mistakes, and images whose given label is doubtful."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cifar_cli.core.evaluation.predictions import Predictions
from cifar_cli.core.evaluation.results import RankedImage


def most_doubtful(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Rows of probabilities [N, K], that with the lowest probability of its given label first.

    This order, "self-confidence", finds label errors only where the model was not trained on the images (Kuan &
    Mueller 2022, Model-agnostic label quality scoring to detect real-world label errors).
    """
    return probabilities_NK.gather(1, labels_N[:, None]).squeeze(1).argsort(stable=True)


def mistakes(predictions: Predictions, *, most: int | None = None) -> tuple[RankedImage, ...]:
    """The wrong predictions, the most confident first."""
    order = predictions.confidence_N.argsort(descending=True, stable=True)
    return _ranked(predictions, order[~predictions.correct_N[order]].tolist()[:most])


def suspects(predictions: Predictions, *, most: int | None = None) -> tuple[RankedImage, ...]:
    """The images in the order of `most_doubtful`, all of them or the first `most`."""
    return _ranked(predictions, most_doubtful(predictions.probabilities_NK, predictions.labels_N).tolist()[:most])


def _ranked(predictions: Predictions, rows: Sequence[int]) -> tuple[RankedImage, ...]:
    chosen = list(rows)
    given = predictions.probabilities_NK[chosen, predictions.labels_N[chosen]].tolist()
    return tuple(
        RankedImage(
            index=int(predictions.index_N[row]),
            file=predictions.file_of(row),
            true=predictions.classes[int(predictions.labels_N[row])],
            predicted=predictions.classes[int(predictions.predicted_N[row])],
            confidence=float(predictions.confidence_N[row]),
            true_probability=given[place],
        )
        for place, row in enumerate(chosen)
    )
