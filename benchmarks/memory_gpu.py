"""Predicted against measured memory of real training steps on this machine's CUDA GPU; writes a page.

    python benchmarks/memory_gpu.py [--models null,cnn,hybrid] [--batches 16,64] [--page PATH] [--skip-largest]

null, cnn and hybrid at 32 pixels and twelve timm networks at 224, precision 32, bf16 and 16, Adam and SGD, five batch
sizes. Every measurement runs in a process of its own, and one that runs out of memory is a row in the table; a model
that can't be built or predicted is named. The page is written after every row. The largest batch of each is searched
as `cifar profile-memory --find-max-batch` does it; a search that ends in another way than memory that ran out and was
reported is counted. Without a GPU, or when no step ran, no page is written and the exit code is 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import cast

import torch

from cifar_cli.core.choices import OptimizerName, Precision
from cifar_cli.core.memory.config import MIB, MemoryConfig
from cifar_cli.core.memory.estimate import Tracer, peak_of
from cifar_cli.core.memory.gpus import Gpu
from cifar_cli.core.memory.measure import Machine, max_batch_on_gpu, this_machine
from cifar_cli.core.memory.real_steps import measure
from cifar_cli.core.memory.results import PeakMemory
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig
from cifar_cli.errors import CifarError

NETWORKS = """
    resnet50 vit_small_patch16_224 vit_base_patch16_224 deit_tiny_patch16_224 swin_tiny_patch4_window7_224 convnext_tiny
    efficientnet_b0 mobilenetv3_large_100 regnety_008 densenet121 vgg11_bn mixer_b16_224
""".split()  # noqa: SIM905 - a list of names reads best as words
SIDE_OF_TIMM = 224
MODELS = ("null", "cnn", "hybrid", *(f"timm:{name}" for name in NETWORKS))
PRECISIONS: tuple[Precision, ...] = ("32", "bf16", "16")
OPTIMIZERS: tuple[OptimizerName, ...] = ("adam", "sgd")
BATCHES = "16,64,128,256,512"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "memory-accuracy-gpu.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One comparison."""

    config: MemoryConfig
    predicted: PeakMemory
    measured: PeakMemory | None
    """None where the step didn't run."""
    why: str = ""
    """Why it didn't run."""

    @property
    def error(self) -> float | None:
        """Relative error of the predicted reserved memory; negative where it is too low."""
        if self.measured is None:
            return None
        return self.predicted.peak_reserved_bytes / self.measured.peak_reserved_bytes - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Largest:
    """The largest batch of one combination, predicted and found by running."""

    config: MemoryConfig
    predicted: int
    found: int
    stopped_by: str


def main(arguments: list[str] | None = None, machine: Machine | None = None) -> int:
    options, machine = _options(arguments), machine or this_machine()
    if machine.gpu is None:
        print("this machine has no CUDA GPU: nothing was measured and no page was written", file=sys.stderr)
        return 1
    rows: list[Row] = []
    largest: list[Largest] = []
    failed: list[str] = []

    def write() -> None:
        """The page, as soon as there is something on it, so that nothing measured is lost."""
        if any(row.measured for row in rows):
            described = _described(cast(Gpu, machine.gpu))
            options.page.write_text(page(rows, largest, machine=described, failed=failed), encoding="utf-8")

    for name, precision, optimizer in product(options.models, PRECISIONS, OPTIMIZERS):
        step = StepConfig(precision=precision, optimizer=optimizer)
        side = SIDE_OF_TIMM if name.startswith("timm:") else 32
        config = MemoryConfig(model=ModelConfig(name=name, weights="none", img_size=side), step=step)
        try:
            tracer = Tracer(config)
            for batch in options.batches:
                rows.append(compare(tracer, batch, machine))
                print(_line(rows[-1]), flush=True)
                write()
            if not options.skip_largest:
                largest.append(compare_largest(tracer, machine))
                print(_largest_line(largest[-1]), flush=True)
        except (CifarError, ImportError, RuntimeError) as error:  # a package that is missing, or no memory at all
            failed.append(f"{_name(config).replace(' |', ',')}: {str(error).splitlines()[0]}")
            print(failed[-1], flush=True)
        write()
    if not any(row.measured for row in rows):
        print("no step ran: no page was written", file=sys.stderr)
        return 1
    print(f"wrote {options.page}")
    return 0


def compare(tracer: Tracer, batch: int, machine: Machine) -> Row:
    """Predict a batch, then run it in a child process."""
    config = tracer.config
    predicted = peak_of(tracer.at(batch), model=config.model.label)
    try:
        return Row(config=config, predicted=predicted, measured=measure(config, batch, start=machine.start))
    except CifarError as error:
        return Row(config=config, predicted=predicted, measured=None, why=str(error))


def compare_largest(tracer: Tracer, machine: Machine) -> Largest:
    """The largest batch, predicted and as `cifar profile-memory --find-max-batch` finds and proves it."""
    assert machine.gpu is not None
    predicted, found = max_batch_on_gpu(tracer, machine.gpu, start=machine.start)
    return Largest(
        config=tracer.config, predicted=predicted.max_batch, found=found.max_batch, stopped_by=found.stopped_by or "-"
    )


def page(rows: list[Row], largest: list[Largest], *, machine: str, failed: Sequence[str] = ()) -> str:
    """The page's text: summary, then every comparison."""
    lines = [
        "# How accurate is the memory estimate?",
        "",
        f"Written by `benchmarks/memory_gpu.py` on {machine}. Sizes are in MiB. The error is that of reserved memory,",
        "and negative where the prediction is too low.",
        "",
        *_summary(rows, largest),
        *(f"- {each}" for each in failed),
        "",
        "| model | precision | optimizer | batch | allocated: predicted | measured | reserved: predicted | measured "
        "| error |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
        *(_line(row) for row in rows),
    ]
    if largest:
        lines += [
            "",
            "| model | precision | optimizer | largest batch: predicted | found and proved | error | next size |",
            "|---|---|---|--:|--:|--:|---|",
            *(_largest_line(item) for item in largest),
        ]
    return "\n".join(lines) + "\n"


def _summary(rows: list[Row], largest: list[Largest]) -> list[str]:
    errors = [row.error for row in rows if row.error is not None]
    lines = [f"- {len(errors)} of {len(rows)} steps ran."]
    if errors:
        sizes = [abs(error) for error in errors]
        below = sum(error < 0 for error in errors)
        lines += [
            f"- Reserved memory: median error {statistics.median(sizes):.1%}, worst {max(sizes):.1%}.",
            f"- The prediction is too low in {below} of {len(errors)} ({below / len(errors):.0%}).",
        ]
    off = [abs(item.predicted / item.found - 1) for item in largest if item.found]
    if off:
        lines.append(f"- Largest batch: worst error {max(off):.1%}, {off.count(0.0)} of {len(largest)} exact.")
    if largest:
        clean = sum(item.stopped_by == "-" or item.stopped_by.startswith("out of memory") for item in largest)
        lines.append(f"- {clean} of {len(largest)} searches ended at memory that ran out and was reported.")
    for row in rows:
        if row.why:
            lines.append(f"- {_name(row.config).replace(' |', ',')}, batch {row.predicted.batch}: {row.why}")
    return lines


def _line(row: Row) -> str:
    measured, predicted = row.measured, row.predicted
    allocated, reserved = (
        ("-", "-") if measured is None else (_mib(measured.peak_allocated_bytes), _mib(measured.peak_reserved_bytes))
    )
    error = "did not run" if row.error is None else f"{row.error:+.1%}"
    return (
        f"| {_name(row.config)} | {predicted.batch} | {_mib(predicted.peak_allocated_bytes)} | {allocated} "
        f"| {_mib(predicted.peak_reserved_bytes)} | {reserved} | {error} |"
    )


def _largest_line(item: Largest) -> str:
    error = f"{item.predicted / item.found - 1:+.1%}" if item.found else "nothing ran"
    return f"| {_name(item.config)} | {item.predicted} | {item.found} | {error} | {item.stopped_by} |"


def _name(config: MemoryConfig) -> str:
    return f"{config.model.label} | {config.step.precision} | {config.step.optimizer}"


def _mib(size: float) -> str:
    return f"{size / MIB:,.1f}"


def _described(gpu: Gpu) -> str:
    return f"an {gpu.name}, {gpu.memory_bytes / MIB:,.0f} MiB, torch {torch.__version__}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=cast(str, __doc__).splitlines()[0])
    parser.add_argument("--batches", default=BATCHES, type=lambda text: [int(size) for size in text.split(",")])
    parser.add_argument("--models", default=MODELS, type=lambda text: text.split(","))
    parser.add_argument("--page", default=PAGE, type=Path)
    parser.add_argument("--skip-largest", action="store_true", help="only the batch sizes, not the largest batch")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
