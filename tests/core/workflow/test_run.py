"""Several seeds, and the batch size found beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.memory.results import BatchChoice
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import TrainConfig, TrainResult
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.core.training.session import Listeners
from cifar_cli.core.workflow import run as module
from cifar_cli.core.workflow.config import TrainRequest
from cifar_cli.core.workflow.run import run
from cifar_cli.errors import CheckpointError, ConfigError, Interrupted, ModelError


@pytest.fixture
def config(data_dir: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(name="null"),
        data=DataConfig(dataset="shapes", data_dir=data_dir),
        recipe=replace(RECIPES["course"], batch=64, max_epochs=2),
        precision="32",
        memory_format="channels-last",
        run_dir=tmp_path / "run",
    )


def test_a_seed_s_folder_that_is_taken_is_named_before_anything_is_trained(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.run_dir is not None
    (config.run_dir / "seed-2").mkdir(parents=True)
    (config.run_dir / "seed-2" / "mine").write_text("")
    monkeypatch.setattr(module, "train", lambda *arguments: pytest.fail("trained"))
    with pytest.raises(CheckpointError, match="seed-2 is not empty"):
        run(TrainRequest(config=config, seeds=(0, 1, 2)))


def test_ctrl_c_names_the_seeds_that_are_done_and_those_that_are_left(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module.train

    def train(seeded: TrainConfig, listeners: Listeners) -> TrainResult:
        if seeded.seed == 1:
            raise Interrupted("interrupted in epoch 3", remedy="continue with `cifar train --resume R`")
        return original(seeded, listeners)

    monkeypatch.setattr(module, "train", train)
    with pytest.raises(Interrupted, match=r"interrupted in epoch 3; seed 0 is done in .*seed-0: ") as caught:
        run(TrainRequest(config=replace(config, fast_dev_run=True), seeds=(0, 1, 2)))
    assert caught.value.remedy == "continue with `cifar train --resume R`, then train the others with --seeds 2"


def test_ctrl_c_in_the_last_step_of_a_seed_starts_no_other(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module.train
    trained: list[int] = []

    def train(seeded: TrainConfig, listeners: Listeners) -> TrainResult:
        trained.append(seeded.seed)
        return replace(original(seeded, listeners), asked_to_stop=True)

    monkeypatch.setattr(module, "train", train)
    with pytest.raises(Interrupted, match="seed 0 is done"):
        run(TrainRequest(config=replace(config, fast_dev_run=True), seeds=(0, 1)))
    assert trained == [0]


def test_the_batch_found_keeps_rate_and_steps(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """360 training images: 6 steps of 64, 2 steps of 200."""
    asked: dict[str, object] = {}

    def choose(model: object, step: object, **options: object) -> BatchChoice:
        asked.update(options, step=step)
        return BatchChoice(batch=200, reason="batch 200: because")

    said: list[str] = []
    monkeypatch.setattr(module, "choose_batch", choose)
    (result,) = run(TrainRequest(config=config, batch_auto=True), Listeners(on_note=said.append)).results
    recipe = result.config.recipe
    assert (recipe.batch, recipe.max_epochs, recipe.learning_rate) == (200, 6, None)
    assert asked["most"] == 360
    assert said[0] == (
        "--batch auto: batch 200: because; learning rate and number of steps stay, so 2 epochs at batch 64 become 6"
    )


def test_epochs_that_were_asked_for_stay(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "choose_batch", lambda *a, **o: BatchChoice(batch=200, reason="because"))
    (result,) = run(TrainRequest(config=config, batch_auto=True, keep_steps=False)).results
    assert result.config.recipe.max_epochs == 2


def test_a_device_whose_memory_can_t_be_asked_for_is_refused(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "prepared_device", lambda accelerator: module.torch.device("mps"))
    with pytest.raises(ConfigError, match="--batch auto can't look into the memory of mps"):
        run(TrainRequest(config=config, batch_auto=True))


def test_a_speed_that_can_t_be_measured_costs_no_result(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(summary: object) -> None:
        raise ModelError("can't be counted")

    monkeypatch.setattr(module, "summarize", fails)
    report = run(TrainRequest(config=replace(config, fast_dev_run=True)))
    assert report.speed is None
    assert len(report.results) == 1
