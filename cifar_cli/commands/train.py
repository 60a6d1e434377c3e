"""`cifar train`."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cifar_cli.command import command, refuse_both, typed
from cifar_cli.commands.first_use import import_on_first_use, say_if_changed
from cifar_cli.commands.recipe_options import RecipeOptions
from cifar_cli.commands.train_options import (
    AugmentationOptions,
    NumericsOptions,
    ProcessOptions,
    RunOptions,
    TrainData,
    TrainedModel,
    TrainOutput,
)
from cifar_cli.commands.train_settings import ConfigOptions
from cifar_cli.core.own_code import trust
from cifar_cli.core.training.launch import place_of, silence_all_but_rank_0
from cifar_cli.core.training.loggers import require_loggers
from cifar_cli.errors import UsageError, shell_line
from cifar_cli.options import DeviceOptions, chosen_pipeline, refuse_foreign_parts

if TYPE_CHECKING:
    from cifar_cli.core.training.config import ResumeConfig, TrainConfig
    from cifar_cli.core.training.settings import Settings
    from cifar_cli.core.workflow.config import TrainRequest

TAKEN_BESIDE_RESUME = frozenset(
    {
        "resume",
        "data_dir",
        "max_epochs",
        "max_seconds",
        "patience",
        "devices",
        "num_nodes",
        "as_json",
        "quiet",
        "verbose",
        "debug",
        "requeue",
        "loggers",
    }
)


@command(
    examples=(
        ("Train the baseline with the recipe course.", "cifar train --model null"),
        (
            "Fine-tune on photographs in a folder for each class.",
            "cifar train --dataset photos/ --recipe finetune",
        ),
        ("Train for the highest accuracy, once with each of three seeds.", "cifar train --recipe best --seeds 0,1,2"),
        ("Continue a run that was interrupted.", "cifar train --resume runs/20261124-093000-null"),
        ("Repeat a run with another seed.", "cifar train --config runs/20261124-093000-null/config.yaml --seed 7"),
    )
)
def train(
    ctx: typer.Context,
    model: TrainedModel,
    recipe: RecipeOptions,
    augmentation: AugmentationOptions,
    data: TrainData,
    device: DeviceOptions,
    numerics: NumericsOptions,
    processes: ProcessOptions,
    run: RunOptions,
    config: ConfigOptions,
    output: TrainOutput,
) -> None:
    """Train a classifier, keep the weights with the best validation accuracy, and score them on the test split."""
    began = time.monotonic()
    silence_all_but_rank_0()
    require_loggers(run.loggers or ())
    if run.resume is not None:
        _train(_resume_config(run.resume, recipe, data, processes, typed(ctx)), began=began, run=run, output=output)
        return
    if run.requeue:
        refuse_both(ctx, "requeue", "seeds")
    if run.requeue and (continued := _requeued(run.directory(), model.model)):
        _train(continued, began=began, run=run, output=output)
        return
    data, source = _named(data)
    settings = settings_of(ctx, model, recipe, augmentation, data, device, numerics, processes, run, config)
    chosen = settings.config()
    refuse_foreign_parts(ctx, [chosen.model.name])
    if config.print_config:
        if recipe.batch == "auto":
            raise UsageError("--print-config can't know what --batch auto will find", remedy="pass --batch N")
        refuse_both(ctx, "print_config", "seeds")
        _print_settings(settings, as_json=output.as_json)
        return
    if source is not None and place_of(os.environ).local_rank == 0:  # the others of this machine wait for it
        import_on_first_use(source, chosen.data)
    say_if_changed(chosen.data)
    if place_of(os.environ).local_rank == 0:
        _refuse_idle_workers(ctx, chosen)
    from cifar_cli.core.workflow.config import TrainRequest

    request = TrainRequest(
        config=chosen,
        batch_auto=recipe.batch == "auto",
        keep_steps=not settings.is_chosen("recipe.max_epochs"),
        seeds=run.seeds or (),
        model_chosen=settings.origins["model.name"] != "default",
    )
    _train(request, began=began, run=run, output=output)


def check_settings(**groups: Any) -> None:
    """Raise what `train` raises for settings that can't be used. It takes the same option groups."""
    del groups["output"]
    groups["data"], source = _named(groups["data"])
    chosen = settings_of(**groups).config()
    refuse_foreign_parts(groups["ctx"], [chosen.model.name])
    require_loggers(groups["run"].loggers or ())
    if source is None:
        _refuse_idle_workers(groups["ctx"], chosen)


check_settings.__signature__ = train.declared  # type: ignore[attr-defined]


def _named(data: TrainData) -> tuple[TrainData, Path | None]:
    """The dataset by its name, and the folder or archive that the user named in its place."""
    from cifar_cli.core.data.first_use import dataset_of, source_of

    source = source_of(data.dataset, data.data_dir)
    if source is None:
        return data, None
    return replace(data, dataset=dataset_of(source, data.data_dir).dataset), source


def settings_of(
    ctx: typer.Context,
    model: TrainedModel,
    recipe: RecipeOptions,
    augmentation: AugmentationOptions,
    data: TrainData,
    device: DeviceOptions,
    numerics: NumericsOptions,
    processes: ProcessOptions,
    run: RunOptions,
    config: ConfigOptions,
) -> Settings:
    """The settings of a new run. Raises UsageError for options that contradict each other."""
    refuse_both(ctx, "seed", "seeds")
    refuse_both(ctx, "policy", "augment_file")
    refuse_both(ctx, "run_dir", "name")
    return config.settings(
        ctx,
        recipe,
        model=model.values(),
        data=vars(data),
        img_size=model.img_size,
        seed=run.seed,
        pipeline=chosen_pipeline(augmentation.pipeline, augmentation.augment_file),
        augment_file=augmentation.augment_file,
        workers=augmentation.workers,
        device=device.chosen_device(),
        pictures=run.pictures,
        profile=run.profile,
        fast_dev_run=run.fast_dev_run,
        run_dir=run.directory(),
        checkpoint_seconds=run.checkpoint_seconds,
        **vars(numerics),
        **vars(processes),
    )


def _refuse_idle_workers(ctx: typer.Context, config: TrainConfig) -> None:
    """Raise UsageError for --workers where no processes make the batches, as they do of image files."""
    if "workers" not in typed(ctx) or config.pipeline == "albumentations":
        return
    from cifar_cli.core.data.store import read_header

    store = config.data.store_path
    if not (store.is_file() and read_header(store).summary.encoded):
        raise UsageError(
            f"{typed(ctx)['workers']} applies to image files and to the albumentations pipeline only",
            remedy="leave it out, or pass --pipeline albumentations",
        )


def _print_settings(settings: Settings, *, as_json: bool) -> None:
    from cifar_cli.render import console
    from cifar_cli.render.settings_yaml import settings_yaml

    if as_json:
        console.print_json(settings.to_dict())
    else:
        console.print_text(settings_yaml(settings))


def _resume_config(
    run_dir: Path, recipe: RecipeOptions, data: TrainData, processes: ProcessOptions, typed: dict[str, str]
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
        patience=recipe.patience,
        devices=processes.devices if "devices" in typed else None,
        num_nodes=processes.num_nodes if "num_nodes" in typed else None,
    )


def _requeued(run_dir: Path | None, model: str) -> ResumeConfig | None:
    """The run that this command began before SLURM started it again; None for its first start.

    model: as the user names it in this command, which is to trust its file. Raises UsageError without a run directory,
    where it couldn't be found again.
    """
    from cifar_cli.core.training.config import ResumeConfig
    from cifar_cli.core.training.run_dir import RunDir

    if run_dir is None:
        raise UsageError("--requeue continues the run in --run-dir, and none is given", remedy="pass --run-dir DIR")
    restarted = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    if not restarted or not RunDir(run_dir).saved:
        return None
    trust(model)
    return ResumeConfig(run_dir=run_dir)


def _train(request: TrainRequest | ResumeConfig, *, began: float, run: RunOptions, output: TrainOutput) -> None:
    """Train, show progress on the way, and print the report."""
    from cifar_cli.core.training.config import ResumeConfig
    from cifar_cli.core.training.launch import requeued_on_time_limit
    from cifar_cli.core.training.listeners import Listeners
    from cifar_cli.core.workflow.run import resume_and_report, train_and_report
    from cifar_cli.render import console, training_tables
    from cifar_cli.render.training_view import training_shown

    tries_a_command = not isinstance(request, ResumeConfig) and request.config.fast_dev_run
    with requeued_on_time_limit(run.requeue), training_shown() as view:
        listeners = Listeners(
            on_note=view.on_note,
            on_progress=view.on_progress,
            on_step=view.on_step,
            on_epoch=lambda epoch: view.on_epoch(epoch, fast_dev_run=tries_a_command),
            on_numerics=lambda numerics: training_tables.say_numerics(numerics, verbose=output.verbose),
            loggers=require_loggers(run.loggers or ()),
            began=began,
        )
        if isinstance(request, ResumeConfig):
            report = resume_and_report(request, listeners)
        else:
            report = train_and_report(request, listeners)
    if output.as_json:
        console.print_json(report.to_dict())
    else:
        console.show(*training_tables.training(report))
    if run.report:
        from cifar_cli.core.evaluation.report.report import report_after_training

        report_after_training(report.results, console.note)
    if output.as_json or report.results[-1].fast_dev_run:  # a run of one batch holds nothing to look at
        return
    last = report.results[-1].run_dir
    for line in (
        "next:",
        "  " + shell_line("cifar evaluate", last),
        "  " + shell_line("tensorboard --logdir", last.parent),
    ):
        console.note(line)
