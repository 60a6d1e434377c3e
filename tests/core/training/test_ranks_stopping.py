"""Every stop of a run on several processes: the same step, the same message in all."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.core.training.heartbeat import SILENT_SECONDS
from tests.core.training.crew import Crew
from tests.core.training.rank_tasks import (
    run,
    run_at_speeds,
    run_on_a_full_disk,
    run_on_a_slow_disk,
    run_slow_in_its_validation,
    run_spoiled,
    run_stopped_in_its_validation,
    run_with_signal,
)
from tests.core.training.same_run import STEPS

pytestmark = pytest.mark.slow
ConfigOf = Callable[..., TrainConfig]


@pytest.mark.parametrize(
    ("number", "rank"), [(signal.SIGINT, 0), (signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGHUP, 0)]
)
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    config: ConfigOf, tmp_path: Path, crew: Crew, number: int, rank: int
) -> None:
    two = crew(run_with_signal, config(tmp_path / "run"), number=number, rank=rank, step=3)
    assert [len(part.losses) for part in two] == [3, 3]
    assert [part.exit_code for part in two] == [128 + number] * 2
    assert f"interrupted in epoch 1; saved in {tmp_path / 'run'}" in str(two[0].error)
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 3


def test_the_time_cap_is_by_the_clock_of_rank_0(config: ConfigOf, tmp_path: Path, crew: Crew) -> None:
    made = config(tmp_path / "run", epochs=10_000)
    two = crew(run, replace(made, recipe=replace(made.recipe, max_seconds=8)))
    assert len(two[0].losses) == len(two[1].losses)
    for part in two:
        assert part.result is not None
        assert part.result.stopped_by == "time"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_steps_are_planned_by_rank_0_and_begin_again_in_all(
    config: ConfigOf, tmp_path: Path, crew: Crew, strategy: str
) -> None:
    def cycle(name: str, *, epochs: int, seconds: float) -> TrainConfig:
        made = config(tmp_path / name, epochs=epochs, strategy=strategy, memory_format="contiguous")
        recipe = replace(
            made.recipe, max_seconds=seconds, optimizer="sgd", learning_rate=0.02, schedule="one-cycle", ema_decay=0.8
        )
        return replace(made, recipe=recipe)

    capped = crew(run_at_speeds, cycle("capped", epochs=5, seconds=35), seconds=(1.0, 9.0))
    asked = crew(run_at_speeds, cycle("asked", epochs=3, seconds=3200), seconds=(1.0, 0.1))
    measured = 3
    assert [epochs for epochs, _, _ in capped] == [3, 3]
    assert [steps for _, steps, _ in capped] == [3 * STEPS + measured] * 2
    assert [loss for _, _, loss in capped] == [loss for _, _, loss in asked]


def test_a_disk_of_rank_0_that_is_slower_than_a_step_may_be_ends_no_run(
    config: ConfigOf, tmp_path: Path, crew: Crew
) -> None:
    two = crew(run_on_a_slow_disk, config(tmp_path / "run", epochs=1, checkpoint_seconds=0.01))
    assert [(part.error, len(part.losses)) for part in two] == [(None, STEPS)] * 2
    assert (tmp_path / "run/checkpoints/best.ckpt").is_file()


def test_a_process_without_a_sign_of_life_ends_the_others_in_their_evaluation(
    config: ConfigOf, tmp_path: Path, crew: Crew
) -> None:
    """Not rank 0, which serves the store: where it is killed, the others' connections break at once."""
    (outcome, seconds), _ = crew(run_stopped_in_its_validation, config(tmp_path / "run", epochs=1), rank=1)
    assert "process 1 of 2 ended, hangs, or can't be reached" in str(outcome.error)
    assert 15 < seconds < 35


def test_a_process_that_is_slower_in_an_evaluation_is_waited_for(config: ConfigOf, tmp_path: Path, crew: Crew) -> None:
    """For longer than one may be silent."""
    two = crew(run_slow_in_its_validation, config(tmp_path / "run", epochs=1), rank=1, seconds=SILENT_SECONDS + 10)
    assert [part.error for part in two] == [None, None]


def test_a_finished_run_is_finished_in_all_processes(config: ConfigOf, tmp_path: Path, crew: Crew) -> None:
    whole = run(config(tmp_path / "run", epochs=1))
    two = crew(run, ResumeConfig(run_dir=tmp_path / "run"))
    assert whole.result is not None
    for part in two:
        assert part.losses == []
        assert part.result is not None
        assert (part.result.already_finished, part.result.test_loss) == (True, whole.result.test_loss)


@pytest.mark.parametrize(
    ("how", "message"),
    [("nan", "the training loss became nan in epoch 2"), ("weight", "became NaN or infinite|became nan")],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_nan_in_one_process_ends_all_with_the_message_of_one(
    config: ConfigOf, tmp_path: Path, crew: Crew, how: str, message: str, rank: int
) -> None:
    two = crew(run_spoiled, config(tmp_path / "run"), how=how, rank=rank, step=STEPS + 1)
    for part in two:
        assert part.exit_code == 1
        assert any(words in str(part.error) for words in message.split("|")), part.error
        assert "lower --lr" in str(part.error)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_process_is_the_error_of_all(config: ConfigOf, tmp_path: Path, crew: Crew, rank: int) -> None:
    two = crew(run_spoiled, config(tmp_path / "run"), how="error", rank=rank, step=4)
    assert [part.error for part in two] == ["this image is upside down. Remedy: turn it"] * 2


def test_a_bug_in_rank_0_whose_frames_hold_its_connections_is_named_by_the_others(
    config: ConfigOf, tmp_path: Path, crew: Crew
) -> None:
    two = crew(run_spoiled, config(tmp_path / "run"), how="bug", rank=0, step=4)
    assert [part.error for part in two] == ["a bug", "another process of this run failed: ZeroDivisionError: a bug"]


def test_a_full_disk_on_rank_0_ends_all(config: ConfigOf, tmp_path: Path, crew: Crew) -> None:
    two = crew(run_on_a_full_disk, config(tmp_path / "run"))
    for part in two:
        assert "there is no space left to write to" in str(part.error)
        assert "continue with `cifar train --resume" in str(part.error)
