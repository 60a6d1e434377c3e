from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cifar_cli.core.training.callbacks import clock as clock_module
from cifar_cli.core.training.callbacks.clock import WARM_UP_STEPS, WINDOW_STEPS, Clock, steady_rate


class Run:
    """Drives a clock through steps of given length, without waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: float) -> None:
        self.now = 1000.0
        monkeypatch.setattr(clock_module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.clock = Clock(**options)  # type: ignore[arg-type]
        self.trainer = SimpleNamespace(should_stop=False, fit_loop=SimpleNamespace(batch_idx=0))
        self.clock.on_train_start(self.trainer, None)  # type: ignore[arg-type]
        self.clock.on_train_epoch_start(self.trainer, None)  # type: ignore[arg-type]

    def step(self, seconds: float, images: int = 100) -> bool:
        batch = (torch.zeros(images), torch.zeros(images))
        self.clock.on_train_batch_start(self.trainer, None, batch, 0)  # type: ignore[arg-type]
        self.now += 0.75 * seconds
        self.clock.on_before_optimizer_step(self.trainer, None, None)  # type: ignore[arg-type]
        self.now += 0.25 * seconds
        self.clock.on_train_batch_end(self.trainer, None, None, batch, 0)  # type: ignore[arg-type]
        return bool(self.trainer.should_stop)

    def validate(self, seconds: float) -> None:
        self.clock.on_validation_start(self.trainer, None)  # type: ignore[arg-type]
        self.now += seconds
        self.clock.on_validation_end(self.trainer, None)  # type: ignore[arg-type]


def test_a_slow_first_step_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, max_seconds=120, val_images=5000, test_images=40_000)
    assert not run.step(30.0)
    assert not any(run.step(0.1) for _ in range(30))


def test_the_end_leaves_time_for_validation_and_test_as_long_as_the_last_validation_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch, max_seconds=100, val_images=100, test_images=200)
    run.validate(4.0)  # 4 s for 100 images: 12 s for validation and test, 15 s with the margin
    steps = 0
    while not run.step(1.0):
        steps += 1
    assert run.clock.stopped_by == "time"
    assert 83 <= run.clock.elapsed_seconds <= 86


def test_the_rate_is_the_median_over_windows_after_the_first_ten_steps() -> None:
    slow_start = [(100, 10.0)] * WARM_UP_STEPS
    every_eighth_waits = [(100, 8.0 if step % 8 == 0 else 1.0) for step in range(2 * WINDOW_STEPS)]
    a_pause = [(100, 100.0)] * WINDOW_STEPS
    assert steady_rate(slow_start + every_eighth_waits + a_pause) == pytest.approx(100 * 8 / 15)


@pytest.mark.parametrize(("steps", "rate"), [([], 0.0), ([(10, 2.0)], 5.0), ([(10, 2.0)] * 10 + [(10, 1.0)] * 3, 10.0)])
def test_a_run_too_short_for_a_window_has_a_rate_all_the_same(steps: list[tuple[int, float]], rate: float) -> None:
    assert steady_rate(steps) == pytest.approx(rate)


def test_the_parts_of_the_time_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, max_seconds=1e6, val_images=1, test_images=1)
    for _ in range(10):
        run.step(2.0)
    run.validate(3.0)
    spent = run.clock.spent(startup=5.0, train=30.0, data=4.0, metrics=1.0, test=2.0)
    assert (spent.step_seconds, spent.optimizer_seconds) == (pytest.approx(14.0), pytest.approx(5.0))
    assert (spent.validation_seconds, spent.metrics_seconds) == (3.0, 1.0)
    assert spent.other_seconds == pytest.approx(30 - 4 - 15 - 5 - 3)
    assert spent.total_seconds == pytest.approx(5 + 30 + 2)


def test_a_resumed_run_goes_on_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, max_seconds=60, val_images=1, test_images=1)
    run.clock.load_state_dict({"elapsed_seconds": 59.5, "images_per_second": 70.0})
    assert run.clock.images_per_second == 70
    assert run.step(1.0)
