"""Results of an evaluation. Scores are fractions from 0 to 1."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from cifar_cli.core.notebook import NotebookView
from cifar_cli.core.plain import plain


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """The scores of one class. A score is 0 where its denominator is 0."""

    name: str
    images: int
    """Test images of this class."""
    precision: float
    """Share of the images predicted as this class that belong to it."""
    recall: float
    """Share of the images of this class that were predicted as it."""
    f1: float
    """Harmonic mean of precision and recall."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateResult(NotebookView):
    """Scores on the test split."""

    checkpoint: Path
    model: str
    dataset: str
    synthetic: bool
    images: int
    accuracy: float
    loss: float
    """Mean cross-entropy in nats."""
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Image counts, true class by row, predicted class by column."""
    figure: Path | None
    """The PNG file that shows the confusion matrix; None where it can't be written."""
    figure_problem: str | None = None
    """Why there is no picture."""

    @property
    def mean_precision(self) -> float:
        """Unweighted mean over the classes, as are the other two."""
        return fmean(score.precision for score in self.per_class)

    @property
    def mean_recall(self) -> float:
        return fmean(score.recall for score in self.per_class)

    @property
    def mean_f1(self) -> float:
        return fmean(score.f1 for score in self.per_class)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the means over the classes included."""
        values: dict[str, Any] = plain(asdict(self))
        return values | {
            "mean_precision": self.mean_precision,
            "mean_recall": self.mean_recall,
            "mean_f1": self.mean_f1,
        }
