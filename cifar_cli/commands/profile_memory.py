"""`cifar profile-memory`: memory of a training step, and the largest batch size that fits."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

import typer
from typer import Option

from cifar_cli import completion, parsers
from cifar_cli.command import command, option_group, refuse_both
from cifar_cli.core.choices import MemoryFormat, OptimizerName, Precision
from cifar_cli.core.memory.config import Risk
from cifar_cli.errors import UsageError
from cifar_cli.options import (
    BATCH,
    DEFAULT_BATCH,
    MEMORY_FORMAT,
    PRECISION,
    CountedModels,
    DeviceOptions,
    ModelNames,
    OutputOptions,
)


@option_group("Model")
class ProfiledModels(CountedModels):
    """The models to profile; all three unless others are named."""

    model: ModelNames = field(default_factory=lambda: ["null", "cnn", "hybrid"])


@option_group("Training step")
class StepOptions:
    """The training step to profile."""

    batch: Annotated[list[int], BATCH()] = field(default_factory=lambda: [DEFAULT_BATCH])
    """Use batches of this many images. Repeat the option to compare several sizes."""
    optimizer: OptimizerName = "adam"
    """Update the weights with this optimizer."""
    precision: Annotated[Precision, PRECISION()] = "32"
    memory_format: Annotated[MemoryFormat | None, MEMORY_FORMAT(show_default="contiguous")] = None
    channels_last: Annotated[bool | None, Option("--channels-last/--contiguous", hidden=True)] = None
    """Store images in this memory format (use --memory-format)."""

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
    device: DeviceOptions,
    step: StepOptions,
    search: SearchOptions,
    output: OutputOptions,
) -> None:
    """Show how much memory a training step takes and which batch size fits, with or without a GPU."""
    refuse_both(ctx, "estimate", "measure")
    refuse_both(ctx, "gpu", "memory_bytes")
    from cifar_cli.core.memory.config import MemoryConfig, MemoryRequest
    from cifar_cli.core.training.config import StepConfig

    config = StepConfig(precision=step.precision, optimizer=step.optimizer, memory_format=step.chosen_format())
    options = dict(vars(search))
    request = MemoryRequest(
        configs=tuple(MemoryConfig(model=model, step=config) for model in models.configs()),
        batches=tuple(step.batch),
        device=device.chosen_device(),
        gpus=tuple(options.pop("gpu") or ()),
        **options,
    )
    from cifar_cli.core.memory.profile import profile
    from cifar_cli.render import console, memory_tables
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        report = profile(request, on_progress=on_progress)
    if output.as_json:
        console.print_json(report.to_dict())
        return
    console.show(*memory_tables.report(report.peaks, report.largest, report.fits))
    for found in report.largest:
        if found.help:
            console.warn(f"{found.model} on {found.gpu}: no batch size fits; {found.help}")
    for check in report.fits:
        if check.help:
            console.warn(f"batch {check.batch} of {check.model} doesn't fit on {check.gpu}; {check.help}")
    if report.fits and not any(check.fits for check in report.fits):
        raise typer.Exit(1)
