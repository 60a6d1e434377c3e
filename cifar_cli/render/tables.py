"""What several kinds of tables share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich.console import JustifyMethod, OverflowMethod
from rich.table import Table
from rich.text import Text


def new_table(*headings: str, **options: Any) -> Table:
    """An empty table, with its title and its caption in the one style: on the left, the title bold.

    options: those of `rich.table.Table`.
    """
    return Table(*headings, title_style="bold", title_justify="left", caption_justify="left", **options)


def table_of(
    columns: Mapping[str, Sequence[str | Text]],
    *,
    words: Collection[str] = (),
    whole: Collection[str] = (),
    footer: Sequence[str] = (),
    **options: Any,
) -> Table:
    """A table by its columns, under their headings.

    words: the columns that hold words; the others hold numbers, to the right. whole: columns that are never
    broken. footer: the last row, below a line. options: those of `rich.table.Table`.
    """
    table = new_table(show_footer=bool(footer), **options)
    for heading, below in zip_longest(columns, footer, fillvalue=""):
        longest = max(map(len, heading.split()), default=0)  # no word of a heading is broken
        side: JustifyMethod = "left" if heading in words else "right"
        overflow: OverflowMethod = "ignore" if heading in whole else "fold"
        table.add_column(heading, below, justify=side, overflow=overflow, no_wrap=heading in whole, min_width=longest)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def dataset_name(name: str, *, synthetic: bool) -> str:
    """A dataset's name, marked if its images are synthetic."""
    return f"{name} (synthetic)" if synthetic else name
