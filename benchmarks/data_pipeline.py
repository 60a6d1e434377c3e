"""Images per second of both pipelines, each given the whole machine: `python benchmarks/data_pipeline.py`.

Batched runs in this process with one thread per core, albumentations in one worker process per core. Both carry out
the same policy on the same uint8 images and end with normalised batches in this process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

from cifar_cli.core.augment.batched import BatchedPipeline
from cifar_cli.core.augment.per_image import PerImagePipeline
from cifar_cli.core.augment.policy import POLICIES
from cifar_cli.core.data.config import CIFAR10_MEAN, CIFAR10_STD
from cifar_cli.core.data.loader import BatchLoader, WorkerLoader


def images_per_second(loader: BatchLoader, images: int, passes: int) -> float:
    """Median over the passes, after one that warms up (and starts the workers)."""
    rates = []
    for _ in range(passes + 1):
        start = time.perf_counter()
        for _batch in loader:
            pass
        rates.append(images / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=12_800)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.cores)
    count = options.images
    # Smooth images in place of noise, which has no two neighbouring pixels alike and is nobody's data.
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 255
    fine = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    images = fine.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    rows = torch.arange(count)
    table = Table(title=f"images per second, {options.cores} cores, batch {options.batch}, 32x32 pixels, CPU")
    for heading in ("policy", "batched", "albumentations", "ratio"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for policy in POLICIES.values():
        settings = {"batch": options.batch, "seed": 1, "shuffle": True}
        ours = BatchedPipeline(policy, 32, CIFAR10_MEAN, CIFAR10_STD)
        theirs = PerImagePipeline(policy, 32, CIFAR10_MEAN, CIFAR10_STD)
        batched = BatchLoader(images, rows, rows, transform=ours, **settings)
        per_image = WorkerLoader(images, rows, rows, transform=theirs, workers=options.cores, **settings)
        fast, slow = (images_per_second(loader, count, options.passes) for loader in (batched, per_image))
        table.add_row(policy.name, f"{fast:,.0f}", f"{slow:,.0f}", f"{fast / slow:.1f}x")
    Console().print(table)


if __name__ == "__main__":
    main()
