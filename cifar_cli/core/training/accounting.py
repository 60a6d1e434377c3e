"""Where the seconds of a run go."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeVar

import torch

from cifar_cli.core.training.machine import wait_for
from cifar_cli.core.training.results import TimeSpent
from cifar_cli.core.training.step import Stage

SAMPLED = 50  # on a GPU the stages of every so many steps are timed
AHEAD = 8  # steps that the host may be ahead of a GPU: enough to keep it busy, and few to wait for after Ctrl-C
KEPT = 1024  # pairs of events; the older half is read when there are more

Item = TypeVar("Item")
Part = Stage | Literal["metrics", "data"]
"""A part of a step."""


class Accounting:
    """Adds up seconds by purpose, and those of a step by stage.

    A step calls `start_step`, then `enter` as each stage begins, then `end_step`. On CUDA the parts are timed by events
    on the device, so that each of its milliseconds counts once, and nothing waits for it: only the host, if it is AHEAD
    steps ahead, until it isn't. make_event: makes a CUDA event.
    """

    def __init__(
        self,
        device: torch.device,
        clock: Callable[[], float],
        *,
        make_event: Callable[[], Any] = partial(torch.cuda.Event, enable_timing=True),
    ) -> None:
        self._device, self._clock = device, clock
        self._make_event = make_event if device.type == "cuda" else None
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._parts: defaultdict[Part, float] = defaultdict(float)
        self._unread: deque[tuple[Part, Any, Any]] = deque()
        self._ends: deque[Any] = deque()
        self._steps = self._sampled = 0
        self._stage: Part | None = None
        self._samples_this = False
        self._began: Any = None

    def fetched(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches. Making and waiting for them is "data"."""
        iterator = iter(batches)
        while True:
            began = self._mark()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._add("data", began, self._mark())
            yield batch

    def start_step(self) -> None:
        self._samples_this = self._device.type == "cpu" or self._steps % SAMPLED == 0
        self._stage = None

    def enter(self, stage: Part) -> None:
        """Note that a stage of the step begins."""
        if self._samples_this:
            self._close_stage()
            self._stage = stage

    def end_step(self) -> None:
        """Close the last stage."""
        if self._samples_this:
            self._close_stage()
            self._sampled += self._stage is not None
        self._steps += 1
        if self._make_event is not None:
            self._ends.append(self._mark())
            if len(self._ends) > AHEAD:
                self._ends.popleft().synchronize()

    @contextmanager
    def spending(self, purpose: str) -> Iterator[None]:
        """Add the seconds of a block to a purpose: fit (all epochs), validation, logging or test.

        A block begins when the device has finished what came before.
        """
        wait_for(self._device)
        start = self._clock()
        try:
            yield
        finally:
            self._seconds[purpose] += self._clock() - start

    def add(self, purpose: str, seconds: float) -> None:
        self._seconds[purpose] += seconds

    def spent(self) -> TimeSpent:
        """Seconds by purpose."""
        self._read(0)
        scale = self._steps / self._sampled if self._sampled else 0.0
        parts, seconds = self._parts, self._seconds
        step = scale * (parts["forward"] + parts["backward"])
        optimizer = scale * (parts["optimizer"] + parts["average"])
        metrics = scale * parts["metrics"]
        known = parts["data"] + step + optimizer + metrics + seconds["validation"] + seconds["logging"]
        return TimeSpent(
            startup_seconds=seconds["startup"],
            data_seconds=parts["data"],
            step_seconds=step,
            optimizer_seconds=optimizer,
            metrics_seconds=metrics,
            validation_seconds=seconds["validation"],
            logging_seconds=seconds["logging"],
            test_seconds=seconds["test"],
            other_seconds=max(seconds["fit"] - known, 0.0),
        )

    def _mark(self) -> Any:
        """Now: on the device where it has events, else on the clock."""
        if self._make_event is None:
            if self._device.type != "cpu" and self._samples_this:
                wait_for(self._device)
            return self._clock()
        event = self._make_event()
        event.record()
        return event

    def _close_stage(self) -> None:
        now = self._mark()
        if self._stage is not None:
            self._add(self._stage, self._began, now)
        self._began = now

    def _add(self, part: Part, began: Any, ended: Any) -> None:
        if self._make_event is None:
            self._parts[part] += ended - began
            return
        self._unread.append((part, began, ended))
        if len(self._unread) > KEPT:
            self._read(KEPT // 2)

    def _read(self, left: int) -> None:
        """Read the oldest events, until so many pairs are left."""
        while len(self._unread) > left:
            part, began, ended = self._unread.popleft()
            ended.synchronize()
            self._parts[part] += began.elapsed_time(ended) / 1000
