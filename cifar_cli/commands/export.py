"""`cifar export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cifar_cli import completion
from cifar_cli.command import command, option_group
from cifar_cli.core.evaluation.config import ExportFormat
from cifar_cli.options import OutputOptions


@option_group("Model")
class ExportOptions:
    """What is exported."""

    checkpoint: Annotated[Path, Argument(metavar="RUN_DIR|CHECKPOINT", autocompletion=completion.run_paths)]
    """Export the best weights of this run directory, or the weights of this checkpoint file."""
    format: ExportFormat = "onnx"
    """Write an ONNX graph, a program of torch.export, or the weights only."""
    with_preprocessing: Annotated[bool, Option("--with-preprocessing")] = False
    """Take uint8 images, and normalise them inside the graph."""
    half: Annotated[bool, Option("--half")] = False
    """Export in float16."""
    verify: Annotated[bool, Option("--verify/--no-verify")] = True
    """Compare the logits of the file with the model's."""


@option_group("Output")
class ExportOutput(OutputOptions):
    """Files and output."""

    out: Annotated[Path | None, Option(metavar="FILE", show_default="CHECKPOINT-export.* beside the checkpoint")] = None
    """Write this file."""


@command(
    examples=(
        ("Write an ONNX file that takes uint8 images.", "cifar export RUN_DIR --with-preprocessing --out model.onnx"),
        ("Write the weights only.", "cifar export RUN_DIR --format safetensors"),
    )
)
def export(asked: ExportOptions, output: ExportOutput) -> None:
    """Write a trained model for other programs."""
    from cifar_cli.core.evaluation.config import ExportConfig

    config = ExportConfig(out=output.out, **vars(asked))
    from cifar_cli.core.evaluation.export import export as run
    from cifar_cli.render import console, evaluation_tables

    result = run(config)
    if output.as_json:
        console.print_json(result.to_dict())
    else:
        console.show(evaluation_tables.exported(result))
