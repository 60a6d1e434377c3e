"""`cifar train`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifar_cli.errors import ConfigError
from cifar_cli.options import (
    AcceleratorOpt,
    BackboneOpt,
    DataDirOpt,
    DatasetOpt,
    DebugOpt,
    JsonOpt,
    ModelOpt,
    PatchSizeOpt,
    PipelineOpt,
    SeedOpt,
    TrimBackboneOpt,
    WeightsOpt,
    given,
    parse_count,
    parse_duration,
    parse_seeds,
)

if TYPE_CHECKING:
    from cifar_cli.core.training.config import ResumeConfig
    from cifar_cli.core.workflow.config import TrainRequest


def _recipe_option(*names: str, metavar: str, help: str, of_the_recipe: bool = True) -> Any:
    """An option that overrides one part of the recipe."""
    ending = " (default: the recipe's)." if of_the_recipe else "."
    return typer.Option(*names, metavar=metavar, help=help + ending, rich_help_panel="Recipe")


RecipeOpt = Annotated[
    str,
    _recipe_option(
        "--recipe",
        metavar="course|fast|best",
        help="course: as the course defines it; fast: its accuracy in the least time; best: the most accuracy "
        "in 20 minutes. Every flag of this group overrides it",
        of_the_recipe=False,
    ),
]
RateOpt = Annotated[
    float | None,
    _recipe_option(
        "--lr",
        "--learning-rate",
        metavar="RATE",
        help="Highest learning rate (default: the recipe's; with course, 1e-3 for null and 1e-4 otherwise)",
        of_the_recipe=False,
    ),
]
BatchOrAutoOpt = Annotated[
    str | None,
    _recipe_option(
        "--batch",
        "--batch-size",
        "-b",
        metavar="N|auto",
        help="Images per step; auto looks for what this machine trains best with",
    ),
]
EpochsOpt = Annotated[int | None, _recipe_option("--max-epochs", metavar="N", help="Stop after so many epochs")]
TimeOpt = Annotated[
    str | None,
    _recipe_option("--max-time", metavar="HH:MM:SS", help="Stop in time, validation and test included"),
]
RecipeOptimizerOpt = Annotated[
    str | None, _recipe_option("--optimizer", metavar="adam|adamw|sgd|muon", help="Optimizer")
]
ScheduleOpt = Annotated[
    str | None,
    _recipe_option("--schedule", metavar="constant|one-cycle|triangular", help="How the learning rate changes"),
]
WarmupOpt = Annotated[
    float | None, _recipe_option("--warmup", metavar="SHARE", help="Share of the training in which it rises")
]
DecayOpt = Annotated[float | None, _recipe_option("--weight-decay", metavar="X", help="Of matrices and kernels")]
ClipOpt = Annotated[
    float | None,
    _recipe_option("--clip-norm", metavar="X", help="L2 norm to clip the gradient to; 0 for no clipping"),
]
SmoothingOpt = Annotated[
    float | None, _recipe_option("--label-smoothing", metavar="SHARE", help="Target spread over all classes")
]
AverageOpt = Annotated[
    float | None,
    _recipe_option(
        "--ema-decay", metavar="SHARE", help="Average the weights, keeping this share at each step; 0 for no average"
    ),
]
PolicyOpt = Annotated[
    str | None,
    _recipe_option("--policy", metavar="NAME", help="Augmentation: course, crop-flip, crop-flip-cutout, none"),
]
AugmentOpt = Annotated[
    Path | None, typer.Option("--augment", metavar="FILE", help="A policy saved with albumentations' A.save.")
]
SizeOpt = Annotated[
    int | None, typer.Option("--img-size", metavar="PIXELS", help="Resize images to this side (default: as stored).")
]
WorkersOpt = Annotated[int, typer.Option("--workers", metavar="N", help="Processes of the albumentations pipeline.")]
SeedsOpt = Annotated[
    str | None,
    typer.Option("--seeds", metavar="0,1,2", help="Train once with each seed; report mean and standard deviation."),
]
TrainPrecisionOpt = Annotated[
    str,
    typer.Option(
        "--precision", metavar="auto|32|bf16|16", help="auto takes what is fastest here and agrees with float32."
    ),
]
FormatOpt = Annotated[
    str,
    typer.Option(
        "--memory-format", metavar="auto|channels-last|contiguous|onednn", help="How images and kernels lie in memory."
    ),
]
CompileOpt = Annotated[bool, typer.Option("--compile/--no-compile", help="Compile the model with torch.compile first.")]
RunDirOpt = Annotated[
    Path | None, typer.Option("--run-dir", metavar="DIR", help="Where the run goes (default: runs/<time>-<model>).")
]
ResumeOpt = Annotated[
    Path | None,
    typer.Option("--resume", metavar="RUN_DIR", help="Continue an interrupted run; needs nothing else."),
]
ProfileOpt = Annotated[
    bool, typer.Option("--profile", help="Write a trace of ten steps, for TensorBoard and Perfetto.")
]
DevRunOpt = Annotated[
    bool, typer.Option("--fast-dev-run", help="One batch of train, val and test each, for debugging.")
]
VerboseOpt = Annotated[bool, typer.Option("--verbose", "-v", help="Say what was measured and chosen.")]


def train(
    model: ModelOpt = "null",
    learning_rate: RateOpt = None,
    batch: BatchOrAutoOpt = None,
    max_epochs: EpochsOpt = None,
    max_time: TimeOpt = None,
    dataset: DatasetOpt = "cifar10",
    data_dir: DataDirOpt = Path("data"),
    recipe: RecipeOpt = "course",
    optimizer: RecipeOptimizerOpt = None,
    schedule: ScheduleOpt = None,
    warmup: WarmupOpt = None,
    weight_decay: DecayOpt = None,
    clip_norm: ClipOpt = None,
    label_smoothing: SmoothingOpt = None,
    ema_decay: AverageOpt = None,
    policy: PolicyOpt = None,
    augment: AugmentOpt = None,
    weights: WeightsOpt = None,
    backbone: BackboneOpt = "efficientnet_b0",
    trim_backbone: TrimBackboneOpt = True,
    patch_size: PatchSizeOpt = 2,
    img_size: SizeOpt = None,
    pipeline: PipelineOpt = None,
    workers: WorkersOpt = 2,
    seed: SeedOpt = 42,
    seeds: SeedsOpt = None,
    accelerator: AcceleratorOpt = "auto",
    precision: TrainPrecisionOpt = "auto",
    memory_format: FormatOpt = "auto",
    compile: CompileOpt = False,
    run_dir: RunDirOpt = None,
    resume: ResumeOpt = None,
    profile: ProfileOpt = False,
    fast_dev_run: DevRunOpt = False,
    verbose: VerboseOpt = False,
    as_json: JsonOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Train a classifier, keep its best weights, score them on the test split."""
    began = time.monotonic()
    from cifar_cli.core.data.config import DataConfig
    from cifar_cli.core.models.config import ModelConfig
    from cifar_cli.core.training.config import ResumeConfig, TrainConfig
    from cifar_cli.core.training.recipe import recipe_of
    from cifar_cli.core.workflow.config import TrainRequest

    if resume is not None:
        _refuse(
            lr=learning_rate,
            batch=batch,
            max_epochs=max_epochs,
            max_time=max_time,
            optimizer=optimizer,
            schedule=schedule,
            warmup=warmup,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            label_smoothing=label_smoothing,
            ema_decay=ema_decay,
            policy=policy,
            augment=augment,
            img_size=img_size,
            weights=weights,
            seeds=seeds,
            run_dir=run_dir,
        )
        _train(ResumeConfig(run_dir=resume), began=began, as_json=as_json, verbose=verbose)
        return
    overrides = given(
        learning_rate=learning_rate,
        batch=None if batch in (None, "auto") else parse_count("--batch", batch, example=128),
        max_epochs=max_epochs,
        max_seconds=None if max_time is None else parse_duration("--max-time", max_time),
        optimizer=optimizer,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        policy=policy,
    )
    for name, value in (("ema_decay", ema_decay), ("clip_norm", clip_norm)):
        if value is not None:
            overrides[name] = value or None  # 0 switches it off
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
        pipeline=pipeline or ("batched" if augment is None else "albumentations"),  # type: ignore[arg-type]
        augment_file=augment,
        workers=workers,
        device=accelerator.replace("gpu", "cuda"),  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        memory_format=memory_format,  # type: ignore[arg-type]
        compile=compile,
        profile=profile,
        fast_dev_run=fast_dev_run,
        run_dir=run_dir,
    )
    request = TrainRequest(
        config=config,
        batch_auto=batch == "auto",
        keep_steps=max_epochs is None,
        seeds=() if seeds is None else parse_seeds("--seeds", seeds),
    )
    _train(request, began=began, as_json=as_json, verbose=verbose)


def _refuse(**options: Any) -> None:
    """Raises ConfigError for the first option that was given beside --resume."""
    for name in given(**options):
        raise ConfigError(
            f"--resume goes on as the run was begun and can't change --{name.replace('_', '-')}",
            remedy="leave it out, or start a new run",
        )


def _train(request: TrainRequest | ResumeConfig, *, began: float, as_json: bool, verbose: bool) -> None:
    """Begin a run, or continue the one in a directory, and show what it gave."""
    from cifar_cli.core.training.listeners import Listeners
    from cifar_cli.core.workflow.config import TrainRequest
    from cifar_cli.core.workflow.run import resume_and_report, train_and_report
    from cifar_cli.render import console, training_tables
    from cifar_cli.render.training_view import training_shown

    with training_shown() as view:
        listeners = Listeners(
            on_note=view.on_note,
            on_progress=view.on_progress,
            on_step=view.on_step,
            on_epoch=lambda epoch: view.on_note(training_tables.epoch_line(epoch)),
            on_numerics=lambda numerics: training_tables.say_numerics(numerics, verbose=verbose),
            began=began,
        )
        if isinstance(request, TrainRequest):
            report = train_and_report(request, listeners)
        else:
            report = resume_and_report(request, listeners)
    if as_json:
        console.print_json(report.to_dict())
        return
    console.show(*training_tables.training(report))
    last = report.results[-1].run_dir
    console.note(f"next: cifar evaluate {last}    tensorboard --logdir {last.parent}")
