"""cifar profile-memory: how much memory a training step takes, and which batch fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cifar_cli.core.models.config import DEFAULT_BACKBONE
from cifar_cli.options import (
    DEFAULT_BATCH,
    BackboneOpt,
    ClassesOpt,
    DebugOpt,
    ImgSizeOpt,
    JsonOpt,
    ModelsOpt,
    PatchSizeOpt,
    TrimBackboneOpt,
    parse_bytes,
    parse_margin,
    require_batch,
    split_names,
)

if TYPE_CHECKING:
    from cifar_cli.core.memory.config import MemoryRequest

BatchesOpt = Annotated[
    list[int], typer.Option("--batch", "--batch-size", "-b", metavar="N", help="Images per step; may be repeated.")
]
FindOpt = Annotated[bool, typer.Option("--find-max-batch", help="The largest batch that fits, run on a GPU if any.")]
GpuOpt = Annotated[str | None, typer.Option("--gpu", metavar="NAME", help="Estimate for this card.")]
MemoryOpt = Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="This much memory, as 24GiB.")]
PrecisionOpt = Annotated[str, typer.Option("--precision", metavar="32|16|bf16", help="Autocast to 16 or bf16.")]
OptimizerOpt = Annotated[str, typer.Option("--optimizer", metavar="adam|adamw|sgd|muon", help="Whose state is kept.")]
LayoutOpt = Annotated[bool, typer.Option("--channels-last/--contiguous", help="Memory layout of the images.")]
EstimateOpt = Annotated[bool, typer.Option("--estimate", help="Predict; nothing is run.")]
MeasureOpt = Annotated[bool, typer.Option("--measure", help="Run real steps and report what they took.")]
DeviceOpt = Annotated[str, typer.Option("--device", metavar="auto|cuda|cpu", help="Where --measure runs.")]
MarginOpt = Annotated[str, typer.Option("--margin", metavar="5%", help="Share of the memory to leave free.")]
MultipleOpt = Annotated[int, typer.Option("--multiple-of", metavar="N", help="Only batch sizes that N divides.")]


def profile_memory(
    model: ModelsOpt = ["null", "cnn", "hybrid"],  # noqa: B006 - Typer reads it, nobody changes it
    batch: BatchesOpt = [DEFAULT_BATCH],  # noqa: B006
    find_max_batch: FindOpt = False,
    gpu: GpuOpt = None,
    memory: MemoryOpt = None,
    precision: PrecisionOpt = "32",
    optimizer: OptimizerOpt = "adam",
    img_size: ImgSizeOpt = 32,
    classes: ClassesOpt = 10,
    backbone: BackboneOpt = DEFAULT_BACKBONE,
    trim_backbone: TrimBackboneOpt = False,
    patch_size: PatchSizeOpt = 2,
    channels_last: LayoutOpt = False,
    estimate: EstimateOpt = False,
    measure: MeasureOpt = False,
    device: DeviceOpt = "auto",
    margin: MarginOpt = "0%",
    multiple_of: MultipleOpt = 1,
    as_json: JsonOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Say how much memory a training step takes and which batch fits, with or without a GPU."""
    from cifar_cli.core.memory.config import MemoryConfig, MemoryRequest
    from cifar_cli.core.models.config import ModelConfig
    from cifar_cli.core.models.registry import MODELS
    from cifar_cli.core.training.config import StepConfig

    step = StepConfig(
        precision=precision,  # type: ignore[arg-type]
        optimizer=optimizer,  # type: ignore[arg-type]
        memory_format="channels-last" if channels_last else "contiguous",
    )
    names = [known for name in split_names(model) for known in (MODELS if name == "all" else (name,))]
    request = MemoryRequest(
        configs=tuple(
            MemoryConfig(
                model=ModelConfig(
                    name=name,
                    weights="none",
                    img_size=img_size,
                    classes=classes,
                    backbone=backbone,
                    trim_backbone=trim_backbone,
                    patch_size=patch_size,
                ),
                step=step,
            )
            for name in names
        ),
        batches=tuple(require_batch(size) for size in batch),
        find_max_batch=find_max_batch,
        gpu=gpu,
        memory_bytes=None if memory is None else parse_bytes(memory),
        estimate=estimate,
        measure=measure,
        device=device,  # type: ignore[arg-type]
        margin=parse_margin(margin),
        multiple_of=multiple_of,
    )
    _profile_and_show(request, as_json=as_json)


def _profile_and_show(request: MemoryRequest, *, as_json: bool) -> None:
    from cifar_cli.core.memory.profile import profile
    from cifar_cli.render import memory_tables
    from cifar_cli.render.console import print_json, show, warn
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        report = profile(request, on_progress=on_progress)
    if as_json:
        print_json(report.to_dict())
        return
    show(*memory_tables.report(report.peaks, report.largest))
    for helpless in (found for found in report.largest if found.help):
        warn(f"{helpless.model} on {helpless.gpu}: not one image fits; {helpless.help}")
