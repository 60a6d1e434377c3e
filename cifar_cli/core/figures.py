"""Pictures of results, drawn without pyplot: no window, no global state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

MOST_LABELLED = 20  # with more classes, names and counts in the cells can't be read


def confusion_figure(matrix_KK: Tensor, classes: Sequence[str], *, title: str) -> Figure:
    """Draw a confusion matrix; colours are shares of the true class, numbers are counts.

    matrix_KK: int64 [K, K], true class by row, predicted class by column.
    """
    counts = matrix_KK.numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labelled = len(classes) <= MOST_LABELLED
    figure = _figure(width=6.4, height=5.6)
    axes = figure.add_axes((0.16, 0.17, 0.66, 0.755))  # room for the longest class names and the colour bar
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, cax=figure.add_axes((0.85, 0.17, 0.035, 0.755)), label="share of the true class")
    accuracy = counts.trace() / max(counts.sum(), 1)
    axes.set_title(f"{title}: {accuracy:.2%} of {counts.sum():,} images right", fontsize=10)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if labelled:
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(classes)), classes, fontsize=8)
        for row, column in np.ndindex(*counts.shape):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=7, color=colour)
    return figure


def samples_figure(
    images_NHWC: Tensor, true_N: Tensor, predicted_N: Tensor, classes: Sequence[str], *, title: str
) -> Figure:
    """Draw images in a grid with their true and predicted class; wrong ones are red.

    images_NHWC: uint8 [N, H, W, 3]; true_N, predicted_N: class numbers [N].
    """
    columns = 8
    rows = -(-len(images_NHWC) // columns)
    figure = _figure(width=1.25 * columns, height=1.6 * rows + 0.5)
    figure.suptitle(title, fontsize=11)
    # All images in one pair of axes, in units of an image's side: a pair for each takes four times as long to draw.
    axes = figure.add_axes((0, 0, 1, 1.6 * rows / (1.6 * rows + 0.5)))
    axes.set_axis_off()
    axes.set(xlim=(0, columns), ylim=(rows * 1.28, 0), aspect="equal")
    for position, (image, true, predicted) in enumerate(zip(images_NHWC, true_N, predicted_N, strict=True)):
        left, top = position % columns + 0.1, position // columns * 1.28 + 0.32
        axes.imshow(image.numpy(), interpolation="nearest", extent=(left, left + 0.8, top + 0.8, top))
        right = int(true) == int(predicted)
        text = f"true {classes[int(true)]}\npred. {classes[int(predicted)]}"
        axes.text(
            left + 0.4, top - 0.04, text, fontsize=7, ha="center", va="bottom", color="black" if right else "firebrick"
        )
    axes.set(xlim=(0, columns), ylim=(rows * 1.28, 0))
    return figure


def _figure(*, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    return figure
