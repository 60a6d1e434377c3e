"""Results of an evaluation. Scores are fractions from 0 to 1."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cifar_cli.core.notebook import NotebookView
from cifar_cli.core.plain import plain

if TYPE_CHECKING:
    from torch import Tensor


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
class Interval:
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusedPair:
    """Images of one class that were predicted as another."""

    true: str
    predicted: str
    images: int
    share: float
    """Of the images of the true class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBin:
    """The images whose confidence, the probability of the predicted class, lies between `low` and `high`."""

    low: float
    high: float
    images: int
    confidence: float
    """Mean; 0 in an empty bin, as is the accuracy."""
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How well confidence predicts accuracy."""

    error: float
    """Expected calibration error: the mean over the images of |confidence - accuracy| of their bin."""
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedImage:
    """One image of a ranking."""

    index: int
    """Its row among the published training images (splits train and val) or test images."""
    file: str | None
    """The source file; None where the store doesn't keep its name."""
    true: str
    """The given label."""
    predicted: str
    confidence: float
    """The probability of the predicted class."""
    true_probability: float
    """The probability of the given label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class McNemar:
    """McNemar's exact test of two models on the same images."""

    first: str
    second: str
    only_first: int
    """Images that only the first model gets right."""
    only_second: int
    p_value: float
    """Probability of a difference at least as large between equally accurate models."""

    @property
    def p_text(self) -> str:
        """The probability to three digits."""
        return "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"

    @property
    def sentence(self) -> str:
        """The test in words."""
        verdict = "differ" if self.p_value < 0.05 else "do not differ significantly"
        return (
            f"{self.first} and {self.second} {verdict}: {self.only_first:,} images only the first gets right, "
            f"{self.only_second:,} only the second (McNemar's exact test, {self.p_text})"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CorruptionScore:
    """Accuracy under one kind of corruption."""

    kind: str
    accuracies: tuple[float, ...]
    """At severity 1 to 5."""

    @property
    def mean(self) -> float:
        """Over the severities."""
        return fmean(self.accuracies)


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewScores:
    """The accuracy, a fraction, with the probabilities of several views of an image averaged."""

    mirror_averaged: float
    """Over the image and its mirror image."""
    views_averaged: float
    """Over these and their translations by one pixel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateResult(NotebookView):
    """Scores of one checkpoint on one split."""

    checkpoint: Path
    model: str
    dataset: str
    synthetic: bool
    split: str
    images: int
    accuracy: float
    accuracy_interval: Interval
    """95 % Wilson interval: what the accuracy would be on other images of the same kind."""
    top5_accuracy: float | None
    """None for five classes or fewer."""
    chance: float
    """The accuracy of always answering with the most frequent class."""
    loss: float
    """Mean cross-entropy in nats."""
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Image counts, true class by row, predicted class by column."""
    confused_pairs: tuple[ConfusedPair, ...]
    """The ten most frequent mistakes."""
    calibration: Calibration
    mistakes: tuple[RankedImage, ...]
    """The most confident mistakes."""
    suspects: tuple[RankedImage, ...]
    """The images whose given label the model doubts most."""
    unfinished: str | None = None
    """What the run lacks to be finished; None for a finished run and a lone checkpoint file."""
    views: ViewScores | None = None
    """The accuracy by the mean over several views; None where not asked for."""
    corruptions: tuple[CorruptionScore, ...] = ()
    """The accuracy under common corruptions; empty where not asked for."""
    folder: Path | None = None
    """Where the files are; None where they couldn't be written."""
    figure: Path | None = None
    """The picture of the confusion matrix."""
    files_problem: str | None = None
    """Why files are missing; the scores are complete."""

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
        """Plain values for JSON, the means over the classes and the row shares of the matrix included."""
        values: dict[str, Any] = plain(asdict(self))
        return values | {
            "confusion_shares": [[count / max(sum(row), 1) for count in row] for row in self.confusion],
            "mean_precision": self.mean_precision,
            "mean_recall": self.mean_recall,
            "mean_f1": self.mean_f1,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationReport(NotebookView):
    """The evaluation of one or several checkpoints."""

    names: tuple[str, ...]
    """A short, distinct name of each checkpoint."""
    evaluations: tuple[EvaluateResult, ...]
    tests: tuple[McNemar, ...]
    """McNemar's test for each pair that was scored on the same images."""

    @property
    def files_problem(self) -> str | None:
        """Why files are missing."""
        return next((each.files_problem for each in self.evaluations if each.files_problem), None)

    def to_dict(self) -> dict[str, Any]:
        """The document of one evaluation; for several, a list of them and the tests."""
        if len(self.evaluations) == 1:
            return self.evaluations[0].to_dict()
        return {
            "evaluations": [
                {"name": name, **each.to_dict()} for name, each in zip(self.names, self.evaluations, strict=True)
            ],
            "tests": [plain(asdict(test)) for test in self.tests],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePrediction:
    """What a model predicts for one image file."""

    file: str
    probabilities: tuple[float, ...]
    """Of each class, in the order of the classes."""
    remarks: tuple[str, ...]
    """What was done to the image so that the model can take it, beyond scaling a larger one."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class PredictResult(NotebookView):
    """The predictions for image files."""

    checkpoint: Path
    model: str
    classes: tuple[str, ...]
    predictions: tuple[FilePrediction, ...]
    images_NHWC: Tensor
    """uint8 [M, S, S, 3]: the first images (48 at most) as the model gets them, before they are normalised."""
    problems: tuple[str, ...]
    """One sentence for each file without a prediction."""
    unfinished: str | None
    """What the run lacks to be finished."""
    heat_NHW: Tensor | None = None
    """float32 [M, S, S], 0 to 1, of the first images: which parts the prediction rests on; None where not asked for."""
    overlays_NHWC: Tensor | None = None
    """uint8 [M, S, S, 3]: these images in grey with the heat over them."""
    places: tuple[str, ...] = ()
    """The part of each of these images that its prediction rests on most, in words."""

    def top(self, prediction: FilePrediction, k: int) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, the most probable first."""
        pairs = zip(self.classes, prediction.probabilities, strict=True)
        return sorted(pairs, key=lambda each: -each[1])[:k]

    def to_dict(self, k: int = 5) -> dict[str, Any]:
        """Plain values for JSON, with the `k` most probable classes of each image."""
        predictions = [
            {
                "file": each.file,
                "predicted": self.top(each, 1)[0][0],
                "top": [{"class": name, "probability": share} for name, share in self.top(each, k)],
                "remarks": list(each.remarks),
                "rests_on": place,
            }
            for each, place in zip_longest(self.predictions, self.places)
        ]
        return {
            "checkpoint": str(self.checkpoint),
            "model": self.model,
            "classes": list(self.classes),
            "predictions": predictions,
            "problems": list(self.problems),
            "unfinished": self.unfinished,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult(NotebookView):
    """A model written for other programs."""

    checkpoint: Path
    path: Path
    format: str
    size_bytes: int
    input: str
    """Type and shape that the model takes."""
    metadata: dict[str, str]
    """What the file says about the model."""
    greatest_difference: float | None
    """Between the file's logits and the model's; None where not compared."""
    tolerance: float
    """The greatest difference that is accepted."""

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = plain(asdict(self))
        return values
