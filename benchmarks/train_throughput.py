"""Training speed: `cifar train` against the course's program and against the training step alone.

    python benchmarks/train_throughput.py [--dataset cifar10] [--data-dir data] [--models null,cnn,hybrid] [--rounds 4]

Three sides train the same model from the same weights with the `course` recipe at batch 128:
- the course's program (`course_program.py`: albumentations in eight workers, float32, Lightning's defaults);
- `cifar train` with its defaults, so that it chooses precision and memory format;
- the training step alone: forward, backward, clipping and fused Adam on one batch of random values that stays in
  memory, in the precision and memory format that `cifar train` chose. It runs twice: as a plain PyTorch training step
  (in channels last where `cifar train` chose oneDNN's layout, which a plain model cannot have), and as `cifar train`
  does it (freed memory kept, max pooling before ReLU, oneDNN's layout if chosen, its way of clipping).

Each side of each round runs in its own process, one after the other. In every round the course's program and the steps
alone run STEPS steps, and `cifar train` runs SECONDS; its number of steps is printed. Every other round starts with
`cifar train`, so that a machine that becomes slower or faster favours neither side. The steps alone come last,
because they need its choice. Every rate is computed as `cifar train` computes its own: the median over windows of 16
steps after the first ten steps. The table shows the median of the rounds. Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from course_program import Program, StepTimes, loader, silenced, trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.splits import stratified_split
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import spec_of
from cifar_cli.core.models.training_form import LAYOUTS, training_form
from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import StepConfig, TrainConfig
from cifar_cli.core.training.machine import keep_freed_memory, wait_for
from cifar_cli.core.training.numerics import processor_name
from cifar_cli.core.training.pace import WARM_UP_STEPS, WINDOW_STEPS, steady_rate
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.core.training.results import Numerics, TrainResult
from cifar_cli.core.training.step import AUTOCAST_DTYPES, TrainingStep
from cifar_cli.core.training.train import train

BATCH = 128
STEPS = {"null": 320, "cnn": 60, "hybrid": 60}
SECONDS = {"null": 15.0, "cnn": 55.0, "hybrid": 50.0}  # `cnn` and `hybrid` reserve about 20 for the test
COURSE = replace(RECIPES["course"], batch=BATCH)


def course_rate(name: str, data: DataConfig, folder: Path) -> float:
    """Images per second of the course's program, which builds `hybrid` with its complete backbone."""
    store = open_dataset(data)
    rows = stratified_split(store.train.labels_N).train_indices
    model = build_model(ModelConfig(name=name, weights="none"), seed=42)
    program = Program(model, rate=spec_of(name).learning_rate)
    times = StepTimes()
    with silenced():
        trainer(folder, callbacks=[times], max_steps=STEPS[name], limit_val_batches=0).fit(
            program, loader(store.train.images_NHWC[rows], store.train.labels_N[rows], train=True)
        )
    return rate_of(times.ended)


def our_result(name: str, data: DataConfig, seconds: float, folder: Path) -> TrainResult:
    """Run `cifar train` with its defaults until its time limit."""
    config = TrainConfig(
        model=ModelConfig(name=name, weights="none", trim_backbone=name == "hybrid"),
        data=data,
        recipe=replace(COURSE, max_seconds=seconds),
        run_dir=folder,
    )
    return train(config)


def bare_rate(
    name: str,
    numerics: Numerics,
    *,
    batch: int = BATCH,
    device: torch.device = torch.device("cpu"),
    like_ours: bool = False,
) -> float:
    """Images per second of the training step alone, on one batch on the device; as `cifar train` does it, or plain."""
    model = build_model(ModelConfig(name=name, weights="none", trim_backbone=name == "hybrid"), seed=42)
    images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=device)
    if like_ours:
        keep_freed_memory()
        step = _our_step(model, numerics, device)
    else:
        step = _plain_step(model, numerics, device)
    ended = []
    for _ in range(STEPS[name]):
        step(images, labels)
        if len(ended) % WINDOW_STEPS == 0:
            wait_for(device)
        ended.append(time.perf_counter())
    return rate_of(ended, batch)


def _our_step(model: nn.Module, numerics: Numerics, device: torch.device) -> Callable[[Tensor, Tensor], Any]:
    """The training step that `cifar train` runs."""
    model = training_form(model, numerics.memory_format).to(device).train()
    config = StepConfig.of_recipe(
        COURSE, learning_rate=1e-3, precision=numerics.precision, memory_format=numerics.memory_format
    )
    return TrainingStep(model, config, device_type=device.type)


def _plain_step(model: nn.Module, numerics: Numerics, device: torch.device) -> Callable[[Tensor, Tensor], None]:
    """A plain PyTorch training step in the same precision and layout."""
    layout = torch.channels_last if numerics.memory_format == "onednn" else LAYOUTS[numerics.memory_format]
    model, dtype = model.to(device).to(memory_format=layout).train(), AUTOCAST_DTYPES[numerics.precision]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss = nn.functional.cross_entropy(model(images.to(memory_format=layout)), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def steps_of(result: TrainResult) -> int:
    """Number of steps that `cifar train` ran. Raises RuntimeError if they are too few for a rate."""
    steps = int(read_checkpoint(result.run_dir / "checkpoints/last.ckpt")["global_step"])
    if steps < WARM_UP_STEPS + 2 * WINDOW_STEPS:
        raise RuntimeError(f"`cifar train` ran only {steps} steps: SECONDS is too short for this machine")
    return steps


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the function in a new process, so that no side inherits another's settings or memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def rate_of(ended: list[float], batch: int = BATCH) -> float:
    """Images per second of steps that ended at these times."""
    return steady_rate([(batch, after - before) for before, after in pairwise(ended)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--models", default="null,cnn,hybrid")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    data = DataConfig(dataset=options.dataset, data_dir=options.data_dir)
    table = Table(
        title=f"training, images per second, batch {BATCH}, recipe course, {os.cpu_count()} cores of "
        f"{processor_name()}, torch {torch.__version__}"
    )
    headings = ("model", "course's program", "cifar train", "times", "plain step", "its own step", "chosen")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("model", "chosen") else "right")
    for name in options.models.split(","):
        rows = []
        with tempfile.TemporaryDirectory() as temporary:
            for turn in range(options.rounds):
                folder = Path(temporary)
                sides: dict[str, Callable[[], Any]] = {
                    "theirs": partial(course_rate, name, data, folder / f"theirs{turn}"),
                    "ours": partial(our_result, name, data, SECONDS[name], folder / f"ours{turn}"),
                }
                done = {side: apart(sides[side]) for side in sorted(sides, reverse=turn % 2 == 0)}
                result = done["ours"]
                steps = steps_of(result)
                numerics = Numerics(precision=result.precision, memory_format=result.memory_format)
                bare, same = (apart(partial(bare_rate, like_ours=like), name, numerics) for like in (False, True))
                rows.append((done["theirs"], result.images_per_second, bare, same))
                rates = " ".join(f"{rate:,.0f}" for rate in rows[-1])
                print(f"{name}, round {turn + 1}: {rates} ({steps} steps of cifar train)", flush=True)
        theirs, ours, bare, same = (statistics.median(column) for column in zip(*rows, strict=True))
        table.add_row(
            name,
            f"{theirs:,.0f}",
            f"{ours:,.0f}",
            f"{ours / theirs:.2f}x",
            *(f"{rate:,.0f}\n{ours / rate:.1%}" for rate in (bare, same)),
            f"{result.precision}, {result.memory_format}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
