"""Predicted largest batch against timm's published training benchmark on an RTX 3090.

    python benchmarks/memory_3090.py PATH/TO/rtx3090_train_batch.csv [MODEL ...]

The table's columns: model, img_size, fits (a batch that ran), fails (the next size, out of memory). The step is that
benchmark's: float16 autocast around forward and backward without a scaler, channels-last, SGD with Nesterov momentum,
gradients zeroed in place and optimizer tensor by tensor (PyTorch 1.12), 1000 classes, no clipping.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from cifar_cli.core.choices import MemoryFormat
from cifar_cli.core.memory.config import MIB, MemoryConfig
from cifar_cli.core.memory.estimate import Tracer, find_max_batch
from cifar_cli.core.memory.gpus import gpu_of
from cifar_cli.core.memory.trace import TracedStep
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.training_form import LAYOUTS
from cifar_cli.core.training.config import StepConfig
from cifar_cli.errors import CifarError

STEP = StepConfig(precision="16", optimizer="sgd", clip_norm=None, memory_format="channels-last")


class BenchmarkStep(TracedStep):
    """The step of timm's benchmark."""

    @staticmethod
    def form(model: nn.Module, memory_format: MemoryFormat) -> nn.Module:
        """The model as it is."""
        return model.to(memory_format=LAYOUTS[memory_format])

    def optimizer_of(self, model: nn.Module, config: MemoryConfig) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, foreach=False)

    def __call__(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=False)
        with self.autocast():
            self.on_stage("forward")
            logits_BK = self.model(images_BCHW)
            loss = nn.functional.cross_entropy(logits_BK, labels_B)
            self.on_stage("backward")
            self.backward(loss)
        self.on_stage("optimizer")
        self.update()
        return loss, logits_BK


# PyTorch 1.12 with CUDA 11.3 loads every kernel into the context at start (lazy loading came with CUDA 11.7). For all
# rows its context is assumed to be 600 MiB larger than today's.
EAGER_LOADING_BYTES = 600 * MIB


def main(path: Path, only: set[str]) -> None:
    inside = total = 0
    worst = 0.0
    print(f"{'model':28} {'fits':>5} {'found':>6} {'fails':>5} {'off':>7} {'s':>6}")
    with path.open() as file:
        for row in csv.DictReader(file):
            if only and row["model"] not in only:
                continue
            start = time.perf_counter()
            fits, fails = int(row["fits"]), int(row["fails"])
            total += 1
            try:
                config = MemoryConfig(
                    model=ModelConfig(
                        name=f"timm:{row['model']}", classes=1000, img_size=int(row["img_size"]), weights="none"
                    ),
                    step=STEP,
                )
                gpu = gpu_of("RTX 3090")
                found = find_max_batch(
                    Tracer(config, step_type=BenchmarkStep),
                    gpu=gpu.name,
                    memory_bytes=gpu.memory_bytes - EAGER_LOADING_BYTES,
                ).max_batch
            except CifarError as error:
                print(f"{row['model']:28} {error}", flush=True)
                continue
            # Every batch from `fits` to below `fails` counts as right: the table has no figures between them.
            off = (found - fits) / fits if found < fits else max(0.0, (found - fails) / fails)
            inside += fits <= found < fails
            worst = max(worst, abs(off))
            seconds = time.perf_counter() - start
            print(f"{row['model']:28} {fits:5} {found:6} {fails:5} {off:+7.1%} {seconds:6.1f}", flush=True)
    print(f"inside [fits, fails): {inside} of {total}; worst distance from the bracket {worst:.1%}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), set(sys.argv[2:]))
