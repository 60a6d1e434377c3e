"""`cifar evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cifar_cli import completion
from cifar_cli.command import command, option_group
from cifar_cli.errors import ResourceError
from cifar_cli.options import DATA_DIR, DATASET, BatchOpt, DeviceOptions, OutputOptions


@option_group("Data")
class CheckpointOptions:
    """The checkpoint and the images to score it on."""

    checkpoint: Annotated[
        Path, Argument(metavar="RUN_DIR|CHECKPOINT", rich_help_panel="Model", autocompletion=completion.run_paths)
    ]
    """Score the best weights of this run directory, or the weights of this checkpoint file."""
    dataset: Annotated[str | None, DATASET(show_default="the one that the model was trained on")] = None
    data_dir: Annotated[Path | None, DATA_DIR(show_default="the one that it was trained from")] = None
    batch: BatchOpt = 512


@option_group("Output")
class EvaluateOutput(OutputOptions):
    """Files and output."""

    out: Annotated[Path | None, Option(metavar="FILE.png", show_default="confusion-*.png in the run directory")] = None
    """Draw the confusion matrix into this file."""


@command(
    examples=(
        ("Score the best weights of a run.", "cifar evaluate runs/20261124-093000-null"),
        ("Score the last checkpoint, as JSON.", "cifar evaluate RUN_DIR/checkpoints/last.ckpt --json"),
    )
)
def evaluate(asked: CheckpointOptions, device: DeviceOptions, output: EvaluateOutput) -> None:
    """Score a checkpoint on the test split and draw its confusion matrix."""
    from cifar_cli.core.evaluation.config import EvaluateConfig

    config = EvaluateConfig(device=device.chosen_device(), out=output.out, **vars(asked))
    from cifar_cli.core.evaluation.evaluate import evaluate as run
    from cifar_cli.render import console, tables
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        result = run(config, on_progress=on_progress)
    if output.as_json:
        console.print_json(result.to_dict())
    else:
        console.show(tables.evaluation(result))
    if output.out is not None and result.figure_problem is not None:
        raise ResourceError(result.figure_problem, remedy="pass --out FILE.png in a folder you may write to")
