from __future__ import annotations

import pytest

from cifar_cli.core.training.schedule import FIRST_SHARE, rate_share


@pytest.mark.parametrize("schedule", ["one-cycle", "triangular"])
def test_a_cycle_rises_to_the_highest_rate_at_the_end_of_warm_up_and_falls_to_nothing(schedule: str) -> None:
    shares = [rate_share(schedule, step / 100, warmup=0.3) for step in range(101)]
    assert shares[0] == pytest.approx(FIRST_SHARE)
    assert shares[30] == pytest.approx(1)
    assert shares[100] == pytest.approx(0, abs=1e-12)
    assert shares[:31] == sorted(shares[:31])
    assert shares[30:] == sorted(shares[30:], reverse=True)


def test_triangles_have_straight_sides_and_cosines_are_steepest_in_the_middle() -> None:
    assert rate_share("triangular", 0.65, warmup=0.3) == pytest.approx(0.5)
    assert rate_share("one-cycle", 0.4, warmup=0.3) > rate_share("triangular", 0.4, warmup=0.3)


def test_a_constant_rate_stays_and_progress_past_the_end_is_the_end() -> None:
    assert rate_share("constant", 0.99, warmup=0.5) == 1
    assert rate_share("triangular", 1.7, warmup=0.3) == 0


def test_without_warm_up_the_rate_begins_at_its_highest() -> None:
    assert rate_share("one-cycle", 0.0, warmup=0.0) == pytest.approx(1)
