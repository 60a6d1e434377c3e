"""Pace, deadline and accounting, on a clock that the tests move."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cifar_cli.core.training.accounting import Accounting
from cifar_cli.core.training.deadline import Deadline
from cifar_cli.core.training.pace import WARM_UP_STEPS, WINDOW_STEPS, Pace, steady_rate


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def deadline_of(
    clock: Clock, max_seconds: float, *, train_images: int = 45_000, val_images: int = 5000, test_images: int = 40_000
) -> Deadline:
    deadline = Deadline(
        max_seconds,
        began=clock.now,
        clock=clock,
        train_images=train_images,
        val_images=val_images,
        test_per_validation=test_images / val_images,
    )
    deadline.start()
    return deadline


def test_a_slow_first_step_does_not_end_a_run(clock: Clock) -> None:
    deadline, pace = deadline_of(clock, 120), Pace()
    for seconds in [30.0] + [0.1] * 30:
        clock.now += seconds
        pace.add(100, seconds)
        assert not deadline.is_reached(pace.seconds_per_image)


def test_the_end_leaves_time_for_validation_and_test_as_long_as_the_last_validation_took(clock: Clock) -> None:
    deadline, pace = deadline_of(clock, 110, val_images=100, test_images=200), Pace()
    deadline.validation_seconds = 4.0  # for 100 images: 12 s for validation and test, 15 s with the margin
    clock.now += 4.0
    while not deadline.is_reached(pace.seconds_per_image):
        clock.now += 1.0
        pace.add(100, 1.0)
    assert 84 <= deadline.elapsed_seconds <= 86, "ten seconds are kept for the start-up"


def test_start_up_is_elapsed_time_and_decides_nothing(clock: Clock) -> None:
    answers = []
    for start_up in (0.0, 5.0, 3000.0):
        deadline = Deadline(
            600, began=clock.now, clock=clock, train_images=1000, val_images=100, test_per_validation=1.0
        )
        clock.now += start_up
        assert deadline.start() == start_up
        clock.now += 550
        assert deadline.elapsed_seconds == start_up + 550
        fitting = deadline.steps_that_fit(epochs=100, steps_per_epoch=10, seconds_per_image=0.001, used_seconds=0.0)
        answers.append((deadline.is_reached(0.001), fitting))
    assert answers == [(False, answers[0][1])] * 3


def test_a_resumed_run_goes_on_counting_what_it_used_and_not_its_start_ups(clock: Clock) -> None:
    deadline, pace = deadline_of(clock, 60), Pace()
    deadline.load_state_dict({"elapsed_seconds": 70.0, "used_seconds": 53.5})
    pace.load_state_dict({"images_per_second": 70.0})
    assert pace.images_per_second == 70
    clock.now += 1
    assert (deadline.elapsed_seconds, deadline.used_seconds) == (71.0, 54.5)
    assert deadline.is_reached(None), "of 60 s a tenth is kept for the start-up"


@pytest.mark.parametrize(
    ("seconds_an_epoch", "epochs"),
    [(3, 200), (5.5, 200), (6, 188), (10, 113), (90, 12), (130, 8), (150, 7.5), (300, 3.75), (1100, 1), (2000, 0.5)],
)
def test_as_many_whole_epochs_as_fit_are_planned_and_eighths_where_they_are_few(
    clock: Clock, seconds_an_epoch: float, epochs: float
) -> None:
    """A cap of 20 minutes, of which 10 s are for the start-up, and a twentieth of the rest is left free: 1130 s."""
    deadline = deadline_of(clock, 1200, test_images=0)
    deadline.validation_seconds, deadline.logging_seconds = 0.2, 0.8
    per_image = (seconds_an_epoch - 1) / 45_000
    assert (
        deadline.steps_that_fit(epochs=200, steps_per_epoch=352, seconds_per_image=per_image, used_seconds=0.0)
        == 352 * epochs
    )


def test_where_not_an_eighth_of_an_epoch_fits_as_many_steps_as_fit_are_planned(clock: Clock) -> None:
    deadline = deadline_of(clock, 100, test_images=0)
    deadline.validation_seconds, deadline.logging_seconds = 1.0, 1.0
    per_image = 10.0 / 128
    assert deadline.steps_that_fit(epochs=3, steps_per_epoch=352, seconds_per_image=per_image, used_seconds=0.0) == 8
    assert (
        deadline.steps_that_fit(epochs=3, steps_per_epoch=352, seconds_per_image=100 * per_image, used_seconds=0.0) == 1
    )


def test_the_rate_is_the_median_over_windows_after_the_first_ten_steps() -> None:
    slow_start = [(100, 10.0)] * WARM_UP_STEPS
    every_eighth_waits = [(100, 8.0 if step % 8 == 0 else 1.0) for step in range(2 * WINDOW_STEPS)]
    a_pause = [(100, 100.0)] * WINDOW_STEPS
    assert steady_rate(slow_start + every_eighth_waits + a_pause) == pytest.approx(100 * 8 / 15)


@pytest.mark.parametrize(("steps", "rate"), [([], 0.0), ([(10, 2.0)], 5.0), ([(10, 2.0)] * 10 + [(10, 1.0)] * 3, 10.0)])
def test_a_run_shorter_than_a_window_has_a_rate(steps: list[tuple[int, float]], rate: float) -> None:
    assert steady_rate(steps) == pytest.approx(rate)


def test_an_epoch_s_rate_starts_anew() -> None:
    pace = Pace()
    pace.add(100, 10.0)
    pace.start_epoch()
    assert pace.epoch_images_per_second == 0
    pace.add(100, 1.0)
    assert pace.epoch_images_per_second == 100


def take_step(accounting: Accounting, clock: Clock, **seconds: float) -> None:
    accounting.start_step()
    for stage, spent in seconds.items():
        accounting.enter(stage)  # type: ignore[arg-type]
        clock.now += spent
    accounting.end_step()


def test_the_parts_of_the_time_add_up_to_the_total(clock: Clock) -> None:
    def batches() -> Iterator[int]:
        for step in range(10):
            clock.now += 0.4
            yield step

    accounting = Accounting(torch.device("cpu"), clock)
    accounting.add("startup", 5.0)
    with accounting.spending("fit"):
        for _ in accounting.fetched(batches()):
            take_step(accounting, clock, forward=0.5, backward=1.0, optimizer=0.3, average=0.2, metrics=0.1)
        with accounting.spending("validation"):
            clock.now += 3.0
        with accounting.spending("logging"):
            clock.now += 1.0
        clock.now += 0.7
    with accounting.spending("test"):
        clock.now += 2.0
    spent = accounting.spent()
    assert spent.data_seconds == pytest.approx(4.0)
    assert spent.step_seconds == pytest.approx(15.0)
    assert spent.optimizer_seconds == pytest.approx(5.0)
    assert spent.metrics_seconds == pytest.approx(1.0)
    assert (spent.validation_seconds, spent.logging_seconds) == (pytest.approx(3.0), pytest.approx(1.0))
    assert spent.other_seconds == pytest.approx(0.7)
    assert spent.total_seconds == pytest.approx(clock.now - 1000.0 + 5.0)
