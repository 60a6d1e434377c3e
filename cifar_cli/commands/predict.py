"""`cifar predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from cifar_cli import completion
from cifar_cli.command import command, option_group, refuse_without
from cifar_cli.errors import DataError
from cifar_cli.options import BatchOpt, DeviceOptions, OutputOptions


@option_group("Data")
class PredictOptions:
    """The images and the model."""

    images: Annotated[list[str], Argument(metavar="IMAGE", rich_help_panel="Data")]
    """Classify this image file, all in this folder, all that match this pattern, or with - the one on stdin."""
    checkpoint: Annotated[
        Path,
        Option(
            *("--checkpoint", "-c"),
            metavar="RUN_DIR|CHECKPOINT",
            rich_help_panel="Model",
            autocompletion=completion.run_paths,
        ),
    ]
    """Use the best weights of this run directory, or the weights of this checkpoint file."""
    batch: BatchOpt = 512
    explain: Annotated[bool, Option("--explain")] = False
    """Show which part of an image its prediction rests on, as a heat map beside the image; of at most 48 images."""


@option_group("Output")
class PredictOutput(OutputOptions):
    """Files and output."""

    top: Annotated[int, Option(metavar="N")] = 5
    """Show this many of the most probable classes."""
    csv: Annotated[Path | None, Option(metavar="FILE.csv", show_default="none")] = None
    """Write the probabilities of all classes into this file."""
    explain_out: Annotated[Path, Option(metavar="FILE.png")] = Path("explain.png")
    """With --explain, draw the heat maps into this file."""


@command(
    examples=(
        ("Classify one image.", "cifar predict cat.png --checkpoint runs/20261124-093000-null"),
        ("Classify a folder, with all probabilities in a file.",
         "cifar predict photos --checkpoint RUN_DIR --csv photos.csv"),
        ("Show what a prediction rests on.", "cifar predict cat.png --checkpoint RUN_DIR --explain"),
    )
)  # fmt: skip
def predict(ctx: typer.Context, asked: PredictOptions, device: DeviceOptions, output: PredictOutput) -> None:
    """Classify images with a trained model."""
    refuse_without(ctx, "explain_out", "explain")
    import sys

    from cifar_cli.core.evaluation.config import PredictConfig

    config = PredictConfig(
        images=tuple(asked.images),
        checkpoint=asked.checkpoint,
        batch=asked.batch,
        device=device.chosen_device(),
        top=output.top,
        explain=asked.explain,
        explain_out=output.explain_out,
    )
    from cifar_cli.core.evaluation.predict import predict as run
    from cifar_cli.core.evaluation.predict import save_csv, save_explanation
    from cifar_cli.render import console, evaluation_predictions
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        result = run(config, stdin=sys.stdin.buffer, on_progress=on_progress)
    for remark in evaluation_predictions.remarks(result):
        console.warn(remark)
    if output.as_json:
        console.print_json(result.to_dict(output.top))
    elif console.stdout().is_terminal and len(result.predictions) <= evaluation_predictions.MOST_PICTURES:
        console.show(evaluation_predictions.as_pictures(result, output.top))
    else:
        console.show(evaluation_predictions.as_table(result, output.top))
    if output.csv is not None:
        save_csv(result, output.csv)
    if asked.explain:
        save_explanation(result, output.explain_out)
        console.note(f"heat maps: {output.explain_out}")
    if result.problems:
        raise DataError(
            "; ".join(result.problems), remedy="replace or leave out what is named; the other images were classified"
        )
