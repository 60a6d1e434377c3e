"""`cifar profile-memory`: memory of a training step, and the largest batch size that fits."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from cifar_cli import completion, parsers
from cifar_cli.command import command, option_group, refuse_beside, refuse_both, refuse_without
from cifar_cli.commands.recipe_options import OVERRIDES
from cifar_cli.core.choices import Freeze, MemoryFormat, OptimizerName, PrecisionChoice, StrategyChoice
from cifar_cli.core.memory.config import MemoryConfig, MemoryRequest, Risk
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.errors import UsageError
from cifar_cli.options import (
    BATCH,
    DEFAULT_BATCH,
    MEMORY_FORMAT,
    PRECISION,
    DeviceOptions,
    ModelNames,
    NamedModels,
    OutputOptions,
    TrimBackboneOpt,
    refuse_foreign_parts,
)

if TYPE_CHECKING:
    from cifar_cli.core.memory.results import MemoryReport


@option_group("Model")
class ProfiledModels(NamedModels):
    """The models to profile; all three unless others are named."""

    model: ModelNames = field(default_factory=lambda: ["null", "cnn", "hybrid"])
    img_size: Annotated[tuple[int, int], Option(metavar="PIXELS", parser=parsers.sides, show_default="32")] = (32, 32)
    """Use images with this many pixels a side; 224x320 has 224 rows and 320 columns."""
    trim_backbone: TrimBackboneOpt = True

    def configs(self) -> tuple[ModelConfig, ...]:
        """One config for each model. Raises ModelError for an unknown name."""
        height, width = self.img_size
        sizes = {"img_size": height} | ({} if width == height else {"img_width": width})
        return tuple(self.model_config(name, classes=self.classes, weights="none", **sizes) for name in self.names())


@option_group("Step")
class StepOptions:
    """The step to profile."""

    batch: Annotated[list[int], BATCH()] = field(default_factory=lambda: [DEFAULT_BATCH])
    """Use batches of this many images. Repeat the option to compare several sizes."""
    evaluate: Annotated[bool, Option("--eval")] = False
    """Profile a forward pass without gradients, as evaluation runs it, in place of a training step."""
    optimizer: OptimizerName = "adam"
    """Update the weights with this optimizer."""
    freeze: Annotated[Freeze, OVERRIDES["freeze"]] = "none"
    ema_decay: Annotated[float | None, OVERRIDES["ema_decay"]] = None
    accumulate: int = 1
    """Compute the gradients of a batch in this many parts, one after the other, before the weights change."""
    grad_checkpointing: bool = False
    """Compute the activations of each block again in the backward pass, in place of keeping them; for cnn and
    timm:NAME.
    """


@option_group("Hardware")
class HardwareOptions(DeviceOptions):
    """The device, the numbers it computes in, and how many there are."""

    precision: Annotated[PrecisionChoice, PRECISION(show_default="auto, what training probably chooses")] = "auto"
    memory_format: Annotated[MemoryFormat | None, MEMORY_FORMAT(show_default="contiguous")] = None
    channels_last: Annotated[bool | None, Option("--channels-last/--contiguous", hidden=True)] = None
    """Store images in this memory format (use --memory-format)."""
    compile: Annotated[bool, Option("--compile/--no-compile")] = False
    """Compile the model with torch.compile. Only --measure sees what that changes."""
    devices: int = 1
    """Share each batch between this many GPUs, and show the memory of one of them."""
    strategy: StrategyChoice = "auto"
    """Share a training step between GPUs in this way: ddp keeps all weights on each and averages the gradients; fsdp
    keeps a part of the weights, gradients and optimizer states on each; auto takes ddp.
    """

    def chosen_format(self) -> MemoryFormat:
        """The value of --memory-format, or of its older spellings --channels-last and --contiguous.

        Raises UsageError when the two contradict each other.
        """
        if self.channels_last is None:
            return self.memory_format or "contiguous"
        older: MemoryFormat = "channels-last" if self.channels_last else "contiguous"
        if self.memory_format not in (None, older):
            raise UsageError(
                f"--{older} contradicts --memory-format {self.memory_format}",
                remedy=f"pass only --memory-format {self.memory_format}",
            )
        return older


@option_group("Memory")
class SearchOptions:
    """The memory to search or to estimate for, and how."""

    what_would_help: bool = False
    """If a batch doesn't fit, rank the options that save memory, each computed with its own trace."""
    find_max_batch: bool = False
    """Find the largest batch size that fits, with real steps if there is a GPU."""
    gpu: Annotated[list[str] | None, Option(metavar="NAME", autocompletion=completion.gpus)] = None
    """Estimate for this card, such as RTX 3090; `cifar gpus` lists them. Repeat the option to compare several."""
    memory_bytes: Annotated[int | None, Option("--memory", metavar="SIZE", parser=parsers.byte_count)] = None
    """Estimate for this much memory, such as 24GiB or 8000MB. With --measure, use at most this much."""
    risk: Risk = "safe"
    """Predict so that the batch runs although some memory can't be derived; even allows for half as much."""
    margin: Annotated[float, Option(metavar="SHARE", parser=parsers.margin, show_default="0%")] = 0.0
    """Leave this share of the memory free, such as 5%."""
    multiple_of: int = 1
    """Try only multiples of this number."""
    estimate: bool = False
    """Predict the memory and run nothing."""
    measure: bool = False
    """Run real steps and measure their memory."""


@command(
    examples=(
        ("Predict the peak memory of one training step of each model.", "cifar profile-memory"),
        ("Ask whether a batch fits.", 'cifar profile-memory -m cnn -b 256 --gpu T4 --gpu "RTX 3090"'),
        (
            "Ask what would make a batch fit.",
            "cifar profile-memory -m cnn -b 20000 --gpu T4 --what-would-help",
        ),
        ("Find the largest batch for a card.", 'cifar profile-memory -m cnn --find-max-batch --gpu "RTX 3090"'),
        (
            "Run the search on this machine's CPU.",
            "cifar profile-memory -m null --measure --device cpu --find-max-batch",
        ),
    )
)
def profile_memory(
    ctx: typer.Context,
    models: ProfiledModels,
    step: StepOptions,
    hardware: HardwareOptions,
    search: SearchOptions,
    output: OutputOptions,
) -> None:
    """Show how much memory a training step takes and which batch size fits, with or without a GPU."""
    refuse_both(ctx, "estimate", "measure")
    refuse_both(ctx, "gpu", "memory_bytes")
    refuse_both(ctx, "batch", "find_max_batch")
    refuse_without(ctx, "multiple_of", "find_max_batch")
    refuse_without(ctx, "strategy", "devices")
    refuse_beside(ctx, "evaluate", ("optimizer", "strategy"), "is a forward pass")
    refuse_without(ctx, "margin", "find_max_batch", "gpu", "memory_bytes")
    if hardware.devices == 1 and hardware.strategy != "auto":
        raise UsageError("--strategy has no effect with --devices 1", remedy="leave it out, or pass more --devices")
    if search.measure and hardware.chosen_device() == "cpu":
        refuse_beside(ctx, "measure", ("risk",), "runs on the CPU, where nothing is allowed for")
    refuse_foreign_parts(ctx, models.names())
    request = _request(models, step, hardware, search)
    from cifar_cli.core.memory.profile import profile
    from cifar_cli.render import console, memory_tables
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        report = profile(request, on_progress=on_progress)
    if output.as_json:
        console.print_json(report.to_dict())
        _exit_if_none_fits(report)
        return
    console.show(*memory_tables.report(report.peaks, report.largest, report.fits, report.helps))
    console.show(*memory_tables.steps(request.configs, auto=request.precision_auto))
    for remark in report.remarks:
        console.note(remark)
    for found in report.largest:
        if found.help:
            console.warn(f"{found.model} on {found.gpu}: no batch size fits; {found.help}")
    helped = {(found.check.model, found.check.gpu, found.check.batch): found.remedies for found in report.helps}
    for check in report.fits:
        if check.help:
            remedy = f"; {check.help}"
            if search.what_would_help:
                remedy = (
                    "" if helped.get((check.model, check.gpu, check.batch)) else ", and no option saves memory here"
                )
            console.warn(f"batch {check.batch:,} of {check.model} doesn't fit on {check.gpu}{remedy}")
    _exit_if_none_fits(report)


def _exit_if_none_fits(report: MemoryReport) -> None:
    none_fits = report.fits and not any(check.fits for check in report.fits)
    measured = [found for found in report.largest if found.method == "measure"]
    none_found = report.largest and not any(found.max_batch for found in measured or report.largest)
    if none_fits or none_found:
        raise typer.Exit(1)


def _request(
    models: ProfiledModels, step: StepOptions, hardware: HardwareOptions, search: SearchOptions
) -> MemoryRequest:
    """Raises ConfigError for values that can't be used, or that contradict each other."""
    changes = {"optimizer": step.optimizer, "freeze": step.freeze, "ema_decay": step.ema_decay or None}
    trained = StepConfig.of_recipe(
        RECIPES["course"].changed(changes),
        learning_rate=1e-3,  # no tensor's size depends on it
        precision="32" if hardware.precision == "auto" else hardware.precision,
        memory_format=hardware.chosen_format(),
    )
    configs = (
        MemoryConfig(
            model=model,
            step=trained,
            evaluate=step.evaluate,
            accumulate=step.accumulate,
            grad_checkpointing=step.grad_checkpointing,
            compile=hardware.compile,
            devices=hardware.devices,
            strategy=hardware.strategy,
        )
        for model in models.configs()
    )
    options = dict(vars(search))
    return MemoryRequest(
        configs=tuple(configs),
        batches=tuple(step.batch),
        device=hardware.chosen_device(),
        gpus=tuple(options.pop("gpu") or ()),
        precision_auto=hardware.precision == "auto",
        **options,
    )
