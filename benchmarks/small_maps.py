"""Convolutions of small maps as matrix products against torch's own convolution.

    python benchmarks/small_maps.py [--rounds 9] [--batch 128]

Layers as ResNet18, EfficientNet and `airbench` have them where images are 32 pixels wide. Each is timed forward and
backward, in channels last, as torch's convolution and as `SmallMapConv2d` in turns. With `--limits` products make all
maps up to 8x8, to find the size from which they are slower. Medians in ms; nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from cifar_cli.core.heap import keep_freed_memory
from cifar_cli.core.models import small_maps
from cifar_cli.core.models.training_form import training_form
from cifar_cli.core.training.machine import processor_name

# channels before and after, side of the map before, kernel, stride
LAYERS = [
    (64, 64, 8, 3, 1),
    (256, 256, 7, 3, 1),
    (256, 256, 6, 3, 1),
    (256, 256, 5, 3, 1),
    (128, 128, 4, 3, 1),
    (40, 240, 4, 1, 1),
    (256, 256, 3, 3, 1),
    (128, 256, 4, 3, 2),
    (256, 256, 2, 3, 1),
    (112, 672, 2, 1, 1),
    (256, 512, 2, 3, 2),
    (512, 512, 1, 3, 1),
    (320, 1280, 1, 1, 1),
]


def step_of(layer: nn.Module, maps: torch.Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """A forward and backward pass."""
    maps = maps.clone(memory_format=torch.channels_last).requires_grad_()

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            made = layer(maps)
        made.backward(torch.ones_like(made))

    return step


def medians(steps: list[Callable[[], None]], rounds: int) -> list[float]:
    """Milliseconds of each, in turns."""
    seconds: list[list[float]] = [[] for _ in steps]
    for turn in range(rounds + 2):
        for step, taken in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step()
            if turn >= 2:
                taken.append(time.perf_counter() - start)
    return [1000 * statistics.median(taken) for taken in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--limits", action="store_true", help="make all of these maps by products")
    options = parser.parse_args()
    keep_freed_memory()
    if options.limits:
        small_maps.WEIGHT_AS_PRODUCT = 64
    table = Table(
        title=f"forward and backward, ms, batch {options.batch}, {os.cpu_count()} cores of {processor_name()}, torch "
        f"{torch.__version__}"
    )
    for heading in ("layer", "map", "float32: torch", "product", "times", "bfloat16: torch", "product", "times"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for before, after, side, kernel, stride in LAYERS:
        plain = nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)
        plain = plain.to(memory_format=torch.channels_last)
        ours = training_form(nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), "channels-last")
        maps = torch.randn(options.batch, before, side, side)
        cells = []
        for dtype in (torch.float32, torch.bfloat16):
            theirs, products = medians([step_of(layer, maps, dtype) for layer in (plain, ours)], options.rounds)
            cells += [f"{theirs:.2f}", f"{products:.2f}", f"{theirs / products:.1f}"]
        made = (side - 1) // stride + 1
        name = f"{before} to {after}, {kernel}x{kernel}" + (f", stride {stride}" if stride > 1 else "")
        table.add_row(name, f"{made}x{made}", *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
