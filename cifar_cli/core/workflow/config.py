"""What `cifar train` is asked as a whole, and what came of it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_cli.core.training.config import TrainConfig, TrainResult
from cifar_cli.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRequest:
    """A training to begin (`config`) or to continue (`resume`, a run directory).

    batch_auto: find the batch size first. keep_steps: and then train as many steps as before, in more epochs.
    seeds: train once with each, into run_dir/seed-N where a run_dir is given; empty takes the config's seed.
    Raises ConfigError for a combination that makes no sense.
    """

    config: TrainConfig | None = None
    resume: Path | None = None
    batch_auto: bool = False
    keep_steps: bool = True
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.config is None) == (self.resume is None):
            raise ConfigError("a training is either begun or resumed", remedy="pass a config or a run directory")


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How busy the processor was. Rates in floating point operations per second.

    achieved: of the training steps, counted as `cifar summarize` counts them. matmul: the best rate of a large
    matrix product in the same precision, measured on this machine at the end of the run.
    """

    achieved_flops_per_second: float
    matmul_flops_per_second: float

    @property
    def share(self) -> float:
        return self.achieved_flops_per_second / self.matmul_flops_per_second


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainReport:
    """One result for each seed, and the speed of the last; None where it could not be measured."""

    results: tuple[TrainResult, ...]
    speed: Speed | None

    def mean(self, name: str) -> float:
        """Of a field of the results, over the seeds."""
        return statistics.fmean(getattr(result, name) for result in self.results)

    def deviation(self, name: str) -> float:
        """The sample standard deviation over the seeds; 0 for a single one."""
        values = [getattr(result, name) for result in self.results]
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The documented keys of `--json`; with several seeds the last run's, with means in place of accuracies."""
        last = self.results[-1].to_dict()
        document = last | {
            "achieved_flops_per_second": self.speed and self.speed.achieved_flops_per_second,
            "matmul_flops_per_second": self.speed and self.speed.matmul_flops_per_second,
        }
        if len(self.results) > 1:
            accuracies = [name for name in last if "accuracy" in name]
            document |= {name: self.mean(name) for name in accuracies}
            document |= {f"{name}_standard_deviation": self.deviation(name) for name in accuracies}
            document["runs"] = [result.to_dict() for result in self.results]
        return document
