"""`cifar profile-memory`: how much memory a training step takes, and which batch size fits."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_cli import parsers
from cifar_cli.command import command
from cifar_cli.core.choices import MemoryFormat, OptimizerName, Precision
from cifar_cli.options import (
    DEFAULT_BATCH,
    MEMORY_FORMAT,
    MODEL_NAMES,
    PRECISION,
    CountedModels,
    DeviceOptions,
    OutputOptions,
    hardware_option,
)

if TYPE_CHECKING:
    from cifar_cli.core.memory.config import MemoryRequest

memory_option = partial(typer.Option, rich_help_panel="Memory")
step_option = partial(typer.Option, rich_help_panel="Training step")


@dataclass(frozen=True, kw_only=True)
class ProfiledModels(CountedModels):
    """The models to profile; all three unless others are named."""

    model: Annotated[list[str], MODEL_NAMES] = field(default_factory=lambda: ["null", "cnn", "hybrid"])


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """The training step whose memory is asked for."""

    batch: Annotated[
        list[int],
        step_option(
            "--batch",
            "--batch-size",
            "-b",
            help="Put this many images into a batch. Repeat the option to compare several sizes.",
        ),
    ] = field(default_factory=lambda: [DEFAULT_BATCH])
    optimizer: Annotated[OptimizerName, step_option("--optimizer", help="Update the weights with this optimizer.")] = (
        "adam"
    )
    precision: Annotated[Precision, PRECISION] = "32"
    memory_format: Annotated[MemoryFormat, MEMORY_FORMAT] = "contiguous"
    channels_last: Annotated[
        bool | None,
        hardware_option(
            "--channels-last/--contiguous",
            hidden=True,
            help="Lay images out in this memory format (use --memory-format).",
        ),
    ] = None

    def chosen_format(self) -> MemoryFormat:
        """The value of --memory-format, or of its older spelling --channels-last."""
        if self.channels_last is None:
            return self.memory_format
        return "channels-last" if self.channels_last else "contiguous"


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What is asked about the memory of the step."""

    find_max_batch: Annotated[
        bool,
        memory_option(
            "--find-max-batch", help="Find the largest batch size that fits, with real steps if there is a GPU."
        ),
    ] = False
    gpu: Annotated[
        str | None, memory_option("--gpu", metavar="NAME", help="Estimate for this card, such as RTX 3090.")
    ] = None
    memory: Annotated[
        int | None,
        memory_option(
            "--memory",
            metavar="SIZE",
            parser=parsers.byte_count,
            help="Estimate for this much memory, such as 24GiB or 8000MB. With --measure, take at most this much.",
        ),
    ] = None
    margin: Annotated[
        float,
        memory_option(
            "--margin",
            metavar="SHARE",
            parser=parsers.margin,
            show_default="0%",
            help="Leave this share of the memory free, such as 5%.",
        ),
    ] = 0.0
    multiple_of: Annotated[
        int, memory_option("--multiple-of", help="Try only batch sizes that this number divides.")
    ] = 1
    estimate: Annotated[bool, memory_option("--estimate", help="Predict the memory and run nothing.")] = False
    measure: Annotated[bool, memory_option("--measure", help="Run real steps and measure their memory.")] = False


@command(
    examples=(
        ("Predict the peak memory of one training step of each model.", "cifar profile-memory"),
        ("Find the largest batch for a card.", 'cifar profile-memory -m cnn --find-max-batch --gpu "RTX 3090"'),
        (
            "Run the search on this machine's CPU.",
            "cifar profile-memory -m null --measure --device cpu --find-max-batch",
        ),
    )
)
def profile_memory(
    models: ProfiledModels, device: DeviceOptions, step: StepOptions, search: SearchOptions, output: OutputOptions
) -> None:
    """Show how much memory a training step takes and which batch size fits, with or without a GPU."""
    from cifar_cli.core.memory.config import MemoryConfig, MemoryRequest
    from cifar_cli.core.training.config import StepConfig

    config = StepConfig(precision=step.precision, optimizer=step.optimizer, memory_format=step.chosen_format())
    request = MemoryRequest(
        configs=tuple(MemoryConfig(model=model, step=config) for model in models.configs()),
        batches=tuple(step.batch),
        find_max_batch=search.find_max_batch,
        gpu=search.gpu,
        memory_bytes=search.memory,
        margin=search.margin,
        multiple_of=search.multiple_of,
        estimate=search.estimate,
        measure=search.measure,
        device=device.chosen_device(),
    )
    _profile(request, as_json=output.as_json)


def _profile(request: MemoryRequest, *, as_json: bool) -> None:
    from cifar_cli.core.memory.profile import profile
    from cifar_cli.render import console, memory_tables
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        report = profile(request, on_progress=on_progress)
    if as_json:
        console.print_json(report.to_dict())
        return
    console.show(*memory_tables.report(report.peaks, report.largest))
    for found in report.largest:
        if found.help:
            console.warn(f"{found.model} on {found.gpu}: not one image fits; {found.help}")
