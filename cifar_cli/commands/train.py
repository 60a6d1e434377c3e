"""`cifar train`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cifar_cli import parsers
from cifar_cli.command import command, typed
from cifar_cli.commands.recipe_options import RecipeOptions
from cifar_cli.core.choices import MemoryFormatChoice, PrecisionChoice, StrategyChoice
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.launch import silence_all_but_rank_0
from cifar_cli.errors import UsageError
from cifar_cli.options import (
    MEMORY_FORMAT,
    PRECISION,
    SEED,
    ArchitectureOptions,
    AugmentOpt,
    DataOptions,
    DeviceOptions,
    OutputOptions,
    PipelineOpt,
    TrimBackboneOpt,
    adapted,
    augmentation_option,
    hardware_option,
    model_option,
    output_option,
)

if TYPE_CHECKING:
    from cifar_cli.core.training.config import ResumeConfig
    from cifar_cli.core.workflow.config import TrainRequest

TAKEN_BESIDE_RESUME = frozenset(
    {"resume", "data_dir", "max_epochs", "max_seconds", "devices", "num_nodes", "as_json", "verbose", "debug"}
)

run_option = partial(typer.Option, rich_help_panel="Run")


@dataclass(frozen=True, kw_only=True)
class TrainedModel(ArchitectureOptions):
    """The model to train."""

    model: Annotated[
        str,
        model_option(
            "--model",
            "-m",
            metavar="NAME",
            help="Train this model: null, cnn, hybrid, or any timm classifier as timm:NAME.",
        ),
    ] = "null"
    weights: Annotated[
        str | None,
        model_option(
            "--weights",
            metavar="NAME|PATH",
            show_default="imagenet; none for null",
            help="Start from these weights: imagenet, none (random weights), bundled (an installed package, for cnn) "
            "or the path of a checkpoint.",
        ),
    ] = None
    trim_backbone: TrimBackboneOpt = True
    img_size: Annotated[
        int | None,
        model_option(
            "--img-size",
            metavar="PIXELS",
            show_default="the dataset's",
            help="Resize the images to squares with this many pixels a side.",
        ),
    ] = None

    def config(self) -> ModelConfig:
        """The model before its dataset is known. Raises ModelError and ConfigError."""
        return ModelConfig(
            name=self.model,
            img_size=32 if self.img_size is None else self.img_size,
            backbone=self.backbone,
            weights=self.weights,
            trim_backbone=self.trim_backbone,
            patch_size=self.patch_size,
        )


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions:
    """How training images are augmented."""

    augment: AugmentOpt = None
    pipeline: PipelineOpt = None
    workers: Annotated[
        int, augmentation_option("--workers", help="Run the albumentations pipeline in this many processes.")
    ] = 2


@dataclass(frozen=True, kw_only=True)
class NumericsOptions:
    """How numbers are computed and stored on the device."""

    precision: Annotated[
        PrecisionChoice, adapted(PRECISION, default="auto, the fastest whose loss agrees with float32")
    ] = "auto"
    memory_format: Annotated[
        MemoryFormatChoice, adapted(MEMORY_FORMAT, default="auto, the fastest on this machine")
    ] = "auto"
    compile: Annotated[
        bool, hardware_option("--compile/--no-compile", help="Compile the model with torch.compile.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """The processes that train together, one on each device."""

    devices: Annotated[
        int | Literal["auto"],
        hardware_option(
            "--devices",
            metavar="N|auto",
            parser=parsers.integer_or_auto,
            help="Train on this many devices of each machine, with one process on each; auto takes all GPUs. They "
            "share each batch of --batch images. torchrun and srun set the number themselves.",
        ),
    ] = 1
    num_nodes: Annotated[
        int, hardware_option("--num-nodes", help="Train on this many machines; torchrun or srun starts the processes.")
    ] = 1
    strategy: Annotated[
        StrategyChoice,
        hardware_option(
            "--strategy",
            help="Share a training step between devices in this way: ddp keeps all weights on each device and "
            "averages the gradients; auto takes ddp.",
        ),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The run: its directory, its seeds, what it writes."""

    run_dir: Annotated[
        Path | None,
        run_option("--run-dir", metavar="DIR", show_default="runs/TIME-MODEL", help="Write the run to this directory."),
    ] = None
    resume: Annotated[
        Path | None,
        run_option(
            "--resume",
            metavar="RUN_DIR",
            help="Continue an interrupted run with its own settings. Only --data-dir, --max-epochs, --max-time, "
            "--devices, --num-nodes and the output options can be passed beside it.",
        ),
    ] = None
    seed: Annotated[int, adapted(SEED, panel="Run")] = 42
    seeds: Annotated[
        tuple[int, ...] | None,
        run_option(
            "--seeds",
            metavar="0,1,2",
            parser=parsers.seeds,
            help="Train once with each of these seeds and report mean and standard deviation.",
        ),
    ] = None
    profile: Annotated[
        bool, run_option("--profile", help="Write a trace of ten steps for TensorBoard and Perfetto.")
    ] = False
    fast_dev_run: Annotated[
        bool,
        run_option("--fast-dev-run", help="Run one batch each of training, validation and test, to try a command."),
    ] = False


@dataclass(frozen=True, kw_only=True)
class TrainOutput(OutputOptions):
    """What is printed."""

    verbose: Annotated[
        bool, output_option("--verbose", "-v", help="Show the measured speed of each precision and memory format.")
    ] = False


@command(
    examples=(
        ("Train the baseline by the recipe course.", "cifar train --model null"),
        ("Fine-tune EfficientNet-B0 for at most five epochs.", "cifar train --model cnn --max-epochs 5"),
        ("Train for the highest accuracy, once with each of three seeds.", "cifar train --recipe best --seeds 0,1,2"),
        ("Continue a run that was interrupted.", "cifar train --resume runs/20261124-093000-null"),
    )
)
def train(
    ctx: typer.Context,
    model: TrainedModel,
    recipe: RecipeOptions,
    augmentation: AugmentationOptions,
    data: DataOptions,
    device: DeviceOptions,
    numerics: NumericsOptions,
    processes: ProcessOptions,
    run: RunOptions,
    output: TrainOutput,
) -> None:
    """Train a classifier, keep the weights with the best validation accuracy, and score them on the test split."""
    began = time.monotonic()
    silence_all_but_rank_0()
    if run.resume is None:
        request: TrainRequest | ResumeConfig = _request(
            model, recipe, augmentation, data, device, numerics, processes, run
        )
    else:
        request = _resume_config(run.resume, recipe, data, processes, typed(ctx))
    _train(request, began=began, output=output)


def _request(
    model: TrainedModel,
    recipe: RecipeOptions,
    augmentation: AugmentationOptions,
    data: DataOptions,
    device: DeviceOptions,
    numerics: NumericsOptions,
    processes: ProcessOptions,
    run: RunOptions,
) -> TrainRequest:
    """The run to begin. Raises ConfigError for a value that is out of range."""
    from cifar_cli.core.training.config import TrainConfig
    from cifar_cli.core.workflow.config import TrainRequest

    config = TrainConfig(
        model=model.config(),
        data=data.config(),
        recipe=recipe.chosen(),
        img_size=model.img_size,
        seed=run.seed,
        pipeline=augmentation.pipeline or ("batched" if augmentation.augment is None else "albumentations"),
        augment_file=augmentation.augment,
        workers=augmentation.workers,
        device=device.chosen_device(),
        devices=processes.devices,
        num_nodes=processes.num_nodes,
        strategy=processes.strategy,
        precision=numerics.precision,
        memory_format=numerics.memory_format,
        compile=numerics.compile,
        profile=run.profile,
        fast_dev_run=run.fast_dev_run,
        run_dir=run.run_dir,
    )
    keep_steps = recipe.max_epochs is None
    return TrainRequest(config=config, batch_auto=recipe.batch == "auto", keep_steps=keep_steps, seeds=run.seeds or ())


def _resume_config(
    run_dir: Path, recipe: RecipeOptions, data: DataOptions, processes: ProcessOptions, typed: dict[str, str]
) -> ResumeConfig:
    """The run to continue. Raises UsageError for an option that can't change it. typed: what the user passed."""
    from cifar_cli.core.training.config import ResumeConfig

    for name, flag in typed.items():
        if name not in TAKEN_BESIDE_RESUME:
            raise UsageError(
                f"--resume continues a run with its own settings and can't change {flag}",
                remedy="leave it out, or start a new run",
            )
    return ResumeConfig(
        run_dir=run_dir,
        data_dir=data.data_dir if "data_dir" in typed else None,
        max_epochs=recipe.max_epochs,
        max_seconds=recipe.max_seconds,
        devices=processes.devices if "devices" in typed else None,
        num_nodes=processes.num_nodes if "num_nodes" in typed else None,
    )


def _train(request: TrainRequest | ResumeConfig, *, began: float, output: TrainOutput) -> None:
    """Train, show progress on the way, and print the report."""
    from cifar_cli.core.training.config import ResumeConfig
    from cifar_cli.core.training.listeners import Listeners
    from cifar_cli.core.workflow.run import resume_and_report, train_and_report
    from cifar_cli.render import console, training_tables
    from cifar_cli.render.training_view import training_shown

    with training_shown() as view:
        listeners = Listeners(
            on_note=view.on_note,
            on_progress=view.on_progress,
            on_step=view.on_step,
            on_epoch=lambda epoch: view.on_note(training_tables.epoch_line(epoch)),
            on_numerics=lambda numerics: training_tables.say_numerics(numerics, verbose=output.verbose),
            began=began,
        )
        if isinstance(request, ResumeConfig):
            report = resume_and_report(request, listeners)
        else:
            report = train_and_report(request, listeners)
    if output.as_json:
        console.print_json(report.to_dict())
        return
    console.show(*training_tables.training(report))
    last = report.results[-1].run_dir
    console.note(f"next: cifar evaluate {last}    tensorboard --logdir {last.parent}")
