"""The checks of `cifar doctor` as a table."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cifar_cli.core.doctor.results import DoctorReport

STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}
NAME_WIDTH = 28  # a disk is named by its folder, whose path may be long


def report(result: DoctorReport) -> Group:
    """A row for each check: what was found, and below it how to mend it."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=NAME_WIDTH)
    table.add_column(overflow="fold")
    for check in result.checks:
        found = Text(check.found)
        if check.remedy:
            found.append(f"\ntry: {check.remedy}", style="dim")
        table.add_row(Text(check.state, style=STYLES[check.state]), Text(check.name), found)
    counts = [(result.count("error"), "error"), (result.count("warning"), "warning")]
    said = [f"{number} {word}{'' if number == 1 else 's'}" for number, word in counts if number]
    return Group(table, Text(", ".join(said) or "everything is ok"))
