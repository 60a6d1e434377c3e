"""Results of evaluation as tables."""

from __future__ import annotations

from rich.table import Table

from cifar_cli.core.evaluation.config import EvaluateResult


def dataset_name(name: str, *, synthetic: bool) -> str:
    """A dataset's name, with a word where its images are not real."""
    return f"{name} (synthetic)" if synthetic else name


def evaluation(result: EvaluateResult) -> Table:
    """Scores by class, and over all of them in the last row."""
    name = dataset_name(result.dataset, synthetic=result.synthetic)
    table = Table(
        title=f"{result.model} on {name}: {result.accuracy:.2%} of {result.images:,} test images right",
        caption=f"mean loss {result.loss:.4f}; confusion matrix in {result.figure}",
        title_justify="left",
        caption_justify="left",
        show_footer=True,
    )
    scores = result.per_class
    count = len(scores)
    table.add_column("class", footer="mean of classes")
    table.add_column("precision", justify="right", footer=f"{sum(score.precision for score in scores) / count:.2%}")
    table.add_column("recall", justify="right", footer=f"{sum(score.recall for score in scores) / count:.2%}")
    table.add_column("F1", justify="right", footer=f"{sum(score.f1 for score in scores) / count:.2%}")
    table.add_column("images", justify="right", footer=f"{sum(score.images for score in scores):,}")
    for score in scores:
        table.add_row(
            score.name, f"{score.precision:.2%}", f"{score.recall:.2%}", f"{score.f1:.2%}", f"{score.images:,}"
        )
    return table
