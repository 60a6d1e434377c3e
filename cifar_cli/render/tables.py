"""A table by columns, and the results of an evaluation as one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cifar_cli.core.evaluation.results import EvaluateResult


def table_of(
    columns: Mapping[str, Sequence[str | Text]],
    *,
    words: Collection[str] = (),
    footer: Sequence[str] = (),
    **options: Any,
) -> Table:
    """A table by its columns, under their headings.

    words: the columns that hold words; the others hold numbers, to the right. footer: the last row, below a
    line. options: those of `rich.table.Table`.
    """
    table = Table(show_footer=bool(footer), **options)
    for heading, below in zip_longest(columns, footer, fillvalue=""):
        table.add_column(heading, below, justify="left" if heading in words else "right", overflow="fold")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def dataset_name(name: str, *, synthetic: bool) -> str:
    """A dataset's name, marked if its images are synthetic."""
    return f"{name} (synthetic)" if synthetic else name


def evaluation(result: EvaluateResult) -> Group:
    """The scores of each class, with their mean over the classes in the last row."""
    name = dataset_name(result.dataset, synthetic=result.synthetic)
    scores = result.per_class
    columns: dict[str, list[str | Text]] = {
        "class": [Text(score.name) for score in scores],
        "precision": [f"{score.precision:.2%}" for score in scores],
        "recall": [f"{score.recall:.2%}" for score in scores],
        "F1": [f"{score.f1:.2%}" for score in scores],
        "images": [f"{score.images:,}" for score in scores],
    }
    means = (f"{mean:.2%}" for mean in (result.mean_precision, result.mean_recall, result.mean_f1))
    table = table_of(columns, words=("class",), footer=("mean of classes", *means, f"{result.images:,}"))
    # Separate lines: a table wraps its title and caption at its own width, which would cut the path.
    return Group(
        Text(f"{result.model} on {name}: {result.accuracy:.2%} of {result.images:,} test images correct"),
        table,
        Text(f"mean loss: {result.loss:.4f}"),
        Text(f"confusion matrix: {result.figure or result.figure_problem}", overflow="fold"),
    )
