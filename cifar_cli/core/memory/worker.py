"""A process of its own for work that may run out of memory, die or hang."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cifar_cli.core.memory.results import Trial
from cifar_cli.core.progress import OnProgress, Progress, silent

OutcomeKind = Literal["done", "out of memory", "died", "timed out", "failed"]
_SECONDS_TO_LEAVE = 2.0
# How running out of memory looks where it is no torch.OutOfMemoryError: the CPU's allocator, cuDNN, cuBLAS, C++.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "bad_alloc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one question to a process ended. value: the answer, an exit code after "died", a sentence after "failed"."""

    kind: OutcomeKind
    value: Any = None


class Worker:
    """A fresh process that calls one function, as often as it is asked.

    The function and what it is asked must be importable by the process: it is spawned, so that it shares no memory and
    no CUDA context with this one.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()  # only the process holds it now: when it dies, reading here ends instead of waiting

    def ask(self, *arguments: Any, timeout_seconds: float) -> Outcome:
        """Call the function there. After any outcome but "done" the process should be closed."""
        try:
            self._pipe.send(arguments)
            if not self._pipe.poll(timeout_seconds):
                return Outcome(kind="timed out")
            return Outcome(**self._pipe.recv())
        except (EOFError, OSError):
            self._process.join(_SECONDS_TO_LEAVE)
            return Outcome(kind="died", value=self._process.exitcode)

    def close(self) -> None:
        """End the process, by force where it doesn't leave by itself."""
        self._pipe.close()
        self._process.join(_SECONDS_TO_LEAVE)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


def in_child(function: Callable[..., Any], *arguments: Any, timeout_seconds: float) -> Outcome:
    """Call `function` in a fresh process, so that whatever befalls it leaves nothing behind here."""
    worker = Worker(function)
    try:
        return worker.ask(*arguments, timeout_seconds=timeout_seconds)
    finally:
        worker.close()


def _serve(pipe: Any, function: Callable[..., Any]) -> None:
    while True:
        try:
            arguments = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(_answer(function, arguments))


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    try:
        return {"kind": "done", "value": function(*arguments)}
    except Exception as error:  # whatever it is, the other side must hear of it
        sentence = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no words'}"
        short = isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)
        kind: OutcomeKind = "out of memory" if short or type(error).__name__ == "OutOfMemoryError" else "failed"
        return {"kind": kind, "value": sentence}


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
