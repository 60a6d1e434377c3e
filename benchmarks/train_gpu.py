"""Measures training on a CUDA GPU and rewrites the GPU section of docs/performance.md.

    python benchmarks/train_gpu.py [--data-dir data] [--page docs/performance.md] [--seconds 20]

For null, cnn and hybrid with the `course` recipe, at batch 128 and at the batch that `--batch auto` finds: images per
second of `cifar train`, images per second of the training step alone on one batch that stays on the GPU, and the
share of the time in which the GPU was idle (from a profiler's trace of ten steps). Then `null` on CIFAR-10 with
`--recipe fast` and `--recipe best`: test accuracy, whether it reaches the course's, and seconds from the call to the
end of the test. Without a GPU it prints a message, exits with status 1 and does not change the page.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from train_throughput import COURSE, bare_rate

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.recipe import RECIPES, Recipe
from cifar_cli.core.training.results import Numerics
from cifar_cli.core.training.train import train
from cifar_cli.core.workflow.config import TrainRequest
from cifar_cli.core.workflow.run import train_and_report

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
    lines = [f"On an {torch.cuda.get_device_name()}, torch {torch.__version__}.", "", *_speeds(data, options.seconds)]
    lines += ["", *_accuracies(data)]
    options.page.write_text(with_section(options.page.read_text(encoding="utf-8"), lines), encoding="utf-8")
    print("\n".join(lines))
    return 0


def _speeds(data: DataConfig, seconds: float) -> Iterable[str]:
    yield "| model | batch | precision | images/s | step alone | share | GPU idle |"
    yield "|---|--:|---|--:|--:|--:|--:|"
    for name in MODELS:
        for batch_auto in (False, True):
            with tempfile.TemporaryDirectory() as temporary:
                config = TrainConfig(
                    model=ModelConfig(name=name, weights="none", trim_backbone=name == "hybrid"),
                    data=data,
                    recipe=replace(COURSE, max_seconds=seconds),
                    profile=True,
                    run_dir=Path(temporary) / "run",
                )
                (result,) = train_and_report(TrainRequest(config=config, batch_auto=batch_auto)).results
                (trace,) = (result.run_dir / "profile").glob("*.json")
                idle = idle_share(json.loads(trace.read_text(encoding="utf-8"))["traceEvents"])
            numerics = Numerics(precision=result.precision, memory_format=result.memory_format)
            batch = result.config.recipe.batch
            bare = bare_rate(name, numerics, batch=batch, device=torch.device("cuda"))
            yield (
                f"| {name} | {batch} | {result.precision}, {result.memory_format} | {result.images_per_second:,.0f} "
                f"| {bare:,.0f} | {result.images_per_second / bare:.1%} | {idle:.1%} |"
            )


def _accuracies(data: DataConfig) -> Iterable[str]:
    yield f"| recipe, `null` | epochs | test accuracy | {GOAL:.2%} reached | seconds |"
    yield "|---|--:|--:|---|--:|"
    for recipe in (RECIPES["fast"], RECIPES["best"]):
        result, seconds = _timed(data, recipe)
        reached = "yes" if result.test_accuracy >= GOAL else "no"
        yield f"| {recipe.name} | {result.epochs} | {result.test_accuracy:.2%} | {reached} | {seconds:,.1f} |"


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
