"""Photographs at 224 pixels: speed against torchvision's ImageFolder, and memory of a data set larger than memory.

    python benchmarks/photo_pipeline.py [--photos 2000] [--workers 2] [--batch 64] [--rounds 5]
    python benchmarks/photo_pipeline.py --big 10 [--seconds 300]

The first compares images per second of an epoch's batches, ready for the model: from an encoded store by this program's
loader, and from the same JPEG files by torchvision's `ImageFolder` and torch's `DataLoader`, with the same transforms,
workers and batch. Every round runs both, in alternating order; the table shows the medians. The photographs are
synthetic, 500x375 pixels in JPEG of quality 90, about 80 kB each. Nothing else may run on the machine.

The second streams so many GB of such photographs into a store (those bytes are needed on the disk), trains a small
model at 224 pixels, and prints the peak memory of the process and its workers: the sum of their proportional set sizes,
which count a page that several share once (Linux only).
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from cifar_cli.core.augment.policy import PHOTO, ColorJitter, HorizontalFlip, Policy, RandomResizedCrop
from cifar_cli.core.data.config import DataConfig, Normalisation
from cifar_cli.core.data.results import Provenance
from cifar_cli.core.data.sources.images import Row, SourceStream
from cifar_cli.core.data.store import open_store, write_store
from cifar_cli.core.heap import keep_freed_memory
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.batches import train_loader
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.machine import processor_name
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.core.training.train import train

SIDE = 224
WIDTH, HEIGHT = 500, 375
CLASSES = tuple(f"class{number}" for number in range(10))
DISTINCT = 500  # photographs that a big store repeats, each with other bytes after its end
HELD_OUT = 500  # images for validation, and for the test, of a big store
MODEL = "timm:mobilenetv3_small_050"
SAMPLED_EVERY_SECONDS = 0.2
WITHOUT_JITTER = replace(PHOTO, name="crop and flip", steps=PHOTO.steps[:2])


def photograph(number: int) -> bytes:
    """A JPEG with large shapes and fine noise, so that its size and its decoding are like a photograph's."""
    random = np.random.default_rng(number)
    shapes = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT), Image.BICUBIC)
    noisy = np.asarray(shapes).astype(np.float32) + random.normal(0, 12, (HEIGHT, WIDTH, 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_encoded(path: Path, rows: tuple[Row, ...], contents: Callable[[], Iterable[bytes]]) -> None:
    stream = SourceStream(
        classes=CLASSES,
        img_size=SIDE,
        encoded=True,
        rows=rows,
        images=lambda: enumerate(contents()),
        provenance=lambda: Provenance.now(source="drawn by a benchmark", checksum="", synthetic=True),
    )
    write_store(path, name=path.stem, images=stream)


def row(split: str, number: int) -> Row:
    label = number % len(CLASSES)
    return Row(split=split, label=label, name=f"{split}/{CLASSES[label]}/{number}.jpg")  # type: ignore[arg-type]


def ours(store: Path, policy: Policy, options: argparse.Namespace) -> Callable[[], Iterator[torch.Tensor]]:
    part = open_store(store).train
    loader = train_loader(
        part,
        torch.arange(len(part)),
        policy=policy,
        img_size=SIDE,
        normalisation=Normalisation(),
        batch=options.batch,
        seed=0,
        pipeline="batched",
        workers=options.workers,
        classes=len(CLASSES),
    )
    return lambda: (images for images, _ in loader)


def theirs(folder: Path, policy: Policy, options: argparse.Namespace) -> Callable[[], Iterator[torch.Tensor]]:
    """The transforms of torchvision's reference script for training, with this policy's numbers."""
    by = Normalisation()
    steps = [*map(_of_torchvision, policy.steps), v2.PILToTensor(), v2.ToDtype(torch.float, scale=True)]
    data = ImageFolder(str(folder), v2.Compose([*steps, v2.Normalize(by.mean, by.std)]))
    loader = DataLoader(
        data,
        batch_size=options.batch,
        shuffle=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
    return lambda: (images for images, _ in loader)


def _of_torchvision(step: object) -> v2.Transform:
    match step:
        case RandomResizedCrop(smallest=smallest, widest=widest):
            return v2.RandomResizedCrop(SIDE, scale=(smallest, 1.0), ratio=(1 / widest, widest), antialias=True)
        case HorizontalFlip(p=p):
            return v2.RandomHorizontalFlip(p)
        case ColorJitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, p=p):
            return v2.RandomApply([v2.ColorJitter(brightness, contrast, saturation, hue)], p)
    raise AssertionError(step)


def rate(batches: Callable[[], Iterator[torch.Tensor]]) -> float:
    """Images per second of one pass."""
    began, images = time.perf_counter(), 0
    for made in batches():
        images += len(made)
    return images / (time.perf_counter() - began)


def compare(options: argparse.Namespace) -> None:
    keep_freed_memory()  # as training does; it helps both sides
    table = Table(
        title=f"images per second at {SIDE} px, {options.workers} workers, batch {options.batch}, "
        f"{os.cpu_count()} cores of {processor_name()}, torch {torch.__version__}"
    )
    for heading in ("transforms", "ImageFolder + DataLoader", "encoded store", "times"):
        table.add_column(heading, justify="left" if heading == "transforms" else "right")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder, store = Path(temporary) / "photos", Path(temporary) / "photos.safetensors"
        rows = (*(row("train", number) for number in range(options.photos)), row("test", 0))
        for each in rows[:-1]:
            file = folder / each.name.removeprefix("train/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(photograph(int(file.stem)))
        files = [folder / each.name.partition("/")[2] for each in rows]
        write_encoded(store, rows, lambda: (file.read_bytes() for file in files))
        for policy in (WITHOUT_JITTER, PHOTO):
            sides = {"theirs": theirs(folder, policy, options), "ours": ours(store, policy, options)}
            rates: dict[str, list[float]] = {side: [] for side in sides}
            for batches in sides.values():
                rate(batches)  # starts the workers, and reads the files into the page cache
            for turn in range(options.rounds):
                for side in sorted(sides, reverse=turn % 2 == 0):
                    rates[side].append(rate(sides[side]))
                last = ", ".join(f"{side} {each[-1]:,.0f}" for side, each in rates.items())
                print(f"{policy.name}, round {turn + 1}: {last}", flush=True)
            before, after = (statistics.median(rates[side]) for side in ("theirs", "ours"))
            table.add_row(policy.name, f"{before:,.0f}", f"{after:,.0f}", f"{after / before:.2f}x")
    Console(width=110).print(table)


class PeakMemory:
    """Measures the memory of this process and all its children until it is stopped."""

    def __init__(self) -> None:
        self.peak_bytes, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLED_EVERY_SECONDS):
            self.peak_bytes = max(self.peak_bytes, sum(map(proportional_bytes, tree_of(os.getpid()))))

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.peak_bytes


def tree_of(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:  # the process has ended
                continue
    return found


def proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # the process has ended
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def write_big(store: Path, gigabytes: float) -> int:
    """Stream photographs into a store. Returns how many; nothing of them stays in memory."""
    distinct = [photograph(number) for number in range(DISTINCT)]
    count = max(int(gigabytes * 1e9 / (sum(map(len, distinct)) / DISTINCT)), 3 * HELD_OUT)
    splits = (("train", count - 2 * HELD_OUT), ("val", HELD_OUT), ("test", HELD_OUT))
    rows = tuple(row(split, number) for split, images in splits for number in range(images))
    write_encoded(store, rows, lambda: (distinct[n % DISTINCT] + n.to_bytes(8) for n in range(count)))
    return count


def train_big(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        store = Path(temporary) / "big.safetensors"
        memory, began = PeakMemory(), time.perf_counter()
        count = write_big(store, options.big)
        written = memory.stop()
        size = store.stat().st_size / 1e9
        print(f"{size:.1f} GB, {count:,} images written in {time.perf_counter() - began:,.0f} s", flush=True)
        config = TrainConfig(
            model=ModelConfig(name=MODEL, weights="none"),
            data=DataConfig(dataset=str(store)),
            recipe=replace(RECIPES["course"], policy="photo", batch=options.batch, max_seconds=options.seconds),
            workers=options.workers,
            run_dir=Path(temporary) / "run",
        )
        memory = PeakMemory()
        result = train(config)
        trained = memory.stop()
    steps = round(result.images_per_second * result.train_seconds / options.batch)
    table = Table(title=f"a store of {size:.1f} GB, {count:,} photographs, {options.workers} workers")
    for heading in ("what", "peak memory"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    table.add_row("written", f"{written / 1e9:.2f} GB")
    table.add_row(f"{MODEL}, about {steps:,} steps of {options.batch} at {SIDE} px", f"{trained / 1e9:.2f} GB")
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--big", type=float, metavar="GB", help="train on so many GB instead, and measure memory")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the big set is trained on")
    parser.add_argument("--folder", type=Path, help="where the photographs are written; by default /tmp")
    options = parser.parse_args()
    if options.big is None:
        compare(options)
    else:
        train_big(options)


if __name__ == "__main__":
    main()
