"""`cifar evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from cifar_cli import completion
from cifar_cli.command import command, option_group, typed
from cifar_cli.core.evaluation.config import SplitName
from cifar_cli.errors import ResourceError
from cifar_cli.options import DATA_DIR, DATASET, BatchOpt, DeviceOptions, OutputOptions


@option_group("Data")
class CheckpointOptions:
    """The checkpoints and the images to score them on."""

    checkpoints: Annotated[
        list[Path],
        Argument(metavar="RUN_DIR|CHECKPOINT", rich_help_panel="Model", autocompletion=completion.run_paths),
    ]
    """Score the best weights of this run directory, or the weights of this checkpoint file. Several are compared."""
    split: SplitName = "test"
    """Score the test images, the validation images, or the other training images."""
    dataset: Annotated[str | None, DATASET(show_default="the one that the model was trained on")] = None
    data_dir: Annotated[Path | None, DATA_DIR(show_default="the one that it was trained from")] = None
    batch: BatchOpt = 512
    views: Annotated[bool, Option("--views")] = False
    """Score each image also by the mean over its mirror image and translations by one pixel (test-time augmentation).
    """
    corruptions: Annotated[bool, Option("--corruptions")] = False
    """Score the images with noise, blur, brightness, contrast and JPEG artefacts at five severities as well."""

    def configs(self, **given: Any) -> list[Any]:
        """One config for each checkpoint. Raises ConfigError for a bad value."""
        from cifar_cli.core.evaluation.config import EvaluateConfig

        values = vars(self) | given
        return [EvaluateConfig(checkpoint=path, **values) for path in values.pop("checkpoints")]


@option_group("Output")
class EvaluateOutput(OutputOptions):
    """Files and output."""

    out: Annotated[Path | None, Option(metavar="DIR", show_default="evaluation/ in the run directory")] = None
    """Write predictions, suspects and pictures into this folder."""


@command(
    examples=(
        ("Score the best weights of a run.", "cifar evaluate runs/20261124-093000-null"),
        ("Score the last checkpoint on the validation images, as JSON.",
         "cifar evaluate RUN_DIR/checkpoints/last.ckpt --split val --json"),
        ("Compare two runs, on corrupted images as well.", "cifar evaluate runs/null runs/cnn --corruptions"),
    )
)  # fmt: skip
def evaluate(ctx: typer.Context, asked: CheckpointOptions, device: DeviceOptions, output: EvaluateOutput) -> None:
    """Score checkpoints, and show which images they get wrong."""
    # CIFAR_DATA_DIR is where new runs find their datasets; a run that is there knows its own.
    named: dict[str, Any] = {} if asked.dataset or "data_dir" in typed(ctx) else {"data_dir": None}
    configs = asked.configs(device=device.chosen_device(), out=output.out, **named)
    from cifar_cli.core.evaluation.evaluate import evaluate_several
    from cifar_cli.render import console, evaluation_tables
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        report = evaluate_several(configs, on_progress=on_progress)
    if output.as_json:
        console.print_json(report.to_dict())
    elif len(report.evaluations) == 1:
        console.show(evaluation_tables.evaluation(report.evaluations[0]))
    else:
        console.show(evaluation_tables.comparison(report))
    if output.out is not None and report.files_problem is not None:
        raise ResourceError(report.files_problem, remedy="pass --out DIR for a folder you may write to")
