"""The test images as the best weights of a run see them: from the run's record, without running the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cifar_cli.core.data.store import Store
from cifar_cli.core.training.run_dir import RunDir


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two classes, one of which is predicted as the other."""

    true: int
    predicted: int
    count: int


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Predicted:
    """Probabilities and labels of the test images, in the store's order."""

    probabilities_NK: Tensor
    labels_N: Tensor

    @property
    def predicted_N(self) -> Tensor:
        return self.probabilities_NK.argmax(dim=1)

    @property
    def images(self) -> int:
        return len(self.labels_N)

    @property
    def correct(self) -> int:
        return int((self.predicted_N == self.labels_N).sum())

    def matrix(self) -> tuple[tuple[int, ...], ...]:
        """Counts: true class by row, predicted class by column."""
        classes = self.probabilities_NK.shape[1]
        flat = torch.bincount(self.labels_N * classes + self.predicted_N, minlength=classes**2)
        return tuple(map(tuple, flat.view(classes, classes).tolist()))

    def mistakes(self, count: int) -> list[int]:
        """Rows of the wrong predictions, the most confident ones first."""
        confidence_N, predicted_N = self.probabilities_NK.max(dim=1)
        wrong = (predicted_N != self.labels_N).nonzero().squeeze(1)
        order = confidence_N[wrong].argsort(descending=True, stable=True)
        rows: list[int] = wrong[order][:count].tolist()
        return rows

    def suspects(self, count: int) -> list[int]:
        """Rows of the images to whose given label the model gives the lowest probability."""
        given_N = self.probabilities_NK.gather(1, self.labels_N[:, None]).squeeze(1)
        rows: list[int] = given_N.argsort(stable=True)[:count].tolist()
        return rows

    def rows_of(self, pair: Pair, count: int) -> list[int]:
        """Rows of a confused pair, the most confident ones first."""
        chosen = ((self.labels_N == pair.true) & (self.predicted_N == pair.predicted)).nonzero().squeeze(1)
        order = self.probabilities_NK[chosen, pair.predicted].argsort(descending=True, stable=True)
        rows: list[int] = chosen[order][:count].tolist()
        return rows


def confused_pairs(matrix: tuple[tuple[int, ...], ...], count: int) -> list[Pair]:
    """The pairs of a true and another predicted class with the most images, descending."""
    pairs = [
        Pair(true=row, predicted=column, count=images)
        for row, counts in enumerate(matrix)
        for column, images in enumerate(counts)
        if row != column and images
    ]
    return sorted(pairs, key=lambda pair: -pair.count)[:count]


def read_predictions(run: RunDir, store: Store) -> Predicted | None:
    """The predictions that training kept; None where there are none for this dataset."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        probabilities_NK = load_file(run.predictions)["test_probabilities"].float()
    except (OSError, KeyError, SafetensorError):
        return None
    if probabilities_NK.shape != (len(store.test), len(store.classes)):
        return None
    return Predicted(probabilities_NK=probabilities_NK, labels_N=store.test.labels_N)
