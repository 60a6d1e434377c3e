"""Compares a run of several processes with that of one."""

from __future__ import annotations

import pytest

from tests.core.training.rank_tasks import Outcome

STEPS = 6  # of an epoch: 360 images in batches of 64 or 67


def step_losses(outcomes: list[Outcome]) -> list[float]:
    """The mean loss of every step over the images of all processes."""
    steps = zip(*(outcome.losses for outcome in outcomes), strict=True)
    return [sum(loss * count for loss, count in step) / sum(count for _, count in step) for step in steps]


def assert_same_run(several: list[Outcome], one: Outcome, *, tolerance: float = 1e-12) -> None:
    assert one.result is not None
    assert step_losses(several) == pytest.approx(step_losses([one]), abs=tolerance, rel=0)
    for outcome in several:
        assert outcome.error is None
        assert outcome.result is not None
        # The weights that are tested are float32 and may be rounded differently in the last place.
        assert outcome.result.test_loss == pytest.approx(one.result.test_loss, abs=1e-6)
        assert outcome.result.val_accuracy == one.result.val_accuracy
    for ours, theirs in zip(several[0].epochs, one.epochs, strict=True):
        assert ours.val_loss == pytest.approx(theirs.val_loss, abs=tolerance)
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=tolerance)
        assert (ours.train_accuracy, ours.val_accuracy) == (theirs.train_accuracy, theirs.val_accuracy)
