"""Time until `null` reaches the course's test accuracy: `cifar train --recipe fast` against the course's program.

    python benchmarks/time_to_accuracy.py [--data-dir data] [--seeds 0,1] [--goal 0.7612] [--longest 2400]

Needs the real CIFAR-10. Each run has its own process: `cifar train` with the first seed, the course's program once, and
`cifar train` with the other seeds. `cifar train` is timed from the call to the end of the test (start-up,
validation, pictures and checkpoints included), and its accuracy is that of the weights chosen by validation. The
course's program (`course_program.py`, Adam at 1e-3) is scored on the test images after every epoch while its clock is
stopped. Its time ends with the first epoch after which the test accuracy reaches the goal; its start-up does not count.
Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from course_program import Program, loader, silenced, trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from train_throughput import apart

from cifar_cli.core.data.config import DataConfig, Normalisation
from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.splits import stratified_split
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.batches import loader_of_test
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.machine import processor_name
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.core.training.results import TrainResult
from cifar_cli.core.training.scores import score
from cifar_cli.core.training.train import train

CPU = torch.device("cpu")


class Goal(Callback):
    """Scores the program on the test images after every epoch, with the clock stopped, and stops it at the goal."""

    def __init__(self, test: Any, *, goal: float, longest: float) -> None:
        self.test, self.goal, self.longest = test, goal, longest
        self.seconds = 0.0
        self.epochs = 0
        self.accuracy = 0.0
        self._since = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += time.perf_counter() - self._since  # validation has already run
        self.epochs += 1
        found = score(pl_module.model, self.test, classes=10, device=CPU).plain.accuracy
        pl_module.model.to(memory_format=torch.contiguous_format)  # scoring changed it to channels last
        self.accuracy = max(self.accuracy, found)
        print(f"course's program, epoch {self.epochs}: {self.seconds:,.0f} s, {found:.2%}", file=sys.__stderr__)
        if found >= self.goal or self.seconds > self.longest:
            trainer.should_stop = True


def course_program(data: DataConfig, goal: float, longest: float, folder: Path) -> tuple[int, float, float]:
    """Train the course's program until it reaches the goal. Returns its epochs, seconds and best test accuracy."""
    store = open_dataset(data)
    split = stratified_split(store.train.labels_N)
    reached = Goal(
        loader_of_test(store, img_size=32, normalisation=Normalisation(), device=CPU), goal=goal, longest=longest
    )
    torch.manual_seed(42)
    program = Program(build_model(ModelConfig(name="null"), seed=42), rate=1e-3)
    parts = [
        loader(store.train.images_NHWC[rows], store.train.labels_N[rows], train=train)
        for rows, train in ((split.train_indices, True), (split.val_indices, False))
    ]
    with silenced():
        trainer(folder, callbacks=[reached], max_epochs=1000).fit(program, *parts)
    return reached.epochs, reached.seconds, reached.accuracy


def ours(data: DataConfig, seed: int, folder: Path) -> tuple[TrainResult, float]:
    """Run `cifar train --recipe fast`. Returns its result and the seconds from the call to the result."""
    start = time.perf_counter()
    config = TrainConfig(model=ModelConfig(name="null"), data=data, recipe=RECIPES["fast"], seed=seed, run_dir=folder)
    result = train(config)
    return result, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--goal", type=float, default=0.7612)
    parser.add_argument("--longest", type=float, default=2400)
    options = parser.parse_args()
    data = DataConfig(dataset="cifar10", data_dir=options.data_dir)
    first, *others = (int(seed) for seed in options.seeds.split(","))
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs.append((first, *apart(ours, data, first, folder / f"ours{first}")))
        epochs, course_seconds, accuracy = apart(course_program, data, options.goal, options.longest, folder / "theirs")
        runs.extend((seed, *apart(ours, data, seed, folder / f"ours{seed}")) for seed in others)
    cores = f"{os.cpu_count()} cores of {processor_name()}, torch {torch.__version__}"
    table = Table(title=f"null on CIFAR-10 to {options.goal:.2%} test accuracy, {cores}")
    for heading in ("program", "seed", "epochs", "seconds", "test accuracy", "part of the time"):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    table.add_row("the course's", "42", str(epochs), f"{course_seconds:,.1f}", f"{accuracy:.2%}", "1")
    for seed, result, seconds in runs:
        part = f"1/{course_seconds / seconds:.1f}" if result.test_accuracy >= options.goal else "not reached"
        if accuracy < options.goal and part != "not reached":
            part = f"less than {part}"  # the course's program did not reach the goal in time
        table.add_row(
            "--recipe fast", str(seed), str(result.epochs), f"{seconds:,.1f}", f"{result.test_accuracy:.2%}", part
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
