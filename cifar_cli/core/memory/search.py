"""The search for the largest batch that runs: bracket, bisect, try the next sizes, verify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cifar_cli.core.memory.results import BatchSpeed, BatchTrial

NEIGHBOURS = 3  # sizes tried above the largest that runs: memory is not monotonic in the batch size
FIRST_STRIDE = 64  # the first step from the guess is the guess divided by this
SMALLEST_TIMED = 8


class Runner(Protocol):
    """Runs training steps at a batch size."""

    def trial(self, batch: int) -> BatchTrial:
        """Run a few steps."""
        ...

    def prove(self, batch: int) -> BatchTrial:
        """Run a shortened epoch in a fresh process."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The result of a search."""

    batch: int
    """0 when nothing ran."""
    proof: BatchTrial | None
    """The proof of `batch`; None when nothing ran."""
    trials: tuple[BatchTrial, ...]
    """Every trial and proof, in order."""

    @property
    def refusal(self) -> BatchTrial | None:
        """The last trial of the smallest size above `batch` that didn't run."""
        above = {trial.batch: trial for trial in self.trials if not trial.ran and trial.batch > self.batch}
        return above[min(above)] if above else None


class Searching:
    """One search, in multiples of `multiple_of`. most: no larger batch is tried."""

    def __init__(self, runner: Runner, *, most: int, multiple_of: int = 1) -> None:
        self.runner = runner
        self.multiple_of = multiple_of
        self.most = most // multiple_of
        self.trials: list[BatchTrial] = []
        self._ran: dict[int, bool] = {}

    def find(self, guess: int) -> Found:
        """The largest batch that runs and is verified, starting from a guess.

        When the proof of a size that ran in its trial fails, smaller sizes are verified until one runs.
        """
        if self.most < 1:
            return Found(batch=0, proof=None, trials=())
        start = max(1, guess // self.multiple_of)
        edge = largest_that(self._runs, guess=start, most=self.most, stride=max(1, start // FIRST_STRIDE))
        edge = self._past(edge)
        proofs: dict[int, BatchTrial] = {}

        def holds(multiples: int) -> bool:
            proofs[multiples] = self._seen(self.runner.prove(multiples * self.multiple_of))
            return proofs[multiples].ran

        proved = largest_that(holds, guess=edge, most=edge) if edge else 0
        return Found(batch=proved * self.multiple_of, proof=proofs.get(proved), trials=tuple(self.trials))

    def speeds_up_to(self, batch: int) -> tuple[BatchSpeed, ...]:
        """The throughput of every size that ran, after running the powers of two below `batch` too."""
        size = 1 if batch < 2 * SMALLEST_TIMED else SMALLEST_TIMED
        while size < batch:
            if size % self.multiple_of == 0:
                self._runs(size // self.multiple_of)
            size *= 2
        timed = {trial.batch: trial.images_per_second for trial in self.trials if trial.ran and trial.images_per_second}
        return tuple(BatchSpeed(batch=size, images_per_second=timed[size]) for size in sorted(timed) if size <= batch)

    def _past(self, edge: int) -> int:
        """The largest size that runs, when up to NEIGHBOURS sizes above each one that runs are tried."""
        at = edge + 1
        while at <= min(edge + NEIGHBOURS, self.most):
            if self._runs(at):
                edge = at
            at += 1
        return edge

    def _runs(self, multiples: int) -> bool:
        if multiples not in self._ran:
            self._ran[multiples] = self._seen(self.runner.trial(multiples * self.multiple_of)).ran
        return self._ran[multiples]

    def _seen(self, trial: BatchTrial) -> BatchTrial:
        self.trials.append(trial)
        return trial


def largest_that(runs: Callable[[int], bool], *, guess: int, most: int, stride: int = 1) -> int:
    """An n in 1..most for which `runs(n)` is true and `runs(n + 1)` is not; 0 when it is true for none.

    Starts at the guess, brackets with growing steps, of which the first is `stride`, and bisects.
    """
    low, high = 0, most + 1
    at = min(max(guess, 1), most)
    while high - low > 1:
        if runs(at):
            low = at
        else:
            high = at
        if low and high <= most:
            at = (low + high) // 2
        else:
            at = min(low + stride, most) if low else max(high - stride, 1)
            stride *= 4
    return low
