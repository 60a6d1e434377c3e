"""Sweeps whose values Optuna chooses: where it looks, what it learns from, and how it goes on."""

from __future__ import annotations

import csv
import json
import math
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cifar_cli.core.workflow.search import require_optuna
from cifar_cli.core.workflow.sweep_config import SearchedOption, SweepConfig, SweepReport, SweptOption
from cifar_cli.core.write import write_whole
from cifar_cli.errors import CheckpointError, ConfigError, Interrupted, ResourceError
from tests.core.workflow.test_sweep import SCORES, Trainings, run

RATE = SearchedOption(key="lr", flag="--lr", low=1e-4, high=1.0, log=True)
BATCH = SearchedOption(key="recipe.batch", flag="--batch", low=32, high=256, whole=True)
POLICY = SearchedOption(key="policy", flag="--policy", choices=("none", "course", "crop-flip"))


class Scored(Trainings):
    """Trainings whose accuracy is highest at a rate of 0.01 and with the policy crop-flip, whatever the batch is."""

    def __call__(self, words, gpu, log):  # type: ignore[no-untyped-def]
        self.words = list(words)
        return super().__call__(words, gpu, log)

    def wait(self, timeout: float | None = None) -> int:
        status = super().wait(timeout)
        if status == 0 and "--lr" in self.words:
            rate = float(self.words[self.words.index("--lr") + 1])
            policy = self.words[self.words.index("--policy") + 1]
            accuracy = 0.9 - 0.1 * abs(math.log10(rate) + 2) - 0.1 * (policy != "crop-flip")
            write_whole(self.run_dir / "summary.json", json.dumps(SCORES | {"val_accuracy": accuracy}).encode())
        return status


class Slow:
    """Processes of their own, that take a moment."""

    def __init__(self) -> None:
        self.started: list[list[str]] = []

    def __call__(self, words, gpu, log):  # type: ignore[no-untyped-def]
        self.started.append(list(words))
        process = Scored()
        one = process(words, gpu, log)
        wait = one.wait

        def later(timeout: float | None = None) -> int:
            time.sleep(0.05)
            return wait(timeout)

        one.wait = later  # type: ignore[method-assign]
        return one


@pytest.fixture
def config(tmp_path: Path) -> SweepConfig:
    return SweepConfig(folder=tmp_path / "sweep", options=(), searched=(RATE, BATCH, POLICY), trials=12)


def values_of(report: SweepReport, key: str) -> list[str]:
    return [result.settings[key] for result in report.results]


def test_every_value_is_one_that_the_option_takes(config: SweepConfig) -> None:
    report = run(config, Scored())
    assert report.count("done") == 12
    assert all(1e-4 <= float(value) <= 1 for value in values_of(report, "lr"))
    assert all(32 <= int(value) <= 256 for value in values_of(report, "recipe.batch"))
    assert set(values_of(report, "policy")) <= set(POLICY.choices)
    assert len(set(values_of(report, "lr"))) == 12
    rows = list(csv.DictReader(report.table.open()))
    assert [row["lr"] for row in rows] == values_of(report, "lr")


def test_later_values_are_better_than_the_first(config: SweepConfig) -> None:
    report = run(replace(config, trials=60), Scored())
    accuracies = [result.val_accuracy or 0.0 for result in report.results]
    assert sum(accuracies[-20:]) / 20 > sum(accuracies[:10]) / 10 + 0.05
    assert Counter(values_of(report, "policy")[-20:]).most_common(1)[0][0] == "crop-flip"
    assert max(accuracies) > 0.85


def test_a_search_goes_on_with_what_it_has_learnt(config: SweepConfig) -> None:
    first = run(config, Scored())
    more = Scored()
    report = run(replace(config, trials=30), more)
    assert len(more.started) == 18
    assert values_of(report, "lr")[:12] == values_of(first, "lr")
    assert len(set(values_of(report, "lr"))) == 30, "the second part doesn't draw the first values again"
    late = [result.val_accuracy or 0.0 for result in report.results[-10:]]
    assert sum(late) / 10 > sum(result.val_accuracy or 0.0 for result in first.results) / 12
    assert run(replace(config, trials=30), none := Scored()).count("done") == 30
    assert none.started == []


def test_an_interrupted_and_a_failed_trial_are_trained_first(config: SweepConfig) -> None:
    with pytest.raises(Interrupted):
        run(config, Scored("finish", "fail", "interrupt"))
    record = json.loads((config.folder / "trials.json").read_text())["trials"]
    assert len(record) == 3
    again = Scored()
    report = run(config, again)
    assert report.count("done") == 12
    assert again.started[0][0][:2] == ["--lr", record[1]["lr"]]
    assert again.started[1][0][0] == "--resume"
    assert values_of(report, "lr")[:3] == [each["lr"] for each in record]


def test_each_choice_is_scored_by_all_seeds(config: SweepConfig) -> None:
    trainings = Scored()
    report = run(replace(config, trials=4, seeds=(0, 1)), trainings)
    assert len(trainings.started) == 8
    rates = values_of(report, "lr")
    assert rates[::2] == rates[1::2]
    assert [result.settings["seed"] for result in report.results] == ["0", "1"] * 4


def test_equal_trials_at_once_train_one_run(config: SweepConfig) -> None:
    """Two values and several GPUs: the draws repeat themselves."""
    trainings = Slow()
    report = run(replace(config, searched=(POLICY,), trials=12), trainings, gpus=("0", "1", "2"))
    assert report.count("done") == 12
    assert len(trainings.started) == len(set(values_of(report, "policy")))
    assert not list(config.folder.glob("*.unfinished-*"))


def test_no_further_trial_begins_when_the_budget_is_used_up(config: SweepConfig) -> None:
    ticks = iter([0.0, 1.0, 2.0, 3.0, *[3700.0] * 40])
    report = run(replace(config, budget_seconds=3600), Scored("too long"), clock=lambda: next(ticks))
    assert [result.status for result in report.results] == ["interrupted"]


def test_another_search_in_the_folder_is_refused(config: SweepConfig) -> None:
    run(config, Scored())
    with pytest.raises(CheckpointError, match="holds a search of other values"):
        run(replace(config, searched=(RATE, POLICY)), Scored())
    with pytest.raises(CheckpointError, match="holds a search of other values"):
        run(replace(config, searched=(replace(RATE, high=2e-4), BATCH, POLICY)), Scored())
    for content in ("{", "[]", '{"trials": 3}', '{"trials": [{"lr": "x", "recipe.batch": "32", "policy": "none"}]}'):
        (config.folder / "trials.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"trials\.json is damaged"):
            run(config, Scored())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": (SweptOption(key="lr", flag="--lr", values=("1", "2")),)}, "--grid and --search contradict"),
        ({"searched": (RATE, RATE)}, "--search names an option twice"),
        ({"trials": 0}, "--trials 0 is not between 1 and 10,000"),
    ],
)
def test_a_search_that_can_t_be_trained_is_refused(config: SweepConfig, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(config, **options)


def test_optuna_is_named_where_it_is_missing() -> None:
    with pytest.raises(ResourceError, match="--search needs the package optuna") as caught:
        require_optuna(lambda name: None)
    assert caught.value.remedy == 'pip install "cifar-cli[search]"'


def test_values_are_written_with_four_digits_inside_of_the_range() -> None:
    assert RATE.text(0.0123456) == "0.01235"
    narrow = SearchedOption(key="lr", flag="--lr", low=0.123451, high=0.123452)
    assert narrow.low <= float(narrow.text(0.1234515)) <= narrow.high
    assert BATCH.ends == ("32", "256")
    assert POLICY.ends == POLICY.choices
