"""What a training step of `cifar train` costs beside forward pass, backward pass and optimizer.

    python benchmarks/step_overhead.py [--data-dir data] [--epochs 3] [--profile]

A model of one layer (3,072 inputs, 10 classes) is trained on the drawn images with the recipe `course` at batch 128,
without pictures, report and augmentation. The cost of a step is the time from the end of one training step to the
beginning of the next one of the same epoch, by the clock and of the processor: making the batch, learning rate, draws,
metrics, plan, time cap, progress and record. The table has the mean over the steps without the first ten of each epoch.
CPU time varies less than time by the clock where other programs run; with several threads it is the sum of all.
--profile prints where the time goes, by function; it makes everything slower.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.loader import Batch, BatchLoader
from cifar_cli.core.models import registry
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import ModelSpec
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.loop import Seams, fit
from cifar_cli.core.training.prepare import prepare
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.core.training.step import TrainingStep

NAME, WARM_UP_STEPS = "one-layer", 10


def build(config: ModelConfig) -> nn.Module:
    """One linear layer over all pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * config.img_size**2, config.classes))


def now() -> Tensor:
    """Seconds by the clock, and of the processor."""
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


class TimedLoader:
    """A loader that notes the time that each batch takes."""

    def __init__(self, loader: BatchLoader) -> None:
        self.loader = loader
        self.seconds: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.loader)
        for _ in range(len(self.loader)):
            began = now()
            batch = next(batches)
            self.seconds.append(now() - began)
            yield batch
        next(batches, None)  # so that it begins the next epoch


def measured(data: DataConfig, epochs: int, *, profile: bool) -> tuple[Tensor, Tensor]:
    """Seconds [steps, 2] of each batch, and of everything else beside the step that follows it."""
    began: list[Tensor] = []
    ended: list[Tensor] = []

    class Timed(TrainingStep):
        def __call__(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
            began.append(now())
            made = super().__call__(images_BCHW, labels_B)
            ended.append(now())
            return made

    spec = ModelSpec(
        name=NAME,
        summary="one linear layer",
        source="this benchmark",
        builder="step_overhead:build",
        weights=("none",),
        learning_rate=1e-3,
    )
    registry.MODELS[NAME] = spec  # type: ignore[index]
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            model=ModelConfig(name=NAME),
            data=data,
            recipe=replace(RECIPES["course"], max_epochs=epochs, policy="none"),
            precision="32",
            memory_format="channels-last",
            device="cpu",
            pictures="none",
            run_dir=Path(folder) / "run",
        )
        prepared = prepare(config)
        loader = TimedLoader(prepared.loaders.train)
        prepared = replace(prepared, loaders=replace(prepared.loaders, train=loader))  # type: ignore[arg-type]
        profiler: Any = cProfile.Profile() if profile else None
        if profiler is not None:
            profiler.enable()
        fit(prepared, seams=Seams(make_step=Timed))
        if profiler is not None:
            profiler.disable()
            pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    counted = [number for number in range(1, len(began)) if number % len(loader) > WARM_UP_STEPS]
    batches = torch.stack([loader.seconds[number] for number in counted])
    between = torch.stack([began[number] - ended[number - 1] for number in counted])
    return batches, between - batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    data = DataConfig(dataset="shapes", data_dir=options.data_dir)
    batches, others = measured(data, options.epochs, profile=options.profile)
    print(f"{len(others):,} steps, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    print("| ms a step, mean | by the clock | CPU time |\n| --- | ---: | ---: |")
    rows = {
        "the batch": batches,
        "all but batch, forward, backward and optimizer": others,
        "both": batches + others,
    }
    for what, seconds in rows.items():
        wall, cpu = (1000 * seconds.mean(dim=0)).tolist()
        print(f"| {what} | {wall:.2f} | {cpu:.2f} |")


if __name__ == "__main__":
    main()
