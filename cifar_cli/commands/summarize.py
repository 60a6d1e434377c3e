"""`cifar summarize`: parameters, multiply-adds and FLOPs, each with what it counts."""

from __future__ import annotations

from typing import Annotated

import typer

from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.models.config import DEFAULT_BACKBONE, ModelConfig
from cifar_cli.core.models.registry import MODELS
from cifar_cli.options import (
    DEFAULT_BATCH,
    BackboneOpt,
    BatchOpt,
    ClassesOpt,
    DebugOpt,
    ImgSizeOpt,
    JsonOpt,
    ModelsOpt,
    PatchSizeOpt,
    TrimBackboneOpt,
    split_names,
)

DepthOpt = Annotated[
    int | None,
    typer.Option("--depth", metavar="N", help="Levels of the layer table (default: 3 for one model, none for more)."),
]
TopOpt = Annotated[int, typer.Option("--top", metavar="N", help="How many of the largest layers to name.")]
MemoryOpt = Annotated[bool, typer.Option("--memory", help="Also count the bytes of weights, gradients and Adam.")]

ONE_MODEL_DEPTH = 3


def summarize(
    models: ModelsOpt,
    batch: BatchOpt = DEFAULT_BATCH,
    img_size: ImgSizeOpt = 32,
    classes: ClassesOpt = 10,
    backbone: BackboneOpt = DEFAULT_BACKBONE,
    patch_size: PatchSizeOpt = 2,
    trim_backbone: TrimBackboneOpt = False,
    depth: DepthOpt = None,
    top: TopOpt = 5,
    memory: MemoryOpt = False,
    as_json: JsonOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Count a model's parameters, multiply-adds and FLOPs, and what never reaches the logits."""
    configs = [
        SummaryConfig(
            model=ModelConfig(
                name=name,
                classes=classes,
                img_size=img_size,
                backbone=backbone,
                patch_size=patch_size,
                trim_backbone=trim_backbone,
                weights="none",
            ),
            batch=batch,
            depth=ONE_MODEL_DEPTH if depth is None else depth,
            top=top,
        )
        for name in _expand(models)
    ]
    from cifar_cli.core.counting.summary import summarize as count
    from cifar_cli.render import summary_tables
    from cifar_cli.render.console import print_json, show, stdout

    summaries = [count(config) for config in configs]
    if as_json:
        print_json(summary_tables.document(summaries))
        return
    tree = depth is not None or len(summaries) == 1
    show(*summary_tables.report(summaries, layers=tree, memory=memory, width=stdout().width))


def _expand(models: list[str]) -> list[str]:
    """Names as asked for, `all` standing for every registered model; each one once."""
    names = [name for asked in split_names(models) for name in (MODELS if asked == "all" else (asked,))]
    return list(dict.fromkeys(names))
