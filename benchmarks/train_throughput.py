"""Training speed: `cifar train` against the course's program and against the bare step, in turns, in one run.

    python benchmarks/train_throughput.py [--dataset cifar10] [--data-dir data] [--models null,cnn,hybrid] [--rounds 3]

Three sides train the same model from the same weights with the `course` recipe at batch 128:
- the course's program (`course_program.py`: albumentations in eight workers, float32, Lightning's defaults),
- `cifar train` as a user gets it, precision and memory format chosen by itself,
- the bare step: forward, backward, clipping, Adam on one resident batch of random values, in the precision and format
  that `cifar train` chose.
Every round gives each side STEPS steps or more, one side after the other. A rate is `cifar train`'s own figure for all
three: the median over windows of 16 steps after the first ten. The table shows the median of the rounds. Nothing else
may run on the machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from course_program import Program, StepTimes, loader, trainer, unheard
from rich.console import Console
from rich.table import Table
from torch import nn

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.splits import stratified_split
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import spec_of
from cifar_cli.core.training.callbacks.clock import steady_rate
from cifar_cli.core.training.config import TrainConfig, TrainResult
from cifar_cli.core.training.numerics import Numerics
from cifar_cli.core.training.optimizers import make_optimizer
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.core.training.trainer import train

BATCH = 128
STEPS = {"null": 300, "cnn": 60, "hybrid": 60}
SECONDS = {"null": 15.0, "cnn": 25.0, "hybrid": 20.0}  # of `cifar train`, for as many steps
COURSE = replace(RECIPES["course"], batch=BATCH)


def course_rate(name: str, data: DataConfig, folder: Path) -> float:
    """Images per second of the course's program, which builds `hybrid` with its whole backbone."""
    store = open_dataset(data)
    rows = stratified_split(store.train.labels_N).train_indices
    model = build_model(ModelConfig(name=name, weights="none"), seed=42)
    program = Program(model, rate=spec_of(name).learning_rate)
    times = StepTimes()
    with unheard():
        trainer(folder, callbacks=[times], max_steps=STEPS[name], limit_val_batches=0).fit(
            program, loader(store.train.images_NHWC[rows], store.train.labels_N[rows], train=True)
        )
    return rate_of(times.ended)


def our_result(name: str, data: DataConfig, seconds: float, folder: Path) -> TrainResult:
    """`cifar train` with everything at its default, stopped by its own time cap."""
    config = TrainConfig(
        model=ModelConfig(name=name, weights="none", trim_backbone=name == "hybrid"),
        data=data,
        recipe=replace(COURSE, max_seconds=seconds),
        run_dir=folder,
    )
    return train(config)


def bare_rate(
    name: str, numerics: Numerics, *, batch: int = BATCH, device: torch.device = torch.device("cpu")
) -> float:
    """Images per second of the step alone, on one batch that lies on the device."""
    model = build_model(ModelConfig(name=name, weights="none", trim_backbone=name == "hybrid"), seed=42)
    model = model.to(device).to(memory_format=numerics.layout).train()
    optimizer = make_optimizer(model, COURSE, learning_rate=1e-3)
    images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=numerics.layout)
    labels = torch.randint(10, (batch,), device=device)
    ended = []
    for _ in range(STEPS[name]):
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=numerics.dtype, enabled=numerics.dtype is not None):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ended.append(time.perf_counter())
    return rate_of(ended, batch)


def rate_of(ended: list[float], batch: int = BATCH) -> float:
    """The steady rate of steps that ended at these times."""
    return steady_rate([(batch, after - before) for before, after in pairwise(ended)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--models", default="null,cnn,hybrid")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    data = DataConfig(dataset=options.dataset, data_dir=options.data_dir)
    table = Table(
        title=f"training, images per second, batch {BATCH}, recipe course, {os.cpu_count()} cores of "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}"
    )
    for heading in ("model", "course's program", "cifar train", "times", "bare step", "share", "precision"):
        table.add_column(heading, justify="left" if heading in ("model", "precision") else "right")
    for name in options.models.split(","):
        rows = []
        with tempfile.TemporaryDirectory() as temporary:
            for turn in range(options.rounds):
                folder = Path(temporary)
                theirs = course_rate(name, data, folder / f"theirs{turn}")
                result = our_result(name, data, SECONDS[name], folder / f"ours{turn}")
                numerics = Numerics(precision=result.precision, memory_format=result.memory_format)
                bare = bare_rate(name, numerics)
                rows.append((theirs, result.images_per_second, bare))
                print(f"{name} round {turn + 1}: {theirs:,.0f} {result.images_per_second:,.0f} {bare:,.0f}", flush=True)
        theirs, ours, bare = (statistics.median(column) for column in zip(*rows, strict=True))
        times, share = f"{ours / theirs:.2f}x", f"{ours / bare:.1%}"
        kind = f"{result.precision}, {result.memory_format}"
        table.add_row(name, f"{theirs:,.0f}", f"{ours:,.0f}", times, f"{bare:,.0f}", share, kind)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
