"""Images per second of both pipelines, each with all cores: `python benchmarks/data_pipeline.py`.

Batched runs in this process with one thread per core, albumentations in one worker process per core with OpenCV's own
threads off. Both apply the same policy to the same uint8 images and end with normalised batches in this process, so the
cost of a DataLoader is included. They take turns, so that other load on the machine affects both. The last column is
albumentations in this process on one core; multiplied by the cores, it is the limit for workers without overhead.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import cv2
import torch
from rich.console import Console
from rich.table import Table

from cifar_cli.core.augment.batched import BatchedPipeline
from cifar_cli.core.augment.per_image import PerImagePipeline
from cifar_cli.core.augment.policy import POLICIES
from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.loader import BatchLoader
from cifar_cli.core.data.worker_loader import WorkerLoader


def seconds(loader: BatchLoader) -> float:
    """Wall-clock seconds of one pass."""
    start = time.perf_counter()
    for _batch in loader:
        pass
    return time.perf_counter() - start


def images_per_second(loaders: list[BatchLoader], images: int, passes: int) -> list[float]:
    """The median over the passes, for each loader, after one warm-up pass that also starts the workers."""
    rounds = [[images / seconds(loader) for loader in loaders] for _ in range(passes + 1)]
    return [statistics.median(rates) for rates in zip(*rounds[1:], strict=True)]


def on_one_core(loader: BatchLoader, images: int) -> float:
    """Images per second of a loader without workers, with OpenCV and torch limited to one thread."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    (rate,) = images_per_second([loader], images, 1)
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=12_800)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.cores)
    count = options.images
    # Smooth images, because noise, where all neighbouring pixels differ, is not like real data.
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 255
    fine = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    images = fine.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    rows = torch.arange(count)
    table = Table(title=f"images per second, {options.cores} cores, batch {options.batch}, 32x32 pixels, CPU")
    for heading in ("policy", "batched", "albumentations", "ratio", "albumentations, 1 core"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for policy in POLICIES.values():
        settings = {"batch": options.batch, "seed": 1, "shuffle": True}
        ours = BatchedPipeline(policy, 32, Normalisation().mean, Normalisation().std)
        theirs = PerImagePipeline(policy, 32, Normalisation().mean, Normalisation().std)
        batched = BatchLoader(images, rows, rows, transform=ours, **settings)
        per_image = WorkerLoader(images, rows, rows, transform=theirs, workers=options.cores, **settings)
        few = rows[: count // 4]
        alone = on_one_core(BatchLoader(images, rows, few, transform=theirs, **settings), len(few))
        fast, slow = images_per_second([batched, per_image], count, options.passes)
        table.add_row(policy.name, f"{fast:,.0f}", f"{slow:,.0f}", f"{fast / slow:.1f}x", f"{alone:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
