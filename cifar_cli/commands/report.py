"""`cifar report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cifar_cli import completion
from cifar_cli.command import command, option_group
from cifar_cli.options import OutputOptions


@option_group("Report")
class ReportOptions:
    """The runs, and the page to write."""

    runs: Annotated[
        list[Path], Argument(metavar="RUN_DIR", rich_help_panel="Runs", autocompletion=completion.run_paths)
    ]
    """Report on these run directories; several are compared in one page."""
    out: Annotated[
        Path | None, Option(metavar="FILE.html", show_default="report.html in the run directory, or beside several")
    ] = None
    """Write the page to this file."""
    explain: Annotated[bool, Option("--explain")] = False
    """Show beside each mistake and suspect which part of the image its prediction rests on. This runs the model."""
    open_page: Annotated[bool, Option("--open")] = False
    """Open the page in the web browser."""


@command(
    examples=(
        ("Write a report on a run and open it.", "cifar report runs/20261124-093000-null --open"),
        ("Show what mistakes rest on.", "cifar report RUN_DIR --explain"),
        ("Compare three runs in one page.", "cifar report RUN_DIR RUN_DIR RUN_DIR --out FILE.html"),
    )
)
def report(asked: ReportOptions, output: OutputOptions) -> None:
    """Write one HTML page with curves, answers, mistakes and settings of a run, or of several side by side."""
    from cifar_cli.core.evaluation.report.config import ReportConfig

    config = ReportConfig(runs=tuple(asked.runs), out=asked.out, explain=asked.explain)
    from cifar_cli.core.evaluation.report.report import report as run
    from cifar_cli.render import console, report_view
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        result = run(config, on_progress=on_progress)
    if asked.open_page:
        import webbrowser

        webbrowser.open(result.page.resolve().as_uri())
    if output.as_json:
        console.print_json(result.to_dict())
    else:
        console.show(*report_view.answers(result))
