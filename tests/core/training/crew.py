"""Processes that train together, kept from test to test because starting one takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

ANSWER_SECONDS = 120


class Crew:
    """Runs a function in several processes at once, as a launcher would start them."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._members: list[tuple[Any, Connection]] = []

    def __call__(self, function: Callable[..., Any], *args: Any, size: int = 2, **options: Any) -> list[Any]:
        """What the function returns in each process, by rank. Raises AssertionError with the traceback of a failure."""
        while len(self._members) < size:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            self._members.append((process, ours))
        port = free_port()
        for rank, (_, pipe) in enumerate(self._members[:size]):
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            pipe.send((environment, function, args, options))
        answers = []
        for _, pipe in self._members[:size]:
            assert pipe.poll(ANSWER_SECONDS), "a process doesn't answer"
            answers.append(pipe.recv())
        for failed, answer in answers:
            assert not failed, answer
        return [answer for _, answer in answers]

    def end(self) -> None:
        with ExitStack() as stack:
            for process, pipe in self._members:
                stack.callback(process.join)
                stack.callback(process.terminate)
                pipe.close()


def _work(pipe: Connection) -> None:
    while True:
        try:
            environment, function, args, options = pipe.recv()
        except EOFError:
            return
        os.environ.update(environment)
        try:
            pipe.send((False, function(*args, **options)))
        except BaseException:
            pipe.send((True, traceback.format_exc()))


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
