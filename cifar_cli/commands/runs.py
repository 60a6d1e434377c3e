"""`cifar runs`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from cifar_cli import completion
from cifar_cli.command import command, option_group
from cifar_cli.errors import UsageError
from cifar_cli.options import OutputOptions

if TYPE_CHECKING:
    from cifar_cli.core.training.runs import RunSummary


@option_group("Runs")
class RunsOptions:
    """What to do with the runs."""

    action: Annotated[Literal["list", "rm"], Argument(metavar="list|rm")] = "list"
    """List the runs, or remove those that are named."""
    names: Annotated[list[str] | None, Argument(metavar="RUN", autocompletion=completion.run_names)] = None
    """Remove these runs, by name or path."""
    yes: Annotated[bool, Option("--yes", "-y")] = False
    """Remove without asking."""


@command(
    examples=(
        ("List the runs in runs/, or in CIFAR_RUNS_DIR.", "cifar runs"),
        ("Remove one of them.", "cifar runs rm 20261124-093000-null"),
    )
)
def runs(asked: RunsOptions, output: OutputOptions) -> None:
    """List the runs with their accuracy, time and state, or remove some."""
    if asked.action == "list" and (asked.names or asked.yes):
        raise UsageError("`cifar runs` lists every run", remedy="remove a run with `cifar runs rm RUN`")
    from cifar_cli.core.training.config import runs_dir
    from cifar_cli.core.training.runs import list_runs
    from cifar_cli.render import console, run_tables

    if asked.action == "rm":
        removed = _remove(asked.names or [], yes=asked.yes)
        if output.as_json:
            console.print_json({"removed": [str(run.path) for run in removed]})
        return
    found = list_runs(runs_dir())
    if output.as_json:
        console.print_json(found.to_dict())
        return
    console.show(*run_tables.runs(found, width=console.stdout().width))


def _remove(names: list[str], *, yes: bool) -> list[RunSummary]:
    """Remove runs after a question, and return them. Raises UsageError where nobody can answer it."""
    from cifar_cli.core.training.config import runs_dir
    from cifar_cli.core.training.runs import remove_run, runs_to_remove
    from cifar_cli.render import console

    if not names:
        raise UsageError("`cifar runs rm` needs the name of a run", remedy="list them with `cifar runs`")
    chosen = runs_to_remove(names, runs_dir())
    if not yes and not sys.stdin.isatty():
        raise UsageError("nobody can answer whether to remove a run", remedy="pass --yes")
    removed = []
    for run in chosen:
        if not yes and not typer.confirm(f"remove {run.path} ({run.model} on {run.dataset})?", err=True):
            console.note(f"{run.path} stays")
            continue
        remove_run(run)
        console.note(f"removed {run.path}")
        removed.append(run)
    return removed
