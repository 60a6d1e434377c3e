"""Pictures of a preview, as a PNG file or with half-block characters in the terminal."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text
from torch.nn import functional as F

from cifar_cli.core.augment.results import PreviewResult
from cifar_cli.core.figures import save_figure
from cifar_cli.core.lettering import MAX_EMS, ems_of, lettered, plain_lettering, titled
from cifar_cli.render.console import console_on

DPI = 100
CELL, GAP = 96, 12  # pixels of the PNG: about the side of an image, and the space between two
TOP, BOTTOM = 96, 12  # space for the title and the column names; for the notes below the last row
MIN_WIDTH = 560  # pixels; the title needs this width
MAX_COLUMN = 14  # letters of a step's name on one line
MIN_COLUMNS = 16  # of the terminal, for each image


def save_preview(result: PreviewResult, path: Path) -> None:
    """Write the grid as a PNG. Raises ResourceError when the file can't be written."""
    save_figure(preview_figure(result), path)


@plain_lettering
def preview_figure(result: PreviewResult) -> Figure:
    """Draw the grid; every pixel of an image becomes a square."""
    rows, columns, side = result.grid_RCHWC.shape[:3]
    side *= (scale := max(1, round(CELL / side)))
    names = [lettered(name, MAX_EMS) for name in result.row_names]
    left = 24 + round(10 / 72 * DPI * max(map(ems_of, names)))
    width = max(MIN_WIDTH, left + columns * (side + GAP))
    height = TOP + rows * (side + GAP) + BOTTOM
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    enlarged = result.grid_RCHWC.numpy().repeat(scale, axis=2).repeat(scale, axis=3)
    shown = "step by step" if result.shows_steps else "variants"
    title = f"{result.policy} augmentation, {result.pipeline} pipeline, {shown}"
    axes.text(GAP, 24, titled(title, inches=(width - 2 * GAP) / DPI, points=11), fontsize=11, va="center")
    for row, column in np.ndindex(rows, columns):
        x, y = left + column * (side + GAP), TOP + row * (side + GAP)
        canvas[y : y + side, x : x + side] = enlarged[row, column]
        if row == 0:
            heading = _wrapped(lettered(result.column_names[column], 30))
            axes.text(x + side / 2, y - 8, heading, ha="center", va="bottom", fontsize=9, linespacing=1.0)
        if column == 0:
            axes.text(x - 10, y + side / 2, names[row], ha="right", va="center", fontsize=10)
        if not result.changed_RC[row, column]:
            axes.text(x + side / 2, y + side + 1, "did not fire", ha="center", va="top", fontsize=6, color="dimgrey")
    axes.imshow(canvas, interpolation="nearest", aspect="auto", resample=False)
    axes.set_axis_off()
    return figure


def _wrapped(name: str) -> str:
    """A column name on several lines: the number and each word of "3 RandomBrightnessContrast" have their own."""
    first, _, rest = name.partition(" ")
    if len(rest) > MAX_COLUMN:
        rest = re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", rest)
    return f"{first}\n{rest}" if rest else first


def show_preview(result: PreviewResult, screen: Console) -> None:
    """Draw the grid in a terminal; each character shows two pixels, one above the other.

    Images are scaled down to no less than MIN_COLUMNS characters, and columns that don't fit are left out. Colours are
    always sent in 24 bits, because few remote shells report that the terminal supports them.
    """
    console = console_on(screen.file, width=screen.width, color_system="truecolor", force_terminal=True)
    columns = len(result.column_names)
    side = min(result.grid_RCHWC.shape[2], max(MIN_COLUMNS, console.width // columns - 1)) // 2 * 2
    fitting = max(1, min(columns, (console.width + 1) // (side + 1)))
    if fitting < columns:
        console.print(
            f"{fitting} of {columns} columns fit this terminal; the picture file has all",
            style="dim",
        )
    heads = Text(" ").join(Text(f"{name[:side]:<{side}}") for name in result.column_names[:fitting])
    for name, images_CHWC in zip(result.row_names, result.grid_RCHWC[:, :fitting], strict=True):
        small = F.interpolate(images_CHWC.permute(0, 3, 1, 2).float(), size=(side, side), mode="area")
        pixels = small.round().to(images_CHWC.dtype).permute(0, 2, 3, 1).numpy()
        console.print(Text(name, style="bold"))
        console.print(heads, no_wrap=True, overflow="crop")
        for upper in range(0, side, 2):
            console.print(_line(pixels[:, upper], pixels[:, upper + 1]), no_wrap=True, overflow="crop")


def _line(upper: np.ndarray, lower: np.ndarray) -> Text:
    """Two rows of pixels of each image, [columns, W, 3] each, as one line of upper half blocks."""
    line = Text()
    for image, (above, below) in enumerate(zip(upper.tolist(), lower.tolist(), strict=True)):
        line.append(" " if image else "")
        for top, bottom in zip(above, below, strict=True):
            line.append("▀", Style(color=Color.from_rgb(*top), bgcolor=Color.from_rgb(*bottom)))
    return line


def half_blocks(image_HWC: np.ndarray) -> Text:
    """An image, uint8 [H, W, 3] with an even height, as H/2 lines of W upper half blocks."""
    pairs = zip(image_HWC[::2], image_HWC[1::2], strict=True)
    return Text("\n").join(_line(upper[None], lower[None]) for upper, lower in pairs)
