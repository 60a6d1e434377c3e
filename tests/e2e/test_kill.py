"""Runs whose process is killed again and again end with the weights of a run that was left alone."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.recipe import RECIPES
from tests.e2e.killed import Kill, Server, any_kill, attempt

pytestmark = pytest.mark.slow

KILLS = 30
EPOCHS = 4
NULL = ModelConfig(name="null")
DROPOUT = ModelConfig(name="timm:ghostnet_050", weights="none")
KILLED = -9  # the exit status


@pytest.fixture(scope="module")
def server() -> Server:
    return Server()


@pytest.fixture
def config_of(data_dir: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Makes configs of runs of 6 steps an epoch, or as many as 360 images make with another batch."""

    def make(
        name: str,
        recipe: str,
        *,
        model: ModelConfig = NULL,
        batch: int = 60,
        max_epochs: int = EPOCHS,
        seconds: float = 600,
    ) -> TrainConfig:
        budget: dict[str, Any] = {"batch": batch, "max_epochs": max_epochs, "max_seconds": seconds}
        return TrainConfig(
            model=model,
            data=DataConfig(dataset="shapes", data_dir=data_dir),
            recipe=replace(RECIPES[recipe], **budget),
            precision="32",
            memory_format="channels-last",
            device="cpu",
            checkpoint_seconds=1e-9,
            run_dir=tmp_path / name,
        )

    return make


def batches(log: Path) -> list[tuple[str, str]]:
    """The process and the labels of every batch that was trained."""
    lines = (line.split() for line in log.read_text().splitlines())
    return [(process, labels) for process, labels in lines]


def assert_same_run(ours: Path, theirs: Path) -> None:
    for name in ("last", "best"):
        first, second = (read_checkpoint(run / f"checkpoints/{name}.ckpt") for run in (ours, theirs))
        assert first["global_step"] == second["global_step"]
        for kind in ("state_dict", "current_model_state"):
            for key, value in first.get(kind, {}).items():
                assert torch.equal(value, second[kind][key]), (name, kind, key)
        for number, states in first["optimizer"]["state"].items():
            for key, value in states.items():
                if isinstance(value, torch.Tensor):
                    assert torch.equal(value, second["optimizer"]["state"][number][key]), (name, number, key)
    rows = [list(csv.DictReader((run / "metrics.csv").open(newline=""))) for run in (ours, theirs)]
    for first, second in zip(*rows, strict=True):
        for key in ("epoch", "learning_rate", "val_loss", "val_accuracy", "best"):
            assert first[key] == second[key]


def killed_until_done(server: Server, config: TrainConfig, log: Path, *, seed: int) -> None:
    """Start and kill the run KILLS times, then let it end."""
    drawn, kills = random.Random(seed), 0
    for _ in range(2 * KILLS):
        kill = any_kill(drawn, most=2)
        status = server.run(attempt, config, log, kill)
        assert status in (KILLED, 0), f"{kill}: exit status {status}"
        kills += status == KILLED
        if kills == KILLS:
            break
    assert kills == KILLS
    assert server.run(attempt, config, log, None) == 0


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("course", {}),
        ("fast", {}),
        ("best", {}),
        ("course", {"model": DROPOUT, "batch": 90}),
        ("fast", {"seconds": 8.0, "max_epochs": 40}),
    ],
    ids=["course", "fast", "best", "dropout", "time-capped"],
)
def test_a_run_that_is_killed_at_thirty_random_moments_ends_with_the_weights_of_one_that_is_left_alone(
    server: Server, config_of: Callable[..., TrainConfig], tmp_path: Path, recipe: str, options: dict[str, Any]
) -> None:
    whole, cut = (config_of(name, recipe, **options) for name in ("whole", "cut"))
    assert server.run(attempt, whole, tmp_path / "whole.log", None) == 0
    killed_until_done(server, cut, tmp_path / "cut.log", seed=7)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    plans = [
        yaml.safe_load((tmp_path / name / "config.yaml").read_text())["plan"]["epochs"] for name in ("whole", "cut")
    ]
    assert plans[0] == plans[1]
    assert (plans[0] < options.get("max_epochs", EPOCHS)) == ("seconds" in options)


def test_killed_twice_in_one_epoch_a_fresh_process_trains_the_batches_that_were_next(
    server: Server, config_of: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    whole, cut = (config_of(name, "fast") for name in ("whole", "cut"))
    log = tmp_path / "cut.log"
    assert server.run(attempt, whole, tmp_path / "whole.log", None) == 0
    for step in (8, 2):  # the second batch of the second epoch, and the third or fourth
        assert server.run(attempt, cut, log, Kill(moment="step", number=step)) == KILLED
    assert server.run(attempt, cut, log, None) == 0
    expected = [labels for _, labels in batches(tmp_path / "whole.log")]
    assert len(set(expected)) == len(expected), "every epoch has an order of its own"
    seen: dict[str, list[int]] = {}
    for process, labels in batches(log):
        seen.setdefault(process, []).append(expected.index(labels))
    first, second, third = seen.values()
    assert first == list(range(8))
    assert (second, third) == ([7, 8], list(range(8, 24))), "nothing is repeated but the step of the kill"
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
