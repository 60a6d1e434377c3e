"""Predictions for image files: a table, or pictures with bars in a terminal."""

from __future__ import annotations

from itertools import zip_longest

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.nn import functional as F

from cifar_cli.core.evaluation.results import FilePrediction, PredictResult
from cifar_cli.printable import printable
from cifar_cli.render.pictures import half_blocks
from cifar_cli.render.tables import table_of

MOST_PICTURES = 12  # more images are a table
SIDE = 24  # pixels of a picture in the terminal, and its characters in a row
BAR = 24  # characters for a probability of 1


def as_table(result: PredictResult, k: int) -> RenderableType:
    """A row for each image with its most probable classes."""
    columns: dict[str, list[str | Text]] = {
        "file": [Text(printable(each.file)) for each in result.predictions],
        "predicted": [Text(result.top(each, 1)[0][0]) for each in result.predictions],
        "probability": [f"{result.top(each, 1)[0][1]:.1%}" for each in result.predictions],
    }
    others = min(k, len(result.classes))
    if others > 1:
        columns["next"] = [
            Text(", ".join(f"{name} {share:.1%}" for name, share in result.top(each, others)[1:]))
            for each in result.predictions
        ]
    if result.places:
        blank = [""] * (len(result.predictions) - len(result.places))
        columns["rests on"] = [*result.places, *blank]
    return table_of(columns, words=("file", "predicted", "next", "rests on"))


def as_pictures(result: PredictResult, k: int) -> RenderableType:
    """Each image in half blocks, beside its heat map where there is one, and the bars of its most probable classes."""
    images = _small(result.images_NHWC)
    overlays = [] if result.overlays_NHWC is None else _small(result.overlays_NHWC)
    grid = Table.grid(padding=(0, 2, 1, 0))
    for each, image, heat, place in zip_longest(result.predictions, images, overlays, result.places):
        pictures = [image] if heat is None else [image, heat]
        rests_on = [] if place is None else [Text(f"rests on: {place}", style="dim")]
        grid.add_row(*pictures, Group(Text(printable(each.file), style="bold"), *_bars(result, each, k), *rests_on))
    return grid


def _small(images_NHWC: Tensor) -> list[Text]:
    images_NCHW = images_NHWC.permute(0, 3, 1, 2).float()
    small = F.interpolate(images_NCHW, size=(SIDE, SIDE), mode="area").round().byte().permute(0, 2, 3, 1)
    return [half_blocks(image.numpy()) for image in small]


def _bars(result: PredictResult, prediction: FilePrediction, k: int) -> list[RenderableType]:
    top = result.top(prediction, k)
    width = max(len(name) for name, _ in top)
    lines: list[RenderableType] = [
        Text(f"{name:<{width}} {share:6.1%} {'█' * round(BAR * share)}", no_wrap=True, overflow="crop")
        for name, share in top
    ]
    return lines


def remarks(result: PredictResult) -> list[str]:
    """What a person should know about the predictions besides them."""
    said = [result.unfinished] if result.unfinished else []
    said += [f"{each.file}: {', '.join(each.remarks)}" for each in result.predictions if each.remarks]
    return said
