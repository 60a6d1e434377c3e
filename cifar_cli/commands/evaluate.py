"""`cifar evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cifar_cli.command import command
from cifar_cli.options import BATCH, DATA_DIR, DATASET, DeviceOptions, OutputOptions, adapted, output_option


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """What is scored, and on which images."""

    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_DIR|CHECKPOINT",
            rich_help_panel="Model",
            help="Score the best weights of this run directory, or the weights of this checkpoint file.",
        ),
    ]
    dataset: Annotated[str | None, adapted(DATASET, default="the one that the model was trained on")] = None
    data_dir: Annotated[Path | None, adapted(DATA_DIR, default="the one that it was trained from")] = None
    batch: Annotated[int, BATCH] = 512


@dataclass(frozen=True, kw_only=True)
class EvaluateOutput(OutputOptions):
    """What is written and printed."""

    out: Annotated[
        Path | None,
        output_option(
            "--out",
            metavar="FILE.png",
            show_default="confusion-*.png in the run directory",
            help="Draw the confusion matrix into this file.",
        ),
    ] = None


@command(
    examples=(
        ("Score the best weights of a run.", "cifar evaluate runs/20261124-093000-null"),
        ("Score the last checkpoint, as JSON.", "cifar evaluate RUN_DIR/checkpoints/last.ckpt --json"),
    )
)
def evaluate(asked: CheckpointOptions, device: DeviceOptions, output: EvaluateOutput) -> None:
    """Score a checkpoint on the test split and draw its confusion matrix."""
    from cifar_cli.core.evaluation.config import EvaluateConfig
    from cifar_cli.core.evaluation.evaluate import evaluate as run
    from cifar_cli.render import console, tables
    from cifar_cli.render.progress import progress_shown

    config = EvaluateConfig(
        checkpoint=asked.checkpoint,
        dataset=asked.dataset,
        data_dir=asked.data_dir,
        batch=asked.batch,
        device=device.chosen_device(),
        out=output.out,
    )
    with progress_shown() as on_progress:
        result = run(config, on_progress=on_progress)
    if output.as_json:
        console.print_json(result.to_dict())
    else:
        console.show(tables.evaluation(result))
