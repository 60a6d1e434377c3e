"""Runs in processes that are killed: started by a server that has imported torch already, so that a start costs little.

Functions of a module, so that they can be sent to a process.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.loop import Seams
from cifar_cli.core.training.pictures import Pictures
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.core.training.train import resume, train

ANSWER_SECONDS = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """When a process kills itself with SIGKILL: at the `number`-th of such moments, counted from 1."""

    moment: str
    """"step": as a training step begins. "write": when half of a checkpoint is written. "replace": before a new file
    gets its name. "replaced": after that. "time": `number` hundredths of a second after the start."""
    number: int


def any_kill(drawn: random.Random, *, most: int) -> Kill:
    """A random moment; of the counted ones, one of the first `most`."""
    moment = drawn.choice(["step", "write", "replace", "replaced", "time"])
    return Kill(moment=moment, number=drawn.randint(1, 20 if moment == "time" else most))


def attempt(config: TrainConfig, log: Path, kill: Kill | None) -> None:
    """Train, or continue what is saved, and write the step and the labels of every batch to `log`."""
    assert config.run_dir is not None
    if kill is not None:
        _arm(kill)
    step_begins = _counted(kill, "step")

    class Logged(TrainingStep):
        def __call__(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
            with log.open("a") as file:
                file.write(f"{os.getpid()} {''.join(map(str, labels_B.tolist()))}\n")
            step_begins()
            return super().__call__(images_BCHW, labels_B)

    class NoPictures(Pictures):
        def add(self, *arguments: object, **options: object) -> None:
            return

    seams = Seams(make_step=Logged, make_pictures=NoPictures)
    if RunDir(config.run_dir).saved:
        resume(config.run_dir, Listeners(began=time.monotonic()), seams=seams)
    else:
        train(config, Listeners(began=time.monotonic()), seams=seams)


def _counted(kill: Kill | None, moment: str) -> Callable[[], None]:
    """A function that is called at each such moment, and kills the process at the chosen one."""
    left = kill.number if kill is not None and kill.moment == moment else 0

    def happens() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return happens


def _arm(kill: Kill) -> None:
    """Let torch and the operating system's calls, which this process alone has replaced, kill it."""
    if kill.moment == "time":
        threading.Timer(kill.number / 100, os.kill, (os.getpid(), signal.SIGKILL)).start()
    writes, replaces, replaced = (_counted(kill, moment) for moment in ("write", "replace", "replaced"))
    save, rename = torch.save, os.replace

    def half_saved(content: Any, path: Any, **options: Any) -> None:
        buffer = io.BytesIO()
        save(content, buffer, **options)
        data = buffer.getvalue()
        with Path(path).open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            writes()
            file.write(data[len(data) // 2 :])

    def watched(source: Any, target: Any, **options: Any) -> None:
        replaces()
        rename(source, target, **options)
        replaced()

    torch.save, os.replace = half_saved, watched  # type: ignore[assignment]


class Server:
    """Starts processes by forking one that has imported what a run needs."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, "timm", "torch.utils.tensorboard"])

    def run(self, function: Callable[..., None], *arguments: Any) -> int:
        """Run a function in a fresh process. Returns its exit status, negative for a signal."""
        process: Any = self._context.Process(target=function, args=arguments)
        process.start()
        process.join(ANSWER_SECONDS)
        assert process.exitcode is not None, "a process doesn't end"
        return int(process.exitcode)
