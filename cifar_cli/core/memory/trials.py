"""Batch sizes tried in processes that may run out of memory, so that this one never does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cifar_cli.core.memory.results import Trial
from cifar_cli.core.memory.worker import Outcome
from cifar_cli.core.progress import OnProgress, Progress, silent

TRIAL_SECONDS = 600.0
PROOF_SECONDS = 1800.0


class Asked(Protocol):
    """A process that answers: `Worker`, or a test's script."""

    def ask(self, batch: int, proof: bool, /, *, timeout_seconds: float) -> Outcome: ...

    def close(self) -> None: ...


class Trials:
    """Runs trials in one process as long as all goes well, proofs in one of their own.

    start: begins a process. refuses: batch sizes that are not even tried, to spare the machine. Starting costs some
    seconds for torch's imports, so a process is kept, and replaced when it failed. A size that fails in a
    process with a past is tried again in a fresh one: only that one's word counts.
    """

    def __init__(
        self,
        start: Callable[[], Asked],
        *,
        label: str,
        refuses: Callable[[int], bool] = lambda batch: False,
        on_progress: OnProgress = silent,
    ) -> None:
        self._start = start
        self._label = label
        self._refuses = refuses
        self._on_progress = on_progress
        self._worker: Asked | None = None
        self._done = 0

    def trial(self, batch: int) -> Trial:
        """Try a batch size."""
        self._tell(f"batch {batch}")
        if self._refuses(batch):
            return Trial(batch=batch, kind="refused", why="far more than there is, by the estimate")
        has_past = self._worker is not None
        trial = self._ask(batch)
        if has_past and self._worker is None and trial.kind != "timed out":
            return self._ask(batch)
        return trial

    def prove(self, batch: int) -> Trial:
        """Run an epoch in small, alone on the device."""
        self.close()
        self._tell(f"proving batch {batch}")
        try:
            return self._ask(batch, proof=True)
        finally:
            self.close()

    def close(self) -> None:
        """End the process that is kept."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _ask(self, batch: int, *, proof: bool = False) -> Trial:
        if self._worker is None:
            self._worker = self._start()
        outcome = self._worker.ask(batch, proof, timeout_seconds=PROOF_SECONDS if proof else TRIAL_SECONDS)
        if outcome.kind != "done":
            self.close()
        return _trial_of(batch, outcome)

    def _tell(self, detail: str) -> None:
        self._on_progress(Progress(task=f"running {self._label}", done=self._done, detail=detail))
        self._done += 1


def _trial_of(batch: int, outcome: Outcome) -> Trial:
    if outcome.kind == "done":
        answered: Trial = outcome.value
        return answered
    return Trial(
        batch=batch,
        kind=outcome.kind,
        why=f"exit code {outcome.value}" if outcome.kind == "died" else str(outcome.value or ""),
    )
