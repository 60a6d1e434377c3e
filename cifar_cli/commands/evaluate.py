"""`cifar evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifar_cli.options import AcceleratorOpt, BatchOpt, DebugOpt, JsonOpt


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="RUN_DIR|CHECKPOINT", help="What `cifar train` wrote.")],
    batch: BatchOpt = 512,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME|PATH", help="(default: what the model was trained on)")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", metavar="DIR", help="(default: where it was trained from)")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.png", help="The confusion matrix (default: in the run directory)."),
    ] = None,
    accelerator: AcceleratorOpt = "auto",
    as_json: JsonOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Score a checkpoint on the test split; draw its confusion matrix."""
    from cifar_cli.core.evaluation.config import EvaluateConfig

    config = EvaluateConfig(
        checkpoint=checkpoint,
        dataset=dataset,
        data_dir=data_dir,
        batch=batch,
        device="cuda" if accelerator == "gpu" else accelerator,  # type: ignore[arg-type]
        out=out,
    )
    from cifar_cli.core.evaluation.evaluate import evaluate as run
    from cifar_cli.render import console, tables
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        result = run(config, on_progress=on_progress)
    if as_json:
        console.print_json(result.to_dict())
    else:
        console.show(tables.evaluation(result))
