"""Results of an evaluation as a table."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cifar_cli.core.evaluation.results import EvaluateResult


def dataset_name(name: str, *, synthetic: bool) -> str:
    """A dataset's name, marked if its images are synthetic."""
    return f"{name} (synthetic)" if synthetic else name


def evaluation(result: EvaluateResult) -> Group:
    """The scores of each class, with their mean over the classes in the last row."""
    name = dataset_name(result.dataset, synthetic=result.synthetic)
    table = Table(show_footer=True)
    table.add_column("class", footer="mean of classes")
    table.add_column("precision", justify="right", footer=f"{result.mean_precision:.2%}")
    table.add_column("recall", justify="right", footer=f"{result.mean_recall:.2%}")
    table.add_column("F1", justify="right", footer=f"{result.mean_f1:.2%}")
    table.add_column("images", justify="right", footer=f"{result.images:,}")
    for score in result.per_class:
        table.add_row(
            Text(score.name), f"{score.precision:.2%}", f"{score.recall:.2%}", f"{score.f1:.2%}", f"{score.images:,}"
        )
    # Lines of their own: a table wraps its title and caption at its own width, which would cut the path.
    return Group(
        Text(f"{result.model} on {name}: {result.accuracy:.2%} of {result.images:,} test images correct"),
        table,
        Text(f"mean loss: {result.loss:.4f}"),
        Text(f"confusion matrix: {result.figure}", overflow="fold"),
    )
