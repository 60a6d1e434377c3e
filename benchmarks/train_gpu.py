"""Measures training on a CUDA GPU and rewrites the GPU section of docs/performance.md.

    python benchmarks/train_gpu.py [--data-dir data] [--page docs/performance.md] [--seconds 20]

For null, cnn and hybrid with the `course` recipe, at batch 128 and at the batch that `--batch auto` finds, and for null
at batch 512 with the policies `course` and `crop-flip` too: images per second of `cifar train`, images per second of
the training step alone on one batch that stays on the GPU, the share of the time in which the GPU was idle (from a
profiler's trace of ten steps, before a CUDA graph is captured), and images per second of the whole run, from the call
to the end of the test. Then what `--deterministic` costs: images per second of `cifar train` without it, without it in
float32, and with it. Then `null` on CIFAR-10 with `--recipe fast` and `--recipe best`: test accuracy, whether it
reaches the course's, and seconds from the call to the end of the test. The page is written again after every row, so
that a later failure loses none. A model that can't be trained here, for example because its package is missing, is a
row with the reason. Without a GPU the script prints a message, exits with status 1 and does not change the page.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import torch
from bare_step import COURSE, bare_rate

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.recipe import RECIPES, Recipe
from cifar_cli.core.training.results import Numerics
from cifar_cli.core.training.train import train
from cifar_cli.core.workflow.config import TrainRequest
from cifar_cli.core.workflow.run import train_and_report
from cifar_cli.errors import CifarError

MODELS = ("null", "cnn", "hybrid")
GOAL = 0.7612  # test accuracy that the course reports for `null`
START, END = "<!-- GPU begins -->", "<!-- GPU ends -->"
GPU_WORK = ("kernel", "gpu_memcpy", "gpu_memset")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--page", type=Path, default=Path(__file__).resolve().parent.parent / "docs/performance.md")
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"this machine has no CUDA GPU: nothing was measured and {options.page} was not changed", file=sys.stderr)
        return 1
    data = DataConfig(dataset="cifar10", data_dir=options.data_dir)
    lines = chain(
        [f"On an {torch.cuda.get_device_name()}, torch {torch.__version__}.", ""],
        _speeds(data, options.seconds),
        [""],
        _costs_of_determinism(data, options.seconds),
        [""],
        _accuracies(data),
    )
    write_as_they_come(lines, options.page)
    return 0


def write_as_they_come(lines: Iterable[str], page: Path) -> None:
    """Print every line, and put it into the page's section at once. A line that can't be made ends it."""
    written: list[str] = []
    for line in lines:
        written.append(line)
        page.write_text(with_section(page.read_text(encoding="utf-8"), written), encoding="utf-8")
        print(line, flush=True)


def _speeds(data: DataConfig, seconds: float) -> Iterable[str]:
    yield "| model | policy | batch | precision | CUDA graph | images/s | step alone | share | GPU idle | whole run |"
    yield "|---|---|--:|---|---|--:|--:|--:|--:|--:|"
    rows: list[tuple[str, str, int | None]] = [(name, "course", batch) for name, batch in product(MODELS, (128, None))]
    for name, policy, batch in (*rows, *(("null", policy, 512) for policy in ("course", "crop-flip"))):
        yield row_or_reason(partial(_speed, name, policy, batch, data, seconds), f"| {name} | {policy} |", empty=7)


def row_or_reason(make: Callable[[], str], first: str, *, empty: int) -> str:
    """A table's row, or its first columns and why there is no more of it."""
    try:
        return make()
    except (CifarError, ImportError, RuntimeError) as error:
        return f"{first} not measured: {' '.join(str(error).split())} |" + " |" * empty


def _speed(name: str, policy: str, batch: int | None, data: DataConfig, seconds: float) -> str:
    """A row. batch: None for `--batch auto`."""
    with tempfile.TemporaryDirectory() as temporary:
        config = TrainConfig(
            model=ModelConfig(name=name, weights="none", trim_backbone=name == "hybrid"),
            data=data,
            recipe=replace(COURSE, policy=policy, batch=batch or COURSE.batch, max_seconds=seconds),
            profile=True,
            run_dir=Path(temporary) / "run",
        )
        (result,) = train_and_report(TrainRequest(config=config, batch_auto=batch is None)).results
        steps = int(read_checkpoint(result.run_dir / "checkpoints/last.ckpt")["global_step"])
        (trace,) = (result.run_dir / "profile").glob("*.json")
        idle = idle_share(json.loads(trace.read_text(encoding="utf-8"))["traceEvents"])
    numerics = Numerics(precision=result.precision, memory_format=result.memory_format)
    batch = result.config.recipe.batch
    whole = steps * batch / result.time.total_seconds
    bare = bare_rate(name, numerics, batch=batch, device=torch.device("cuda"))
    return (
        f"| {name} | {policy} | {batch} | {result.precision}, {result.memory_format} | {result.config.cuda_graph} "
        f"| {result.images_per_second:,.0f} | {bare:,.0f} | {result.images_per_second / bare:.1%} | {idle:.1%} "
        f"| {whole:,.0f} |"
    )


def _costs_of_determinism(data: DataConfig, seconds: float) -> Iterable[str]:
    yield "| model | images/s | in float32 | `--deterministic`, float32 | its cost in float32 |"
    yield "|---|--:|--:|--:|--:|"
    for name in MODELS:
        yield row_or_reason(partial(_cost_of_determinism, name, data, seconds), f"| {name} |", empty=3)


def _cost_of_determinism(name: str, data: DataConfig, seconds: float) -> str:
    """A row: the kernels alone differ between float32 with and without the option, the precision too from the first."""
    plain = TrainConfig(
        model=ModelConfig(name=name, weights="none", trim_backbone=name == "hybrid"),
        data=data,
        recipe=replace(COURSE, max_seconds=seconds),
    )
    float32 = replace(plain, precision="32", memory_format="channels-last")
    rates = []
    for config in (plain, float32, replace(float32, deterministic=True)):
        with tempfile.TemporaryDirectory() as temporary:
            rates.append(train(replace(config, run_dir=Path(temporary) / "run")).images_per_second)
    auto, without, deterministic = rates
    cost = 1 - deterministic / without
    return f"| {name} | {auto:,.0f} | {without:,.0f} | {deterministic:,.0f} | {cost:.1%} |"


def _accuracies(data: DataConfig) -> Iterable[str]:
    yield f"| recipe, `null` | epochs | test accuracy | {GOAL:.2%} reached | seconds |"
    yield "|---|--:|--:|---|--:|"
    for recipe in (RECIPES["fast"], RECIPES["best"]):
        yield row_or_reason(partial(_accuracy, data, recipe), f"| {recipe.name} |", empty=3)


def _accuracy(data: DataConfig, recipe: Recipe) -> str:
    result, seconds = _timed(data, recipe)
    reached = "yes" if result.test_accuracy >= GOAL else "no"
    return f"| {recipe.name} | {result.epochs} | {result.test_accuracy:.2%} | {reached} | {seconds:,.1f} |"


def _timed(data: DataConfig, recipe: Recipe) -> tuple[Any, float]:
    with tempfile.TemporaryDirectory() as temporary:
        start = time.perf_counter()
        folder = Path(temporary) / "run"
        result = train(TrainConfig(model=ModelConfig(name="null"), data=data, recipe=recipe, run_dir=folder))
        return result, time.perf_counter() - start


def idle_share(events: list[dict[str, Any]]) -> float:
    """Share of the time between the GPU's first and last operation in which it was idle; 0 without operations."""
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event.get("cat") in GPU_WORK)
    busy, reached = 0.0, spans[0][0] if spans else 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return 1 - busy / (reached - spans[0][0]) if spans else 0.0


def with_section(page: str, lines: list[str]) -> str:
    """The page with the lines put between its two marks."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return "\n".join([before + START, *lines, END + after])


if __name__ == "__main__":
    raise SystemExit(main())
