"""Results of a report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportResult:
    """A written report."""

    page: Path
    runs: tuple[RunAnswers, ...]

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = plain(asdict(self))
        return values
