"""Separate processes for work that may run out of memory, crash or hang."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from cifar_cli.core.memory.results import BatchTrial
from cifar_cli.core.out_of_memory import is_out_of_memory
from cifar_cli.core.progress import OnProgress, Progress, silent

OutcomeKind = Literal["done", "out of memory", "died", "timed out", "failed"]
TRIAL_SECONDS = 600.0
PROOF_SECONDS = 1800.0
_SECONDS_TO_LEAVE = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one call in another process ended."""

    kind: OutcomeKind
    value: Any = None
    """The function's result, the exit code after "died", a sentence after "failed" and "out of memory"."""


class Process(Protocol):
    """A process that calls one function: a `Worker`, or a test's script."""

    def ask(self, *arguments: Any, timeout_seconds: float) -> Outcome: ...

    def close(self) -> None: ...


StartProcess = Callable[[Callable[..., Any]], Process]


class Worker:
    """A fresh process that calls one function, once or several times.

    The process must be able to import the function and its arguments: it is spawned, so that it shares no memory and
    no CUDA context with this one.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()  # the process has the only copy now, so reading here ends when it dies

    def ask(self, *arguments: Any, timeout_seconds: float) -> Outcome:
        """Call the function there. After any outcome but "done" the process should be closed."""
        try:
            self._pipe.send(arguments)
            if not self._pipe.poll(timeout_seconds):
                return Outcome(kind="timed out")
            return cast(Outcome, self._pipe.recv())
        except (EOFError, OSError):
            self._process.join(_SECONDS_TO_LEAVE)
            return Outcome(kind="died", value=self._process.exitcode)

    def close(self) -> None:
        """End the process; kill it if it doesn't exit within two seconds."""
        self._pipe.close()
        self._process.join(_SECONDS_TO_LEAVE)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


def in_child(
    function: Callable[..., Any], *arguments: Any, timeout_seconds: float, start: StartProcess = Worker
) -> Outcome:
    """Call `function` in a fresh process."""
    with closing(start(function)) as worker:
        return worker.ask(*arguments, timeout_seconds=timeout_seconds)


@dataclass(slots=True)
class Trials:
    """Runs trials in one process, which is replaced after a failure, and each proof in a separate process.

    Starting a process takes some seconds for torch's imports, so one is kept. A size that fails in a process that has
    already run other sizes is tried again in a fresh one, whose outcome counts.
    """

    start: Callable[[], Process]
    """Begins a process."""
    label: str
    """The model's name in progress reports."""
    on_progress: OnProgress = silent
    _worker: Process | None = field(default=None, init=False)
    _done: int = field(default=0, init=False)

    def trial(self, batch: int) -> BatchTrial:
        """Try a batch size."""
        self._report(f"batch {batch}")
        used_before = self._worker is not None
        trial = self._ask(batch)
        if used_before and self._worker is None and trial.kind != "timed out":
            return self._ask(batch)
        return trial

    def prove(self, batch: int) -> BatchTrial:
        """Run a shortened epoch, with no other process of this tool on the device."""
        self.close()
        self._report(f"verifying batch {batch}")
        with closing(self):
            return self._ask(batch, proof=True)

    def close(self) -> None:
        """End the process that is kept."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _ask(self, batch: int, *, proof: bool = False) -> BatchTrial:
        if self._worker is None:
            self._worker = self.start()
        outcome = self._worker.ask(batch, proof, timeout_seconds=PROOF_SECONDS if proof else TRIAL_SECONDS)
        if outcome.kind == "done":
            return cast(BatchTrial, outcome.value)
        self.close()
        why = f"exit code {outcome.value}" if outcome.kind == "died" else str(outcome.value or "")
        return BatchTrial(batch=batch, kind=outcome.kind, why=why)

    def _report(self, detail: str) -> None:
        self.on_progress(Progress(task=f"running {self.label}", done=self._done, detail=detail))
        self._done += 1


def _serve(pipe: Any, function: Callable[..., Any]) -> None:
    while True:
        try:
            arguments = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(_answer(function, arguments))


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    try:
        return Outcome(kind="done", value=function(*arguments))
    except Exception as error:  # any exception must reach the other process
        return outcome_of(error)


def outcome_of(error: Exception) -> Outcome:
    """The outcome of a call that raised, with a sentence about it."""
    lines = str(error).strip().splitlines()
    sentence = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return Outcome(kind="out of memory" if is_out_of_memory(error) else "failed", value=sentence)
