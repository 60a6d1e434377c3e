"""`cifar train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_cli.options import (
    AcceleratorOpt,
    BackboneOpt,
    DataDirOpt,
    DatasetOpt,
    DebugOpt,
    JsonOpt,
    ModelOpt,
    PatchSizeOpt,
    SeedOpt,
    TrimBackboneOpt,
    WeightsOpt,
    given,
    parse_duration,
)

if TYPE_CHECKING:
    from cifar_cli.core.training.config import TrainConfig

RECIPE_HELP = "(default: the recipe's)"


def train(
    model: ModelOpt = "null",
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--lr", "--learning-rate", metavar="RATE", help="Learning rate (default: 1e-3 for null, 1e-4 otherwise)."
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", "--batch-size", "-b", metavar="N", help=f"Images per step {RECIPE_HELP}.")
    ] = None,
    max_epochs: Annotated[
        int | None, typer.Option("--max-epochs", metavar="N", help=f"Stop after so many epochs {RECIPE_HELP}.")
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(
            "--max-time", metavar="HH:MM:SS", help=f"Stop in time, validation and test included {RECIPE_HELP}."
        ),
    ] = None,
    dataset: DatasetOpt = "cifar10",
    data_dir: DataDirOpt = Path("data"),
    recipe: Annotated[str, typer.Option("--recipe", metavar="NAME", help="course.")] = "course",
    weights: WeightsOpt = None,
    backbone: BackboneOpt = "efficientnet_b0",
    trim_backbone: TrimBackboneOpt = False,
    patch_size: PatchSizeOpt = 2,
    img_size: Annotated[
        int | None,
        typer.Option("--img-size", metavar="PIXELS", help="Resize images to this side (default: as stored)."),
    ] = None,
    pipeline: Annotated[
        str | None,
        typer.Option(
            "--pipeline",
            metavar="batched|albumentations",
            help="Who carries the augmentation out (default: batched, or albumentations with --augment).",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="NAME", help=f"Augmentation: course, crop-flip, none {RECIPE_HELP}."),
    ] = None,
    augment: Annotated[
        Path | None, typer.Option("--augment", metavar="FILE", help="A policy saved with albumentations' A.save.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", help="Processes of the albumentations pipeline.")
    ] = 2,
    seed: SeedOpt = 42,
    accelerator: AcceleratorOpt = "auto",
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", metavar="DIR", help="Where the run goes (default: runs/<time>-<model>).")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN_DIR", help="Continue an interrupted run; needs nothing else."),
    ] = None,
    fast_dev_run: Annotated[
        bool, typer.Option("--fast-dev-run", help="One batch of train, val and test each, for debugging.")
    ] = False,
    as_json: JsonOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Train a classifier, keep its best weights, score them on the test split."""
    from cifar_cli.core.data.config import DataConfig
    from cifar_cli.core.models.config import ModelConfig
    from cifar_cli.core.training.config import TrainConfig
    from cifar_cli.core.training.recipe import recipe_of

    if resume is not None:
        _train(resume, as_json=as_json)
        return
    overrides = given(learning_rate=learning_rate, batch=batch, max_epochs=max_epochs, policy=policy)
    if max_time is not None:
        overrides["max_seconds"] = parse_duration("--max-time", max_time)
    config = TrainConfig(
        model=ModelConfig(
            name=model,
            img_size=32 if img_size is None else img_size,
            backbone=backbone,
            weights=weights,
            trim_backbone=trim_backbone,
            patch_size=patch_size,
        ),
        data=DataConfig(dataset=dataset, data_dir=data_dir),
        recipe=replace(recipe_of(recipe), **overrides),
        img_size=img_size,
        seed=seed,
        pipeline=pipeline or ("batched" if augment is None else "albumentations"),
        augment_file=augment,
        workers=workers,
        accelerator=accelerator,
        fast_dev_run=fast_dev_run,
        run_dir=run_dir,
    )
    _train(config, as_json=as_json)


def _train(wanted: TrainConfig | Path, *, as_json: bool) -> None:
    """Begin a run, or continue the one in a directory, and show what it gave."""
    from cifar_cli.core.training import trainer
    from cifar_cli.render import console, tables
    from cifar_cli.render.progress import progress_shown

    run = trainer.resume if isinstance(wanted, Path) else trainer.train
    with progress_shown() as on_progress:
        listeners = trainer.Listeners(
            on_note=console.note,
            on_progress=on_progress,
            on_epoch=lambda epoch: console.note(tables.epoch_line(epoch)),
        )
        result = run(wanted, listeners)  # type: ignore[arg-type]
    if as_json:
        console.print_json(result.to_dict())
    else:
        console.show(tables.training(result))
        console.note(f"next: cifar evaluate {result.run_dir}    tensorboard --logdir {result.run_dir.parent}")
