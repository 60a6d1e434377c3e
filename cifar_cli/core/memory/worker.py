"""A process of its own for work that may run out of memory, die or hang."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

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
