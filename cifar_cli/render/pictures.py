"""Pictures of results: as a PNG file, and in the terminal as half blocks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text
from torch.nn import functional as F

from cifar_cli.core.augment.preview import PreviewResult
from cifar_cli.errors import ResourceError

DPI = 100
CELL, GAP = 96, 12  # pixels of the PNG: an image's side at least, and the white around it
TOP, BOTTOM = 96, 12  # room for the title and the columns' names; for the last row's remarks
NARROWEST_PICTURE = 560  # the title needs this much
LONGEST_NAME = 24  # of a class; longer ones are cut
NARROWEST = 16  # columns of the terminal that an image needs to be recognised


def save_preview(result: PreviewResult, path: Path) -> None:
    """Write the grid as a PNG, every pixel of an image as a square of equal size.

    Raises ResourceError when the file can't be written.
    """
    rows, columns, side = result.grid_RCHWC.shape[:3]
    side *= (scale := max(1, round(CELL / side)))
    names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in result.row_names]
    left = 24 + 8 * max(len(name) for name in names)
    width = max(NARROWEST_PICTURE, left + columns * (side + GAP))
    height = TOP + rows * (side + GAP) + BOTTOM
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    enlarged = result.grid_RCHWC.numpy().repeat(scale, axis=2).repeat(scale, axis=3)
    shown = "step by step" if result.shows_steps else "variants"
    title = f"{result.policy} augmentation, {result.pipeline} pipeline, {shown}"
    axes.text(GAP, 22, title, fontsize=11, va="center")
    for row, column in np.ndindex(rows, columns):
        x, y = left + column * (side + GAP), TOP + row * (side + GAP)
        canvas[y : y + side, x : x + side] = enlarged[row, column]
        if row == 0:
            heading = _broken(result.column_names[column])
            axes.text(x + side / 2, y - 8, heading, ha="center", va="bottom", fontsize=9, linespacing=1.0)
        if column == 0:
            axes.text(x - 10, y + side / 2, names[row], ha="right", va="center", fontsize=10)
        if not result.changed_RC[row, column]:
            axes.text(x + side / 2, y + side + 1, "did not fire", ha="center", va="top", fontsize=6, color="dimgrey")
    axes.imshow(canvas, interpolation="nearest", aspect="auto", resample=False)
    axes.set_axis_off()
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise ResourceError(
            f"the picture {path} can't be written ({error.strerror})", remedy="name another file with --out"
        ) from error


def _broken(name: str) -> str:
    """A column's name in short lines: "3 RandomBrightnessContrast" has one for each of its four words."""
    first, _, rest = name.partition(" ")
    if len(rest) > LONGEST_NAME // 2 + 2:
        rest = re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", rest)
    return f"{first}\n{rest}" if rest else first


def show_preview(result: PreviewResult, screen: Console) -> None:
    """Draw the grid in a terminal: each character holds two pixels, one above the other.

    As many columns as fit are drawn, the images reduced to no less than NARROWEST characters. Colours are sent as they
    are, because few remote shells pass on that the terminal knows them all.
    """
    console = Console(file=screen.file, width=screen.width, color_system="truecolor", force_terminal=True)
    columns = len(result.column_names)
    side = min(result.grid_RCHWC.shape[2], max(NARROWEST, console.width // columns - 1)) // 2 * 2
    fitting = max(1, min(columns, (console.width + 1) // (side + 1)))
    if fitting < columns:
        console.print(f"{fitting} of {columns} columns fit into this terminal; the picture file has all", style="dim")
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
