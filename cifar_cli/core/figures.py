"""Figures of results, drawn without pyplot: no window, no global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from cifar_cli.errors import ResourceError
from cifar_cli.printable import printable

MAX_LABELLED_CLASSES = 20  # names and counts of more classes are too small to read
MAX_NAME = 20  # characters of a class name


def confusion_figure(matrix_KK: Tensor, classes: Sequence[str], *, title: str, with_shares: bool = False) -> Figure:
    """Draw a confusion matrix: colours are shares of the true class, numbers are image counts.

    matrix_KK: int64 [K, K], true class by row, predicted class by column. with_shares: write the shares below the
    counts, in a larger picture.
    """
    counts = matrix_KK.numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [_shortened(name) for name in classes] if len(classes) <= MAX_LABELLED_CLASSES else []
    # Margins by hand: a layout engine draws the figure twice, and training draws one per epoch.
    label = 0.065 * max(map(len, names), default=3)  # inches; a character of 8 points is 0.065 wide at most
    side, left, bottom = 4.2 + 1.8 * with_shares, 0.5 + label, 0.55 + 0.75 * label
    width, height = left + side + 1.15, bottom + side + 0.65
    figure = _figure(width=width, height=height)
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    bar = figure.add_axes(((left + side + 0.2) / width, bottom / height, 0.22 / width, side / height))
    # The square root makes shares of a few percent visible.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    ticks = [0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1]
    figure.colorbar(image, cax=bar, label="share of the true class", ticks=ticks, format="{x:g}")
    accuracy = counts.trace() / max(counts.sum(), 1)
    axes.set_title(f"{title}\n{accuracy:.2%} of {counts.sum():,} images correct", fontsize=10)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if names:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        for row, column in np.ndindex(*counts.shape):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.4 else "black"
                text = f"{counts[row, column]:,}" + f"\n{shares[row, column]:.1%}" * with_shares
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    return figure


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
    figure = _figure(width=1.25 * columns, height=1.6 * rows + 0.5)
    figure.suptitle(title, fontsize=11)
    # All images share one pair of axes, in units of an image's side: a pair for each takes four times as long to draw.
    axes = figure.add_axes((0, 0, 1, 1.6 * rows / (1.6 * rows + 0.5)))
    axes.set_axis_off()
    axes.set(xlim=(0, columns), ylim=(rows * 1.28, 0), aspect="equal")
    for position, (image, true, predicted) in enumerate(zip(images_NHWC, true_N, predicted_N, strict=True)):
        left, top = position % columns + 0.1, position // columns * 1.28 + 0.32
        axes.imshow(image.numpy(), interpolation="nearest", extent=(left, left + 0.8, top + 0.8, top))
        correct = int(true) == int(predicted)
        text = f"true {_shortened(classes[int(true)])}\npred. {_shortened(classes[int(predicted)])}"
        colour = "black" if correct else "firebrick"
        axes.text(left + 0.4, top - 0.04, text, fontsize=7, ha="center", va="bottom", color=colour)
    axes.set(xlim=(0, columns), ylim=(rows * 1.28, 0))
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture. Raises ResourceError when it can't be written."""
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise ResourceError(
            f"the picture {path} can't be written ({error.strerror or error})",
            remedy="pass --out FILE.png in a folder you may write to",
        ) from error


def _shortened(name: str) -> str:
    name = printable(name)
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _figure(*, width: float, height: float) -> Figure:
    """width, height: inches."""
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    return figure
