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
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046, pad=0.03)
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
    figure = _figure(width=1.25 * columns, height=1.5 * rows + 0.6)
    figure.suptitle(title, fontsize=11)
    for position, (image, true, predicted) in enumerate(zip(images_NHWC, true_N, predicted_N, strict=True)):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.imshow(image.numpy(), interpolation="nearest")
        axes.set_axis_off()
        right = int(true) == int(predicted)
        text = f"true {classes[int(true)]}\npred. {classes[int(predicted)]}"
        axes.set_title(text, fontsize=7, color="black" if right else "firebrick")
    return figure


def _figure(*, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
