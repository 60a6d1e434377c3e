"""Results of a report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cifar_cli.core.evaluation.results import Interval, McNemar
from cifar_cli.core.notebook import NotebookView
from cifar_cli.core.plain import plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A question about a run, answered."""

    key: str
    """A short name of the question, the same in every report."""
    question: str
    sentence: str
    """The answer, in one or two sentences."""
    rests_on: str
    """The figures that it is computed from, and the rule."""
    section: str
    """The section of the page that shows them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunAnswers:
    """One run and its answers."""

    run_dir: Path
    model: str
    finished: bool
    notice: str | None
    """What the run lacks, in a sentence; None for one that is complete."""
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRun:
    """A run's figures in a comparison; None where one is not known."""

    name: str
    """Of its folder; with a number where several folders have that name."""
    model: str
    dataset: str
    parameters: int | None
    forward_flops_per_image: int | None
    batch: int
    memory_bytes: int | None
    """Of a training step on a GPU at this batch, estimated."""
    largest_batch: dict[str, int]
    """By card: estimated, and rounded down to two digits."""
    val_accuracy: float | None
    """Of the best epoch."""
    test_accuracy: float | None
    test_accuracy_interval: Interval | None
    """95 %, Wilson."""
    best_epoch: int | None
    epochs: int
    train_seconds: float | None
    images_per_second: float | None
    """Training, median over the run; of an unfinished run in its last epoch."""
    device: str | None
    """Its name, of a CPU with the number of threads."""
    verdict: str
    """On over- and under-fitting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Several runs side by side."""

    runs: tuple[ComparedRun, ...]
    tests: tuple[McNemar, ...]
    """For each pair that was tested on the same images."""
    sentences: tuple[str, ...]
    """How the runs compare, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportResult(NotebookView):
    """A written report."""

    page: Path
    runs: tuple[RunAnswers, ...]
    comparison: Comparison | None
    """None for a single run."""

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = plain(asdict(self))
        return values
