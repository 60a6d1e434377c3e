import os
import time

import pytest
import torch

from cifar_cli.core.memory.worker import Worker, in_child


def _exit(code: int) -> None:
    os._exit(code)


def _out_of_memory(words: str) -> None:
    raise RuntimeError(words) if words else torch.OutOfMemoryError("the card is full")


def _double(number: int) -> int:
    return 2 * number


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "argument", "kind", "value"),
    [
        (_exit, 3, "died", 3),
        (_out_of_memory, "", "out of memory", "OutOfMemoryError: the card is full"),
        (_out_of_memory, "DefaultCPUAllocator: can't allocate memory\nmore", "out of memory", None),
        (_out_of_memory, "Expected more than 1 value per channel", "failed", None),
        (abs, -2, "done", 2),
    ],
)
def test_how_a_process_ends_is_reported(function: object, argument: object, kind: str, value: object) -> None:
    outcome = in_child(function, argument, timeout_seconds=60)  # type: ignore[arg-type]
    assert outcome.kind == kind
    assert value is None or outcome.value == value


@pytest.mark.slow
def test_a_process_that_hangs_is_killed() -> None:
    assert in_child(time.sleep, 600, timeout_seconds=0.5).kind == "timed out"


@pytest.mark.slow
def test_one_process_answers_several_calls() -> None:
    worker = Worker(_double)
    try:
        answers = [worker.ask(number, timeout_seconds=60).value for number in (1, 20)]
    finally:
        worker.close()
    assert answers == [2, 40]
