"""Where the seconds of a run go, on a pretended CUDA device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cifar_cli.core.training.accounting import AHEAD, SAMPLED, Accounting
from cifar_cli.core.training.step import Stage

STAGES: dict[Stage, float] = {"forward": 3.0, "backward": 5.0, "optimizer": 2.0, "average": 1.0}
METRICS, DATA = 0.5, 4.0


class Gpu:
    """A device with a queue: work given to it begins when what was given before has ended, and the host goes on."""

    def __init__(self) -> None:
        self.host = self.busy_until = 0.0
        self.waits: list[float] = []
        """Seconds that the host waited, whenever it synchronised with an event that hadn't happened."""

    def work(self, seconds: float) -> None:
        self.host += 0.001  # to give it
        self.busy_until = max(self.busy_until, self.host) + seconds

    def event(self) -> Event:
        return Event(self)


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.at = gpu, 0.0

    def record(self) -> None:
        self.at = max(self.gpu.busy_until, self.gpu.host)

    def synchronize(self) -> None:
        if self.at > self.gpu.host:
            self.gpu.waits.append(self.at - self.gpu.host)
            self.gpu.host = self.at

    def elapsed_time(self, other: Event) -> float:
        return 1000 * (other.at - self.at)


def train(accounting: Accounting, gpu: Gpu, steps: int) -> None:
    def batches() -> Iterator[int]:
        for step in range(steps):
            if step % 4 == 0:  # of four batches at once
                gpu.work(4 * DATA)
            yield step

    for _ in accounting.fetched(batches()):
        accounting.start_step()
        for stage, seconds in STAGES.items():
            accounting.enter(stage)
            gpu.work(seconds)
        accounting.enter("metrics")
        gpu.work(METRICS)
        accounting.end_step()


def on_gpu() -> tuple[Accounting, Gpu]:
    gpu = Gpu()
    return Accounting(torch.device("cuda"), lambda: gpu.host, make_event=gpu.event), gpu


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)


def test_on_a_gpu_each_second_of_the_device_counts_once() -> None:
    accounting, gpu = on_gpu()
    train(accounting, gpu, 4 * SAMPLED)
    spent = accounting.spent()
    steps = 4 * SAMPLED
    assert spent.step_seconds == pytest.approx(steps * 8.0)
    assert spent.optimizer_seconds == pytest.approx(steps * 3.0)
    assert spent.metrics_seconds == pytest.approx(steps * METRICS)
    # While the host makes batches, the device has other steps left to do.
    assert spent.data_seconds == pytest.approx(steps * DATA, rel=0.01)
    assert sum((spent.step_seconds, spent.optimizer_seconds, spent.metrics_seconds, spent.data_seconds)) == (
        pytest.approx(gpu.busy_until, rel=0.01)
    )


def test_the_host_is_at_most_a_few_steps_ahead_and_the_device_never_idle() -> None:
    accounting, gpu = on_gpu()
    a_step = sum(STAGES.values()) + METRICS + DATA
    train(accounting, gpu, 100)
    assert gpu.busy_until - gpu.host <= (AHEAD + 4) * a_step
    assert gpu.busy_until - gpu.host > 0
    assert gpu.busy_until == pytest.approx(100 * a_step, rel=0.01), "it worked all the time"
    assert len(gpu.waits) <= 100


def test_timing_keeps_few_events() -> None:
    accounting, gpu = on_gpu()
    train(accounting, gpu, 3000)
    assert len(accounting._unread) <= 1100
