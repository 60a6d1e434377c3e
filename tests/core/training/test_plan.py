"""The number of steps is decided once, and the time that anything takes changes no weight."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.core.training.remembered import cache_file
from cifar_cli.core.training.results import TrainResult
from cifar_cli.core.training.train import resume, train
from cifar_cli.errors import Interrupted
from tests.core.training.fake_time import Machine

pytestmark = pytest.mark.usefixtures("own_cache")
ConfigOf = Callable[..., TrainConfig]
STEPS = 6  # of an epoch


@pytest.fixture
def cycle(config_of: ConfigOf, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Makes configs of a cycle with momentum and averaged weights, in given numerics."""

    def make(name: str, *, epochs: int = 5, seconds: float = 35, schedule: str = "one-cycle") -> TrainConfig:
        plain = config_of(tmp_path / name, epochs=epochs, seconds=seconds)
        recipe = replace(
            plain.recipe, optimizer="sgd", learning_rate=0.02, schedule=schedule, warmup=0.3, ema_decay=0.8
        )
        return replace(plain, recipe=recipe, precision="32", memory_format="channels-last")

    return make


def run_on(machine: Machine, asked: TrainConfig | Path | ResumeConfig) -> TrainResult:
    start: Any = train if isinstance(asked, TrainConfig) else resume
    result: TrainResult = start(asked, machine.listeners, seams=machine.seams)
    return result


def rates(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["learning_rate"]) for row in csv.DictReader(file)]


def assert_same_weights(first: Path, second: Path) -> None:
    for name in ("best", "last"):
        ours, theirs = (read_checkpoint(run / f"checkpoints/{name}.ckpt") for run in (first, second))
        for kind in ("state_dict", "current_model_state"):
            for key, value in ours[kind].items():
                assert torch.equal(value, theirs[kind][key]), (name, kind, key)
        for key, state in ours["optimizer"]["state"].items():
            assert torch.equal(state["momentum_buffer"], theirs["optimizer"]["state"][key]["momentum_buffer"])
    assert rates(first) == rates(second)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "step", "epochs"), [(35, 0.97, 4), (3200, 1.3, 2)], ids=["too little time", "enough time"]
)
def test_the_same_command_ten_times_with_delays_everywhere_gives_one_result(
    cycle: ConfigOf, tmp_path: Path, seconds: float, step: float, epochs: int
) -> None:
    """Start-up, batches, steps, validation and records take a time that differs from run to run."""
    drawn = random.Random(1)
    results = []
    for number in range(10):
        machine = Machine(
            lambda _: drawn.uniform(0.85, 1) * step, jitter=0.02, start_up=drawn.choice([0, 5, 500]), seed=number
        )
        results.append(run_on(machine, cycle(f"run{number}", epochs=epochs, seconds=seconds)))
    assert len({(each.epochs, each.stopped_by, each.test_loss, each.val_accuracy) for each in results}) == 1
    assert (results[0].epochs < epochs) == (seconds == 35)
    for number in range(1, 10):
        assert_same_weights(tmp_path / "run0", tmp_path / f"run{number}")


@pytest.mark.slow
def test_a_run_that_its_time_shortens_equals_one_that_was_asked_for_as_many_epochs(
    cycle: ConfigOf, tmp_path: Path
) -> None:
    machine = Machine()
    capped = run_on(machine, cycle("capped"))
    assert (capped.epochs, capped.stopped_by) == (3, "time")
    asked = train(cycle("asked", epochs=3, seconds=6000))
    assert asked.stopped_by == "epochs"
    assert_same_weights(tmp_path / "capped", tmp_path / "asked")
    assert rates(tmp_path / "capped")[-1] < 0.05 * 0.02, "the schedule reaches its end"
    assert "3 of 5 epochs fit into --max-time 00:00:35, and the learning rate falls to 0 over them" in machine.notes[1]
    assert "--max-epochs 3" in machine.notes[1]
    plan = yaml.safe_load((tmp_path / "capped/config.yaml").read_text())["plan"]
    assert (plan["steps"], plan["epochs"], plan["max_epochs"]) == (18, 3, 5)


@pytest.mark.slow
def test_a_constant_rate_needs_no_beginning_again(cycle: ConfigOf) -> None:
    machine = Machine()
    result = run_on(machine, cycle("run", schedule="constant"))
    assert (machine.steps, result.epochs) == (3 * STEPS + 4, 4), "no step was taken back, so half an epoch more fits"
    assert "beginning again" not in machine.notes[1]


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4, 9])
def test_an_interruption_during_or_after_the_measurement_changes_nothing(
    cycle: ConfigOf, tmp_path: Path, step: int
) -> None:
    run_on(Machine(), cycle("whole"))
    cache_file("plans").unlink()
    stopped = Machine(interrupted_at=(step,))
    with pytest.raises(Interrupted):
        run_on(stopped, cycle("cut"))
    assert run_on(Machine(start_up=300), tmp_path / "cut").epochs == 3
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_three_interruptions_in_the_first_epoch_change_nothing(cycle: ConfigOf, tmp_path: Path) -> None:
    run_on(Machine(), cycle("whole"))
    with pytest.raises(Interrupted):
        run_on(Machine(interrupted_at=(2,)), cycle("cut"))
    for _ in range(2):
        with pytest.raises(Interrupted):
            run_on(Machine(interrupted_at=(1,), start_up=100), tmp_path / "cut")
    assert run_on(Machine(start_up=100), tmp_path / "cut").epochs == 3
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_a_resume_keeps_the_plan_on_a_machine_of_another_speed(cycle: ConfigOf, tmp_path: Path) -> None:
    run_on(Machine(), cycle("whole"))
    with pytest.raises(Interrupted):
        run_on(Machine(interrupted_at=(STEPS + 9,)), cycle("cut"))
    cache_file("plans").unlink()
    faster = Machine(0.01)
    assert run_on(faster, tmp_path / "cut").epochs == 3
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_a_plan_is_remembered_and_said_to_be(cycle: ConfigOf) -> None:
    run_on(Machine(), cycle("first"))
    again = Machine(0.01)
    assert run_on(again, cycle("second")).epochs == 3
    assert again.steps == 3 * STEPS, "nothing is measured"
    assert f"remembered from an earlier run, delete {cache_file('plans')} to measure again" in again.notes[1]


@pytest.mark.slow
def test_another_command_has_a_plan_of_its_own_and_another_seed_has_not(cycle: ConfigOf) -> None:
    run_on(Machine(), cycle("first"))
    for number, change in enumerate(
        ({"seed": 7}, {"augment_file": None}, {"workers": 3}, {"checkpoint_seconds": 60.0})
    ):
        run_on(Machine(), replace(cycle(f"run{number}"), **change))
    assert len(json.loads(cache_file("plans").read_text())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("value", [0, -3, 1000, 7.5, "6", None, [18]])
def test_a_remembered_plan_that_makes_no_sense_is_measured_anew(cycle: ConfigOf, value: object) -> None:
    run_on(Machine(), cycle("first"))
    (key,) = json.loads(cache_file("plans").read_text())
    cache_file("plans").write_text(json.dumps({key: value}))
    assert run_on(Machine(), cycle("second")).epochs == 3
    assert json.loads(cache_file("plans").read_text()) == {key: 18}


def test_a_machine_that_becomes_slow_ends_the_run_with_what_it_has_and_forgets_the_plan(
    cycle: ConfigOf, tmp_path: Path
) -> None:
    machine = Machine(lambda number: 1.0 if number <= 8 else 9.0)
    result = run_on(machine, cycle("run"))
    assert result.stopped_by == "time"
    assert result.epochs < 3
    assert any("--max-time 00:00:35 ended the run after" in note and "learning rate" in note for note in machine.notes)
    assert yaml.safe_load(cache_file("plans").read_text()) == {}
    finished = run_on(Machine(), tmp_path / "run")
    assert (finished.epochs, finished.already_finished) == (result.epochs, True)


@pytest.mark.slow
def test_a_late_start_is_said_and_changes_no_weight(cycle: ConfigOf, tmp_path: Path) -> None:
    run_on(Machine(), cycle("soon"))
    machine = Machine(start_up=65)
    run_on(machine, cycle("late"))
    assert any("the start-up took 65 s, for which 4 s of --max-time are kept" in note for note in machine.notes)
    assert_same_weights(tmp_path / "soon", tmp_path / "late")


def test_less_than_an_epoch_is_planned_where_no_more_fits(cycle: ConfigOf, tmp_path: Path) -> None:
    result = run_on(Machine(10.0), cycle("run"))
    content = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    assert (result.epochs, result.stopped_by) == (1, "time")
    assert 0 < content["global_step"] < STEPS
    assert content["loop"]["deadline"]["planned_steps"] == content["global_step"]


@pytest.mark.slow
def test_more_time_plans_more_epochs_with_the_speed_of_the_checkpoint(cycle: ConfigOf, tmp_path: Path) -> None:
    run_on(Machine(), cycle("run", epochs=9))
    machine = Machine(0.01)
    extended = run_on(machine, ResumeConfig(run_dir=tmp_path / "run", max_seconds=63))
    assert extended.epochs == 7, "at the speed of before, though this machine is faster"
    assert "now 6.667 epochs are planned: the learning rate is now that of a run of this length" in machine.notes[0]
    assert rates(tmp_path / "run")[2] < rates(tmp_path / "run")[3]
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["plan"]["steps"] == 40


@pytest.mark.slow
def test_the_steps_of_an_epoch_that_was_interrupted_count_once_when_its_time_changes(
    cycle: ConfigOf, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        run_on(Machine(interrupted_at=(3 + 2 * STEPS + 5,)), cycle("run", epochs=9))
    run_on(Machine(), ResumeConfig(run_dir=tmp_path / "run", max_seconds=63))
    steps = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"]
    assert 40 <= steps <= 42, "as in a run that is extended after an epoch"


@pytest.mark.slow
def test_more_time_for_a_run_whose_plan_was_remembered_counts_the_steps_that_are_done(
    cycle: ConfigOf, tmp_path: Path
) -> None:
    run_on(Machine(), cycle("first", epochs=9))
    with pytest.raises(Interrupted):  # in its first epoch
        run_on(Machine(interrupted_at=(4,)), cycle("run", epochs=9))
    machine = Machine()
    run_on(machine, ResumeConfig(run_dir=tmp_path / "run", max_seconds=63))
    assert "epochs are planned" in machine.notes[0]
    assert "9 epochs" not in machine.notes[0]
    steps = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"]
    assert 40 <= steps <= 42, "as in a run that is extended after an epoch"
