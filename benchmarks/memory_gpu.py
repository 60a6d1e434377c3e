"""Predicted against measured memory of real training steps on this machine's CUDA GPU; writes docs/memory-accuracy.md.

    python benchmarks/memory_gpu.py [--batches 16,64,128,256,512] [--page docs/memory-accuracy.md] [--skip-largest]

null, cnn and hybrid, precision 32, bf16 and 16, Adam and SGD, five batch sizes. Every measurement runs in a process
of its own, so that one that runs out of memory is a line in the table. After them the largest batch of each
combination is searched as `cifar profile-memory --find-max-batch` does it; a size after which the process was gone
instead of reporting that memory ran out counts as a crash.
Without a GPU it says so, ends with 1 and leaves the page alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import cast

import torch

from cifar_cli.core.memory.config import MIB, MemoryConfig, OptimizerName, Precision, StepConfig
from cifar_cli.core.memory.estimate import Tracer, peak_of
from cifar_cli.core.memory.measure import gpu_and_memory, on_gpu
from cifar_cli.core.memory.real_steps import measure
from cifar_cli.core.memory.results import PeakMemory
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.errors import CifarError

MODELS = ("null", "cnn", "hybrid")
PRECISIONS: tuple[Precision, ...] = ("32", "bf16", "16")
OPTIMIZERS: tuple[OptimizerName, ...] = ("adam", "sgd")
BATCHES = "16,64,128,256,512"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "memory-accuracy.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One comparison. measured is None where the step didn't run; why says so."""

    config: MemoryConfig
    predicted: PeakMemory
    measured: PeakMemory | None
    why: str = ""

    @property
    def error(self) -> float | None:
        """Predicted reserved memory against measured, as a fraction; below zero is too little."""
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


def main() -> int:
    options = _options()
    if not has_gpu():
        print(f"this machine has no CUDA GPU: nothing was measured, {options.page} stays as it is", file=sys.stderr)
        return 1
    rows: list[Row] = []
    largest: list[Largest] = []
    for name, precision, optimizer in product(MODELS, PRECISIONS, OPTIMIZERS):
        step = StepConfig(precision=precision, optimizer=optimizer)
        tracer = Tracer(MemoryConfig(model=ModelConfig(name=name, weights="none"), step=step))
        for batch in options.batches:
            rows.append(compare(tracer, batch))
            print(_line(rows[-1]), flush=True)
        if not options.skip_largest:
            largest.append(compare_largest(tracer))
            print(_largest_line(largest[-1]), flush=True)
    options.page.write_text(page(rows, largest, machine=_machine()), encoding="utf-8")
    print(f"wrote {options.page}")
    return 0


def has_gpu() -> bool:
    return torch.cuda.is_available()


def compare(tracer: Tracer, batch: int) -> Row:
    """Predict a batch, then run it in a child process."""
    config = tracer.config
    predicted = peak_of(tracer.at(batch), model=config.model.label)
    try:
        return Row(config=config, predicted=predicted, measured=measure(config, batch, device="cuda"))
    except CifarError as error:
        return Row(config=config, predicted=predicted, measured=None, why=str(error))


def compare_largest(tracer: Tracer) -> Largest:
    """The largest batch by estimate, and as `cifar profile-memory --find-max-batch` finds and proves it."""
    name, total = gpu_and_memory()
    predicted, found = on_gpu(tracer, memory_bytes=total, name=name, with_speeds=False)
    return Largest(
        config=tracer.config, predicted=predicted.max_batch, found=found.max_batch, stopped_by=found.stopped_by or "-"
    )


def page(rows: list[Row], largest: list[Largest], *, machine: str) -> str:
    """The page's text: summary, then every comparison."""
    lines = [
        "# How right is the memory estimate?",
        "",
        f"Written by `benchmarks/memory_gpu.py` on {machine}. Sizes in MiB; the error is that of reserved memory,",
        "below zero where too little was predicted.",
        "",
        *_summary(rows, largest),
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
            f"- Too little predicted in {below} of {len(errors)} ({below / len(errors):.0%}).",
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
    seen, foreseen = row.measured, row.predicted
    allocated, reserved = (
        ("-", "-") if seen is None else (_mib(seen.peak_allocated_bytes), _mib(seen.peak_reserved_bytes))
    )
    error = "did not run" if row.error is None else f"{row.error:+.1%}"
    return (
        f"| {_name(row.config)} | {foreseen.batch} | {_mib(foreseen.peak_allocated_bytes)} | {allocated} "
        f"| {_mib(foreseen.peak_reserved_bytes)} | {reserved} | {error} |"
    )


def _largest_line(item: Largest) -> str:
    error = f"{item.predicted / item.found - 1:+.1%}" if item.found else "nothing ran"
    return f"| {_name(item.config)} | {item.predicted} | {item.found} | {error} | {item.stopped_by} |"


def _name(config: MemoryConfig) -> str:
    return f"{config.model.label} | {config.step.precision} | {config.step.optimizer}"


def _mib(size: float) -> str:
    return f"{size / MIB:,.1f}"


def _machine() -> str:
    device = torch.cuda.get_device_properties(0)
    return f"an {device.name}, {device.total_memory / MIB:,.0f} MiB, torch {torch.__version__}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=cast(str, __doc__).splitlines()[0])
    parser.add_argument("--batches", default=BATCHES, type=lambda text: [int(size) for size in text.split(",")])
    parser.add_argument("--page", default=PAGE, type=Path)
    parser.add_argument("--skip-largest", action="store_true", help="only the batch sizes, not the largest batch")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
