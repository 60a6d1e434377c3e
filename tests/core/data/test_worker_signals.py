"""Signals that reach every process of a run, as those of a terminal, of `timeout` and of SLURM do."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import torch
from torch import Tensor

from cifar_cli.core.data.worker_loader import WorkerLoader
from cifar_cli.core.transform import BatchSlice

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[Path]:
    """A folder in which every process of this test notes the signals that it handles."""

    def note(number: int, frame: FrameType | None) -> None:
        (tmp_path / f"{multiprocessing.current_process().name}-{number}").touch()

    before = {number: signal.signal(number, note) for number in SIGNALS}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


def as_float(images_BHWC: Tensor, slices: list[BatchSlice]) -> Tensor:
    return images_BHWC.permute(0, 3, 1, 2).float()


def test_a_signal_to_all_processes_ends_no_worker_and_is_handled_by_the_run_alone(heard: Path) -> None:
    images, rows = torch.arange(24 * 3, dtype=torch.uint8).reshape(24, 1, 1, 3), torch.arange(24)
    batches = WorkerLoader(images, rows, rows, batch=2, transform=as_float, seed=0, shuffle=False, workers=1)
    made = iter(batches)
    next(made)
    (worker,) = multiprocessing.active_children()
    for number in SIGNALS:
        subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
    assert [labels.tolist() for _, labels in made] == [[first, first + 1] for first in range(2, 24, 2)]
    assert [labels.tolist() for _, labels in batches] == [[first, first + 1] for first in range(0, 24, 2)]
    assert not list(heard.iterdir())
    worker.terminate()  # as torch does with a worker that doesn't end
    worker.join(20)
    assert worker.exitcode == 0
