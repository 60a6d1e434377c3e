"""Figures of results, drawn without pyplot: no window, no global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from cifar_cli.core.lettering import class_names, ems_of, lettered, plain_lettering, titled
from cifar_cli.core.write import replacing
from cifar_cli.errors import ResourceError

MAX_COUNTED_CLASSES = 20  # counts in the cells of more classes are too small to read
MAX_NAMED_CLASSES = 100
MOST_CONFUSED = 40  # classes that are drawn where there are more
POINTS = 8  # of a class name
INCHES_OF_NAME = 0.12  # the height of a line of 7 points


@plain_lettering
def confusion_figure(
    matrix_KK: Tensor,
    classes: Sequence[str],
    *,
    title: str,
    with_shares: bool = False,
    most_classes: int = MAX_NAMED_CLASSES,
) -> Figure:
    """Draw a confusion matrix: colours are shares of the true class, numbers are image counts.

    More than 20 classes have no numbers, and of more than `most_classes` the 40 with the most mistakes are drawn.

    matrix_KK: int64 [K, K], true class by row, predicted class by column. with_shares: write the shares below the
    counts, in a larger picture.
    """
    counts = matrix_KK.numpy()
    accuracy, images = counts.trace() / max(counts.sum(), 1), counts.sum()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names, note = class_names(classes), ""
    if len(classes) > most_classes:
        kept = _most_confused(counts)
        names, counts, shares = [names[row] for row in kept], counts[kept][:, kept], shares[kept][:, kept]
        note = f"\nthe {len(kept)} of {len(classes):,} classes with the most mistakes"
    counted = len(names) <= MAX_COUNTED_CLASSES
    # Margins by hand: a layout engine draws the figure twice, and training draws one per epoch.
    label = POINTS / 72 * max(map(ems_of, names), default=2) + 0.06  # inches
    side, left, bottom = 4.2 + 1.8 * with_shares, 0.5 + label, 0.55 + (0.75 if counted else 1) * label
    side = max(side, INCHES_OF_NAME * len(names))
    heading = titled(title, inches=left + side, points=10)
    heading += f"\n{accuracy:.2%} of {images:,} images correct{note}"
    width, height = left + side + 1.15, bottom + side + 0.3 + 0.17 * len(heading.splitlines())
    figure = new_figure(width=width, height=height)
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    bar = figure.add_axes(((left + side + 0.2) / width, bottom / height, 0.22 / width, side / height))
    # The square root makes shares of a few percent visible.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    ticks = [0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1]
    figure.colorbar(image, cax=bar, label="share of the true class", ticks=ticks, format="{x:g}")
    axes.set_title(heading, fontsize=10)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    angle, points = (45, POINTS) if counted else (90, POINTS - 1)
    axes.set_xticks(
        range(len(names)), names, rotation=angle, ha="right", va="top" if counted else "center",
        rotation_mode="anchor", fontsize=points,
    )  # fmt: skip
    axes.set_yticks(range(len(names)), names, fontsize=points)
    if counted:
        _write_counts(axes, counts, shares, with_shares=with_shares)
    return figure


def _most_confused(counts_KK: NDArray[np.int64]) -> NDArray[np.int64]:
    """The classes, in their order, with the most mistakes: their images as other classes, and others as them."""
    wrong = counts_KK.sum(axis=0) + counts_KK.sum(axis=1) - 2 * counts_KK.diagonal()
    return np.sort(np.argsort(-wrong, kind="stable")[:MOST_CONFUSED])


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], *, with_shares: bool) -> None:
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            colour = "white" if shares[row, column] > 0.4 else "black"
            text = f"{counts[row, column]:,}" + f"\n{shares[row, column]:.1%}" * with_shares
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)


@plain_lettering
def samples_figure(
    images_NHWC: Tensor,
    true_N: Tensor,
    predicted_N: Tensor,
    classes: Sequence[str],
    *,
    title: str,
    columns: int = 8,
) -> Figure:
    """Draw images in a grid with their true and predicted class; the text of wrong predictions is red.

    images_NHWC: uint8 [N, H, W, 3]; true_N, predicted_N: class numbers [N].
    """
    rows = -(-len(images_NHWC) // columns)
    figure = new_figure(width=1.25 * columns, height=1.6 * rows + 0.5)
    figure.suptitle(titled(title, inches=1.25 * columns, points=11, lines=1), fontsize=11)
    names = class_names(classes, 1.15 * 72 / 7 - ems_of("pred. "))
    # All images share one pair of axes, in units of an image's side: a pair for each takes four times as long to draw.
    axes = figure.add_axes((0, 0, 1, 1.6 * rows / (1.6 * rows + 0.5)))
    axes.set_axis_off()
    axes.set(xlim=(0, columns), ylim=(rows * 1.28, 0), aspect="equal")
    for position, (image, true, predicted) in enumerate(zip(images_NHWC, true_N, predicted_N, strict=True)):
        left, top = position % columns + 0.1, position // columns * 1.28 + 0.32
        axes.imshow(image.numpy(), interpolation="nearest", extent=(left, left + 0.8, top + 0.8, top))
        correct = int(true) == int(predicted)
        text = f"true {names[int(true)]}\npred. {names[int(predicted)]}"
        colour = "black" if correct else "firebrick"
        axes.text(left + 0.4, top - 0.04, text, fontsize=7, ha="center", va="bottom", color=colour)
    axes.set(xlim=(0, columns), ylim=(rows * 1.28, 0))
    return figure


@plain_lettering
def pairs_figure(
    first_NHWC: Tensor, second_NHWC: Tensor, captions: Sequence[tuple[str, str, str]], *, title: str, columns: int = 5
) -> Figure:
    """Draw pairs of images side by side, each with three lines above: about the pair, the first, the second image.

    first_NHWC, second_NHWC: uint8 [N, H, W, 3].
    """
    wide, high, top = 2.3, 1.62, 0.4  # inches of a pair, and of the title
    rows = -(-len(captions) // columns)
    height = high * rows + top
    figure = new_figure(width=wide * columns, height=height)
    heading = titled(title, inches=wide * columns, points=11, lines=1)
    figure.text(0.5, 1 - 0.2 / height, heading, ha="center", va="center", fontsize=11)
    axes = figure.add_axes((0, 0, 1, high * rows / height))
    axes.set_axis_off()
    for position, lines in enumerate(captions):
        left, upper = wide * (position % columns) + 0.1, high * (position // columns) + 0.5
        for number, images_NHWC in enumerate((first_NHWC, second_NHWC)):
            start = left + 1.06 * number
            image = images_NHWC[position].numpy()
            axes.imshow(image, interpolation="nearest", extent=(start, start + 1.04, upper + 1.04, upper))
        text = "\n".join(lettered(line, 2.1 * 72 / 7) for line in lines)
        axes.text(left + 1.05, upper - 0.04, text, fontsize=7, ha="center", va="bottom")
    axes.set(xlim=(0, wide * columns), ylim=(high * rows, 0), aspect="equal")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture. Raises ResourceError when it can't be written."""
    try:
        with replacing(path) as part:
            figure.savefig(part, format="png")
    except OSError as error:
        raise ResourceError(
            f"the picture {path} can't be written ({error.strerror or error})",
            remedy="pass --out FILE.png in a folder you may write to",
        ) from error


def new_figure(*, width: float, height: float) -> Figure:
    """An empty figure. width, height: inches."""
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    return figure
