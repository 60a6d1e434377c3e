"""What `cifar train` answers as a whole."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from cifar_cli.core.notebook import NotebookView
from cifar_cli.core.plain import plain
from cifar_cli.core.training.results import SCORES, TimeSpent, TrainResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Utilization:
    """How much of the machine's arithmetic the training steps used. Rates in floating-point operations per second."""

    achieved_flops_per_second: float
    """Of the training steps, counted as `cifar summarize` counts them."""
    matmul_flops_per_second: float
    """The highest rate of a large matrix product in the same precision, measured at the end of the run."""

    @property
    def share(self) -> float:
        return self.achieved_flops_per_second / self.matmul_flops_per_second


MEANS = (*SCORES, "train_seconds", "images_per_second")
"""The figures of a run that are given as means over the seeds, with their standard deviations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainReport(NotebookView):
    """The results of all seeds."""

    results: tuple[TrainResult, ...]
    utilization: Utilization | None
    """Of all runs together; None where it couldn't be measured."""

    def mean(self, name: str) -> float:
        """Mean of a field of the results over the seeds."""
        return statistics.fmean(getattr(result, name) for result in self.results)

    def deviation(self, name: str) -> float:
        """Sample standard deviation over the seeds; 0 for a single one."""
        values = [getattr(result, name) for result in self.results]
        return statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def time(self) -> TimeSpent:
        """Mean seconds by part over the seeds."""
        spent = [asdict(result.time) for result in self.results]
        return TimeSpent(**{part: statistics.fmean(each[part] for each in spent) for part in spent[0]})

    def to_dict(self) -> dict[str, Any]:
        """The documented keys of `--json`; with several seeds the figures are means, and the rest is the last run's."""
        last = self.results[-1].to_dict()
        used = self.utilization
        document = last | {
            "achieved_flops_per_second": used and used.achieved_flops_per_second,
            "matmul_flops_per_second": used and used.matmul_flops_per_second,
        }
        if len(self.results) > 1:
            document |= self.over_seeds()
        return document

    def over_seeds(self) -> dict[str, Any]:
        """Mean and standard deviation of every figure, and every run: the content of seeds.json."""
        figures = [name for name in MEANS if not (self.results[-1].fast_dev_run and name in SCORES)]
        document: dict[str, Any] = plain({name: self.mean(name) for name in figures})
        document |= plain({f"{name}_standard_deviation": self.deviation(name) for name in figures})
        return document | {"time": asdict(self.time), "runs": [result.to_dict() for result in self.results]}
