"""`cifar summarize`: parameters, multiply-adds and FLOPs of models."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option

from cifar_cli.command import command, option_group
from cifar_cli.options import DEFAULT_BATCH, BatchOpt, CountedModels, OutputOptions, refuse_foreign_parts

ONE_MODEL_DEPTH = 3


@option_group("Counting")
class CountOptions:
    """The batch to count for, and the size of the output."""

    batch: BatchOpt = DEFAULT_BATCH
    depth: Annotated[
        int | None, Option(show_default=f"{ONE_MODEL_DEPTH} for one model, no layer table for several")
    ] = None
    """Show this many levels of the layer table."""
    top: int = 5
    """Name this many of the largest layers."""
    memory: bool = False
    """Count the bytes of weights, gradients and Adam's state as well."""


@command(
    examples=(
        ("Count one model, with a table of its layers.", "cifar summarize --model hybrid --batch 128"),
        ("Compare the models.", "cifar summarize --model all --memory"),
        ("Count a timm classifier, as JSON.", "cifar summarize --model timm:resnet50 --img-size 224 --json"),
    )
)
def summarize(ctx: typer.Context, models: CountedModels, count: CountOptions, output: OutputOptions) -> None:
    """Count the parameters, multiply-adds and FLOPs of a model, and find layers that never reach the logits."""
    refuse_foreign_parts(ctx, models.names())
    from cifar_cli.core.counting.config import SummaryConfig

    depth = ONE_MODEL_DEPTH if count.depth is None else count.depth
    configs = [SummaryConfig(model=model, batch=count.batch, depth=depth, top=count.top) for model in models.configs()]
    from cifar_cli.core.counting.results import SummaryReport
    from cifar_cli.core.counting.summary import summarize as run
    from cifar_cli.render import console, summary_tables
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        summaries = [run(config, on_progress=on_progress) for config in configs]
    if output.as_json:
        console.print_json(SummaryReport(models=tuple(summaries)).to_dict())
        return
    layers = count.depth is not None or len(summaries) == 1
    width = console.stdout().width
    console.show(*summary_tables.report(summaries, layers=layers, memory=count.memory, width=width))
