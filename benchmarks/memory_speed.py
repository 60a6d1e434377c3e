"""How long the memory estimate takes: one batch size of each model, and the largest batch of all three together.

    python benchmarks/memory_speed.py [REPEATS]

Imports are not counted. For one batch size the model is built and traced again each time. The median of REPEATS
(default 3) is printed beside a limit on two cores.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from cifar_cli.core.memory.config import MemoryConfig, MemoryRequest
from cifar_cli.core.memory.estimate import estimate
from cifar_cli.core.memory.profile import profile
from cifar_cli.core.memory.real_steps import built
from cifar_cli.core.models.config import ModelConfig

LIMITS_SECONDS = {"null": 0.5, "hybrid": 2.0, "cnn": 4.0}
ALL_LIMIT_SECONDS = 20.0


def main(repeats: int) -> None:
    estimate(_config("null"), 2)  # the first trace of a process also imports modules of timm and torch
    for name in LIMITS_SECONDS:
        estimate(_config(name), 2)
    print(f"{'what':44} {'median s':>8} {'CPU s':>6} {'limit s':>7}")
    for name, limit in LIMITS_SECONDS.items():
        _line(f"{name}, batch 128", repeats, lambda name=name: _estimated_anew(name), limit)
    request = MemoryRequest(configs=tuple(_config(name) for name in LIMITS_SECONDS), find_max_batch=True, estimate=True)
    _line("--find-max-batch, all three on the common cards", repeats, lambda: profile(request), ALL_LIMIT_SECONDS)


def _estimated_anew(name: str) -> None:
    built.cache_clear()
    estimate(_config(name), 128)


def _config(name: str) -> MemoryConfig:
    return MemoryConfig(model=ModelConfig(name=name, weights="none"))


def _line(what: str, repeats: int, work: Callable[[], object], limit: float) -> None:
    walls, processor = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        processor.append(time.process_time() - cpu)
    print(f"{what:44} {statistics.median(walls):8.2f} {statistics.median(processor):6.2f} {limit:7.1f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
