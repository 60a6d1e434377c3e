"""Figures of an evaluation, drawn without pyplot."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from cifar_cli.core.evaluation.explain import METHOD
from cifar_cli.core.evaluation.results import Calibration, CorruptionScore, PredictResult, RankedImage
from cifar_cli.core.figures import new_figure
from cifar_cli.core.lettering import ems_of, lettered, plain_lettering, titled

COLUMNS = 6  # of a page of images
WIDTH, POINTS = 1.9, 8  # inches of an image and its texts, and the size of these


@plain_lettering
def reliability_figure(calibration: Calibration, *, title: str) -> Figure:
    """The accuracy of each bin of confidence against its mean confidence, and the images in each bin below."""
    figure = new_figure(width=5.0, height=5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [each for each in calibration.bins if each.images]
    middles = [(each.low + each.high) / 2 for each in calibration.bins]
    width = 1 / len(calibration.bins)
    upper.plot((0, 1), (0, 1), color="grey", linewidth=1, linestyle="--", label="perfectly calibrated")
    upper.bar(middles, [each.accuracy for each in calibration.bins], width=width, edgecolor="white", label="accuracy")
    upper.plot(
        [each.confidence for each in filled], [each.accuracy for each in filled], "o", color="black", markersize=3,
        label="mean confidence of the bin",
    )  # fmt: skip
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.set_title(
        f"{titled(title, inches=4.2, points=10)}\nexpected calibration error {calibration.error:.2%}", fontsize=10
    )
    upper.legend(fontsize=8, loc="upper left")
    lower.bar(middles, [each.images for each in calibration.bins], width=width, edgecolor="white", color="grey")
    lower.set(xlabel="confidence: probability of the predicted class", ylabel="images")
    figure.tight_layout()
    return figure


@plain_lettering
def ranked_figure(images_NHWC: Tensor, ranked: Sequence[RankedImage], *, title: str) -> Figure:
    """Images in a grid, enlarged, each with its index or file, its label and the prediction with its confidence.

    images_NHWC: uint8 [N, H, W, 3], the images of `ranked` in its order.
    """
    rows = max(1, -(-len(ranked) // COLUMNS))
    top = 0.5  # inches for the title
    figure = new_figure(width=WIDTH * COLUMNS, height=2.5 * rows + top)
    heading = titled(title, inches=WIDTH * COLUMNS, points=11, lines=1)
    figure.text(0.5, 1 - 0.25 / (2.5 * rows + top), heading, ha="center", va="center", fontsize=11)
    axes = figure.add_axes((0, 0, 1, 2.5 * rows / (2.5 * rows + top)))
    axes.set_axis_off()
    longest = (WIDTH - 0.05) * 72 / POINTS
    of_class = longest - ems_of("label  99.9% ")
    for position, (image, facts) in enumerate(zip(images_NHWC, ranked, strict=True)):
        left, upper = WIDTH * (position % COLUMNS) + 0.15, 2.5 * (position // COLUMNS) + 0.75
        axes.imshow(image.numpy(), interpolation="nearest", extent=(left, left + 1.6, upper + 1.6, upper))
        name = f"#{facts.index}" if facts.file is None else lettered(facts.file, longest, from_end=True)
        text = f"{name}\nlabel {lettered(facts.true, of_class)} {facts.true_probability:.1%}\n"
        text += f"pred. {lettered(facts.predicted, of_class)} {facts.confidence:.1%}"
        axes.text(left + 0.8, upper - 0.05, text, fontsize=POINTS, ha="center", va="bottom")
    if not ranked:
        axes.text(WIDTH * COLUMNS / 2, 1.2, "none", ha="center", fontsize=11)
    axes.set(xlim=(0, WIDTH * COLUMNS), ylim=(2.5 * rows, 0), aspect="equal")
    return figure


@plain_lettering
def explanation_figure(result: PredictResult) -> Figure:
    """Each explained image of a prediction, beside its heat map, with its file and its prediction."""
    assert result.overlays_NHWC is not None
    columns, width, height = 3, 3.6, 2.5  # of the pairs; inches of one
    count = len(result.overlays_NHWC)
    rows, across = -(-count // columns), min(columns, count)
    title = _wrapped(METHOD, line=55 * across)
    top = 0.3 + 0.18 * title.count("\n")
    figure = new_figure(width=width * across, height=height * rows + top)
    figure.text(0.02, 1 - 0.1 / figure.get_figheight(), title, va="top", fontsize=8)
    axes = figure.add_axes((0, 0, 1, height * rows / figure.get_figheight()))
    axes.set_axis_off()
    longest = (width - 0.2) * 72 / POINTS
    for place, images in enumerate(zip(result.images_NHWC, result.overlays_NHWC, strict=False)):
        left, upper = width * (place % columns) + 0.15, height * (place // columns) + 0.65
        for shift, pixels in zip((0.0, 1.68), images, strict=True):
            extent = (left + shift, left + shift + 1.6, upper + 1.6, upper)
            axes.imshow(pixels.numpy(), interpolation="nearest", extent=extent)
        each = result.predictions[place]
        ((name, share),) = result.top(each, 1)
        outcome = f" {share:.1%}, rests on: {result.places[place]}"
        text = f"{lettered(each.file, longest, from_end=True)}\n{lettered(name, longest - ems_of(outcome))}{outcome}"
        axes.text(left, upper - 0.05, text, fontsize=POINTS, va="bottom")
    axes.set(xlim=(0, width * across), ylim=(height * rows, 0), aspect="equal")
    return figure


def _wrapped(text: str, *, line: int) -> str:
    return "\n".join(textwrap.wrap(text, line))


@plain_lettering
def corruptions_figure(scores: Sequence[CorruptionScore], *, clean: float, title: str) -> Figure:
    """The accuracy by severity, one line for each kind of corruption; severity 0 is the clean images."""
    figure = new_figure(width=6.0, height=4.2)
    axes = figure.add_subplot()
    for score, marker in zip(scores, "osD^v", strict=True):
        axes.plot(range(6), (clean, *score.accuracies), marker=marker, markersize=4, label=score.kind)
    axes.set(xlabel="severity", ylabel="accuracy", ylim=(0, 1))
    axes.set_title(titled(title, inches=5.2, points=10), fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    return figure
