"""Training speed: `cifar train` against the course's program and against the training step alone.

    python benchmarks/train_throughput.py [--dataset cifar10] [--data-dir data] [--models null,cnn,hybrid] [--rounds 4]
    python benchmarks/train_throughput.py --models airbench [--epochs 2] [--rounds 2]

`airbench` needs the real CIFAR-10, and has a table of its own, of complete runs: `cifar train --recipe fast` against a
plain PyTorch loop of the same net (`plain_loop.py`), in float32 and in bfloat16. Each run is its own command, timed
from its start to its end, so that start-up, data, validation and test count. The share is that of the highest rate of a
large bfloat16 matrix product, measured between the runs: the operations of training, validation and test, by the
package's count, divided by the seconds. Images of the smaller sides count by their area.

For the other models three sides train the same model from the same weights with the `course` recipe at batch 128:
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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bare_step import BATCH, COURSE, STEPS, bare_rate, rate_of
from course_program import Program, StepTimes, loader, silenced, trainer
from rich.console import Console
from rich.table import Table

from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.counting.summary import summarize
from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.splits import stratified_split
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import spec_of
from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.growth import Growth
from cifar_cli.core.training.machine import matmul_flops_per_second, processor_name
from cifar_cli.core.training.pace import WARM_UP_STEPS, WINDOW_STEPS
from cifar_cli.core.training.recipe import recipe_of
from cifar_cli.core.training.results import Numerics, TrainResult
from cifar_cli.core.training.train import train

SECONDS = {"null": 15.0, "cnn": 55.0, "hybrid": 50.0}  # `cnn` and `hybrid` reserve about 20 for the test


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


EVALUATED_FORWARDS = 2 * 10_000 + 2000
"""Images that `cifar train` scores after training: the test images as they are and mirrored, and some of training."""
TRAIN_IMAGES, VAL_IMAGES = 45_000, 5000
BATCH_OF_WHOLE_RUNS = 1000


def whole_run(command: list[str]) -> float:
    """Seconds of a command from its start to its end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def highest_product_rate() -> float:
    return matmul_flops_per_second(torch.bfloat16, torch.device("cpu"))


def whole_runs(name: str, data: DataConfig, epochs: int, rounds: int) -> Table:
    """Complete runs of a model by `cifar train` and by the plain loop."""
    counted = summarize(SummaryConfig(model=ModelConfig(name=name, weights="none"), batch=BATCH_OF_WHOLE_RUNS))
    recipe = recipe_of("fast", model=name)
    area = Growth(full=32, initial_scale=recipe.initial_scale).mean_area
    train_flops = counted.train_step_flops_per_batch / BATCH_OF_WHOLE_RUNS * TRAIN_IMAGES * epochs
    scored = VAL_IMAGES * epochs + EVALUATED_FORWARDS
    plain = ["benchmarks/plain_loop.py", "--model", name, "--epochs", str(epochs), "--data-dir", str(data.data_dir)]
    sides = {
        "cifar train": ["-m", "cifar_cli", "train", "--model", name, "--recipe", "fast", "--max-epochs", str(epochs)],
        "plain loop, bfloat16": [*plain, "--dtype", "bfloat16"],
        "plain loop, float32": [*plain, "--dtype", "float32"],
    }
    flops = dict.fromkeys(sides, train_flops + scored * counted.forward_flops_per_image)
    flops["cifar train"] -= train_flops * (1 - area)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    products = []
    for turn in range(rounds):
        for side in sorted(sides, reverse=turn % 2 == 1):
            products.append(apart(highest_product_rate))
            with tempfile.TemporaryDirectory() as temporary:
                own = ["--data-dir", str(data.data_dir), "--run-dir", f"{temporary}/run"] if "-m" in sides[side] else []
                seconds[side].append(whole_run([sys.executable, *sides[side], *own]))
            print(f"{name}, round {turn + 1}, {side}: {seconds[side][-1]:,.1f} s", flush=True)
    highest = max(products)
    table = Table(
        title=f"{name}, complete runs of {epochs} epochs, {os.cpu_count()} cores of {processor_name()}, torch "
        f"{torch.__version__}; large bfloat16 products: {highest / 1e9:,.0f} GFLOP/s "
        f"({min(products) / 1e9:,.0f} in the slowest measurement)"
    )
    for heading in ("side", "seconds", "images/s", "GFLOP/s", "share of the products' rate"):
        table.add_column(heading, justify="left" if heading == "side" else "right")
    for side, taken in seconds.items():
        median = statistics.median(taken)
        rate = flops[side] / median
        images = TRAIN_IMAGES * epochs / median
        table.add_row(side, f"{median:,.1f}", f"{images:,.0f}", f"{rate / 1e9:,.0f}", f"{rate / highest:.0%}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--models", default="null,cnn,hybrid")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2, help="of the complete runs of airbench")
    options = parser.parse_args()
    data = DataConfig(dataset=options.dataset, data_dir=options.data_dir)
    models = options.models.split(",")
    if "airbench" in models:
        Console(width=110).print(whole_runs("airbench", data, options.epochs, options.rounds))
        models.remove("airbench")
    if not models:
        return
    table = Table(
        title=f"training, images per second, batch {BATCH}, recipe course, {os.cpu_count()} cores of "
        f"{processor_name()}, torch {torch.__version__}"
    )
    headings = ("model", "course's program", "cifar train", "times", "plain step", "its own step", "chosen")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("model", "chosen") else "right")
    for name in models:
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
